// The box with the text: one text, the turns of a conversation, or one column for each mode that is compared.
import { speed } from "./format.js";
import { $ } from "./page.js";

const NAMES = { dense: "Dense", exact: "Exact", sparse: "Sparse" };

/** Columns of the modes, side by side; a mode's next text replaces the one in its column. Returns mode → {box, rate}. */
export function openColumns(modes) {
  const columns = {};
  const nodes = modes.map((mode) => {
    const node = part("div", "column", "");
    const head = part("h3", "", NAMES[mode]);
    const rate = head.appendChild(part("span", "rate", ""));
    const box = textBox("div", "text", "");
    box.tabIndex = 0; // it scrolls
    box.setAttribute("role", "region");
    box.setAttribute("aria-label", `Text in ${mode} mode`);
    node.dataset.mode = mode;
    node.append(head, box);
    keepAligned(box);
    columns[mode] = { box, rate };
    return node;
  });
  clearOutput("parallel");
  $("output").append(...nodes);
  return columns;
}

// A box whose lines break elsewhere than before stays at its end; a column that was not there begins with a whole line.
const resizes = "ResizeObserver" in self ? new ResizeObserver((each) => each.forEach(({ target }) => align(target))) : null;
const seen = new WeakMap(); // box → its size and whether it was at its end; browsers scroll, too, when the size changes

function keepAligned(box) {
  box.addEventListener("scroll", () => isLaidOutAs(seen.get(box), box) && note(box));
  resizes?.observe(box);
}

function align(box) {
  const { atEnd = true } = seen.get(box) ?? {};
  const line = Number.parseFloat(getComputedStyle(box).lineHeight);
  if (atEnd) box.scrollTop = box.scrollHeight;
  else if (box !== $("output")) box.scrollTop = line * Math.round(box.scrollTop / line);
  note(box);
}

const note = (box) => seen.set(box, { width: box.clientWidth, height: box.clientHeight, atEnd: isAtEnd(box) });

const isLaidOutAs = (before, { clientWidth, clientHeight }) => !before || (before.width === clientWidth && before.height === clientHeight);

keepAligned($("output"));

/** Empties the box for `kind`: "text", "chat" or "parallel". */
export function clearOutput(kind) {
  $("output").replaceChildren();
  for (const each of ["chat", "parallel"]) $("output").classList.toggle(each, each === kind);
}

/** Appends a message of a conversation; returns its node. */
export function addTurn({ role, content }) {
  return $("output").appendChild(textBox("div", `turn ${role}`, content));
}

/** A text that is being generated, after its prompt; the box is updated at most once per frame. `box`: where it goes;
 *  `rate`: the node that shows its speed, if there is one. */
export class Text {
  constructor(box, prompt, rate = null) {
    this.pending = "";
    this.text = "";
    this.frame = 0;
    this.rate = rate;
    const generated = part("span", "generated", "");
    this.node = generated.appendChild(document.createTextNode(""));
    this.caret = part("span", "caret", "");
    this.caret.setAttribute("aria-hidden", "true");
    box.replaceChildren(...(prompt ? [part("span", "prompt", prompt)] : []), generated, this.caret);
    if (rate) rate.textContent = "";
    this.scroller = rate ? box : $("output");
    this.scroller.scrollTop = this.scroller.scrollHeight;
  }

  add(piece, perSecond) {
    this.pending += piece;
    this.speed = perSecond || this.speed;
    this.frame ||= requestAnimationFrame(() => this.flush());
  }

  flush() {
    cancelAnimationFrame(this.frame);
    this.frame = 0;
    if (this.rate && this.speed) this.rate.textContent = `${speed(this.speed)} tokens/s`;
    if (!this.pending) return;
    const { scroller } = this;
    const atEnd = isAtEnd(scroller);
    this.node.appendData(this.pending);
    this.text += this.pending;
    this.pending = "";
    if (atEnd) scroller.scrollTop = scroller.scrollHeight;
  }

  end() {
    this.flush();
    this.caret.remove();
  }
}

const isAtEnd = ({ scrollHeight, scrollTop, clientHeight }) => scrollHeight - scrollTop - clientHeight < 40;

/** A box for a plain text. */
export function openText() {
  clearOutput("text");
  return $("output").appendChild(textBox("div", "text", ""));
}

/** A node whose direction is that of its text. */
function textBox(tag, name, text) {
  const node = part(tag, name, text);
  node.dir = "auto";
  return node;
}

function part(tag, name, text) {
  const node = document.createElement(tag);
  if (name) node.className = name;
  node.textContent = text;
  return node;
}

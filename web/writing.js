// Prompt in, text out: continuing a text, or a conversation.
import { run } from "./figures.js";
import { $, announce, problem, sentence, setPhase, state } from "./page.js";
import { startEngine } from "./running.js";
import { percent, speed } from "./words.js";

const MODES = ["sparse", "exact", "dense"];
const BROKEN = new Set(["BackendError", "CoreMemoryError", "MemoryError", "RuntimeError", "RangeError"]); // the core, that is
const EXAMPLE = "The people of"; // the prompt that the page comes with
const SAMPLING = ["max_tokens", "temperature", "top_k", "top_p", "min_p", "repeat_penalty", "seed"];

let wanted = false; // Generate was pressed before the model was there
let wasChat = false;
const conversation = []; // of {role, content}

const radio = (name, value) => document.querySelector(`input[name="${name}"][value="${value}"]`);
const checked = (name) => document.querySelector(`input[name="${name}"]:checked`)?.value;
const chats = () => state.model && !state.model.chat && checked("kind") === "chat";

/* ---- A model is there ---- */

export function adoptWriting() {
  const { model } = state;
  for (const mode of MODES) {
    radio("mode", mode).disabled = Boolean(model.modes[mode]);
    radio("mode", mode).checked = mode === model.default_mode;
  }
  const refused = MODES.filter((mode) => model.modes[mode]);
  $("mode-note").textContent = refused.length ? sentence(model.modes[refused.at(-1)]) : "";
  $("kinds").hidden = Boolean(model.chat);
  radio("kind", model.chat ? "text" : "chat").checked = true;
  adoptKind();
  if (wanted) generate();
}

/** Text or conversation: each begins empty. */
function adoptKind() {
  conversation.length = 0;
  $("output").replaceChildren();
  const chat = Boolean(chats());
  if (chat === wasChat) return;
  wasChat = chat;
  $("output").classList.toggle("chat", chat);
  $("output").dataset.empty = chat ? "The conversation appears here." : "The text appears here.";
  $("prompt-label").textContent = chat ? "Your message" : "Prompt, which the model continues";
  // What the user has written, or wants to have answered, stays.
  if (chat && $("prompt").value === EXAMPLE && !wanted) $("prompt").value = "";
  if (!chat && !$("prompt").value.trim()) $("prompt").value = EXAMPLE;
  $("prompt").placeholder = chat ? "Ask something" : "";
  $("renew").hidden = !chat;
  $("compare").hidden = chat;
}

/* ---- Generation ---- */

function options() {
  const given = {};
  for (const name of SAMPLING) {
    const value = $(name).value.trim();
    if (value !== "") given[name] = Number(value);
  }
  return given;
}

/** Resolves to why the text ended, or to null when it could not be made. */
async function generate(overrides = {}) {
  if (!state.model) {
    wanted = true;
    announce("The text begins as soon as the model is there.");
    showButtons();
    return null;
  }
  wanted = false;
  problem("");
  run.mode = overrides.mode ?? checked("mode");
  setPhase("busy");
  const text = new Text($("prompt").value, chats());
  run.write = (piece) => text.add(piece);
  announce(`Generating, ${run.mode} mode.`);
  let reason = null;
  try {
    const ended = await state.engine.ask("generate", { ...text.given, options: { ...options(), mode: run.mode, ...overrides } });
    reason = ended.reason;
    announce(summary(reason));
    text.keep();
  } catch (error) {
    text.drop();
    problem(error.message, BROKEN.has(error.kind) ? { label: "Start the engine again", run: () => startEngine(state.source) } : null);
  }
  text.end();
  if (state.phase === "busy") setPhase("ready");
  return reason;
}

function summary(reason) {
  const why = { stopped: "Stopped", end: "The model ended the text", context: "The context is full" }[reason] ?? "Done";
  const { last } = run;
  if (!last) return why;
  return `${why}: ${last.tokens} tokens at ${speed(last.speed)} tokens per second, ${percent(last.share)} of the neurons computed.`;
}

/** One text in the output, or one turn of a conversation; it grows at most once a frame. */
class Text {
  constructor(prompt, chat) {
    this.pending = "";
    this.made = "";
    this.frame = 0;
    if (chat) this.beginTurn(prompt);
    else this.beginText(prompt);
    $("output").scrollTop = $("output").scrollHeight;
  }

  beginText(prompt) {
    this.given = { prompt };
    $("output").replaceChildren(part("span", "given", prompt));
    this.place($("output"));
  }

  beginTurn(prompt) {
    this.message = { role: "user", content: prompt };
    this.given = { messages: [...conversation, this.message] };
    $("prompt").value = "";
    const turns = [part("div", "turn user", prompt), part("div", "turn assistant", "")];
    if (conversation.length === 0) $("output").replaceChildren();
    $("output").append(...turns);
    this.turns = turns;
    this.place(turns[1]);
  }

  /** Where the new text goes. */
  place(box) {
    const made = part("span", "made", "");
    this.node = made.appendChild(document.createTextNode(""));
    this.caret = part("span", "caret", "");
    this.caret.setAttribute("aria-hidden", "true");
    box.append(made, this.caret);
  }

  add(piece) {
    this.pending += piece;
    this.frame ||= requestAnimationFrame(() => this.flush());
  }

  flush() {
    cancelAnimationFrame(this.frame);
    this.frame = 0;
    if (!this.pending) return;
    const box = $("output");
    const atEnd = box.scrollHeight - box.scrollTop - box.clientHeight < 40;
    this.node.appendData(this.pending);
    this.made += this.pending;
    this.pending = "";
    if (atEnd) box.scrollTop = box.scrollHeight;
  }

  end() {
    this.flush();
    this.caret.remove();
    run.write = null;
  }

  /** A turn that went well belongs to the conversation. */
  keep() {
    this.flush();
    if (this.message) conversation.push(this.message, { role: "assistant", content: this.made });
  }

  /** One that did not gives the message back. */
  drop() {
    if (!this.message) return;
    for (const turn of this.turns) turn.remove();
    $("prompt").value = this.message.content;
  }
}

function part(tag, name, text) {
  const node = document.createElement(tag);
  node.className = name;
  node.textContent = text;
  return node;
}

/** Every mode that the model has, one after another, on the same prompt. */
async function compare() {
  const before = checked("mode");
  for (const mode of MODES.filter((each) => !state.model.modes[each])) {
    radio("mode", mode).checked = true;
    const reason = await generate({ mode, temperature: 0, repeat_penalty: 1 });
    if (!reason || reason === "stopped") break;
  }
  radio("mode", before).checked = true;
}

/* ---- Controls ---- */

function showButtons() {
  const busy = state.phase === "busy";
  $("go").disabled = busy || state.phase === "failed" || state.phase === "loading";
  $("go").textContent = busy ? "Generating" : wanted ? "Starting soon" : "Generate";
  $("stop").disabled = !busy;
  $("compare").disabled = state.phase !== "ready";
  $("renew").disabled = state.phase !== "ready";
  for (const input of document.getElementsByName("kind")) input.disabled = busy;
}

export function wireWriting() {
  document.addEventListener("phase", showButtons);
  $("form").addEventListener("submit", (event) => {
    event.preventDefault();
    if ($("go").disabled) return;
    if (chats() && !$("prompt").value.trim()) {
      announce("Write a message first.");
      $("prompt").focus();
    } else generate();
  });
  // A field that is out of its range can only be shown when it is not folded away.
  $("form").addEventListener("invalid", () => ($("sampling").open = true), true);
  $("prompt").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    if (!chats() && !event.ctrlKey && !event.metaKey) return; // in a text, Enter is a new line
    event.preventDefault();
    $("form").requestSubmit();
  });
  $("stop").addEventListener("click", () => state.engine.stop());
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && state.phase === "busy") state.engine.stop();
  });
  $("compare").addEventListener("click", compare);
  $("renew").addEventListener("click", adoptKind);
  for (const input of document.getElementsByName("kind")) {
    input.addEventListener("change", () => {
      adoptKind();
      showButtons();
    });
  }
}

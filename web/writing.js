// Generates text: continues a prompt, or answers in a conversation.
import { percent, speed } from "./format.js";
import { conversation, extend, forget, restore } from "./conversation.js";
import { addTurn, clearOutput, openColumns, openText, Text } from "./output.js";
import { $, announce, preferences, problem, sentence, setPhase, state } from "./page.js";
import { beginReport, run } from "./report.js";

const MODES = ["sparse", "exact", "dense"];
// Kinds of errors after which the core cannot be used any more.
const FATAL = new Set(["BackendError", "CoreMemoryError", "MemoryError", "RuntimeError", "RangeError"]);
const EXAMPLE = "The people of"; // the initial prompt
const SAMPLING = ["max_tokens", "temperature", "top_k", "top_p", "min_p", "repeat_penalty", "seed"];

let queued = false; // Generate was pressed before a model was loaded
let wasChat = false;
let automatic = null; // while the page generates by itself: {stopped, next: whether the user's text follows}
let comparing = false; // several texts follow each other
let pressed = null; // the button that the focus returns to
let restartEngine = null; // set by wireWriting

const radio = (name, value) => document.querySelector(`input[name="${name}"][value="${value}"]`);
const checked = (name) => document.querySelector(`input[name="${name}"]:checked`)?.value;
const isChat = () => state.model && !state.model.chat && checked("kind") === "chat";

// Why a text ended: a reason of the engine → words.
const REASONS = {
  stopped: "Stopped",
  end: "The model ended the text",
  context: "The context is full",
  length: "Token limit reached",
};

/* ---- The model ---- */

/** Resets the controls for a newly loaded model. */
export function resetWriting() {
  const { model } = state;
  for (const mode of MODES) {
    radio("mode", mode).disabled = Boolean(model.modes[mode]);
    radio("mode", mode).checked = mode === model.default_mode;
  }
  $("mode-note").textContent = modeNote(model);
  $("kinds").hidden = Boolean(model.chat);
  radio("kind", model.chat ? "text" : "chat").checked = true;
  resetOutput();
  if (queued) generate();
  else showConversation();
}

/** Shows the stored conversation with this model, if there is one. */
async function showConversation() {
  if (!isChat() || !(await restore())) return;
  clearOutput("chat");
  for (const message of conversation) addTurn(message);
  $("output").scrollTop = $("output").scrollHeight;
}

/** What a model that has not all modes can do, and what would give it the others. */
function modeNote({ modes, activation, layers }) {
  if (modes.sparse && modes.exact) {
    const all = layers.some(({ expert }) => expert) ? "all neurons of the chosen experts" : "all neurons";
    return `Every token needs ${all}, since ${activation} is hardly ever zero. The command “sparsefire calibrate” finds those that matter little, and what leaving them out costs.`;
  }
  if (modes.sparse) return "Sparse mode needs predictors, which the command “sparsefire calibrate” adds to a model.";
  return modes.exact ? sentence(modes.exact) : "";
}

/** Clears the output and sets the controls for a text or a conversation. */
function resetOutput() {
  conversation.length = 0;
  const chat = Boolean(isChat());
  clearOutput(chat ? "chat" : "text");
  if (chat === wasChat) return;
  wasChat = chat;
  $("output").dataset.empty = chat ? "The conversation appears here." : "The text appears here.";
  $("prompt-label").textContent = chat ? "Your message" : "Prompt for the model to continue";
  // A prompt that the user wrote, or that is queued, stays.
  if (chat && $("prompt").value === EXAMPLE && !queued) $("prompt").value = "";
  if (!chat && !$("prompt").value.trim()) $("prompt").value = EXAMPLE;
  $("prompt").placeholder = chat ? "Ask something" : "";
  $("new-conversation").hidden = !chat;
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

/** Resolves to the reason why the text ended, or to null when it could not be generated. `counted`: its speed is compared;
 *  `column`: where it goes, if texts stand side by side. */
async function generate({ counted = true, column = null, ...overrides } = {}) {
  if (!state.model) {
    queued = true;
    announce("Generation starts once the model is loaded.");
    showButtons();
    return null;
  }
  queued = false;
  problem("");
  const mode = overrides.mode ?? checked("mode");
  setPhase("busy");
  const turn = isChat() ? new Turn($("prompt").value) : null;
  const input = turn?.input ?? { prompt: $("prompt").value };
  const text = turn?.text ?? new Text(column?.box ?? openText(), input.prompt, column?.rate);
  beginReport(mode, counted, (piece, perSecond) => text.add(piece, perSecond));
  announce(`Generating, ${mode} mode.`);
  let reason = null;
  try {
    const ended = await state.engine.request("generate", { ...input, options: { ...options(), mode, ...overrides } });
    reason = ended.reason;
    announce(summary(reason));
    text.end();
    turn?.commit();
  } catch (error) {
    text.end();
    turn?.discard();
    announce("");
    problem(error.message, FATAL.has(error.kind) ? { label: "Restart the engine", run: restartEngine } : null);
  }
  run.write = null;
  if (state.phase === "busy" && !automatic && !comparing) setPhase("ready");
  return reason;
}

/** A message and its answer. */
class Turn {
  constructor(content) {
    this.message = { role: "user", content };
    this.input = { messages: [...conversation, this.message] };
    $("prompt").value = "";
    if (conversation.length === 0) clearOutput("chat");
    this.nodes = [addTurn(this.message), addTurn({ role: "assistant", content: "" })];
    this.text = new Text(this.nodes[1], "");
  }

  /** Adds a successful turn to the conversation. */
  commit() {
    extend(this.message, { role: "assistant", content: this.text.text });
  }

  /** Removes a failed turn and puts its message back into the prompt. */
  discard() {
    for (const node of this.nodes) node.remove();
    $("prompt").value = this.message.content;
  }
}

// What the page generates by itself: some tokens in either mode, so that browsers optimise the code of both before any
// speed counts, some in dense mode as the comparison, and then a text in sparse mode. The seed is fixed, so that every
// visitor sees the same text.
const DEMONSTRATION = [
  { mode: "dense", max_tokens: 48, counted: false },
  { mode: "sparse", max_tokens: 48, counted: false },
  { mode: "dense", max_tokens: 48 },
  { mode: "sparse" },
];
const SEED = 7;

/** Generates from the example prompt, unless the user has begun something or does not want it. */
export async function demonstrate() {
  const unwanted = preferences.get("autostart") === "off" || navigator.connection?.saveData;
  if (unwanted || state.phase !== "ready" || state.source.kind !== "site" || $("prompt").value !== EXAMPLE) return;
  if (DEMONSTRATION.some(({ mode }) => state.model.modes[mode])) return;
  const mine = (automatic = { stopped: false, next: false });
  const columns = openColumns(["dense", "sparse"]);
  for (const each of DEMONSTRATION) {
    if (mine.stopped || state.phase === "failed") break;
    const reason = await generate({ seed: SEED, column: columns[each.mode], ...each });
    if (!reason || reason === "stopped") break;
  }
  automatic = null;
  if (mine.next) generate();
  else if (state.phase === "busy") setPhase("ready");
}

/** Ends the automatic text, if there is one; with `next`, the user's text follows. Returns whether there was one. */
function takeOver(next) {
  if (!automatic) return false;
  automatic.stopped = true;
  automatic.next ||= next;
  state.engine.stop();
  return true;
}

function stop() {
  if (!takeOver(false)) state.engine.stop();
}

function summary(reason) {
  const why = REASONS[reason] ?? "Done";
  const { last } = run;
  if (!last) return why;
  return `${why}: ${last.tokens} tokens at ${speed(last.speed)}/s, ${percent(last.active)} of neurons computed.`;
}

/** Generates from the same prompt in every mode that the model supports, side by side; the sparsest mode comes last, so that
 *  the figures are its own. */
async function compare() {
  const previous = checked("mode");
  const modes = MODES.filter((each) => !state.model.modes[each]).reverse();
  const columns = openColumns([modes[0], ...modes.slice(1).reverse()]);
  comparing = true;
  for (const mode of modes) {
    radio("mode", mode).checked = true;
    const reason = await generate({ mode, temperature: 0, column: columns[mode] });
    if (!reason || reason === "stopped") break;
  }
  comparing = false;
  radio("mode", previous).checked = true;
  if (state.phase === "busy") setPhase("ready");
}

/* ---- Controls ---- */

function showButtons() {
  const busy = state.phase === "busy";
  const focused = document.activeElement;
  $("go").disabled = (busy && !automatic) || state.phase === "failed" || state.phase === "loading";
  $("go").textContent = busy && !automatic ? "Generating" : queued ? "Waiting for the model" : "Generate";
  $("stop").disabled = !busy;
  $("compare").disabled = state.phase !== "ready";
  $("new-conversation").disabled = state.phase !== "ready";
  for (const input of document.getElementsByName("kind")) input.disabled = busy;
  if (busy && focused?.disabled && $("form").contains(focused)) {
    pressed = focused;
    $("stop").focus({ preventScroll: true });
  } else if (focused === $("stop") && !busy) {
    (pressed && !pressed.disabled ? pressed : $("go")).focus({ preventScroll: true });
    pressed = null;
  }
}

const narrow = matchMedia("(max-width: 899.98px)"); // where layout.css puts the map below the text, above the form

/** Shows text and map where the form is below them. */
function scrollToText() {
  const top = $("output").getBoundingClientRect().top;
  const bottom = $("map-box").getBoundingClientRect().bottom;
  if (narrow.matches && (top < 0 || bottom > innerHeight)) $("output").scrollIntoView({ block: "start" });
}

/** Wires the controls; `restart` restarts the engine after a fatal error. */
export function wireWriting(restart) {
  restartEngine = restart;
  document.addEventListener("phase", showButtons);
  $("form").addEventListener("submit", (event) => {
    event.preventDefault();
    if ($("go").disabled) return;
    if (isChat() && !$("prompt").value.trim()) {
      announce("Write a message first.");
      $("prompt").focus();
      return;
    }
    scrollToText();
    if (!takeOver(true)) generate();
  });
  $("prompt").addEventListener("input", () => takeOver(false));
  $("autostart").checked = preferences.get("autostart") !== "off";
  $("autostart").addEventListener("change", ({ target }) => preferences.set("autostart", target.checked ? "on" : "off"));
  // The browser can point at an invalid field only while its section is open, in WebKit only if it was open before.
  $("form").addEventListener("invalid", ({ target }) => {
    if ($("sampling").open) return;
    $("sampling").open = true;
    setTimeout(() => target.reportValidity());
  }, true);
  $("prompt").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    if (!isChat() && !event.ctrlKey && !event.metaKey) return; // in a text, Enter starts a new line
    event.preventDefault();
    $("form").requestSubmit();
  });
  $("stop").addEventListener("click", stop);
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && state.phase === "busy") stop();
  });
  $("compare").addEventListener("click", () => {
    scrollToText();
    compare();
  });
  $("new-conversation").addEventListener("click", () => {
    forget();
    resetOutput();
  });
  for (const input of document.getElementsByName("kind")) {
    input.addEventListener("change", () => {
      resetOutput();
      showButtons();
      showConversation();
    });
  }
}

// State and helpers that the modules of the page share.

export const $ = (id) => document.getElementById(id);

export const state = {
  phase: "starting", // then "ready", "busy" (generating), "loading" (another model) or "failed" (no engine)
  site: null, // the contents of site.json
  engine: null,
  backend: null, // of the core: instruction set, threads, …
  stores: Boolean(navigator.storage?.getDirectory), // whether models can be stored, as far as is known
  refusal: "", // why they cannot, where the browser said it
  offline: null, // the result of caching the page's files: {bytes, …} or {error}
  model: null, // description of the loaded model, null without one
  source: null, // of the loaded model: {kind, name, …}
};

export function setPhase(phase) {
  state.phase = phase;
  document.documentElement.dataset.state = phase;
  document.dispatchEvent(new Event("phase"));
}

/** Announces a text to screen readers. */
export function announce(text) {
  $("announce").textContent = text;
}

let problemAction = null;

/** Shows an error message, with a button for an action {label, run} where there is one. An empty text hides it. */
export function problem(text, action = null) {
  $("problem").hidden = !text;
  $("problem-text").textContent = text && sentence(text);
  $("problem-action").hidden = !action;
  $("problem-action").textContent = action?.label ?? "";
  problemAction = action?.run ?? null;
  if (text) $("problem").scrollIntoView({ block: "nearest" });
}

export function wireProblem() {
  $("problem-close").addEventListener("click", () => problem(""));
  $("problem-action").addEventListener("click", () => {
    const run = problemAction;
    problem("");
    run?.();
  });
}

/** A text as a sentence: capitalised, unless it begins with a file name, and with a full stop. */
export function sentence(text) {
  const start = /^[a-z]+ /.test(text) ? `${text[0].toUpperCase()}${text.slice(1)}` : text;
  return `${start}${/[.!?]$/.test(text) ? "" : "."}`;
}

/** Preferences in local storage, where that is allowed. */
export const preferences = {
  get(name) {
    try {
      return localStorage.getItem(`sparsefire-${name}`);
    } catch {
      return null;
    }
  },
  set(name, value) {
    try {
      localStorage.setItem(`sparsefire-${name}`, value);
    } catch {
      // Not stored: storage is disabled.
    }
  },
};

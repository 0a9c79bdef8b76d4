// What the modules of the page share: its state, and how it speaks to the user.

export const $ = (id) => document.getElementById(id);

export const state = {
  phase: "starting", // then "ready", "busy" (it generates), "loading" (another model), or "failed" (no engine)
  site: null, // site.json
  engine: null,
  where: null, // what the core got
  model: null, // about the loaded one, null when there is none
  source: null, // where it came from: {kind, name, …}
};

export function setPhase(phase) {
  state.phase = phase;
  document.documentElement.dataset.state = phase;
  document.dispatchEvent(new Event("phase"));
}

/** For screen readers. */
export function announce(text) {
  $("announce").textContent = text;
}

let act = null;

/** Shows what went wrong, with a way out: {label, run}, beside "Dismiss". No text hides it. */
export function problem(text, action = null) {
  $("problem").hidden = !text;
  $("problem-text").textContent = text && sentence(text);
  $("problem-action").hidden = !action;
  $("problem-action").textContent = action?.label ?? "";
  act = action?.run ?? null;
  if (text) $("problem").scrollIntoView({ block: "nearest" });
}

export function wireProblem() {
  $("problem-close").addEventListener("click", () => problem(""));
  $("problem-action").addEventListener("click", () => {
    const run = act;
    problem("");
    run?.();
  });
}

/** With a capital at the beginning, unless it is a name's, and a full stop at the end. */
export function sentence(text) {
  const begun = /^[a-z]+ /.test(text) ? `${text[0].toUpperCase()}${text.slice(1)}` : text;
  return `${begun}${/[.!?]$/.test(text) ? "" : "."}`;
}

/** A choice that is kept for the next visit, where storage is allowed. */
export const remembered = {
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
      // It holds for this visit.
    }
  },
};

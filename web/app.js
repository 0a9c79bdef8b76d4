// The page begins here. What is seen and pressed is in the modules; Python and the model are in worker.js.
import { recolour, wireFigures } from "./figures.js";
import { refresh, wireModels } from "./models.js";
import { keepOffline } from "./offline.js";
import { $, problem, remembered, setPhase, state, wireProblem } from "./page.js";
import { startEngine, status } from "./running.js";
import { wireSettings } from "./settings.js";
import { wireWriting } from "./writing.js";

const LEISURE = 600; // milliseconds

async function boot() {
  status.begin("Starting");
  try {
    const answer = await fetch("site.json");
    if (!answer.ok) throw new Error(`site.json: the server answered ${answer.status}`);
    state.site = await answer.json();
  } catch (error) {
    status.failed();
    setPhase("failed");
    problem(`the page could not start: ${error.message}`, { label: "Try again", run: boot });
    return;
  }
  $("version").textContent = state.site.version;
  await startEngine();
  await refresh();
  await leisure();
  await keepOffline();
  await refresh(); // what it takes belongs to the space in use
}

/** Until no text has been made for a while: what keeps files takes from the processor that decodes. */
async function leisure() {
  for (;;) {
    const changed = new Promise((resolve) => document.addEventListener("phase", () => resolve(false), { once: true }));
    const late = new Promise((resolve) => setTimeout(resolve, LEISURE, state.phase !== "busy"));
    if (await Promise.race([changed, late])) return;
  }
}

function wireTheme() {
  const root = document.documentElement;
  const names = { "": "as the system has them", light: "light", dark: "dark" };
  const signs = { "": "◐", light: "☀", dark: "☾" };
  const show = () => {
    const theme = root.dataset.theme ?? "";
    $("theme").setAttribute("aria-label", `Colours: ${names[theme]}`);
    $("theme-sign").textContent = signs[theme];
  };
  $("theme").addEventListener("click", () => {
    const next = { "": "light", light: "dark", dark: "" }[root.dataset.theme ?? ""];
    if (next) root.dataset.theme = next;
    else delete root.dataset.theme;
    remembered.set("theme", next);
    show();
    recolour();
  });
  show();
}

wireProblem();
wireTheme();
wireFigures();
wireWriting();
wireModels();
wireSettings(() => startEngine(state.source ?? undefined));
boot();

// The page's entry point. The other modules handle the controls; worker.js runs Python and the model.
import { wireCalibration } from "./calibration.js";
import { startEngine, status } from "./lifecycle.js";
import { refreshModels, wireModels } from "./models.js";
import { cacheForOffline } from "./offline.js";
import { $, problem, setPhase, state, wireProblem } from "./page.js";
import { wireReport } from "./report.js";
import { wireSettings } from "./settings.js";
import { demonstrate, wireWriting } from "./writing.js";

const IDLE_MILLISECONDS = 600;

async function boot() {
  setPhase("starting");
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
  demonstrate();
  await refreshModels();
  await untilIdle();
  await cacheForOffline();
  await refreshModels(); // the cache counts towards the storage in use
}

/** Resolves once no text has been generated for a while, since filling the cache competes with decoding for the
 *  processor. */
async function untilIdle() {
  for (;;) {
    const changed = new Promise((resolve) => document.addEventListener("phase", () => resolve(false), { once: true }));
    const elapsed = new Promise((resolve) => setTimeout(resolve, IDLE_MILLISECONDS, state.phase !== "busy"));
    if (await Promise.race([changed, elapsed])) return;
  }
}

const restartEngine = () => startEngine(state.source);
wireProblem();
if (document.documentElement.dataset.state !== "failed") { // guard.js has found what is missing
  wireReport();
  wireWriting(restartEngine);
  wireModels();
  wireCalibration();
  wireSettings(restartEngine);
  boot();
}

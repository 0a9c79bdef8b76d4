// The status card at the top: progress and the model's name. A transfer may run alongside a loaded model.
import { duration, size } from "./format.js";
import { $, state } from "./page.js";

const STAGES = {
  python: "Python and numpy",
  package: "Importing sparsefire",
  model: "Copying the weights into memory",
};

const PRIVATE = "Nothing leaves this machine.";

const AFTER = { recurrence: "recurrent ones", convolution: "convolutions" };

/** "4 layers of 1792 neurons"; hidden: the number of each feed-forward layer. */
export function layersOf({ hidden, layers }) {
  const widest = Math.max(0, ...hidden);
  const counts = Object.entries(AFTER).map(([kind, name]) => [layers.filter(({ mixer }) => mixer === kind).length, name]);
  const after = counts.filter(([count]) => count).map(([count, name]) => `${count} after ${name}`);
  const mixed = after.length ? ` (${after.join(", ")})` : "";
  return `${hidden.length} layers of ${hidden.every((each) => each === widest) ? "" : "up to "}${widest} neurons${mixed}`;
}

const STALL = 4000; // milliseconds without a byte after which the page says that it is waiting

export class Status {
  constructor() {
    this.text = "";
    this.transferring = false; // then the bar shows the transfer
  }

  /** Starts with an empty bar; stages follow. */
  begin(title) {
    $("model-name").textContent = title;
    $("model-facts").textContent = PRIVATE;
    this.show("Starting");
    this.bar(0, 1);
  }

  show(text) {
    if (this.transferring) return;
    delete $("progress-box").dataset.idle;
    $("progress-text").textContent = text;
  }

  bar(done, total) {
    if (this.transferring) return;
    $("progress").max = total;
    $("progress").value = done;
  }

  stage(name) {
    clearTimeout(this.stall);
    this.text = STAGES[name] ?? name;
    this.show(this.text);
    if (name !== "python" && !this.transferring) $("progress").removeAttribute("value"); // of unknown length
  }

  bytes(done, total) {
    this.bar(done, total);
    clearTimeout(this.stall);
    const text = `${this.text}: ${size(done)} of ${size(total)}`;
    if (done < total) this.stall = setTimeout(() => this.show(`${text}, waiting for the server`), STALL);
    this.show(done < total ? text : `${size(total)} received; starting Python`);
  }

  fetching(done, total) {
    this.bar(done, total);
    this.show(`Fetching the model: ${size(done)} of ${size(total)}`);
  }

  loading(done, total) {
    this.bar(done, total);
    this.show(`Loading into memory: ${size(done)} of ${size(total)}`);
  }

  calibrating(doing, share) {
    this.bar(share, 1);
    this.show(`${doing[0].toUpperCase()}${doing.slice(1)}: ${Math.round(100 * share)} % of the calibration`);
  }

  model(model, source) {
    $("model-name").textContent = model.name;
    const cached = model.budget_bytes ? `, ${size(model.budget_bytes)} of ${size(model.neuron_bytes)} of neurons in memory` : "";
    const file = source.kind === "site" ? "" : `${source.name}, `;
    const screened = model.head === "screened" ? ", screened output matrix" : "";
    const about = source.kind === "site" ? state.site.model.about : "";
    const numbers = document.createElement("span"); // left out on a phone
    numbers.textContent =
      `${file}${size(model.bytes)}, ${layersOf(model)}, ${model.activation}${screened}, context ${model.context} tokens${cached}. `;
    $("model-facts").replaceChildren(about && `${about} `, numbers, PRIVATE);
    this.idle();
  }

  idle() {
    if (this.transferring) return;
    $("progress-box").dataset.idle = "";
    $("progress").max = 1;
    $("progress").value = 0;
  }

  failed() {
    clearTimeout(this.stall);
    this.idle();
    $("model-name").textContent = "Not running";
    $("model-facts").textContent = PRIVATE;
  }

  /* ---- Transfers ---- */

  beginTransfer(title) {
    this.show(title);
    this.bar(0, 1);
    this.title = title;
    this.transferring = true;
    $("cancel").hidden = false;
  }

  transfer({ done, total, rate }) {
    if (!this.transferring) return;
    const bar = $("progress");
    if (total) Object.assign(bar, { max: total, value: done });
    else bar.removeAttribute("value");
    const amount = total ? `${size(done)} of ${size(total)}` : size(done);
    const left = rate && total ? `, ${duration((total - done) / rate)} left` : "";
    $("progress-text").textContent = `${this.title}: ${amount}${rate ? `, ${size(rate)}/s${left}` : ""}`;
  }

  endTransfer() {
    this.transferring = false;
    $("cancel").hidden = true;
    this.idle();
  }
}

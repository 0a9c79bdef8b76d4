// The card at the top: what is going on, and with which model. A transfer may go on beside a running model.
import { $ } from "./page.js";
import { size } from "./words.js";

const STAGES = {
  python: "Python and numpy",
  package: "Importing sparsefire",
  model: "Putting the weights into the core's memory",
};

const PATIENCE = 4000; // milliseconds without a byte, after which the page says that it waits

export class Status {
  constructor() {
    this.text = "";
    this.moving = false; // a transfer has the bar
  }

  /** Something starts of which the first stage is told next. */
  begin(title) {
    $("model-name").textContent = title;
    $("model-facts").textContent = "Nothing leaves this machine.";
    this.show("Starting");
    this.bar(0, 1);
  }

  show(text) {
    if (this.moving) return;
    delete $("progress-box").dataset.idle;
    $("progress-text").textContent = text;
  }

  bar(done, total) {
    if (this.moving) return;
    $("progress").max = total;
    $("progress").value = done;
  }

  stage(name) {
    clearTimeout(this.patience);
    this.text = STAGES[name] ?? name;
    this.show(this.text);
    if (name !== "python" && !this.moving) $("progress").removeAttribute("value"); // it goes on for an unknown time
  }

  bytes(done, total) {
    this.bar(done, total);
    clearTimeout(this.patience);
    const text = `${this.text}: ${size(done)} of ${size(total)}`;
    if (done < total) this.patience = setTimeout(() => this.show(`${text}, waiting for the server`), PATIENCE);
    // What is left after the last byte is Python's own start.
    this.show(done < total ? text : `${size(total)} are here; Python starts`);
  }

  fetching(done, total) {
    this.bar(done, total);
    this.show(`The model: ${size(done)} of ${size(total)}`);
  }

  loading(done, total) {
    this.bar(done, total);
    this.show(`Into memory: ${size(done)} of ${size(total)}`);
  }

  model(model, source) {
    $("model-name").textContent = model.name;
    const kept = model.budget_bytes ? `, ${size(model.budget_bytes)} of ${size(model.neuron_bytes)} of neurons in memory` : "";
    const file = source.kind === "site" ? "" : `${source.name}, `;
    $("model-facts").textContent =
      `${file}${size(model.bytes)}, ${model.layers} layers of ${model.hidden} neurons, ${model.activation}, ` +
      `context ${model.context} tokens${kept}. Nothing leaves this machine.`;
    this.idle();
  }

  idle() {
    if (this.moving) return;
    $("progress-box").dataset.idle = "";
    $("progress").max = 1;
    $("progress").value = 0;
  }

  failed() {
    clearTimeout(this.patience);
    this.idle();
    $("model-name").textContent = "Not running";
    $("model-facts").textContent = "Nothing leaves this machine.";
  }

  /* ---- Transfers ---- */

  beginTransfer(title) {
    this.show(title);
    this.bar(0, 1);
    this.title = title;
    this.moving = true;
    $("cancel").hidden = false;
  }

  transfer({ done, total, rate }) {
    if (!this.moving) return;
    const bar = $("progress");
    if (total) Object.assign(bar, { max: total, value: done });
    else bar.removeAttribute("value");
    const of = total ? `${size(done)} of ${size(total)}` : size(done);
    const left = rate && total ? `, ${duration((total - done) / rate)} left` : "";
    $("progress-text").textContent = `${this.title}: ${of}${rate ? `, ${size(rate)}/s${left}` : ""}`;
  }

  endTransfer() {
    this.moving = false;
    $("cancel").hidden = true;
    this.idle();
  }
}

const duration = (seconds) => (seconds < 90 ? `${Math.ceil(seconds)} s` : `${Math.ceil(seconds / 60)} min`);

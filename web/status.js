// The card at the top: what is going on, and with which model.
import { size } from "./words.js";

const $ = (id) => document.getElementById(id);

const STAGES = {
  python: "Python, numpy and the model",
  package: "Importing sparsefire",
  model: "Putting the weights into the core's memory",
};

export class Status {
  begin(title) {
    $("model-name").textContent = title;
    delete $("progress-box").dataset.idle;
    this.text = "";
    this.stage("python");
  }

  stage(name) {
    this.text = STAGES[name] ?? name;
    $("progress-text").textContent = this.text;
    if (name !== "python") $("progress").removeAttribute("value"); // going on, for an unknown time
  }

  bytes(done, total) {
    const bar = $("progress");
    bar.max = total;
    bar.value = done;
    // What is left after the last byte is Python's own start.
    const what = done < total ? `${this.text}: ${size(done)} of ${size(total)}` : `${size(total)} are here; Python starts`;
    $("progress-text").textContent = what;
  }

  loading(done, total) {
    const bar = $("progress");
    delete $("progress-box").dataset.idle;
    bar.max = total;
    bar.value = done;
    $("progress-text").textContent = `Into memory: ${size(done)} of ${size(total)}`;
  }

  model(model) {
    $("model-name").textContent = model.name;
    $("model-facts").textContent =
      `${size(model.bytes)}, ${model.layers} layers of ${model.hidden} neurons, ${model.activation}, ` +
      `context ${model.context} tokens. Nothing leaves this machine.`;
    this.idle();
  }

  idle() {
    $("progress-box").dataset.idle = "";
    $("progress").value = 0;
  }

  failed() {
    this.idle();
    $("model-name").textContent = "Not running";
  }
}

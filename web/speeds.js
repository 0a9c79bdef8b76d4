// The table that compares modes: means over everything that each mode has generated with this model.
import { percent, size, speed } from "./format.js";

const INTERVAL = 250; // milliseconds between two updates

export class Speeds {
  constructor(body) {
    this.rows = Object.fromEntries([...body.rows].map((row) => [row.dataset.mode, row]));
    this.reset({});
  }

  /** Clears the table; `refused`: mode → why the model does not support it, or null. */
  reset(refused) {
    this.modes = {};
    this.factors = {}; // of the shown speeds to that of dense mode: mode → "4.3"
    for (const [mode, row] of Object.entries(this.rows)) {
      row.classList.toggle("refused", Boolean(refused[mode]));
      row.cells[1].textContent = refused[mode] ? "not supported by this model" : "–";
      for (const index of [3, 4, 5]) row.cells[index].textContent = "–";
      row.querySelector("i").style.width = "0";
    }
  }

  /** Adds a slice of a generation, with the mean share of active neurons. The last one may have evaluated nothing. */
  add(mode, report, active) {
    const total = (this.modes[mode] ??= { tokens: 0, seconds: 0, active: 0, bytes: 0, evaluated: 0, run: [0, 0] });
    // report.speed is the run's mean so far, so the totals before this slice are subtracted.
    const [tokens, seconds] = [report.tokens - 1, (report.tokens - 1) / report.speed];
    if (tokens < total.run[0]) total.run = [0, 0];
    total.tokens += tokens - total.run[0];
    total.seconds += seconds - total.run[1];
    total.run = [tokens, seconds];
    if (report.evaluated > 0) {
      total.active += active * report.evaluated;
      total.bytes += (report.ffn_bytes + report.other_bytes) * report.evaluated;
      total.evaluated += report.evaluated;
    }
    total.firstTokenMs = report.first_token_ms;
    const now = performance.now();
    if (total.evaluated > 0 && (report.done || now - (this.updated ?? 0) > INTERVAL)) {
      this.updated = now;
      this.show();
    }
  }

  /** Whether one mode was measured to be faster than another; false before both are measured. */
  isFaster(mode, other) {
    return Boolean(this.modes[mode] && this.modes[other]) && this.rate(mode) > this.rate(other);
  }

  /** Tokens a second of a mode that has generated something. */
  rate(mode) {
    const { tokens, seconds } = this.modes[mode];
    return tokens / seconds;
  }

  show() {
    const rates = Object.keys(this.modes).map((mode) => [mode, this.rate(mode)]);
    const best = Math.max(...rates.map(([, rate]) => rate));
    const dense = rates.find(([mode]) => mode === "dense")?.[1];
    for (const [mode, rate] of rates) {
      const total = this.modes[mode];
      const cells = this.rows[mode].cells;
      if (dense && mode !== "dense") this.factors[mode] = (rate / dense).toFixed(1);
      const times = this.factors[mode] ? ` (${this.factors[mode]}×)` : "";
      cells[1].textContent = speed(rate) + times;
      cells[2].firstElementChild.style.width = `${(100 * rate) / best}%`;
      cells[3].textContent = percent(total.active / total.evaluated);
      cells[4].textContent = size(total.bytes / total.evaluated);
      cells[5].textContent = `${Math.round(total.firstTokenMs)} ms`;
    }
  }
}

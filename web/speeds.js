// The table that holds the modes side by side: means over everything that each has generated with this model.
import { percent, size, speed } from "./words.js";

export class Speeds {
  constructor(body) {
    this.rows = Object.fromEntries([...body.rows].map((row) => [row.dataset.mode, row]));
    this.reset({});
  }

  /** Begins anew; `refused`: mode → why the model cannot do it, or null. */
  reset(refused) {
    this.modes = {};
    for (const [mode, row] of Object.entries(this.rows)) {
      row.classList.toggle("refused", Boolean(refused[mode]));
      row.cells[1].textContent = refused[mode] ? "not with this model" : "–";
      for (const index of [3, 4, 5]) row.cells[index].textContent = "–";
      row.querySelector("i").style.width = "0";
    }
  }

  /** A slice of a generation. */
  add(mode, report, share) {
    const seen = (this.modes[mode] ??= { tokens: 0, seconds: 0, shares: 0, bytes: 0, weighed: 0, run: [0, 0] });
    // report.speed is the run's mean so far; what came before this slice is taken off.
    const [tokens, seconds] = [report.tokens - 1, (report.tokens - 1) / report.speed];
    if (tokens < seen.run[0]) seen.run = [0, 0];
    seen.tokens += tokens - seen.run[0];
    seen.seconds += seconds - seen.run[1];
    seen.run = [tokens, seconds];
    seen.shares += share * report.evaluated;
    seen.bytes += (report.ffn_bytes + report.other_bytes) * report.evaluated;
    seen.weighed += report.evaluated;
    seen.first = report.first_token_ms;
    const now = performance.now();
    if (report.done || now - (this.shown ?? 0) > 250) {
      this.shown = now;
      this.show();
    }
  }

  show() {
    const rates = Object.entries(this.modes).map(([mode, seen]) => [mode, seen.tokens / seen.seconds]);
    const best = Math.max(...rates.map(([, rate]) => rate));
    const dense = rates.find(([mode]) => mode === "dense")?.[1];
    for (const [mode, rate] of rates) {
      const seen = this.modes[mode];
      const cells = this.rows[mode].cells;
      const times = dense && mode !== "dense" ? ` (${(rate / dense).toFixed(1)}×)` : "";
      cells[1].textContent = speed(rate) + times;
      cells[2].firstElementChild.style.width = `${(100 * rate) / best}%`;
      cells[3].textContent = percent(seen.shares / seen.weighed);
      cells[4].textContent = size(seen.bytes / seen.weighed);
      cells[5].textContent = `${Math.round(seen.first)} ms`;
    }
  }
}

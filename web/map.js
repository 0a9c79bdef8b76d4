// The map of the neurons: which of them fire, and how their light fades. Only neurons that are alight are touched, and
// a picture is only drawn when something new has come or light still moves: so it costs little.
import { Dots, LEVELS } from "./dots.js";

const INTERVAL = 100; // milliseconds between two pictures, about
const DECAY = 0.56; // what is left of a neuron's light after that time
const NEAR = 0.02; // of light that moves no further

export class NeuronMap {
  constructor(canvas) {
    this.picture = new Dots(canvas);
    this.layers = 0;
    this.last = 0; // when a picture was drawn
    this.calm = matchMedia("(prefers-reduced-motion: reduce)");
    new ResizeObserver(() => this.layout()).observe(canvas.parentElement);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.layout());
  }

  /** Begins anew for a model; `hot`: how many neurons of each layer are always computed. */
  reset(layers, hidden, hot = []) {
    const neurons = layers * hidden;
    Object.assign(this, { layers, hidden, hot, tokens: 0, settled: false });
    this.light = new Float32Array(neurons); // 0 … 1
    this.fired = new Uint32Array(neurons); // tokens of the present text for which it fired
    this.alight = new Uint32Array(neurons); // those with light, in the order in which they came,
    this.count = 0; // and how many they are
    this.layout();
  }

  /** The window, the theme or the model has changed. */
  layout() {
    if (!this.layers || !this.picture.layout(this.layers, this.hidden, this.hot)) return;
    const { group, perLayer } = this.picture;
    this.levels = new Uint8Array(this.layers * perLayer); // of the dots
    this.dots = new Uint32Array(this.layers * this.hidden); // the dot of each neuron
    for (let layer = 0, i = 0; layer < this.layers; layer++) {
      for (let neuron = 0; neuron < this.hidden; neuron++) this.dots[i++] = layer * perLayer + Math.floor(neuron / group);
    }
    this.draw();
  }

  /* ---- What fires ---- */

  /** Neurons fired: counts (layers · hidden) over `tokens` tokens. */
  feed(counts, tokens) {
    const { light, fired } = this;
    if (counts.length !== light?.length) return;
    if (this.settled) this.begin();
    this.tokens += tokens;
    const full = Math.max(1, tokens / 2);
    const calm = this.calm.matches;
    for (let i = 0; i < counts.length; i++) {
      const count = counts[i];
      if (count === 0) continue;
      fired[i] += count;
      if (light[i] === 0) this.alight[this.count++] = i;
      // Without motion: a slow mean of how often each fires, which 1e-6 begins.
      const flash = calm ? light[i] || 1e-6 : Math.min(1, 0.45 + (0.55 * count) / full);
      if (flash > light[i]) light[i] = flash;
    }
    if (calm) this.each((i) => light[i] + (Math.min(1, counts[i] / tokens) - light[i]) * 0.05);
    // In the frame that shows the new text too; when that is too early, in the next one with text, if there is one.
    this.wake(performance.now() - this.last < 0.8 * INTERVAL ? INTERVAL : 0);
  }

  begin() {
    this.settled = false;
    this.fired.fill(0);
    this.tokens = 0;
  }

  /** The text has ended: what stays is how often each neuron fired in it. */
  settle() {
    if (!this.light) return;
    this.settled = true;
    this.count = 0;
    for (let i = 0; i < this.light.length; i++) if (this.fired[i] || this.light[i]) this.alight[this.count++] = i;
    this.wake(0);
  }

  /** Gives every neuron that is alight the light that `next` tells; those with none are alight no more. */
  each(next) {
    const { alight, light } = this;
    let left = 0;
    for (let k = 0; k < this.count; k++) {
      const i = alight[k];
      light[i] = next(i);
      if (light[i] > 0) alight[left++] = i;
    }
    this.count = left;
  }

  /* ---- Pictures ---- */

  /** Has a picture drawn after so many milliseconds. */
  wake(delay) {
    clearTimeout(this.timer);
    const ask = () => {
      this.frame ||= requestAnimationFrame((now) => this.step(now));
    };
    if (delay > 0) this.timer = setTimeout(ask, delay);
    else ask();
  }

  step(now) {
    this.frame = 0;
    this.draw();
    const passed = Math.min(now - this.last, 3 * INTERVAL);
    this.last = now;
    if (this.move(DECAY ** (passed / INTERVAL))) this.wake(INTERVAL);
    else this.draw(); // where it came to rest
  }

  /** Lets the light of every neuron go towards where it is bound; tells whether any is still on its way. */
  move(kept) {
    if (this.calm.matches && !this.settled) return false;
    const { light, fired, tokens, settled } = this;
    let moving = false;
    this.each((i) => {
      // Square roots, so that those which fire seldom show too.
      const bound = settled && tokens ? Math.sqrt(fired[i] / tokens) : 0;
      const value = bound + (light[i] - bound) * kept;
      if (Math.abs(value - bound) < NEAR) return bound;
      moving = true;
      return value;
    });
    return moving;
  }

  draw() {
    const { levels, dots, light, alight } = this;
    if (!levels) return;
    levels.fill(0);
    for (let k = 0; k < this.count; k++) {
      const i = alight[k];
      const level = Math.round(Math.min(1, light[i]) * (LEVELS - 1));
      if (level > levels[dots[i]]) levels[dots[i]] = level;
    }
    this.picture.show(levels);
  }
}

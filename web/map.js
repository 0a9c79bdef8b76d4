// The map of neurons: which of them fire, with brightness that decays. It costs little, since only lit neurons are
// updated, and a frame is drawn only after new activity or while brightness still changes.
import { Dots, LEVELS, UNPAINTED } from "./dots.js";

const INTERVAL = 100; // milliseconds between two frames, approximately
const DECAY = 0.56; // factor of a neuron's brightness per interval
const SETTLED = 0.02; // distance from its target at which brightness stops changing

export class NeuronMap {
  constructor(canvas) {
    this.picture = new Dots(canvas);
    this.layers = 0;
    this.last = 0; // when the last frame was drawn
    this.reducedMotion = matchMedia("(prefers-reduced-motion: reduce)");
    new ResizeObserver(() => this.layout()).observe(canvas.parentElement);
    document.addEventListener("theme", () => this.layout());
  }

  /** Clears the map for a model; `sizes`: the number of neurons of each layer; `hot`: how many of them are always
   *  computed; `names`: the name of each layer, short; `tile`: how many neurons share a dot; `experts`: of how many neurons
   *  of each layer the dots stand together. */
  reset(sizes, hot, names, tile, experts) {
    const [layers, hidden] = [sizes.length, Math.max(0, ...sizes)];
    const neurons = layers * hidden; // activity has as many for each layer as for the widest
    Object.assign(this, { layers, hidden, sizes, hot, names, tile, experts, tokens: 0, settled: false });
    this.brightness = new Float32Array(neurons); // 0 … 1
    this.fired = new Uint32Array(neurons); // tokens of the current text for which each neuron fired
    this.lit = new Uint32Array(neurons); // indices of the neurons with brightness above 0
    this.count = 0; // of those
    this.layout();
  }

  /** Lays the map out again: after a change of size, theme or model. */
  layout() {
    if (!this.layers || !this.picture.layout(this.names, this.hidden, this.hot, this.tile, this.experts)) return;
    this.levels = new Uint8Array(this.layers * this.picture.perLayer); // brightness level of each dot
    this.blank = new Uint8Array(this.levels.length).fill(UNPAINTED);
    this.dots = new Uint32Array(this.layers * this.hidden); // the dot of each neuron
    for (let layer = 0, i = 0; layer < this.layers; layer++) {
      for (let neuron = 0; neuron < this.hidden; neuron++, i++) {
        if (neuron >= this.sizes[layer]) continue; // of wider layers
        this.dots[i] = this.picture.dotOf(layer, neuron);
        this.blank[this.dots[i]] = 0;
      }
    }
    this.draw();
  }

  /* ---- Activity ---- */

  /** Adds activity: how often each neuron (layers · hidden) fired in `tokens` tokens. */
  feed(counts, tokens) {
    const { brightness, fired } = this;
    if (counts.length !== brightness?.length) return;
    if (this.settled) this.begin();
    this.tokens += tokens;
    const full = Math.max(1, tokens / 2);
    const still = this.reducedMotion.matches;
    for (let i = 0; i < counts.length; i++) {
      const count = counts[i];
      if (count === 0) continue;
      fired[i] += count;
      if (brightness[i] === 0) this.lit[this.count++] = i;
      // With reduced motion, brightness is a slow moving average of the firing rate, which starts at 1e-6.
      const flash = still ? brightness[i] || 1e-6 : Math.min(1, 0.45 + (0.55 * count) / full);
      if (flash > brightness[i]) brightness[i] = flash;
    }
    if (still) this.update((i) => brightness[i] + (Math.min(1, counts[i] / tokens) - brightness[i]) * 0.05);
    // Drawn in the frame that shows the new text, unless the last frame was too recent.
    this.schedule(performance.now() - this.last < 0.8 * INTERVAL ? INTERVAL : 0);
  }

  begin() {
    this.settled = false;
    this.fired.fill(0);
    this.tokens = 0;
  }

  /** Ends a text: brightness moves to how often each neuron fired in it. */
  settle() {
    if (!this.brightness) return;
    this.settled = true;
    this.count = 0;
    for (let i = 0; i < this.brightness.length; i++) if (this.fired[i] || this.brightness[i]) this.lit[this.count++] = i;
    this.schedule(0);
  }

  /** Sets the brightness of each lit neuron i to next(i), and drops those that reach 0. */
  update(next) {
    const { lit, brightness } = this;
    let left = 0;
    for (let k = 0; k < this.count; k++) {
      const i = lit[k];
      brightness[i] = next(i);
      if (brightness[i] > 0) lit[left++] = i;
    }
    this.count = left;
  }

  /* ---- Drawing ---- */

  /** Schedules a frame in `delay` milliseconds. */
  schedule(delay) {
    clearTimeout(this.timer);
    const request = () => {
      this.frame ||= requestAnimationFrame((now) => this.step(now));
    };
    if (delay > 0) this.timer = setTimeout(request, delay);
    else request();
  }

  step(now) {
    this.frame = 0;
    this.draw();
    const elapsed = Math.min(now - this.last, 3 * INTERVAL);
    this.last = now;
    if (this.decay(DECAY ** (elapsed / INTERVAL))) this.schedule(INTERVAL);
    else this.draw(); // the final state
  }

  /** Multiplies the distance of each brightness from its target by `factor`; returns whether any is still changing. */
  decay(factor) {
    if (this.reducedMotion.matches && !this.settled) return false;
    const { brightness, fired, tokens, settled } = this;
    let changing = false;
    this.update((i) => {
      // The square root keeps neurons that fire rarely visible.
      const target = settled && tokens ? Math.sqrt(fired[i] / tokens) : 0;
      const value = target + (brightness[i] - target) * factor;
      if (Math.abs(value - target) < SETTLED) return target;
      changing = true;
      return value;
    });
    return changing;
  }

  draw() {
    const { levels, dots, brightness, lit } = this;
    if (!levels) return;
    levels.set(this.blank);
    for (let k = 0; k < this.count; k++) {
      const i = lit[k];
      const level = Math.round(Math.min(1, brightness[i]) * (LEVELS - 1));
      if (level > levels[dots[i]]) levels[dots[i]] = level;
    }
    this.picture.show(levels);
  }
}

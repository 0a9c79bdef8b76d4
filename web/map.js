// The map of the neurons: layers from top to bottom, each a block of dots. A small picture, one pixel a neuron, is
// drawn scaled up; a mask above it, drawn once, makes dots of the pixels. So a picture costs little of the page.

const DECAY = 0.68; // of a neuron's light from one picture to the next
const INTERVAL = 1000 / 15; // of pictures: without a graphics processor each takes milliseconds
const LABEL = 26; // pixels at the left for the layer's number

export class NeuronMap {
  constructor(canvas, mask) {
    this.canvas = canvas;
    this.mask = mask;
    this.layers = 0;
    this.hidden = 0;
    this.calm = matchMedia("(prefers-reduced-motion: reduce)");
    this.frame = 0;
    new ResizeObserver(() => this.layout()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.layout());
  }

  /** Begins anew for a model; `hot`: how many neurons of each layer are always computed. */
  reset(layers, hidden, hot = []) {
    this.layers = layers;
    this.hidden = hidden;
    this.hot = hot;
    this.light = new Float32Array(layers * hidden);
    this.fired = new Float32Array(layers * hidden); // of the present text
    this.tokens = 0;
    this.layout();
  }

  /** Sizes, colours and the mask, which only change with the window, the theme or the model. */
  layout() {
    if (!this.layers) return;
    const style = getComputedStyle(document.documentElement);
    const color = (name) => rgb(style.getPropertyValue(name));
    this.colors = { idle: color("--idle"), cold: color("--cold"), bright: color("--cold-bright"), hot: color("--hot") };
    this.cold = ramp(this.colors.idle, this.colors.cold, this.colors.bright);
    this.always = ramp(this.colors.idle, this.colors.hot, this.colors.hot);
    const scale = Math.min(devicePixelRatio || 1, 2);
    const width = Math.round(this.canvas.clientWidth * scale);
    const height = Math.round(this.canvas.clientHeight * scale);
    if (!width || !height) return;
    for (const each of [this.canvas, this.mask]) Object.assign(each, { width, height });
    const pad = 10 * scale;
    const left = LABEL * scale;
    const gap = Math.max(2, Math.min(14 * scale, height / this.layers / 5));
    const band = (height - 2 * pad - gap * (this.layers - 1)) / this.layers;
    const room = width - left - pad;
    // The largest dot with which a layer fits into its band; below one pixel, several neurons share one.
    this.group = Math.max(1, Math.ceil(this.hidden / (Math.floor(room) * Math.max(1, Math.floor(band)))));
    const cells = Math.ceil(this.hidden / this.group);
    let dot = Math.max(1, Math.floor(Math.sqrt((room * band) / cells)));
    while (dot > 1 && Math.floor(room / dot) * Math.floor(band / dot) < cells) dot--;
    this.columns = Math.max(1, Math.floor(room / dot));
    this.rows = Math.ceil(cells / this.columns);
    this.columns = Math.ceil(cells / this.rows);
    Object.assign(this, { dot, left, pad, gap, band, scale });
    // Dots may be wider than high or the reverse, so that bands fill the room.
    this.cellWidth = room / this.columns;
    this.cellHeight = band / this.rows;
    this.picture = new ImageData(this.columns, this.rows * this.layers);
    this.small = new OffscreenCanvas(this.columns, this.rows * this.layers);
    this.drawMask(style);
    this.draw();
  }

  /** Covers what lies between the dots with the background, and numbers the layers. */
  drawMask(style) {
    const context = this.mask.getContext("2d");
    const { width, height } = this.mask;
    context.clearRect(0, 0, width, height);
    context.fillStyle = style.getPropertyValue("--map");
    context.fillRect(0, 0, width, height);
    context.globalCompositeOperation = "destination-out";
    const { cellWidth, cellHeight } = this;
    const size = Math.min(cellWidth, cellHeight);
    const inset = size >= 3 ? Math.max(0.5, size * 0.12) : 0;
    context.beginPath();
    for (let layer = 0; layer < this.layers; layer++) {
      const top = this.top(layer);
      const cells = Math.ceil(this.hidden / this.group);
      if (!inset) {
        context.rect(this.left, top, this.columns * cellWidth, this.rows * cellHeight);
        continue;
      }
      for (let cell = 0; cell < cells; cell++) {
        const x = this.left + (cell % this.columns) * cellWidth;
        const y = top + Math.floor(cell / this.columns) * cellHeight;
        const [w, h] = [cellWidth - 2 * inset, cellHeight - 2 * inset];
        context.roundRect(x + inset, y + inset, w, h, Math.min(w, h) / 2.2);
      }
    }
    context.fill();
    context.globalCompositeOperation = "source-over";
    context.fillStyle = style.getPropertyValue("--soft");
    context.font = `${11 * this.scale}px system-ui, sans-serif`;
    context.textAlign = "right";
    context.textBaseline = "middle";
    const every = Math.ceil((14 * this.scale) / (this.band + this.gap));
    for (let layer = 0; layer < this.layers; layer += every) {
      context.fillText(String(layer + 1), this.left - 7 * this.scale, this.top(layer) + this.band / 2);
    }
  }

  top(layer) {
    return this.pad + layer * (this.band + this.gap);
  }

  /** Neurons fired: counts (layers · hidden) over `tokens` tokens. */
  feed(counts, tokens) {
    if (!this.light || counts.length !== this.light.length) return;
    const { light, fired } = this;
    if (this.settled) this.begin();
    this.tokens += tokens;
    for (let i = 0; i < fired.length; i++) fired[i] += counts[i];
    if (this.calm.matches) {
      // No flicker: a slow mean of how often each fires.
      for (let i = 0; i < light.length; i++) light[i] += (Math.min(1, counts[i] / tokens) - light[i]) * 0.05;
    } else {
      const full = Math.max(1, tokens / 2);
      for (let i = 0; i < light.length; i++) {
        if (counts[i]) light[i] = Math.max(light[i], Math.min(1, 0.45 + (0.55 * counts[i]) / full));
      }
    }
    this.wake();
  }

  begin() {
    this.settled = false;
    this.fired.fill(0);
    this.tokens = 0;
  }

  /** The text has ended: what stays is how often each neuron fired in it. */
  settle() {
    this.settled = true;
    this.wake();
  }

  wake() {
    if (this.frame) return;
    let last = 0;
    const step = (now) => {
      this.frame = requestAnimationFrame(step);
      if (now - last < INTERVAL - 4) return;
      last = now;
      this.draw();
      if (this.move()) return;
      this.draw(); // where it came to rest
      cancelAnimationFrame(this.frame);
      this.frame = 0;
    };
    this.frame = requestAnimationFrame(step);
  }

  /** Lets the light of every neuron go towards where it is bound; tells whether it is still on its way. */
  move() {
    if (this.calm.matches && !this.settled) return false;
    const { light, fired, tokens, settled } = this;
    let moving = false;
    for (let i = 0; i < light.length; i++) {
      // Square roots, so that those which fire seldom show too.
      const bound = settled && fired[i] ? Math.sqrt(fired[i] / tokens) : 0;
      const value = bound + (light[i] - bound) * DECAY;
      const near = Math.abs(value - bound) < 0.02;
      light[i] = near ? bound : value;
      moving ||= !near;
    }
    return moving;
  }

  draw() {
    if (!this.picture) return;
    const { picture, small, light, hidden, columns, rows, group, cold, always } = this;
    const pixels = new Uint32Array(picture.data.buffer);
    pixels.fill(pack(this.colors.idle));
    for (let layer = 0; layer < this.layers; layer++) {
      const start = layer * hidden;
      const base = layer * rows * columns;
      const hot = this.hot[layer] ?? 0;
      for (let i = 0; i < hidden; i++) {
        const value = light[start + i];
        if (value > 0) {
          pixels[base + Math.floor(i / group)] = (i < hot ? always : cold)[Math.round(value * 63)];
        }
      }
    }
    small.getContext("2d").putImageData(picture, 0, 0);
    const context = this.canvas.getContext("2d");
    context.imageSmoothingEnabled = false;
    for (let layer = 0; layer < this.layers; layer++) {
      const size = [columns * this.cellWidth, rows * this.cellHeight];
      context.drawImage(small, 0, layer * rows, columns, rows, this.left, this.top(layer), ...size);
    }
  }
}

/** "#rrggbb" → [r, g, b] */
function rgb(text) {
  const number = parseInt(text.trim().slice(1), 16);
  return [number >> 16, (number >> 8) & 255, number & 255];
}

const pack = ([r, g, b]) => ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0;

const mix = (from, to, share) => from.map((value, i) => Math.round(value + (to[i] - value) * share));

/** 64 packed colours from rest over `middle` to `bright`. */
function ramp(rest, middle, bright) {
  return Array.from({ length: 64 }, (_, i) => {
    const share = i / 63;
    return pack(share < 0.6 ? mix(rest, middle, share / 0.6) : mix(middle, bright, (share - 0.6) / 0.4));
  });
}

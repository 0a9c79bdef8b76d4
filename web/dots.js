// Draws dots, one block of rows per layer. A dot is redrawn only when its level changes. Pixels are written at the
// screen's resolution, so that the browser neither scales nor blends them: without a GPU that would slow decoding.

export const LEVELS = 64; // of brightness, each with its colour
const DIGIT = 7; // CSS pixels to the left for each character of the layers' names
const PAD = 10; // CSS pixels around the canvas, since clipping it at its box's round corners would be slow
const COVERAGES = 4; // steps of anti-aliasing: how much of a pixel a dot covers
export const UNPAINTED = 255; // the level of a dot that is not drawn

export class Dots {
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d", { alpha: false });
  }

  /** Lays out the dots of a model on the canvas. `names`: that of each layer, shown beside it; `hidden`: neurons of the
   *  widest layer; `hot`: the number of neurons of each layer that are always computed, which have another colour; `tile`:
   *  the number of neurons that share a dot, those of an expert; `experts`: for each layer the neurons of an expert whose
   *  dots stand together, or 0. Sets `group`, the number of neighbours that share a dot, more than `tile` where there are
   *  more dots than pixels, and `perLayer`, the number of dots of a layer. Returns false when the canvas is too small. */
  layout(names, hidden, hot, tile, experts = []) {
    const layers = names.length;
    const scale = Math.min(devicePixelRatio || 1, 2);
    const { clientWidth, clientHeight } = this.canvas.parentElement;
    const [width, height] = [clientWidth, clientHeight].map((size) => Math.floor((size - 2 * PAD) * scale));
    const left = (9 + DIGIT * Math.max(...names.map((name) => name.length))) * scale;
    if (width <= left || height <= 0) return false;
    Object.assign(this.canvas, { width, height });
    Object.assign(this.canvas.style, { left: `${PAD}px`, top: `${PAD}px`, width: `${width / scale}px`, height: `${height / scale}px` });
    const expert = Math.max(0, ...experts);
    const found = expert ? tiled(layers, hidden, width - left, height, expert) : grid(layers, hidden, width - left, height, tile);
    const { columns, rows, lines, pitch, group, cells, block } = found;
    Object.assign(this, { tiles: tile > 1, width, columns, rows, pitch, group, perLayer: cells, block, experts });
    // Edges of the dots, in whole pixels.
    this.xs = Array.from({ length: columns + 1 }, (_, i) => left + Math.round((i * (width - left)) / columns));
    this.ys = Array.from({ length: lines + 1 }, (_, i) => Math.round((i * height) / lines));
    const size = Math.min((width - left) / columns, height / lines);
    this.space = size >= 3 ? Math.max(1, Math.round(0.2 * size)) : 0; // gap between two dots
    this.hot = Int32Array.from({ length: layers }, (_, layer) => Math.ceil((hot[layer] ?? 0) / group));
    this.shown = new Uint8Array(layers * cells).fill(UNPAINTED);
    this.stencils = new Map();
    this.background(names, left, scale);
    return true;
  }

  /** Draws the background and the names of the layers, and prepares the colours. */
  background(names, left, scale) {
    const layers = names.length;
    const { canvas, ys, pitch } = this;
    const context = readable(canvas.width, canvas.height);
    const style = getComputedStyle(document.documentElement);
    const [map, idle, cold, bright, hot] = ["--map", "--idle", "--cold", "--cold-bright", "--hot"].map((name) => rgb(style.getPropertyValue(name)));
    const ramps = [...ramp(idle, cold, bright), ...ramp(idle, hot, hot)];
    this.colors = Array.from({ length: COVERAGES + 1 }, (_, coverage) => Uint32Array.from(ramps, (color) => pack(mix(map, color, coverage / COVERAGES))));
    context.fillStyle = style.getPropertyValue("--map");
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.fillStyle = style.getPropertyValue("--soft");
    context.font = `${11 * scale}px system-ui, sans-serif`;
    context.textAlign = "right";
    context.textBaseline = "middle";
    const every = Math.ceil((14 * scale * layers) / canvas.height);
    const half = 6 * scale; // of the height of a name, which is not cut off at the edge
    for (let layer = 0; layer < layers; layer += every) {
      const middle = (ys[layer * pitch] + ys[layer * pitch + this.rows]) / 2;
      context.fillText(names[layer], left - 7 * scale, Math.min(Math.max(middle, half), canvas.height - half));
    }
    this.picture = context.getImageData(0, 0, canvas.width, canvas.height);
    this.pixels = new Uint32Array(this.picture.data.buffer);
  }

  /** The dot of a neuron of a layer. */
  dotOf(layer, neuron) {
    const expert = this.experts[layer];
    const before = expert ? Math.floor(neuron / expert) * this.block.cells : 0;
    return layer * this.perLayer + before + Math.floor((expert ? neuron % expert : neuron) / this.group);
  }

  /** Column and row of a dot in its layer. */
  place(layer, cell) {
    if (!this.experts[layer]) return [cell % this.columns, Math.floor(cell / this.columns)];
    const { cells, across, columns, rows } = this.block;
    const [block, inner] = [Math.floor(cell / cells), cell % cells];
    return [
      (block % across) * (columns + 1) + (inner % columns),
      Math.floor(block / across) * (rows + 1) + Math.floor(inner / columns),
    ];
  }

  /** Draws the dots that changed; levels: 0 … LEVELS - 1 for each dot. */
  show(levels) {
    const { shown } = this;
    let [top, bottom] = [Infinity, 0];
    for (let dot = 0; dot < shown.length; dot++) {
      if (levels[dot] === shown[dot]) continue;
      shown[dot] = levels[dot];
      const line = this.paint(dot, levels[dot]);
      top = Math.min(top, this.ys[line]);
      bottom = Math.max(bottom, this.ys[line + 1]);
    }
    if (bottom) this.context.putImageData(this.picture, 0, 0, 0, top, this.width, bottom - top);
  }

  /** Paints one dot; returns its line. */
  paint(dot, level) {
    const { xs, ys, pixels, width, colors } = this;
    const layer = Math.floor(dot / this.perLayer);
    const cell = dot - layer * this.perLayer;
    const [column, row] = this.place(layer, cell);
    const line = layer * this.pitch + row;
    const [w, h] = [xs[column + 1] - xs[column] - this.space, ys[line + 1] - ys[line] - this.space];
    const coverages = this.stencil(w, h);
    const color = cell < this.hot[layer] ? LEVELS + level : level;
    let at = ys[line] * width + xs[column];
    for (let y = 0, i = 0; y < h; y++, at += width - w) {
      for (let x = 0; x < w; x++, i++, at++) pixels[at] = colors[coverages[i]][color];
    }
    return line;
  }

  /** Coverage of each pixel of a dot of that size. */
  stencil(w, h) {
    const key = w * 65536 + h;
    let coverages = this.stencils.get(key);
    if (!coverages) {
      const context = readable(w, h);
      const radius = this.space ? Math.min(w, h) / (this.tiles ? 8 : 2.2) : 0;
      if (context.roundRect) context.roundRect(0, 0, w, h, radius);
      else context.rect(0, 0, w, h); // older browsers
      context.fill();
      const { data } = context.getImageData(0, 0, w, h);
      coverages = Uint8Array.from({ length: w * h }, (_, i) => Math.round((data[4 * i + 3] / 255) * COVERAGES));
      this.stencils.set(key, coverages);
    }
    return coverages;
  }
}

/** The grid that fits all layers into a box: `lines` of `columns` dots each; a layer has `rows` lines, and layers start
 *  `pitch` lines apart. */
function grid(layers, hidden, width, height, tile) {
  const gap = Math.max(2, height / layers / 6);
  const band = (height - gap * (layers - 1)) / layers;
  // The largest dot with which a layer fits into its band; below one pixel, several neurons or tiles share a dot.
  const group = tile * Math.max(1, Math.ceil(hidden / tile / (Math.floor(width) * Math.max(1, Math.floor(band)))));
  const cells = Math.ceil(hidden / group);
  let dot = Math.max(1, Math.floor(Math.sqrt((width * band) / cells)));
  while (dot > 1 && Math.floor(width / dot) * Math.floor(band / dot) < cells) dot--;
  const rows = Math.ceil(cells / Math.max(1, Math.floor(width / dot)));
  // Dots need not be square, so that they fill the box.
  return { columns: Math.ceil(cells / rows), rows, ...lined(layers, rows, gap, band), group, cells };
}

/** The lines of all layers: `pitch` from one to the next. */
function lined(layers, rows, gap, band) {
  const pitch = rows + Math.min(Math.max(1, Math.round((gap * rows) / band)), Math.ceil(rows / 2));
  return { pitch, lines: layers * pitch - (pitch - rows) };
}

/** The same for layers of experts: the dots of an expert stand together in a `block` of so many columns and rows, a dot away
 *  from the next, `across` of them beside each other. */
function tiled(layers, hidden, width, height, expert) {
  const gap = Math.max(2, height / layers / 6);
  const band = (height - gap * (layers - 1)) / layers;
  const count = Math.ceil(hidden / expert);
  for (let group = 1; ; group *= 2) {
    const cells = Math.ceil(expert / group);
    let best = { dot: 0 };
    for (let across = 1; across <= count; across++) {
      const down = Math.ceil(count / across);
      for (let columns = 1; columns <= cells; columns++) {
        const rows = Math.ceil(cells / columns);
        const all = [across * (columns + 1) - 1, down * (rows + 1) - 1];
        const dot = Math.min(width / all[0], band / all[1]);
        if (dot > best.dot) best = { dot, all, block: { cells, across, columns, rows } };
      }
    }
    if (best.dot < 1 && cells > 1) continue; // several neurons share a dot
    const [columns, rows] = best.all;
    return { columns, rows, ...lined(layers, rows, gap, band), group, cells: count * cells, block: best.block };
  }
}

/** The context of a canvas outside the document, for drawing pixels that are read back. */
function readable(width, height) {
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  return canvas.getContext("2d", { willReadFrequently: true });
}

/** "#rrggbb" → [r, g, b] */
function rgb(text) {
  const number = parseInt(text.trim().slice(1), 16);
  return [number >> 16, (number >> 8) & 255, number & 255];
}

const pack = ([r, g, b]) => ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0;

const mix = (from, to, share) => from.map((value, i) => Math.round(value + (to[i] - value) * share));

/** The colours of the levels, from `idle` over `middle` to `bright`. */
function ramp(idle, middle, bright) {
  return Array.from({ length: LEVELS }, (_, i) => {
    const share = i / (LEVELS - 1);
    return share < 0.6 ? mix(idle, middle, share / 0.6) : mix(middle, bright, (share - 0.6) / 0.4);
  });
}

// Formats numbers for display.

const UNITS = ["bytes", "kB", "MB", "GB", "TB"];

/** "7.5 MB" */
export function size(bytes) {
  let value = bytes;
  let unit = 0;
  while (value >= 999.5 && unit < UNITS.length - 1) {
    value /= 1000;
    unit++;
  }
  return `${value < 9.95 && unit > 0 ? value.toFixed(1) : Math.round(value)} ${UNITS[unit]}`;
}

/** "3.1 %" for a fraction from 0 to 1 */
export function percent(fraction) {
  const value = 100 * (fraction ?? 0);
  return `${value < 9.95 ? value.toFixed(1) : Math.round(value)} %`;
}

/** "118", "4.2" */
export function speed(perSecond) {
  return perSecond < 9.95 ? perSecond.toFixed(1) : String(Math.round(perSecond));
}

/** "42 s", "3 min" */
export const duration = (seconds) => (seconds < 90 ? `${Math.ceil(seconds)} s` : `${Math.ceil(seconds / 60)} min`);

const MIXERS = { attention: "attention", recurrence: "recurrent", convolution: "convolution" };
const MARKS = { recurrence: "r", convolution: "c" }; // the legend of the map explains them

/** "3", "3, recurrent", "3, shared experts": the name of one of a model's `layers`, by its block. How it mixes positions is
 *  said where layers differ from attention. */
export function layerName({ block, expert, shared, mixer }, layers) {
  const isUsual = layers.every((layer) => ["attention", ""].includes(layer.mixer));
  const parts = [String(block + 1), expert && "experts", shared && "shared experts", !isUsual && MIXERS[mixer]];
  return parts.filter(Boolean).join(", ");
}

/** "3", "3r": the same, as short as the map needs it. */
export const layerMark = ({ block, mixer }) => `${block + 1}${MARKS[mixer] ?? ""}`;

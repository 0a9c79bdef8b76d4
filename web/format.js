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

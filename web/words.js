// Numbers as people read them.

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

/** "3.1 %" of a share 0 … 1 */
export function percent(share) {
  const value = 100 * (share ?? 0);
  return `${value < 9.95 ? value.toFixed(1) : Math.round(value)} %`;
}

/** "118", "4.2" */
export function speed(perSecond) {
  return perSecond < 9.95 ? perSecond.toFixed(1) : String(Math.round(perSecond));
}

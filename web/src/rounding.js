/**
 * Round half to even, as Python and NumPy do.
 * @param {number} value
 */
export function roundHalfEven(value) {
  const low = Math.floor(value);
  const rest = value - low;
  if (rest === 0.5) return low + (low % 2);
  return rest < 0.5 ? low : low + 1;
}

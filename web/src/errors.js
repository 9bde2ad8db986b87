/** What went wrong, for people. */

const OUT_OF_MEMORY = /memory|bad_alloc|allocat/i;

/** @param {unknown} error */
export function inWords(error) {
  const message = error instanceof Error ? error.message : String(error);
  if (OUT_OF_MEMORY.test(message)) {
    return "There is not enough memory. Close other tabs, or ask for a shorter sound.";
  }
  return message;
}

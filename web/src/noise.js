/** The random numbers of torch's CPU generator: the same seed is the same sound. */

const SIZE = 624; // words of the Mersenne Twister's state
const SHIFT = 397;
const BLOCK = 16; // values that torch makes normal together
const UNIFORM_BITS = 24;

/** `torch.Generator().manual_seed(seed)`, for float32 tensors. */
export class TorchGenerator {
  #state = new Uint32Array(SIZE);
  #next = SIZE;

  /** @param {number} seed torch uses its lower 32 bits */
  constructor(seed) {
    const state = this.#state;
    state[0] = seed;
    for (let i = 1; i < SIZE; i++) {
      const before = state[i - 1] ^ (state[i - 1] >>> 30);
      state[i] = Math.imul(before, 1812433253) + i;
    }
  }

  /**
   * `torch.rand`: uniform in [0, 1).
   * @param {number} count
   */
  rand(count) {
    const out = new Float32Array(count);
    for (let i = 0; i < count; i++) {
      out[i] = (this.#word() & (2 ** UNIFORM_BITS - 1)) * 2 ** -UNIFORM_BITS;
    }
    return out;
  }

  /**
   * `torch.randn`: normal, by Box and Muller in blocks. Fewer than 16 values, which torch draws in
   * another way, are an error.
   * @param {number} count
   */
  randn(count) {
    if (count < BLOCK) throw new RangeError(`count: got ${count}; allowed: ${BLOCK} or more`);
    const out = this.rand(count);
    for (let start = 0; start + BLOCK <= count; start += BLOCK) {
      normalize(out.subarray(start, start + BLOCK));
    }
    if (count % BLOCK) {
      // the last block overlaps the one before it
      const last = this.rand(BLOCK);
      normalize(last);
      out.set(last, count - BLOCK);
    }
    return out;
  }

  #word() {
    if (this.#next === SIZE) this.#refill();
    let word = this.#state[this.#next++];
    word ^= word >>> 11;
    word ^= (word << 7) & 0x9d2c5680;
    word ^= (word << 15) & 0xefc60000;
    return (word ^ (word >>> 18)) >>> 0;
  }

  #refill() {
    const state = this.#state;
    for (let i = 0; i < SIZE; i++) {
      const mixed = (state[i] & 0x80000000) | (state[(i + 1) % SIZE] & 0x7fffffff);
      const twist = mixed & 1 ? 0x9908b0df : 0;
      state[i] = state[(i + SHIFT) % SIZE] ^ (mixed >>> 1) ^ twist;
    }
    this.#next = 0;
  }
}

/**
 * Box and Muller, in place: the first half of a block gives radii, the second half angles.
 * @param {Float32Array} block
 */
function normalize(block) {
  for (let i = 0; i < BLOCK / 2; i++) {
    const radius = Math.sqrt(-2 * Math.log(1 - block[i]));
    const angle = 2 * Math.PI * block[i + BLOCK / 2];
    block[i] = radius * Math.cos(angle);
    block[i + BLOCK / 2] = radius * Math.sin(angle);
  }
}

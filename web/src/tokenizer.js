/** Byte-level BPE, read from the tokenizer.json of a model. */

// White_Space rather than \s, which in JavaScript has other members
const SPACE = "\\p{White_Space}";
const WORD = new RegExp(
  `'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^${SPACE}\\p{L}\\p{N}]+` +
    `|${SPACE}+(?!\\P{White_Space})|${SPACE}+`,
  "gu",
);

/** @type {Record<string, (text: string) => string>} */
const NORMALIZERS = {
  NFC: (text) => text.normalize("NFC"),
  // letter by letter, as the original does: the final sigma is no exception
  Lowercase: (text) => Array.from(text, (letter) => letter.toLowerCase()).join(""),
  Replace: (text) => text.replace(new RegExp(`${SPACE}+`, "gu"), " "),
  Strip: (text) => text.replace(new RegExp(`^${SPACE}+|${SPACE}+$`, "gu"), ""),
};

export class Tokenizer {
  #bytes = byteLetters();
  /** @type {Map<string, number>} */
  #vocab;
  /** @type {Map<string, number>} ranks of pairs, which a space separates: no token has one */
  #ranks;
  /** @type {string[]} */
  #normalizers;
  #prefixSpace;
  #bos;
  #eos;
  /** @type {Map<string, number[]>} */
  #known = new Map();

  /** @param {any} json the contents of tokenizer.json */
  constructor(json) {
    const { model, normalizer, pre_tokenizer: split, post_processor: ends } = json;
    if (model.type !== "BPE" || split?.type !== "ByteLevel") {
      throw new Error("tokenizer.json: expected byte-level BPE");
    }
    this.#vocab = new Map(Object.entries(model.vocab));
    this.#ranks = new Map(
      model.merges.map((/** @type {any} */ pair, /** @type {number} */ rank) => [
        typeof pair === "string" ? pair : pair.join(" "),
        rank,
      ]),
    );
    this.#normalizers = normalizerNames(normalizer);
    this.#prefixSpace = split.add_prefix_space;
    [this.#bos, this.#eos] = endsOf(ends);
  }

  /**
   * The token ids of a text between the first and the last token.
   * @param {string} text
   */
  encode(text) {
    for (const name of this.#normalizers) text = NORMALIZERS[name](text);
    if (text && this.#prefixSpace && !text.startsWith(" ")) text = ` ${text}`;
    const words = text.match(WORD) ?? [];
    return [this.#bos, ...words.flatMap((word) => this.#encodeWord(word)), this.#eos];
  }

  /**
   * `encode`, cut before the last token to at most `maxLength` ids.
   * @param {string} text
   * @param {number} maxLength
   */
  encodeWithin(text, maxLength) {
    const ids = this.encode(text);
    return ids.length <= maxLength ? ids : [...ids.slice(0, maxLength - 1), this.#eos];
  }

  /** @param {string} word */
  #encodeWord(word) {
    let ids = this.#known.get(word);
    if (!ids) {
      const letters = Array.from(new TextEncoder().encode(word), (byte) => this.#bytes[byte]);
      ids = this.#merge(letters).map((token) => /** @type {number} */ (this.#vocab.get(token)));
      this.#known.set(word, ids);
    }
    return ids;
  }

  /**
   * Merge the pair that was learnt first, the leftmost of several, until none is left.
   * @param {string[]} tokens
   */
  #merge(tokens) {
    for (;;) {
      let [best, at] = [Infinity, -1];
      for (let i = 0; i + 1 < tokens.length; i++) {
        const rank = this.#ranks.get(`${tokens[i]} ${tokens[i + 1]}`) ?? Infinity;
        if (rank < best) [best, at] = [rank, i];
      }
      if (at < 0) return tokens;
      tokens.splice(at, 2, tokens[at] + tokens[at + 1]);
    }
  }
}

/** GPT-2's letters for the bytes: printable ones stand for themselves, the others follow U+0100. */
function byteLetters() {
  let others = 0x100;
  return Array.from({ length: 256 }, (_, byte) => {
    const printable = (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte !== 0xad);
    return String.fromCharCode(printable ? byte : others++);
  });
}

/**
 * @param {any} normalizer
 * @returns {string[]}
 */
function normalizerNames(normalizer) {
  if (!normalizer) return [];
  const parts = normalizer.type === "Sequence" ? normalizer.normalizers : [normalizer];
  for (const part of parts) {
    const spaces = part.type !== "Replace" || (part.pattern.Regex === "\\s+" && part.content === " ");
    if (!(part.type in NORMALIZERS) || !spaces) {
      throw new Error(`tokenizer.json: unknown normalizer ${part.type}`);
    }
  }
  return parts.map((/** @type {any} */ part) => part.type);
}

/**
 * The ids of the first and the last token.
 * @param {any} processor
 * @returns {[number, number]}
 */
function endsOf(processor) {
  if (processor?.type === "RobertaProcessing") return [processor.cls[1], processor.sep[1]];
  if (processor?.type !== "TemplateProcessing") {
    throw new Error("tokenizer.json: expected a first and a last token");
  }
  const [first, , last] = processor.single.map((/** @type {any} */ part) => part.SpecialToken?.id);
  const tokens = processor.special_tokens;
  return [tokens[first].ids[0], tokens[last].ids[0]];
}

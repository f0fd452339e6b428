// Prompt text to token ids: special tokens are recognised in the scaffold (the spec's own text) only.

import { Tokenizer } from "@huggingface/tokenizers";

// What Python's str.strip and str.isspace take for white space; JavaScript's trim has U+FEFF, and lacks U+001C to U+001F and U+0085.
const SPACE = "\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000";
const [LEADING, TRAILING] = [new RegExp(`^[${SPACE}]+`), new RegExp(`[${SPACE}]+$`)];

/** Python's str.strip. */
export const strip = (text) => text.replace(LEADING, "").replace(TRAILING, "");

// Stands for the special token before a segment, since some tokenizers put a space before a text's first word only. No
// content can hold it: U+FDD0 and U+FDD1 are no characters, and contents that hold this very text would have to guess the number.
const STAND_IN = `\ufdd0${Math.random().toString(36).slice(2)}\ufdd1`;

export class Encoder {
  /** @param {string} json contents of tokenizer.json */
  constructor(json) {
    const data = JSON.parse(json);
    const blank = ({ content }) => !strip(content.replaceAll("\u2581", " "));
    this.special = new Map(data.added_tokens.filter((t) => !blank(t)).map((t) => [t.content, t]));
    const names = [...this.special.keys()].sort((a, b) => b.length - a.length);
    this.pattern = names.length ? new RegExp(names.map((name) => name.replace(/[\\^$.*+?()[\]{}|/-]/g, "\\$&")).join("|"), "gu") : null;
    this.plain = withoutSpecialTokens(data, this.special, blank);
    this.vocabulary = new Map(vocabularyOf(data.model));
  }

  /** Token ids of pieces { text, isContent }; afterSpecial: a special token stands before the first one. */
  encode(pieces, afterSpecial = false) {
    const whole = pieces.map((piece) => piece.text).join("");
    const ids = [];
    let start = 0;
    for (const [at, name] of this.#specials(pieces)) {
      const { id, lstrip, rstrip } = this.special.get(name);
      const before = whole.slice(start, at);
      ids.push(...this.#segment(lstrip ? before.replace(TRAILING, "") : before, afterSpecial), id);
      start = at + name.length;
      if (rstrip) start = whole.length - whole.slice(start).replace(LEADING, "").length;
      afterSpecial = true;
    }
    ids.push(...this.#segment(whole.slice(start), afterSpecial));
    return ids;
  }

  /** Token ids of a verdict, or of scaffold, after a special token. */
  encodeVerdict(text) {
    return this.encode([{ text, isContent: false }], true);
  }

  /** The text after the last special token of a piece of scaffold: what a verdict may merge with. */
  tail(scaffold) {
    const last = this.pattern && [...scaffold.matchAll(this.pattern)].at(-1);
    return last ? scaffold.slice(last.index + last[0].length) : scaffold;
  }

  /** [position, name] of the special tokens in scaffold pieces. */
  #specials(pieces) {
    const found = [];
    let at = 0;
    for (const { text, isContent } of pieces) {
      const from = at;
      if (!isContent && this.pattern) found.push(...[...text.matchAll(this.pattern)].map((match) => [from + match.index, match[0]]));
      at += text.length;
    }
    return found;
  }

  #segment(text, afterSpecial) {
    if (!text) return [];
    const { ids } = this.plain.encode(afterSpecial ? STAND_IN + text : text, { add_special_tokens: false });
    return afterSpecial ? ids.slice(1) : ids;
  }
}

/** The tokenizer without its special tokens: not among the added ones, not in the vocabulary. */
function withoutSpecialTokens(data, special, blank) {
  const model = data.model;
  const hide = (token) => (special.has(token) && token !== model.unk_token && !/^<0x[0-9A-F]{2}>$/.test(token) ? `\ufdd2${token}` : token);
  const vocab = Array.isArray(model.vocab)
    ? model.vocab.map(([piece, ...rest], i) => [i === model.unk_id ? piece : hide(piece), ...rest])
    : Object.fromEntries(Object.entries(model.vocab).map(([token, id]) => [hide(token), id]));
  const product = (merge) => (Array.isArray(merge) ? merge.join("") : merge.replace(" ", ""));
  const merges = model.merges?.filter((merge) => hide(product(merge)) === product(merge));
  const standIn = { id: 2 ** 24, content: STAND_IN, single_word: false, lstrip: false, rstrip: false, normalized: false, special: true };
  const plain = {
    ...data,
    added_tokens: [...data.added_tokens.filter(blank), standIn],
    pre_tokenizer: withAllDigits(data.pre_tokenizer),
    post_processor: null,
    truncation: null,
    padding: null,
    model: { ...model, vocab, ...(merges && { merges }), ...(model.dropout !== undefined && { dropout: null }) },
  };
  return new Tokenizer(plain, {});
}

/** This npm package's `Digits` knows 0 to 9; the Rust library's every numeric character (`①`, `½`, `Ⅷ`). So it is spelt out. */
function withAllDigits(part) {
  if (part?.type === "Sequence") return { ...part, pretokenizers: part.pretokenizers.map(withAllDigits) };
  if (part?.type !== "Digits") return part;
  return { type: "Split", pattern: { Regex: part.individual_digits ? "\\p{N}" : "\\p{N}+" }, behavior: "Isolated", invert: false };
}

function vocabularyOf(model) {
  return Array.isArray(model.vocab) ? model.vocab.map(([piece], id) => [piece, id]) : Object.entries(model.vocab);
}

// The graph: token ids to logits, with keys and values of what has been computed kept token by token.

import { join } from "node:path";

import { tokenRows } from "./bundle.mjs";

process.env.ORT_DISABLE_TELEMETRY ??= "1"; // is read while onnxruntime is loaded
const ort = await import("onnxruntime-node");

const int64 = (values, dims) => new ort.Tensor("int64", BigInt64Array.from(values, BigInt), dims);
const bools = (values, dims) => new ort.Tensor("bool", Uint8Array.from(values), dims);

export class Model {
  static async load(folder, manifest, prefixes) {
    // Without these int8 graphs give other numbers on processors without VNNI, whose sums saturate; and denormals are slow.
    const extra = { session: { x64quantprecision: "1", set_denormal_as_zero: "1" } };
    const session = await ort.InferenceSession.create(join(folder, "model.onnx"), { logSeverityLevel: 3, extra });
    return Object.assign(new Model(), { session, graph: manifest.graph, prefixes });
  }

  /**
   * A function from a token path after a prompt to the logits that follow it: token id -> logit. Each path costs one pass
   * of those of its tokens that no earlier path had. beforeDecision: the path is none or a lead.
   */
  after(promptIds, role) {
    const prefix = this.prefixes[role];
    const differs = promptIds.findIndex((id, i) => id !== prefix.ids[i]);
    const shared = Math.min(differs < 0 ? promptIds.length : differs, promptIds.length - 1);
    const known = new Map(); // path -> keys and values of its last tokens
    return async (path, beforeDecision) => {
      let start = path.length; // the path's first tokens that have been computed, and the prompt if any has
      while (start >= 0 && !known.has(path.slice(0, start).join())) start--;
      const past = prefix.tokens.slice(0, shared);
      for (let i = 0; i <= start; i++) past.push(...(known.get(path.slice(0, i).join()) ?? []));
      const fresh = start < 0 ? [...promptIds.slice(shared), ...path] : path.slice(start);
      const { logits, tokens } = await this.#run(fresh, past, shared, beforeDecision);
      if (start < 0) known.set("", tokens.splice(0, promptIds.length - shared));
      tokens.forEach((token, i) => known.set(path.slice(0, Math.max(start, 0) + i + 1).join(), [token]));
      return logits;
    };
  }

  /** One pass of a chain of new tokens after cached ones; past[t][i]: rows of token t in layer i, the first `shared` from the prefix. */
  async #run(ids, past, shared, beforeDecision) {
    const { layers, kv_heads: heads, head_dim: dim, sliding_window: window } = this.graph;
    const [count, seen] = [ids.length, past.length];
    const feeds = {
      input_ids: int64(ids, [1, count]),
      position_ids: int64(ids.map((_, i) => seen + i), [1, count]),
    };
    const small = this.graph.verdict_token_ids && !beforeDecision;
    const last = int64([count - 1], [1]);
    feeds.logit_positions = small ? int64([], [0]) : last;
    if (this.graph.verdict_token_ids) feeds.verdict_positions = small ? last : int64([], [0]);
    if (this.graph.by_content) this.#feedByContent(feeds, count, past, shared);
    else this.#feedPlain(feeds, count, past, window);
    const out = await this.session.run(feeds);
    const tokens = ids.map((_, t) =>
      Array.from({ length: layers }, (_, i) => {
        if (this.graph.by_content) return out[`present.${i}`].data.slice(t * 2 * heads * dim, (t + 1) * 2 * heads * dim);
        return tokenRows(out[`present.${i}.key`].data, out[`present.${i}.value`].data, t, count, heads, dim);
      }),
    );
    const columns = small ? this.graph.verdict_token_ids : this.graph.head_token_ids;
    const row = (small ? out.verdict_logits : out.logits).data;
    const logits = columns ? new Map(columns.map((id, column) => [id, row[column]])) : { get: (id) => row[id] };
    return { logits, tokens };
  }

  #feedPlain(feeds, count, past, window) {
    const { layers, kv_heads: heads, head_dim: dim, kv_dtype: dtype } = this.graph;
    const total = past.length + count;
    const mask = (visible) => bools(Array.from({ length: count * total }, (_, at) => visible(past.length + Math.floor(at / total), at % total)), [1, 1, count, total]);
    feeds.attention_mask = mask((row, column) => column <= row);
    if (window) feeds.sliding_attention_mask = mask((row, column) => column <= row && row - column < window);
    for (let i = 0; i < layers; i++) {
      ["key", "value"].forEach((name, which) => {
        const data = this.#array(past.length * heads * dim);
        past.forEach((token, t) => {
          for (let h = 0; h < heads; h++) {
            const from = (which * heads + h) * dim;
            data.set(token[i].subarray(from, from + dim), (h * past.length + t) * dim);
          }
        });
        feeds[`past_key_values.${i}.${name}`] = new ort.Tensor(dtype, data, [1, heads, past.length, dim]);
      });
    }
  }

  /** One content: B = 1, L places for its new tokens, M for those that they see, unused places last. */
  #feedByContent(feeds, count, past, shared) {
    const { layers, kv_heads: heads, head_dim: dim, kv_dtype: dtype, sliding_window: window } = this.graph;
    const [L, M] = [Math.max(2, count), Math.ceil((past.length + count) / 16) * 16];
    const places = Array.from({ length: L }, (_, i) => (i < count ? i : 0));
    feeds.attention_rows = int64(places, [1, L]);
    feeds.row_places = int64(places.slice(0, count), [count]);
    feeds.key_slots = int64(Array.from({ length: M }, (_, i) => (i < past.length + count ? i : 0)), [1, M]);
    feeds.stack_heads = bools([0], [1]);
    const mask = (visible) =>
      bools(Array.from({ length: L * M }, (_, at) => {
        const [row, column] = [Math.floor(at / M), at % M];
        return row < count && visible(past.length + row, column);
      }), [1, 1, L, M]);
    feeds.attention_mask = mask((row, column) => column <= row);
    if (window) feeds.sliding_attention_mask = mask((row, column) => column <= row && row - column < window);
    const rows = (tokens, i) => {
      const data = this.#array(tokens.length * 2 * heads * dim);
      tokens.forEach((token, t) => data.set(token[i], t * 2 * heads * dim));
      return new ort.Tensor(dtype, data, [tokens.length * 2 * heads, dim]);
    };
    for (let i = 0; i < layers; i++) {
      feeds[`past_key_values.${i}`] = rows(past.slice(0, shared), i);
      feeds[`own_key_values.${i}`] = rows(past.slice(shared), i);
    }
  }

  #array(size) {
    return this.graph.kv_dtype === "float32" ? new Float32Array(size) : new Uint16Array(size);
  }
}

// The token tree of all verdicts, unfolded where a search looks. A node is a token path, with every reading of it.

import { ReaderError } from "./bundle.mjs";

export class Tree {
  /**
   * @param grammar of the prompt's role  @param encoder the tokenizer
   * @param tail the prompt's text after its last special token  @param verdict spec.verdict
   */
  constructor(grammar, encoder, tail, verdict) {
    Object.assign(this, { grammar, encoder, tail });
    this.base = encoder.encodeVerdict(tail);
    this.known = new Map();
    this.terminators = verdict.terminators.map((text) => this.#terminator(text));
    const leads = (verdict.leads ?? [""]).map((text) => {
      const tokens = this.#settled(text, grammar.start);
      return { text, taken: tokens.length, state: grammar.start, events: [], rest: tokens, isLead: true };
    });
    this.root = this.#node([], leads);
    this.root.beforeDecision = true;
  }

  /** The nodes after a node, by token in ascending order. */
  children(node) {
    if (!node.children) {
      const byToken = new Map();
      for (const reading of node.readings.flatMap((each) => this.#expanded(each))) {
        const [token, ...rest] = reading.rest;
        byToken.set(token, [...(byToken.get(token) ?? []), { ...reading, rest }]);
      }
      const tokens = [...byToken.keys()].sort((a, b) => a - b);
      node.children = tokens.map((token) => this.#node([...node.path, token], byToken.get(token)));
      this.#markDecision(node);
    }
    return node.children;
  }

  /** Which children are before the first decision as well: after a lead's tokens, or where there is nothing to choose. */
  #markDecision(node) {
    const isLead = (child) => child.readings.some((reading) => reading.isLead);
    const deciding = node.children.filter((child) => !isLead(child));
    const forced = deciding.length === 1 && !deciding[0].complete;
    for (const child of node.children) child.beforeDecision = node.beforeDecision && (forced || isLead(child));
  }

  #node(path, readings) {
    const complete = readings.some((reading) => reading.end && !reading.rest.length);
    const of = readings.map((reading) => new Set(reading.events));
    const certain = [...of[0]].filter((event) => of.every((events) => events.has(event)));
    const possible = new Set(readings.flatMap((reading) => [...reading.events, ...this.grammar.reachable(reading.state)]));
    return { path, readings, complete, certain, possible, children: null };
  }

  /** A reading whose tokens are all on the path, as the readings of the moves after it. */
  #expanded(reading) {
    if (reading.rest.length || reading.end) return reading.rest.length ? [reading] : [];
    if (!reading.state) return this.terminators.map((rest) => ({ ...reading, rest, end: true }));
    return this.grammar.moves(reading.state).flatMap((move) => {
      const text = reading.text + move.text;
      const tokens = this.#settled(text, move.state);
      const after = { text, state: move.state, events: [...reading.events, ...move.events], isLead: false };
      const own = { ...after, taken: tokens.length, rest: tokens.slice(reading.taken) };
      const others = move.alternatives.map(({ before, pieces }) => ({
        ...after,
        taken: this.#tokens(text).length,
        rest: [...this.#tokens(reading.text + before).slice(reading.taken), ...pieces.map((piece) => this.#piece(piece))],
      }));
      return [own, ...others].flatMap((each) => (each.rest.length ? [each] : this.#expanded(each)));
    });
  }

  /** Those tokens of a verdict so far that are the same whatever follows. */
  #settled(text, state) {
    let tokens = this.#tokens(text);
    for (const { text: next } of state ? this.grammar.moves(state) : []) {
      const longer = this.#tokens(text + next);
      const differs = tokens.findIndex((token, i) => token !== longer[i]);
      if (differs >= 0) tokens = tokens.slice(0, differs);
    }
    return tokens;
  }

  /** Tokens of a verdict text after the prompt. */
  #tokens(text) {
    if (!this.known.has(text)) {
      const whole = this.encoder.encodeVerdict(this.tail + text);
      if (!this.base.every((token, i) => token === whole[i])) throw new ReaderError(`the verdict ${JSON.stringify(text)} merges with the prompt`);
      this.known.set(text, whole.slice(this.base.length));
    }
    return this.known.get(text);
  }

  #terminator(text) {
    const special = this.encoder.special.get(text);
    return special ? [special.id] : this.encoder.encodeVerdict(`a${text}`).slice(-1);
  }

  #piece(piece) {
    const id = this.encoder.special.get(piece)?.id ?? this.encoder.vocabulary.get(piece);
    if (id === undefined) throw new ReaderError(`the tokenizer has no token ${JSON.stringify(piece)}`);
    return id;
  }
}

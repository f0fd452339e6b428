// The verdict grammar as moves: pieces of text, the events they bring, and what may follow.

import { fill } from "./prompt.mjs";

const spell = ({ labels: how }, label) => fill(["id", "name", "code"].includes(how) ? `{{${how}}}` : how, label);
const eventOf = (list, label) => (list.namespace === undefined ? label.id : `${list.namespace}:${label.id}`);

export class Grammar {
  /** @param parts of spec.verdict.grammar  @param labels of the prompt's role, in the policy's order */
  constructor(parts, labels) {
    this.labels = labels;
    this.start = { parts, used: [] }; // parts still to come, and the events of labels that may not come any more
  }

  /** The moves { text, events, state, alternatives } after a state; state null: only a terminator may follow. */
  moves(state) {
    const [part, ...rest] = state.parts;
    if (part === undefined) return [{ text: "", events: [], state: null, alternatives: [] }];
    if (typeof part === "string") {
      return this.moves({ ...state, parts: rest }).map((move) => ({
        ...move,
        text: part + move.text,
        alternatives: move.alternatives.map((other) => ({ ...other, before: part + other.before })),
      }));
    }
    if (part.choice) return part.choice.flatMap((option) => this.#optionMoves(option, rest, state));
    const moves = this.#labelMoves(part, rest, state);
    return part.started ? [...moves, ...this.moves({ ...state, parts: rest })] : moves;
  }

  #optionMoves(option, rest, state) {
    const events = option.events ?? (option.event === undefined ? [] : [option.event]);
    const after = { ...state, parts: [...(option.then ?? []), ...rest] };
    if (!option.text) return this.moves(after).map((move) => ({ ...move, events: [...events, ...move.events] }));
    const alternatives = (option.alternatives ?? []).map((pieces) => ({ before: "", pieces }));
    return [{ text: option.text, events, state: after, alternatives }];
  }

  #labelMoves(list, rest, { used }) {
    const left = list.max === undefined ? Infinity : list.max - 1;
    const next = { ...list, started: true, ...(left < Infinity && { max: left }) };
    const parts = left === 0 ? rest : [next, ...rest];
    return this.labels.flatMap((label, i) => {
      const event = eventOf(list, label);
      if (used.includes(event)) return [];
      const gone = list.order === "policy" ? this.labels.slice(0, i + 1).map((each) => eventOf(list, each)) : [event];
      const state = { parts, used: [...used, ...gone] };
      const before = list.started ? list.separators : [""];
      return before.map((separator) => ({ text: separator + spell(list, label), events: [event], state, alternatives: [] }));
    });
  }

  /** Events that may still happen after a state. */
  reachable(state) {
    const events = (parts) =>
      parts.flatMap((part) => {
        if (typeof part === "string") return [];
        if (part.choice) return part.choice.flatMap((o) => [...(o.events ?? (o.event === undefined ? [] : [o.event])), ...events(o.then ?? [])]);
        return this.labels.map((label) => eventOf(part, label)).filter((event) => !state.used.includes(event));
      });
    return state ? events(state.parts) : [];
  }
}

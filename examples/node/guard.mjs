// A guard: a content to an interval of every event's probability.

import { readFileSync } from "node:fs";
import { join } from "node:path";

import { readManifest, readPrefixes, ReaderError } from "./bundle.mjs";
import { Grammar } from "./grammar.mjs";
import { Model } from "./model.mjs";
import { grammarOf, labelsOf, promptsOf, readMessages } from "./prompt.mjs";
import { Encoder } from "./tokenizer.mjs";
import { Tree } from "./tree.mjs";

export class Guard {
  static async load(folder) {
    const manifest = await readManifest(folder);
    const encoder = new Encoder(readFileSync(join(folder, "tokenizer.json"), "utf8"));
    const model = await Model.load(folder, manifest, readPrefixes(folder, manifest.graph));
    return Object.assign(new Guard(), { manifest, spec: manifest.spec, encoder, model, trees: new Map() });
  }

  /** The prompts of a text or of messages { role, content }: { role, label, tokenIds, tree }. */
  prompts(content) {
    const prompts = promptsOf(this.spec, readMessages(this.spec, content)).map(({ role, label, pieces, closing }) => {
      const key = `${role} ${label}`;
      if (!this.trees.has(key)) {
        const labels = label === null ? labelsOf(this.spec, role) : [];
        const grammar = new Grammar(grammarOf(this.spec, role), labels);
        this.trees.set(key, new Tree(grammar, this.encoder, this.encoder.tail(closing), this.spec.verdict));
      }
      return { role, label, tokenIds: this.encoder.encode(pieces), tree: this.trees.get(key) };
    });
    const longest = Math.max(...prompts.map(({ tokenIds }) => tokenIds.length));
    if (longest >= this.manifest.graph.max_positions) throw new ReaderError(`the prompt has ${longest} tokens, more than the guard can read`);
    return prompts;
  }

  /** Event -> [lower, upper]: `unsafe`, and each label of the judged message's role. */
  async score(content, { tolerance = 0.001, maxNodes = 256 } = {}) {
    const found = [];
    for (const { role, label, tokenIds, tree } of this.prompts(content)) {
      const bounds = await search(tree, this.model.after(tokenIds, role), tolerance, maxNodes);
      found.push({ role, label, bounds });
    }
    if (this.spec.policy.aggregate !== "max") {
      const [{ role, bounds }] = found;
      const events = ["unsafe", ...labelsOf(this.spec, role).map(({ id }) => id)];
      return Object.fromEntries(events.map((event) => [event, bounds(event)]));
    }
    const each = found.map(({ label, bounds }) => [label, bounds("unsafe")]);
    const most = (which) => Math.max(...each.map(([, interval]) => interval[which]));
    return { unsafe: [most(0), most(1)], ...Object.fromEntries(each) };
  }
}

/**
 * Best first: expands the open node of most probability, the first by its tokens among equal ones, until the probability
 * of all open nodes below which an event may still happen is at most `tolerance` for every event, or after maxNodes nodes.
 */
async function search(tree, logitsAfter, tolerance, maxNodes) {
  const closed = [];
  const open = [];
  const add = (node, mass) => {
    let children = node.complete ? [] : tree.children(node);
    while (children.length === 1) { // nothing to decide: its probability is 1
      [node] = children;
      children = node.complete ? [] : tree.children(node);
    }
    (node.complete ? closed : open).push({ node, mass });
  };
  const undecided = ({ node }, event) => node.possible.has(event) && !node.certain.includes(event);
  const sum = (leaves) => leaves.reduce((total, { mass }) => total + mass, 0);
  const widest = () => {
    const events = new Set(open.flatMap(({ node }) => [...node.possible]));
    return Math.max(0, ...[...events].map((event) => sum(open.filter((leaf) => undecided(leaf, event)))));
  };
  add(tree.root, 1);
  for (let expanded = 0; open.length && expanded < maxNodes && widest() > tolerance; expanded++) {
    const best = open.reduce((a, b) => (b.mass > a.mass || (b.mass === a.mass && comesBefore(b.node.path, a.node.path)) ? b : a));
    open.splice(open.indexOf(best), 1);
    const logits = await logitsAfter(best.node.path, best.node.beforeDecision);
    const children = tree.children(best.node);
    const values = children.map(({ path }) => logits.get(path.at(-1)));
    const top = Math.max(...values);
    const weights = values.map((value) => Math.exp(value - top)); // in float64
    const total = weights.reduce((a, b) => a + b, 0);
    children.forEach((child, i) => add(child, (best.mass * weights[i]) / total));
  }
  return (event) => {
    const lower = sum([...closed, ...open].filter(({ node }) => node.certain.includes(event)));
    return [Math.min(1, lower), Math.min(1, lower + sum(open.filter((leaf) => undecided(leaf, event))))];
  };
}

function comesBefore(a, b) {
  const i = a.findIndex((token, at) => token !== b[at]);
  return i >= 0 ? b[i] === undefined ? false : a[i] < b[i] : a.length < b.length;
}

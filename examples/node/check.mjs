// node check.mjs SET BUNDLE: compares this reader with a conformance set of the bundle, case by case.

import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { join } from "node:path";

import { ReaderError } from "./bundle.mjs";
import { Guard } from "./guard.mjs";

// Probabilities of fp32 graphs; int8 graphs round, and may round otherwise on another processor or release of onnxruntime.
const FP32 = 1e-4;
const ROUNDED = 2e-3;

const [path, folder] = process.argv.slice(2);
if (!path || !folder) {
  console.error("usage: node check.mjs SET BUNDLE");
  process.exit(2);
}
const set = JSON.parse(readFileSync(path, "utf8"));
const manifest = readFileSync(join(folder, "manifest.json"));
if (set.set_version !== 1 || createHash("sha256").update(manifest).digest("hex") !== set.manifest_sha256) {
  console.error(`error: ${path} is not a set of the bundle ${folder}, or of another version than 1`);
  process.exit(1);
}
const limit = set.precision === "fp32" ? FP32 : ROUNDED;
const guard = await Guard.load(folder);
const search = { tolerance: set.search.tolerance, maxNodes: set.search.max_nodes };
let [wrong, most] = [0, 0];
for (const expected of set.cases) {
  const faults = await check(expected);
  if (faults.length) {
    wrong++;
    console.log(`${expected.id} (${expected.about}): ${faults.join("; ")}`);
  }
}
console.log(`${set.cases.length - wrong} of ${set.cases.length} cases agree; largest difference of a probability: ${most.toExponential(1)}`);
process.exit(wrong ? 1 : 0);

async function check(expected) {
  let prompts;
  try {
    prompts = guard.prompts(expected.content);
  } catch (error) {
    if (!(error instanceof ReaderError)) throw error;
    return expected.error ? [] : [`refused: ${error.message}`];
  }
  if (expected.error) return [`should be refused: ${expected.error}`];
  const faults = [];
  prompts.forEach(({ tokenIds }, i) => {
    const wanted = expected.prompts[i].token_ids;
    const at = wanted.findIndex((id, j) => id !== tokenIds[j]);
    if (at >= 0 || wanted.length !== tokenIds.length) faults.push(`prompt ${i}: token ${at} is ${tokenIds[at]}, not ${wanted[at]}: the tokenizers disagree`);
  });
  if (faults.length) return faults;
  const found = await guard.score(expected.content, search);
  for (const [event, wanted] of Object.entries({ unsafe: expected.unsafe, ...expected.labels })) {
    const difference = found[event] ? apart(found[event], wanted) : 1;
    most = Math.max(most, difference);
    if (!(difference <= limit)) faults.push(`${event} is ${found[event]}, not ${wanted}`);
  }
  return faults;
}

/** How far two intervals are from agreeing: both hold the exact value, and where they are narrow their ends do. */
function apart([lower, upper], [low, high]) {
  const narrow = Math.max(upper - lower, high - low) <= 2 * set.search.tolerance;
  return narrow ? Math.max(Math.abs(lower - low), Math.abs(upper - high)) : Math.max(0, lower - high, low - upper);
}

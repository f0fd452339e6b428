// node score.mjs BUNDLE TEXT...: the probability that each text is unsafe, and of every label.

import { Guard } from "./guard.mjs";
import { ReaderError } from "./bundle.mjs";

const [folder, ...texts] = process.argv.slice(2);
if (!folder || !texts.length) {
  console.error("usage: node score.mjs BUNDLE TEXT...");
  process.exit(2);
}
try {
  const guard = await Guard.load(folder);
  for (const text of texts) {
    const intervals = await guard.score(text);
    const middle = Object.entries(intervals).map(([event, [lower, upper]]) => [event, (lower + upper) / 2]);
    console.log(JSON.stringify({ text, ...Object.fromEntries(middle) }));
  }
} catch (error) {
  if (!(error instanceof ReaderError || error.code === "ENOENT")) throw error;
  console.error(`error: ${error.message}`);
  process.exit(1);
}

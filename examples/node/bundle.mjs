// A bundle's files: manifest.json, checked against its sums, and prefix.safetensors.

import { createHash } from "node:crypto";
import { createReadStream, lstatSync, readFileSync } from "node:fs";
import { join } from "node:path";

/** What is wrong with a bundle or a content: one line for people. */
export class ReaderError extends Error {}

/** The manifest of the bundle in a folder, every other file checked against its sha256. */
export async function readManifest(folder) {
  const manifest = JSON.parse(readFileSync(join(folder, "manifest.json"), "utf8"));
  if (manifest.schema_version !== 1) {
    throw new ReaderError(`${folder}: manifest.json has schema_version ${manifest.schema_version}, this reader knows 1`);
  }
  for (const [name, { sha256, size }] of Object.entries(manifest.files)) {
    const path = join(folder, name);
    const file = lstatSync(path);
    if (!file.isFile()) throw new ReaderError(`${path}: is no plain file`);
    const hash = createHash("sha256");
    for await (const chunk of createReadStream(path)) hash.update(chunk);
    if (file.size !== size || hash.digest("hex") !== sha256) {
      throw new ReaderError(`${path}: is not the file that the manifest names (size or sha256)`);
    }
  }
  return manifest;
}

/** Stored prefixes: role -> { ids, tokens }, where tokens[t][i] holds layer i's keys, then values, [2 * kv_heads * head_dim]. */
export function readPrefixes(folder, { layers, kv_heads: heads, head_dim: dim, kv_dtype: dtype }) {
  const file = readFileSync(join(folder, "prefix.safetensors"));
  const start = 8 + Number(file.readBigUInt64LE(0));
  const header = JSON.parse(file.toString("utf8", 8, start));
  const tensor = (name) => {
    const { dtype: stored, data_offsets: [from, to] } = header[name];
    const bytes = file.buffer.slice(file.byteOffset + start + from, file.byteOffset + start + to);
    if (stored === "I64") return Array.from(new BigInt64Array(bytes), Number);
    if (stored === "F32" && dtype === "float32") return new Float32Array(bytes);
    if (stored === "F16") return dtype === "float16" ? new Uint16Array(bytes) : Float32Array.from(new Uint16Array(bytes), halfToFloat);
    throw new ReaderError(`${folder}: prefix.safetensors: ${name} is ${stored}, and the graph wants ${dtype}`);
  };
  const prefixes = {};
  for (const name of Object.keys(header).filter((each) => each.endsWith(".token_ids"))) {
    const role = name.slice(0, -".token_ids".length);
    const ids = tensor(name);
    const tokens = ids.map(() => []);
    for (let i = 0; i < layers; i++) {
      const [key, value] = [tensor(`${role}.${i}.key`), tensor(`${role}.${i}.value`)];
      ids.forEach((_, t) => tokens[t].push(tokenRows(key, value, t, ids.length, heads, dim)));
    }
    prefixes[role] = { ids, tokens };
  }
  return prefixes;
}

/** Token t of a key and a value [1, heads, count, dim] as rows: the heads of its key, then those of its value. */
export function tokenRows(key, value, t, count, heads, dim) {
  const rows = new key.constructor(2 * heads * dim);
  for (let h = 0; h < heads; h++) {
    const at = (h * count + t) * dim;
    rows.set(key.subarray(at, at + dim), h * dim);
    rows.set(value.subarray(at, at + dim), (heads + h) * dim);
  }
  return rows;
}

function halfToFloat(half) {
  const sign = half & 0x8000 ? -1 : 1;
  const exponent = (half >> 10) & 31;
  const fraction = half & 1023;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return exponent ? sign * 2 ** (exponent - 15) * (1 + fraction / 1024) : sign * 2 ** -24 * fraction;
}

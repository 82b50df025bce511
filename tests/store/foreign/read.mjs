// Reads and checks a store of format 3, or with rows of format 5, by the page for readers of store/SPEC.md, and nothing else:
// `node read.mjs STORE`. Prints what it read as JSON; ends with 1 for a store that it refuses.
import { createHash } from "node:crypto";
import { existsSync, lstatSync, readdirSync, readFileSync, realpathSync } from "node:fs";
import { join } from "node:path";
import { CompressionType, compressionRegistry, tableFromIPC } from "apache-arrow";
import { Decompress } from "fzstd";
import { xxhash128 } from "hash-wasm";
import * as zarr from "zarrita";

const [root, MIB] = [realpathSync(process.argv[2]), 2 ** 20];
const sha256 = (bytes) => createHash("sha256").update(bytes).digest("hex");
const committed = (directory) => existsSync(join(root, directory, "COMMIT.json"));
const same = (a, b) => canonical(a) === canonical(b);

function must(holds, where, what) {
  if (!holds) throw new Error(`${where}: ${what}`);
}

function file(key, most = Infinity) {
  const path = join(root, key);
  must(realpathSync(path) === path && lstatSync(path).isFile(), key, "no plain file");
  return must(lstatSync(path).size <= most, key, "too large") ?? readFileSync(path);
}

function canonical(value) {
  if (Array.isArray(value)) return `[${value.map(canonical)}]`;
  if (value === null || typeof value !== "object") return JSON.stringify(value);
  const member = (key) => `${JSON.stringify(key)}:${canonical(value[key])}`;
  return `{${Object.keys(value).sort().map(member)}}`; // by UTF-16 code units, as RFC 8785 sorts
}
const PART = /^(?!\.)([^\\\p{C}\p{Z}]| )+$/u;

async function openRecord(directory) {
  const where = `${directory}/COMMIT.json`;
  const bytes = file(where, 64 * MIB);
  const record = JSON.parse(bytes);
  const { self_xxh3_128: seal, ...sealed } = record;
  must(seal === (await xxhash128(canonical(sealed))), where, "its seal does not match");
  must(bytes.equals(Buffer.from(canonical(record))), where, "not canonical JSON");
  must([3, 5].includes(record.format) && /^[0-9a-f]{16}$/.test(record.base), where, "of another format");
  const parts = Object.keys(record.objects).flatMap((key) => key.split("/"));
  const plain = (part) => PART.test(part) && Buffer.byteLength(part) <= 255;
  must(parts.every(plain), where, "a name that leads elsewhere");
  return { record, path: `${directory}/${record.base}`, objects: record.objects };
}

async function object({ path, objects }, key) {
  must(Object.hasOwn(objects, key), `${path}/${key}`, "not in the record");
  const bytes = file(`${path}/${key}`);
  const { bytes: size, xxh3_128: checksum } = objects[key];
  must(bytes.length === size && (await xxhash128(bytes)) === checksum, `${path}/${key}`, "altered");
  return bytes;
}

async function table(opened, key, columns, rows, most = Infinity) {
  const bytes = await object(opened, key);
  let [unpacked, bound] = [0, Math.min(most, Math.max(64 * MIB, 256 * bytes.length))];
  const fits = (part) => must((unpacked += part.length) <= bound, key, "unpacks to too much");
  const decode = (packed, parts = []) => {
    new Decompress((part) => fits(part) ?? parts.push(part.slice())).push(packed, true);
    return new Uint8Array(Buffer.concat(parts));
  };
  compressionRegistry.set(CompressionType.ZSTD, { decode });
  const found = tableFromIPC(bytes);
  must(found.numRows === rows, key, `${found.numRows} rows, should be ${rows}`);
  const plain = (v) => (typeof v === "bigint" ? Number(v) : v?.toArray ? Array.from(v.toArray()) : v);
  const there = found.schema.fields.map((field) => `${field.name}:${field.type}`);
  const column = (wanted) => {
    must(there.filter((name) => name === wanted).length === 1, key, `no column ${wanted}`);
    return [wanted.split(":")[0], Array.from(found.getChild(wanted.split(":")[0]), plain)];
  };
  return Object.fromEntries(columns.split(" ").map(column));
}

async function array(opened, folder, rows, width, dtype) {
  const meta = JSON.parse(await object(opened, `${folder}/zarr.json`));
  const [grid, [{ configuration: given }]] = [meta.chunk_grid.configuration.chunk_shape, meta.codecs];
  const [little, [count]] = [{ name: "bytes", configuration: { endian: "little" } }, given.chunk_shape];
  const codecs = [little, { name: "blosc", configuration: given.codecs[1].configuration }];
  const index = { index_codecs: [little, { name: "crc32c" }], index_location: "end" };
  const sharding = { name: "sharding_indexed", configuration: { chunk_shape: [count, width], codecs, ...index } };
  const types = { bfloat16: ["uint16", "bfloat16"], float8_e4m3: ["uint8"] }[dtype] ?? [dtype]; // of its bits
  must(same(meta.shape, [rows, width]) && types.includes(meta.data_type), folder, "another array");
  const size = count * width * ({ float32: 4, float8_e4m3: 1 }[dtype] ?? 2);
  const plain = same(meta.codecs, [sharding]) && !meta.storage_transformers?.length;
  must(plain && (count === 1 || size <= 1024 * MIB), folder, "codecs");
  must(grid[1] === width && grid[0] >= rows && grid[0] % count === 0, folder, "chunks");
  const bytes = await object(opened, `${folder}/c/0/0`);
  let [start, places] = [0, []];
  for (const chunk of opened.objects[`${folder}/c/0/0`].chunks) {
    const packed = bytes.subarray(start, start + chunk.bytes);
    must((await xxhash128(packed)) === chunk.xxh3_128, folder, "a chunk was altered");
    must(packed.readUInt32LE(4) === size && packed.readUInt32LE(12) === chunk.bytes, folder, "sizes");
    places.push(BigInt(start), BigInt(chunk.bytes));
    start += chunk.bytes;
  }
  const listed = Buffer.from(new BigUint64Array(places).buffer);
  must(listed.equals(bytes.subarray(start, -4)) && places.length * count === 2 * grid[0], folder, "index");
  const half = !/16/.test(dtype) ? {} : { data_type: "uint16", fill_value: 0 }; // the bits
  const files = { "/zarr.json": Buffer.from(canonical({ ...meta, ...half })), "/c/0/0": bytes };
  const getRange = async (key, { suffixLength: n, offset, length }) =>
    n ? files[key].subarray(-n) : files[key].subarray(offset, offset + length);
  const opening = zarr.open({ get: async (key) => files[key], getRange }, { kind: "array" });
  const { data } = await zarr.get(await opening);
  return Buffer.from(data.buffer, data.byteOffset, data.byteLength).toString("hex");
}

const PROMPTS = "prompt_id:Int32 source_row:Int64 token_ids:List<Int32> n_tokens:Int32 truncated:Bool sha256:Utf8";
const TOKENS =
  "prompt_id:Int32 position:Int32 token_id:Int32 next_rank:Int32 top1_id:Int32 " +
  "entropy varentropy log_z max_logprob margin next_logprob".replace(/\b(?= |$)/g, ":Float32");

async function readShard(directory, plan, hash, index, prompts) {
  const opened = await openRecord(directory);
  const { plan: of, shard, rows, quarantine: n } = opened.record;
  must(of === hash && shard === index, directory, "the record of another shard");
  const tokens = await table(opened, "tokens.arrow", TOKENS, rows, 65536 + 1024 * rows);
  const ids = prompts.prompt_id.slice(plan.shards[index], plan.shards[index + 1]);
  const due = ids.flatMap((id) => prompts.token_ids[id].map((token, position) => [id, position, token]));
  const found = tokens.token_id.map((token, t) => [tokens.prompt_id[t], tokens.position[t], token]);
  must(same(found, due), directory, "rows of other tokens");
  const [hidden, aside] = [{}, "prompt_id:Int32 reason:Utf8"];
  for (const { name, width, dtype = plan.stored_dtype } of plan.sites)
    hidden[name] = await array(opened, `hidden.zarr/${name}`, rows, width + (dtype === "float8_e4m3"), dtype);
  return { tokens, hidden, quarantine: n ? await table(opened, "quarantine.arrow", aside, n, 65 * MIB) : null };
}

async function readRun(id) {
  const opened = await openRecord(`runs/${id}`);
  const bytes = await object(opened, "plan.json");
  const [plan, hash] = [JSON.parse(bytes), sha256(bytes)];
  must(hash === opened.record.plan && id.endsWith(`-${hash.slice(0, 8)}`), id, "another plan");
  const prompts = await table(opened, "prompts.arrow", PROMPTS, plan.prompts.count);
  const digests = prompts.token_ids.map((ids) => sha256(new Uint8Array(Int32Array.from(ids).buffer)));
  must(same(digests, prompts.sha256), id, "prompts of other tokens");
  must(sha256(Buffer.from(digests.join(""), "hex")) === plan.prompts.sha256, id, "other prompts");
  const shards = {};
  for (let k = 0; k + 1 < plan.shards.length; k++) {
    const at = `runs/${id}/shards/${`${k}`.padStart(5, "0")}`;
    if (committed(at)) shards[k] = await readShard(at, plan, hash, k, prompts);
  }
  return { hash, prompts, shards };
}

const [runs, { format, version }] = [{}, JSON.parse(file("lpp.json", 64 * 1024))];
must(format === "lpp-store" && version === 1, root, "no store that this reads");
for (const id of readdirSync(join(root, "runs")).sort())
  if (!id.startsWith(".") && committed(`runs/${id}`)) runs[id] = await readRun(id);
console.log(JSON.stringify(runs));

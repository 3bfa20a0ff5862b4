// Names cells of a file of this computer by a model.onnx of `neurofleet export`: nothing of the file leaves the browser.
// The file is read where it lies, some hundred cells at a time. Asked with {model} or {file, layer, names}; answers with what it finds.
import h5wasm from "h5wasm";
import * as ort from "onnxruntime-web/wasm";

const MOST_CELLS = 500;
const BLOCK_VALUES = 4e6;
const [MOST_MISSING, WARNED_MISSING, WARNED_MISSING_GENES] = [0.8, 0.2, 0.5]; // as learners/sims/cell_prediction.py has them
const FOLDER = "/cells";

ort.env.wasm.numThreads = 1;
ort.env.wasm.wasmPaths = { wasm: new URL("ort-wasm-simd-threaded.wasm", import.meta.url).href };

class Refused extends Error {}

let model = null;
let file = null;
let run = 0;

onmessage = async ({ data }) => {
  const now = ++run; // what goes on for an earlier file or choice ends
  try {
    if (data.model) await openModel(data.model);
    if (data.file) await openFile(data.file);
    if (data.file || data.layer) await nameCells(data, () => now !== run);
  } catch (error) {
    const known = error instanceof Refused;
    if (now === run) postMessage({ refused: known ? error.message : `The file cannot be read, or memory ran out (${error.message ?? error}). It may be damaged.` });
  }
};

async function openModel(buffer) {
  let told;
  try {
    told = metadata(new Uint8Array(buffer));
  } catch {
    told = {};
  }
  if (told.format !== "neurofleet sims 1") throw new Refused("This is no model of neurofleet export MODEL --to onnx, or of another version of it.");
  const parsed = (name, other) => (told[name] ? JSON.parse(told[name]) : other);
  const session = await ort.InferenceSession.create(new Uint8Array(buffer), { executionProviders: ["wasm"] });
  model = { session, genes: parsed("genes"), importance: parsed("gene_importance", []), totals: session.inputNames.includes("totals"), space: session.outputNames.includes("map") };
  const { name, version, sha256, remark } = told;
  postMessage({ model: { name, version, sha256, remark, genes: model.genes.length, classes: parsed("classes"), reference: parsed("reference", null), values: parsed("validation_top_probability", []) } });
}

// Of a protocol buffer ModelProto only field 14, metadata_props: pairs of key (1) and value (2).
function metadata(bytes) {
  const text = new TextDecoder();
  const told = {};
  for (const [field, value] of fields(bytes)) {
    if (field !== 14) continue;
    const pair = Object.fromEntries(fields(value));
    told[text.decode(pair[1])] = text.decode(pair[2] ?? new Uint8Array());
  }
  return told;
}

function* fields(bytes) {
  let at = 0;
  const varint = () => {
    let [value, factor, byte] = [0, 1, 0];
    do {
      byte = bytes[at++];
      value += (byte & 127) * factor;
      factor *= 128;
    } while (byte > 127);
    return value;
  };
  while (at < bytes.length) {
    const tag = varint();
    const kind = tag & 7;
    const length = kind === 2 ? varint() : kind === 1 ? 8 : kind === 5 ? 4 : 0;
    if (kind === 0) varint();
    else if (kind > 2 && kind !== 5) throw new Error("no protocol buffer");
    if (kind === 2) yield [Math.floor(tag / 8), bytes.subarray(at, at + length)];
    at += length;
  }
}

async function openFile(chosen) {
  const { FS } = await h5wasm.ready;
  const head = new Uint8Array(await chosen.slice(0, 8).arrayBuffer()); // nothing is awaited below: another file may be chosen
  if (head[0] !== 137 || String.fromCharCode(...head.subarray(1, 4)) !== "HDF") throw new Refused(`${chosen.name} is no HDF5 file. Expected an h5ad file, as scanpy and anndata write it.`);
  const forget = () => {
    FS.unmount(FOLDER);
    FS.rmdir(FOLDER);
  };
  if (file) {
    file.close();
    file = null;
    forget();
  }
  FS.mkdir(FOLDER);
  FS.mount(FS.filesystems.WORKERFS, { blobs: [{ name: "cells.h5ad", data: chosen }] }, FOLDER);
  try {
    file = new h5wasm.File(`${FOLDER}/cells.h5ad`, "r");
  } catch (error) {
    forget();
    throw error;
  }
  file.title = chosen.name;
  const missing = ["obs", "var"].filter((name) => !file.keys().includes(name));
  if (missing.length) throw new Refused(`${chosen.name} has no ${missing.join(" and no ")}: it holds ${file.keys().slice(0, 5).join(", ") || "nothing"}. Expected an h5ad file, as scanpy and anndata write it.`);
}

const attribute = (at, name) => (name in at.attrs ? at.attrs[name].value : undefined);

// A column of obs or var as text, null where it holds no text.
function texts(group, name) {
  const column = group.get(name);
  if (column instanceof h5wasm.Group) {
    if (!column.keys().includes("categories")) return null;
    const categories = column.get("categories").value;
    return typeof categories[0] === "string" ? Array.from(column.get("codes").value, (code) => (code < 0 ? "" : categories[code])) : null;
  }
  if (!(column instanceof h5wasm.Dataset) || column.shape.length !== 1) return null;
  const values = column.value;
  return Array.isArray(values) && typeof values[0] === "string" ? values : null;
}

function indexOf(group, what) {
  if (!(group instanceof h5wasm.Group)) throw new Refused(`${file.title} was written by an anndata before 0.7 (${what} is one array). Read and write it with a newer one.`);
  const name = attribute(group, "_index") ?? "_index";
  const found = group.get(name);
  if (!(found instanceof h5wasm.Dataset)) throw new Refused(`${file.title}: ${what} has no index of names.`);
  return Array.from(found.value, String);
}

// Where counts may lie: X, layers, raw.
function matrices() {
  const keys = file.keys();
  const layers = keys.includes("layers") ? file.get("layers").keys().sort() : [];
  const all = [
    ...(keys.includes("X") ? [["X", "X", "var"]] : []),
    ...layers.map((name) => [name, `layers/${name}`, "var"]),
    ...(keys.includes("raw") && file.get("raw").keys().includes("X") ? [["raw", "raw/X", "raw/var"]] : []),
  ];
  return all.map(([name, path, genes]) => matrix(name, path, genes)).filter(Boolean);
}

function matrix(name, path, genes) {
  const at = file.get(path);
  if (at instanceof h5wasm.Dataset) {
    if (at.shape.length !== 2) return null;
    const [n, width] = at.shape;
    return { name, genes, n, width, read: (from, to) => ({ dense: at.slice([[from, to], [0, width]]) }) };
  }
  const kind = attribute(at, "encoding-type") ?? `${attribute(at, "h5sparse_format")}_matrix`;
  const [n, width] = Array.from(attribute(at, "shape") ?? attribute(at, "h5sparse_shape") ?? [0, 0], Number);
  if (kind !== "csr_matrix") return { name, genes, n, width, byGenes: true };
  let starts = null;
  const [values, columns] = [at.get("data"), at.get("indices")];
  return {
    name, genes, n, width,
    read: (from, to) => {
      starts ??= Float64Array.from(at.get("indptr").value, Number);
      const range = [[starts[from], starts[to]]];
      const some = range[0][0] < range[0][1];
      return { data: some ? values.slice(range) : [], indices: some ? columns.slice(range) : [], starts: starts.subarray(from, to + 1) };
    },
  };
}

// Whether values are counts: of three stretches of cells, none below zero and none with a fraction.
function areCounts(found) {
  let [seen, whole] = [0, true];
  for (const share of [0, 0.5, 1]) {
    const from = Math.max(0, Math.min(found.n - 20, Math.floor(share * found.n)));
    const { dense, data } = found.read(from, Math.min(found.n, from + 20));
    for (const value of dense ?? data) {
      const number = Number(value);
      if (number !== 0) seen++;
      if (!(number >= 0) || number % 1 !== 0) whole = false;
    }
  }
  return whole && seen > 0;
}

function chosenCounts(layer) {
  const all = matrices();
  if (!all.length) throw new Refused(`${file.title} has no matrix of cells and genes (X).`);
  const readable = all.filter((one) => !one.byGenes);
  if (!readable.length) throw new Refused(`${file.title} is stored gene by gene (CSC), so no cell can be read by itself. Write it with adata.X = adata.X.tocsr().`);
  const counts = layer ? readable.filter((one) => one.name === layer) : readable.filter(areCounts);
  if (!counts.length) throw new Refused(`${file.title} holds no counts: ${readable.map((one) => one.name).join(", ")} ${readable.length > 1 ? "have" : "has"} fractions or numbers below zero, or ${readable.length > 1 ? "are" : "is"} zero in the cells looked at. Give a file with counts in X, a layer or raw; \`neurofleet predict\` takes logarithms of counts, too.`);
  if (!layer) file.layers = counts.map((one) => one.name);
  return counts[0];
}

// The column of var, or its index, that shares most genes with the model.
function alignedGenes(found, asked) {
  const group = file.get(found.genes);
  const place = new Map(model.genes.map((gene, i) => [gene, i]));
  const own = indexOf(group, found.genes);
  const shared = (names) => names.reduce((n, name) => n + place.has(name), 0);
  let best = { column: "index", names: own, n: shared(own) };
  const columns = asked ? (asked === "index" ? [] : [asked]) : best.n < 0.5 * model.genes.length ? group.keys() : [];
  for (const column of columns) {
    const names = texts(group, column);
    if (names === null) continue;
    const once = new Map();
    for (const name of names) once.set(name, (once.get(name) ?? 0) + 1);
    const usable = names.map((name, i) => (name !== "" && once.get(name) === 1 ? name : own[i]));
    const n = shared(usable);
    if (n > best.n || asked) best = { column, names: usable, n };
  }
  const where = new Int32Array(best.names.length).fill(-1);
  const known = new Uint8Array(model.genes.length);
  const twice = [];
  best.names.forEach((name, i) => {
    const to = place.get(name);
    if (to === undefined) return;
    if (known[to]) twice.push(name);
    known[to] = 1;
    where[i] = to;
  });
  if (twice.length) throw new Refused(`${file.title}: ${twice.length} genes occur more than once, the first ${twice.slice(0, 5).join(", ")}. Sum or rename these columns first.`);
  return { column: best.column, where, known };
}

function missingGenes({ known }) {
  const absent = model.genes.filter((_, i) => !known[i]);
  const sum = (all) => all.reduce((a, b) => a + b, 0);
  const weight = model.importance.length === known.length && sum(model.importance) > 0 ? model.importance : null;
  const ofGenes = absent.length / known.length;
  const share = weight ? sum(weight.filter((_, i) => !known[i])) / sum(weight) : ofGenes;
  const words = `${(100 * ofGenes).toFixed(1)} %${weight ? `; ${(100 * share).toFixed(1)} % of its networks' attention` : ""}`;
  const some = absent.slice(0, 5).join(", ") + (absent.length > 5 ? ", …" : "");
  if (absent.length === known.length) throw new Refused(`${file.title} shares none of the model's ${known.length} genes (${some}): is it another species, or another kind of id?`);
  if (share > MOST_MISSING) throw new Refused(`${file.title} lacks ${absent.length} of the model's ${known.length} genes (${words}), and at most ${100 * MOST_MISSING} % may be missing: ${some}. Give a file with all its genes.`);
  const done = model.space ? "estimated from the others" : "set to their mean in the reference, or taken as zero";
  const warning = share > WARNED_MISSING || ofGenes > WARNED_MISSING_GENES ? `${file.title} lacks ${absent.length} of the model's ${known.length} genes (${words}): ${some}. They are ${done}, so predictions may be worse than the model's scores say, and probabilities too high.` : "";
  return { n_missing: absent.length, n_shared: known.length - absent.length, words, done, warning };
}

async function nameCells({ layer, names }, isOver) {
  if (model === null) throw new Refused("Choose a model first.");
  if (file === null) throw new Refused("Choose a file of cells first.");
  const counts = chosenCounts(layer);
  const genes = alignedGenes(counts, names);
  const missing = missingGenes(genes);
  const ids = indexOf(file.get("obs"), "obs");
  if (ids.length !== counts.n || genes.where.length !== counts.width) throw new Refused(`${file.title}: ${counts.name} has ${counts.n} cells and ${counts.width} genes, its tables name ${ids.length} and ${genes.where.length}. The file is damaged.`);
  const columns = ["index", ...file.get(counts.genes).keys().filter((name) => name !== attribute(file.get(counts.genes), "_index"))];
  postMessage({ opened: { title: file.title, n: counts.n, layers: file.layers ?? [counts.name], layer: counts.name, columns, column: genes.column, ids, ...missing } });
  const G = model.genes.length;
  const size = Math.max(16, Math.min(MOST_CELLS, Math.floor(BLOCK_VALUES / G)));
  const row = new Float32Array(G).map((_, i) => (genes.known[i] ? 0 : NaN));
  for (let from = 0; from < counts.n; from += size) {
    const to = Math.min(counts.n, from + size);
    const { values, totals } = block(counts, from, to, genes.where, row);
    const feeds = { counts: new ort.Tensor("float32", values, [to - from, G]) };
    if (model.totals) feeds.totals = new ort.Tensor("float32", totals, [to - from]);
    const found = await model.session.run(feeds);
    if (isOver()) return;
    const named = summary(found.probabilities.data, to - from);
    if (model.space) Object.assign(named, { distance: found.distance.data.slice(), map: found.map.data.slice() });
    postMessage({ named, from, to });
    for (const tensor of Object.values(found)) tensor.dispose();
    await new Promise((go) => setTimeout(go)); // another choice may wait
    if (isOver()) return;
  }
  postMessage({ finished: true });
}

function block(counts, from, to, where, row) {
  const G = row.length;
  const values = new Float32Array(G * (to - from));
  for (let i = 0; i < to - from; i++) values.set(row, i * G);
  const totals = new Float32Array(to - from);
  const { dense, data, indices, starts } = counts.read(from, to);
  const take = (i, column, raw) => {
    const value = Number(raw);
    if (!(value >= 0) || value % 1 !== 0) throw new Refused(`${file.title}: cells ${from + 1} to ${to} have values that are no counts (${value}). Give counts for all cells.`);
    totals[i] += value;
    if (where[column] >= 0) values[i * G + where[column]] += value;
  };
  for (let i = 0; i < to - from; i++) {
    if (dense) for (let j = 0; j < counts.width; j++) take(i, j, dense[i * counts.width + j]);
    else for (let k = starts[i] - starts[0]; k < starts[i + 1] - starts[0]; k++) take(i, Number(indices[k]), data[k]);
  }
  return { values, totals };
}

function summary(probabilities, n) {
  const C = probabilities.length / n;
  const named = { best: new Int32Array(n), probability: new Float32Array(n), margin: new Float32Array(n), entropy: new Float32Array(n) };
  for (let i = 0; i < n; i++) {
    let [first, second, entropy] = [0, 0, 0];
    for (let c = 0; c < C; c++) {
      const p = probabilities[i * C + c];
      if (!(p >= 0)) throw new Refused(`${file.title}: a cell has no probabilities. Its values may be too large.`);
      if (p > 0) entropy -= p * Math.log(p);
      if (p > first) [first, second, named.best[i]] = [p, first, c];
      else if (p > second) second = p;
    }
    [named.probability[i], named.margin[i], named.entropy[i]] = [first, first - second, entropy];
  }
  return named;
}

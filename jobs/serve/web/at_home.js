// The page that names cells without a server: shows what at_home_worker.js finds, and offers it as a table.
import { element } from "./theme.js";
import { drawMap } from "./map.js";

const part = (name) => document.querySelector(`[data-part="${name}"]`);
const say = (text, fault = false) => {
  part("status").textContent = fault ? "" : text;
  part("fault").textContent = fault ? text : "";
  part("fault").hidden = !fault;
};
const number = (value) => value.toLocaleString("en");
const worker = new Worker(new URL("at_home_worker.js", import.meta.url), { type: "module" });

let model = null;
let cells = null; // what is known of the file, and the labels so far
let started = 0;
let drawn = 0;

worker.onerror = () => say("The reader of cells cannot start. Serve this folder, as with python -m http.server: browsers run no such scripts from a folder.", true);
worker.onmessage = ({ data }) => {
  if (data.refused) {
    part("progress").hidden = true;
    part("cells").disabled = model === null;
    say(data.refused, true);
  } else if (data.model) showModel(data.model);
  else if (data.opened) begin(data.opened);
  else if (cells && data.named) take(data);
  else if (cells && data.finished) finish();
};

function showModel(told) {
  forget();
  model = told;
  part("cells").disabled = false;
  const facts = { model: told.name, genes: number(told.genes), classes: told.classes.join(", "), neurofleet: told.version, "SHA-256 of its weights": told.sha256, remark: told.remark };
  part("model-facts").replaceChildren(...Object.entries(facts).filter(([, value]) => value).flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]));
  say("The model is ready. Choose a file of cells.");
}

// What an earlier model has named.
function forget() {
  cells = null;
  part("found").hidden = part("progress").hidden = part("download").disabled = true;
  part("cells").value = "";
  part("cells").disabled = true;
}

function begin(opened) {
  const n = opened.n;
  cells = { ...opened, done: 0, best: new Int32Array(n), probability: new Float32Array(n), margin: new Float32Array(n), entropy: new Float32Array(n) };
  if (model.reference) Object.assign(cells, { distance: new Float32Array(n), map: new Float32Array(2 * n) });
  const missing = opened.n_missing ? `, ${number(opened.n_missing)} are missing (${opened.words}) and ${opened.done}` : "";
  part("genes").textContent = `${number(opened.n_shared)} of the model's genes are there${missing}. Values: counts of ${opened.layer}; names of genes: ${opened.column}.`;
  part("warning").textContent = opened.warning;
  part("warning").hidden = !opened.warning;
  options("layer", opened.layers, opened.layer);
  options("names", opened.columns, opened.column);
  part("reading").hidden = false;
  part("found").hidden = false;
  part("map-part").hidden = true;
  part("download").disabled = true;
  part("progress").hidden = false;
  part("progress").max = n;
  started = performance.now();
}

function options(name, all, chosen) {
  part(name).replaceChildren(...all.map((each) => element("option", { value: each, selected: each === chosen }, each)));
}

function take({ named, from, to }) {
  for (const name of ["best", "probability", "margin", "entropy", "distance"]) if (named[name]) cells[name].set(named[name], from);
  if (named.map) cells.map.set(named.map, 2 * from);
  cells.done = to;
  const rate = to / ((performance.now() - started) / 1000);
  part("progress").value = to;
  say(`${number(to)} of ${number(cells.n)} cells named, ${number(Math.round(rate))} a second.`);
  if (performance.now() - drawn > 250) table();
}

function finish() {
  const seconds = (performance.now() - started) / 1000;
  part("progress").hidden = true;
  part("download").disabled = false;
  table();
  say(`${number(cells.n)} cells of ${cells.title} named in ${seconds.toFixed(1)} s, ${number(Math.round(cells.n / seconds))} a second.`);
  if (!cells.map) return;
  part("map-part").hidden = false;
  const column = (offset) => Array.from({ length: cells.n }, (_, i) => cells.map[2 * i + offset]);
  const place = model.reference.map;
  const reference = { x: place.map((at) => at[0]), y: place.map((at) => at[1]), c: model.reference.labels };
  const query = { x: column(0), y: column(1), c: Array.from(cells.best), p: cells.probability, d: cells.distance };
  try {
    cells.tint = drawMap(part("map"), { classes: model.classes, reference, query }, below);
  } catch (error) {
    part("map").textContent = `The map cannot be drawn: ${error.message}.`;
  }
}

const below = () => Number(part("below").value);

function table() {
  const threshold = below();
  const counts = model.classes.map(() => 0);
  const far = model.classes.map(() => 0);
  let unknown = 0;
  for (let i = 0; i < cells.done; i++) {
    if (cells.probability[i] < threshold) unknown++;
    else {
      counts[cells.best[i]]++;
      if (cells.distance?.[i] > 1) far[cells.best[i]]++;
    }
  }
  const rows = [...model.classes.map((name, c) => [name, counts[c], far[c]]), ["unknown", unknown, null]];
  part("rows").replaceChildren(...rows.map(([name, n, outside]) => element("tr", {}, element("td", {}, name),
    ...[number(n), `${((100 * n) / Math.max(cells.done, 1)).toFixed(1)}\u00a0%`, outside === null || !cells.distance ? "" : number(outside)].map((text) => element("td", { className: "number" }, text)))));
  part("threshold").textContent = threshold.toFixed(2);
  drawn = performance.now();
}

const quoted = (text) => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
const short = (value) => String(Number(value.toPrecision(7)));

// The columns of `neurofleet predict --csv`.
function download() {
  const threshold = below();
  const names = ["cell_id", "label", "unknown", "pred_0", "prob_0", "margin", "entropy", ...(cells.distance ? ["distance", "outside", "map_0", "map_1"] : [])];
  const lines = [`${names.join(",")}\n`];
  for (let i = 0; i < cells.n; i++) {
    const [name, unknown] = [model.classes[cells.best[i]], cells.probability[i] < threshold];
    const row = [quoted(cells.ids[i]), quoted(unknown ? "unknown" : name), unknown, quoted(name), ...["probability", "margin", "entropy"].map((key) => short(cells[key][i]))];
    if (cells.distance) row.push(short(cells.distance[i]), cells.distance[i] > 1, short(cells.map[2 * i]), short(cells.map[2 * i + 1]));
    lines.push(`${row.join(",")}\n`);
  }
  const link = element("a", { href: URL.createObjectURL(new Blob(lines, { type: "text/csv" })), download: `${cells.title.replace(/\.[^.]*$/, "")}-labels.csv` });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

part("below").addEventListener("input", () => {
  table();
  cells.tint?.();
});
part("download").addEventListener("click", download);
part("cells").addEventListener("change", (event) => {
  const [file] = event.target.files;
  if (!file) return;
  part("found").hidden = part("reading").hidden = true;
  say(`Opening ${file.name} …`);
  worker.postMessage({ file });
});
for (const name of ["layer", "names"]) part(name).addEventListener("change", () => worker.postMessage({ layer: part("layer").value, names: part("names").value }));
part("model").addEventListener("change", async (event) => {
  const [file] = event.target.files;
  if (file) loadModel(await file.arrayBuffer());
});

function loadModel(buffer) {
  forget();
  say("Opening the model …");
  worker.postMessage({ model: buffer }, [buffer]);
}

say("Opening the model …");
fetch("model.onnx").then(async (answer) => {
  if (answer.ok) loadModel(await answer.arrayBuffer());
  else {
    const told = new DOMParser().parseFromString(await answer.text(), "text/html").querySelector("main [role=alert]");
    say(told?.textContent ?? `There is no model beside this page (${answer.status}): choose one.`, true);
  }
}).catch(() => say("The model beside this page cannot be read. Serve this folder, as with python -m http.server, or choose a model.", true));

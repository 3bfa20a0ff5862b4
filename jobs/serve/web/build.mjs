// npm ci --ignore-scripts && npm run build: makes ../static/app.js and app.css, with licences and the hash of the sources.
import { createHash } from "node:crypto";
import { copyFileSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
import { build } from "esbuild";

const out = new URL("../static/", import.meta.url).pathname;
const here = new URL("./", import.meta.url).pathname;

const options = { bundle: true, minify: true, legalComments: "none", target: "es2022", logLevel: "warning" };
await build({ ...options, entryPoints: [`${here}app.js`], format: "esm", outfile: `${out}app.js` });
await build({ ...options, entryPoints: [`${here}app.css`], outfile: `${out}app.css` });

// the page that needs no server
const atHome = ["at_home.js", "at_home_worker.js"];
for (const name of atHome) await build({ ...options, entryPoints: [here + name], format: "esm", charset: "utf8", outfile: out + name });
const copied = { "at_home.html": `${here}at_home.html`, "ort-wasm-simd-threaded.wasm": `${here}node_modules/onnxruntime-web/dist/ort-wasm-simd-threaded.wasm` };
for (const [name, from] of Object.entries(copied)) copyFileSync(from, out + name);

// the page of the REST interface: as it is published
const shared = ["swagger-ui-bundle.js", "swagger-ui.css"];
for (const name of shared) {
  const text = readFileSync(`${here}node_modules/swagger-ui-dist/${name}`, "utf8");
  writeFileSync(`${out}${name}`, text.replace(/\n?(\/\/|\/\*)# sourceMappingURL=\S+( \*\/)?\s*$/, "\n"));
}

const { dependencies } = JSON.parse(readFileSync(`${here}package.json`));
const licences = Object.keys(dependencies).map((name) => {
  const folder = `${here}node_modules/${name}/`;
  const { version, license } = JSON.parse(readFileSync(`${folder}package.json`));
  const told = readdirSync(folder).filter((entry) => /^(licen[cs]e|notice)|^swagger-ui-bundle.*licen[cs]e/i.test(entry));
  const texts = told.length ? told.map((file) => folder + file) : [`${here}${name}-licence.txt`]; // of onnxruntime: its package has none
  return `${name} ${version} (${license})\n\n${texts.map((file) => readFileSync(file, "utf8").trim()).join("\n\n")}\n`;
});
const rule = `\n${"-".repeat(80)}\n\n`;
writeFileSync(`${out}LICENCES.txt`, `What is bundled in the scripts and app.css, and what lies beside them:\n${rule}${licences.join(rule)}`);

// as jobs/serve/bundle.py computes it
const names = readdirSync(here).filter((name) => /\.(js|css|html)$/.test(name) || /^(package(-lock)?\.json|build\.mjs)$/.test(name));
const sources = createHash("sha256");
for (const name of names.sort()) sources.update(`${name}\0`).update(readFileSync(here + name)).update("\0");
const bundle = {};
for (const name of ["app.js", "app.css", ...atHome, ...Object.keys(copied), ...shared]) bundle[name] = createHash("sha256").update(readFileSync(out + name)).digest("hex");
writeFileSync(`${out}bundle.json`, `${JSON.stringify({ sources: sources.digest("hex"), bundle }, null, 1)}\n`);

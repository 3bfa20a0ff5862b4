// The reference's cells, faint where there are some, and the query's on them, coloured by class; grey where unknown below the slider's threshold.
import { element, fetched } from "./theme.js";
import { points } from "./points.js";
import { LEVELS, bytes } from "./population.js";

const GREY = [140, 146, 152];

export async function cellMap(root) {
  const slider = document.querySelector(root.dataset.slider);
  const tint = drawMap(root, await fetched(root.dataset.source), () => Number(slider?.value ?? 0));
  slider?.addEventListener("input", tint);
}

// `c`: number of the class, `p`: its probability, `d`: distance from the reference. Returns what colours the cells by `threshold()` again.
export function drawMap(root, { classes, reference, query }, threshold) {
  const area = element("div", { className: "map-area" });
  const legend = element("div", { className: "legend" }, ...classes.map((name, i) => {
    const swatch = element("i", { className: "swatch" });
    swatch.style.background = LEVELS[i % LEVELS.length];
    return element("div", {}, swatch, name);
  }));
  root.replaceChildren(area, legend);
  const n = reference.x.length;
  const map = points(area, {
    height: window.innerWidth < 700 ? 320 : 520,
    name: (i) => {
      if (i < n) return `reference: ${classes[reference.c[i]]}`;
      const [c, p, d] = ["c", "p", "d"].map((key) => query[key]?.[i - n]);
      return `${classes[c]}, probability ${p.toFixed(3)}${d === undefined ? "" : `, distance ${d.toFixed(2)}`}`;
    },
  });

  function tint() {
    const below = threshold();
    const rgba = new Uint8Array(4 * (n + query.x.length));
    for (let i = 0; i < n; i++) rgba.set([...GREY, 40], 4 * i);
    query.c.forEach((c, i) => {
      rgba.set([...(query.p[i] < below ? GREY : bytes(LEVELS[c % LEVELS.length])), 205], 4 * (n + i));
    });
    map.tint(rgba);
  }

  map.place(reference.x.concat(query.x), reference.y.concat(query.y));
  tint();
  return tint;
}

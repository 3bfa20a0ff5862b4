// Points of a population, coloured by a column; two groups, drawn around or chosen by colour, are compared by the server.
import { colour, element, fetched } from "./theme.js";
import { points } from "./points.js";

export const LEVELS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b58900", "#56b4e9", "#8d6e63", "#7a8b00", "#7e57c2", "#e377a2", "#00838f", "#9e9d24"];
const VIRIDIS = ["#440154", "#414487", "#2a788e", "#22a884", "#7ad151", "#fde725"];
export const bytes = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
const short = (value) => (value === null ? "" : Number(value.toPrecision(3)).toString());

export async function population(root) {
  const part = (name) => root.querySelector(`[data-part="${name}"]`);
  const { source } = root.dataset;
  const groups = { A: [], B: [] };
  let found = null;
  let drawing = null;
  const map = points(part("map-area"), {
    height: window.innerWidth < 700 ? 320 : 520,
    name: (i) => [found.names[i], described(i)].filter(Boolean).join(", "),
    onLasso: (numbers) => {
      choose(drawing, numbers);
      draw(null);
    },
  });

  const described = (i) => {
    const { colour: of } = found;
    if (of === null) return "";
    const value = of.levels ? of.levels[of.codes[i]] : short(of.values[i]);
    return value === undefined ? "" : `${part("colour").value} ${value}`;
  };

  async function load(places) {
    const query = new URLSearchParams({ source, map: part("map").value, colour: part("colour").value });
    found = await fetched(`/api/population?${query}`);
    if (places) map.place(found.x, found.y);
    legend();
    tint();
  }

  function tint() {
    const n = found.x.length;
    const rgba = new Uint8Array(4 * n);
    const [inA, inB] = [new Set(groups.A), new Set(groups.B)];
    const grouped = inA.size + inB.size > 0;
    const values = found.colour?.values;
    const [low, high] = values ? range(values) : [0, 1];
    const grey = [140, 146, 152];
    for (let i = 0; i < n; i++) {
      let rgb = grey;
      if (found.colour?.levels) rgb = found.colour.codes[i] < 0 ? grey : bytes(LEVELS[found.colour.codes[i] % LEVELS.length]);
      else if (values) rgb = values[i] === null ? grey : ramp((values[i] - low) / (high - low || 1));
      rgba.set([...rgb, !grouped || inA.has(i) || inB.has(i) ? 205 : 60], 4 * i);
    }
    map.tint(rgba);
  }

  function legend() {
    const area = part("legend");
    const of = found.colour;
    area.replaceChildren();
    for (const which of ["A", "B"]) {
      const options = of?.levels ?? [];
      part(`level-${which}`).replaceChildren(element("option", { value: "" }, ""), ...options.map((level, i) => element("option", { value: i }, level)));
    }
    if (of?.levels) {
      area.append(...of.levels.map((level, i) => {
        const swatch = element("i", { className: "swatch" });
        swatch.style.background = LEVELS[i % LEVELS.length];
        return element("div", {}, swatch, level);
      }));
    } else if (of?.values) {
      const [low, high] = range(of.values);
      const bar = element("i", { className: "ramp" });
      bar.style.background = `linear-gradient(to right, ${VIRIDIS.join(", ")})`;
      area.append(element("div", {}, short(low), " ", bar, " ", short(high)));
    }
  }

  function choose(which, numbers) {
    const other = which === "A" ? "B" : "A";
    const taken = new Set(numbers);
    groups[which] = numbers;
    groups[other] = groups[other].filter((i) => !taken.has(i));
    part("groups").textContent = groups.A.length + groups.B.length > 0 ? `A: ${groups.A.length}, B: ${groups.B.length} points` : "";
    tint();
    compare();
  }

  async function compare() {
    const area = part("tests");
    if (groups.A.length === 0 || groups.B.length === 0) {
      area.replaceChildren();
      return;
    }
    const answer = await fetch("/api/population/compare", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ source, first: groups.A, second: groups.B }),
    });
    const tests = await answer.json();
    if (!answer.ok || tests.length === 0) {
      area.replaceChildren(element("p", { className: "note" }, tests.error ?? "A group needs three points with a value for a test."));
      return;
    }
    const head = ["Quantity", "Higher in", "Median", "Median, other", "Cliff's delta", "95 % of it", "p, adjusted"];
    const row = (test) => [test.quantity, test.higher, short(test.median_higher), short(test.median_lower), test.cliffs_delta.toFixed(2), `${test.delta_low.toFixed(2)} to ${test.delta_high.toFixed(2)}`, short(test.p_adjusted)];
    const cells = (tag, values) => values.map((value, i) => element(tag, { className: i > 1 ? "number" : "" }, value));
    area.replaceChildren(
      element("div", { className: "wide", tabIndex: 0, role: "group", ariaLabel: "Quantities compared" }, element("table", {}, element("thead", {}, element("tr", {}, ...cells("th", head))), element("tbody", {}, ...tests.map((test) => element("tr", {}, ...cells("td", row(test))))))),
    );
  }

  function draw(which) {
    drawing = which;
    map.mode.lasso = which !== null;
    for (const each of ["A", "B"]) part(`lasso-${each}`).setAttribute("aria-pressed", String(each === which));
  }

  for (const which of ["A", "B"]) {
    part(`lasso-${which}`).addEventListener("click", () => draw(drawing === which ? null : which));
    part(`level-${which}`).addEventListener("change", (event) => {
      const level = event.target.value;
      choose(which, level === "" ? [] : found.colour.codes.flatMap((code, i) => (code === Number(level) ? [i] : [])));
    });
  }
  part("clear").addEventListener("click", () => {
    draw(null);
    groups.B = [];
    choose("A", []);
  });
  part("map").addEventListener("change", () => load(true));
  part("colour").addEventListener("change", () => load(false));
  await load(true);
}

function range(values) {
  let [low, high] = [Infinity, -Infinity];
  for (const value of values) {
    if (value === null) continue;
    low = Math.min(low, value);
    high = Math.max(high, value);
  }
  return [low, high];
}

function ramp(part) {
  const place = Math.max(0, Math.min(1, part)) * (VIRIDIS.length - 1);
  const [a, b] = [bytes(VIRIDIS[Math.floor(place)]), bytes(VIRIDIS[Math.ceil(place)])];
  return a.map((value, i) => Math.round(value + (b[i] - value) * (place % 1)));
}

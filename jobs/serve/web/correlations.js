// Rank correlations of parameters over the models of a hall of fame, as a triangle of squares.
import { colour, element, redrawn } from "./theme.js";

// Returns Spearman's rho of each pair of columns; null where a column has one value only.
function spearman(rows) {
  const ranks = rows[0].map((_, column) => ranked(rows.map((row) => row[column])));
  return ranks.map((a) => ranks.map((b) => pearson(a, b)));
}

function ranked(values) {
  const order = values.map((_, i) => i).sort((a, b) => values[a] - values[b]);
  const ranks = new Array(values.length);
  for (let from = 0; from < order.length; ) {
    let to = from;
    while (to + 1 < order.length && values[order[to + 1]] === values[order[from]]) to++;
    for (let i = from; i <= to; i++) ranks[order[i]] = (from + to) / 2;
    from = to + 1;
  }
  return ranks;
}

function pearson(a, b) {
  const mean = (list) => list.reduce((sum, value) => sum + value, 0) / list.length;
  const [ma, mb] = [mean(a), mean(b)];
  let [ab, aa, bb] = [0, 0, 0];
  a.forEach((value, i) => {
    ab += (value - ma) * (b[i] - mb);
    aa += (value - ma) ** 2;
    bb += (b[i] - mb) ** 2;
  });
  return aa > 0 && bb > 0 ? ab / Math.sqrt(aa * bb) : null;
}

export function correlations(container, names, places) {
  const rho = spearman(places);
  const canvas = element("canvas");
  const told = element("p", { className: "quiet", role: "status" });
  const pairs = names.flatMap((one, i) => names.slice(0, i).map((other, j) => [one, other, rho[i][j]])).filter((pair) => pair[2] !== null);
  const strongest = pairs.sort((a, b) => Math.abs(b[2]) - Math.abs(a[2])).slice(0, 5);
  const inWords = ([one, other, value]) => `${one} and ${other}: ${value.toFixed(2)}`;
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `Rank correlations of parameters; strongest: ${strongest.map(inWords).join(", ")}`);
  const list = element("ul", {}, ...strongest.map((pair) => element("li", {}, inWords(pair))));
  container.replaceChildren(canvas, told, list);
  let [left, cell] = [0, 0];
  const again = redrawn(container, (width) => {
    const dense = window.devicePixelRatio || 1;
    left = Math.min(190, width * 0.4);
    cell = Math.min(19, (width - left) / names.length);
    const height = cell * names.length + 4;
    canvas.width = width * dense;
    canvas.height = height * dense;
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
    const ink = canvas.getContext("2d");
    ink.scale(dense, dense);
    ink.font = `${Math.min(12, cell)}px system-ui, sans-serif`;
    ink.textBaseline = "middle";
    ink.textAlign = "right";
    names.forEach((name, i) => {
      ink.fillStyle = colour("ink");
      ink.fillText(name, left - 8, (i + 0.5) * cell, left - 10);
      for (let j = 0; j <= i; j++) {
        const value = rho[i][j];
        ink.fillStyle = value === null ? colour("line") : value < 0 ? "#d55e00" : "#0072b2";
        ink.globalAlpha = value === null ? 1 : 0.06 + 0.94 * Math.abs(value);
        ink.fillRect(left + j * cell, i * cell, cell - 1, cell - 1);
        ink.globalAlpha = 1;
      }
    });
  });
  canvas.addEventListener("pointermove", (event) => {
    const box = canvas.getBoundingClientRect();
    const [j, i] = [Math.floor((event.clientX - box.left - left) / cell), Math.floor((event.clientY - box.top) / cell)];
    const inside = j >= 0 && j < i && i < names.length;
    told.textContent = inside && rho[i][j] !== null ? inWords([names[i], names[j], rho[i][j]]) : "";
  });
  return again;
}

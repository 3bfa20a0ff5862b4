// Models as dots in rows, a row a parameter or an objective. Dragging along a row chooses the models between, clicking a
// dot adds or removes one.
import { colour, redrawn } from "./theme.js";

const ROW = 19;
const TOP = 20;

// `rows`: [{ label, title, values }] with a value a model, null for none; `axis`: { low, high, ticks: [[value, text]], lines: [value] };
// `place(value)` is on the axis. `models`: { count, colours, selected: Set, choose(set) }.
export function strips(container, rows, axis, models, label) {
  const canvas = document.createElement("canvas");
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `${label}. The table of models chooses what is shown, by keyboard too.`);
  container.replaceChildren(canvas);
  const height = TOP + rows.length * ROW + 6;
  let left = 150;
  let right = 100;
  let brush = null;

  const x = (place) => left + ((place - axis.low) / (axis.high - axis.low)) * (right - left);
  const y = (row) => TOP + (row + 0.5) * ROW;

  function draw(width) {
    const scale = window.devicePixelRatio || 1;
    left = Math.min(230, width * 0.44);
    right = width - 12;
    canvas.width = width * scale;
    canvas.height = height * scale;
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
    const ink = canvas.getContext("2d");
    ink.scale(scale, scale);
    ink.font = "12px system-ui, sans-serif";
    ink.textBaseline = "middle";
    ink.fillStyle = colour("soft");
    ink.textAlign = "center";
    for (const [value, text] of axis.ticks) {
      const half = ink.measureText(text).width / 2;
      ink.fillText(text, Math.min(x(value), width - half), 9);
    }
    ink.lineWidth = 1;
    rows.forEach((row, i) => {
      ink.strokeStyle = colour("line");
      ink.beginPath();
      ink.moveTo(left, y(i));
      ink.lineTo(right, y(i));
      ink.stroke();
      ink.fillStyle = colour("ink");
      ink.textAlign = "right";
      ink.fillText(fitting(ink, row.label, left - 12), left - 10, y(i));
    });
    ink.strokeStyle = colour("faint");
    for (const value of axis.lines ?? []) {
      ink.beginPath();
      ink.moveTo(x(value), TOP);
      ink.lineTo(x(value), height - 4);
      ink.stroke();
    }
    for (const chosen of [false, true]) {
      rows.forEach((row, i) => {
        row.values.forEach((value, model) => {
          if (value === null || models.selected.has(model) !== chosen) return;
          ink.globalAlpha = chosen ? 0.9 : 0.22;
          ink.fillStyle = models.colours[model];
          ink.beginPath();
          ink.arc(x(value), y(i), chosen ? 4 : 3, 0, 7);
          ink.fill();
        });
      });
    }
    ink.globalAlpha = 1;
    if (brush) {
      ink.fillStyle = colour("link");
      ink.globalAlpha = 0.18;
      ink.fillRect(Math.min(brush.from, brush.to), y(brush.row) - ROW / 2, Math.abs(brush.to - brush.from), ROW);
      ink.globalAlpha = 1;
    }
  }

  const again = redrawn(container, draw);
  const at = (event) => {
    const box = canvas.getBoundingClientRect();
    return { x: event.clientX - box.left, row: Math.floor((event.clientY - box.top - TOP) / ROW) };
  };
  canvas.addEventListener("pointerdown", (event) => {
    const where = at(event);
    if (!rows[where.row] || where.x < left - 6) return;
    brush = { row: where.row, from: where.x, to: where.x };
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    const where = at(event);
    canvas.title = rows[where.row]?.title ?? "";
    if (brush) {
      brush.to = where.x;
      again();
    }
  });
  canvas.addEventListener("pointerup", () => {
    if (!brush) return;
    const { row, from, to } = brush;
    brush = null;
    const places = rows[row].values.map((value) => (value === null ? null : x(value)));
    if (Math.abs(to - from) > 4) {
      const inside = places.flatMap((p, i) => (p !== null && p >= Math.min(from, to) && p <= Math.max(from, to) ? [i] : []));
      models.choose(new Set(inside));
    } else {
      const nearest = places.reduce((best, p, i) => (p !== null && (best === -1 || Math.abs(p - from) < Math.abs(places[best] - from)) ? i : best), -1);
      if (nearest >= 0 && Math.abs(places[nearest] - from) < 8) {
        const set = new Set(models.selected);
        if (!set.delete(nearest)) set.add(nearest);
        models.choose(set);
      } else again();
    }
  });
  return again;
}

function fitting(ink, text, width) {
  if (ink.measureText(text).width <= width) return text;
  let kept = text;
  while (kept.length > 4 && ink.measureText(`${kept}…`).width > width) kept = kept.slice(0, -1);
  return `${kept}…`;
}

// A map of cells on a canvas: the reference in grey, the query coloured by class, unknown below the slider's threshold.
// WebGL libraries (regl) compile code from text, which the policy of these pages forbids.
const COLOURS = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8a7a00", "#7b61c9", "#b03060", "#2f8f8f"];
const UNKNOWN = "#868e96";
const NEAR_PX = 8;

export async function cellMap(element) {
  const answer = await fetch(element.dataset.source, { headers: { "HX-Request": "true" } });
  if (!answer.ok) throw new Error(`the server answered ${answer.status}`);
  const { classes, reference, query } = await answer.json();
  const colours = classes.map((_, place) => COLOURS[place % COLOURS.length]);
  const canvas = document.createElement("canvas");
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", element.dataset.label);
  const said = document.createElement("p");
  said.className = "quiet";
  said.setAttribute("role", "status");
  said.textContent = "Drag to move, turn the wheel to zoom, double-click for all; rest on a cell to read its label.";
  const frame = document.createElement("div");
  frame.className = "map";
  frame.append(canvas);
  element.replaceChildren(frame, legend(classes, colours), said);

  const slider = document.querySelector(element.dataset.slider);
  const context = canvas.getContext("2d");
  const [xs, ys] = ["x", "y"].map((axis) => reference[axis].concat(query[axis]));
  const [left, right] = range(xs);
  const [low, high] = range(ys);
  let view = null; // pixels of a unit, and where the origin is
  let waiting = false;

  function fit() {
    const scale = 0.94 * Math.min(canvas.clientWidth / (right - left), canvas.clientHeight / (high - low));
    view = {
      scale,
      x: canvas.clientWidth / 2 - (scale * (left + right)) / 2,
      y: canvas.clientHeight / 2 + (scale * (low + high)) / 2,
    };
  }

  function draw() {
    waiting = false;
    const below = Number(slider?.value ?? 0);
    const density = window.devicePixelRatio || 1;
    canvas.width = density * canvas.clientWidth;
    canvas.height = density * canvas.clientHeight;
    context.setTransform(density, 0, 0, density, 0, 0);
    const styles = getComputedStyle(element);
    context.fillStyle = styles.getPropertyValue("--line");
    points(reference, () => true, 2.5);
    const larger = query.x.length < 5000 ? 4 : 2.5;
    context.fillStyle = UNKNOWN;
    points(query, (i) => query.p[i] < below, larger);
    colours.forEach((colour, number) => {
      context.fillStyle = colour;
      points(query, (i) => query.c[i] === number && query.p[i] >= below, larger);
    });
  }

  function points(cells, chosen, size) {
    for (let i = 0; i < cells.x.length; i++) {
      if (!chosen(i)) continue;
      context.fillRect(view.x + view.scale * cells.x[i] - size / 2, view.y - view.scale * cells.y[i] - size / 2, size, size);
    }
  }

  function later() {
    if (!waiting) requestAnimationFrame(draw);
    waiting = true;
  }

  function zoom(event) {
    event.preventDefault();
    const factor = Math.exp(-0.0015 * event.deltaY);
    view.x = event.offsetX + factor * (view.x - event.offsetX);
    view.y = event.offsetY + factor * (view.y - event.offsetY);
    view.scale *= factor;
    later();
  }

  function move(event) {
    if (event.buttons === 1) {
      view.x += event.movementX;
      view.y += event.movementY;
      later();
      return;
    }
    const found = nearest(query, event) ?? nearest(reference, event);
    if (!found) return;
    const { cells, i } = found;
    const name = classes[cells.c[i]];
    said.textContent = cells === reference
      ? `A cell of the reference: ${name}.`
      : `${name}, probability ${cells.p[i].toFixed(3)}, distance ${cells.d[i].toFixed(2)} (1: the reference's limit).`;
  }

  function nearest(cells, event) {
    let best = null;
    let distance = NEAR_PX;
    for (let i = 0; i < cells.x.length; i++) {
      const x = view.x + view.scale * cells.x[i] - event.offsetX;
      const y = view.y - view.scale * cells.y[i] - event.offsetY;
      const far = Math.hypot(x, y);
      if (far < distance) [best, distance] = [{ cells, i }, far];
    }
    return best;
  }

  canvas.addEventListener("wheel", zoom, { passive: false });
  canvas.addEventListener("pointermove", move);
  canvas.addEventListener("dblclick", () => (fit(), later()));
  slider?.addEventListener("input", later);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", later);
  new ResizeObserver(() => (fit(), later())).observe(frame);
}

function range(values) {
  const [low, high] = values.reduce(([a, b], value) => [Math.min(a, value), Math.max(b, value)], [Infinity, -Infinity]);
  return high > low ? [low, high] : [low - 1, low + 1];
}

function legend(classes, colours) {
  const list = document.createElement("ul");
  list.className = "legend";
  for (const [name, colour] of [...classes.map((name, i) => [name, colours[i]]), ["unknown", UNKNOWN]]) {
    const entry = document.createElement("li");
    const dot = document.createElement("span");
    dot.style.background = colour;
    entry.append(dot, name);
    list.append(entry);
  }
  return list;
}

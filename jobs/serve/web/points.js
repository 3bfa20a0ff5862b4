// Points on a map by WebGL: a million of them move smoothly. Drag to move, wheel to zoom, or drag around points to choose.
// Written here, as regl, on which libraries for this stand, makes functions of text, which the pages' policy forbids.
import { colour, redrawn } from "./theme.js";

const VERTEX = `attribute vec2 at; attribute vec4 tint; uniform vec2 scale, shift; uniform float size; varying vec4 colour;
void main() { gl_Position = vec4(at * scale + shift, 0.0, 1.0); gl_PointSize = size; colour = tint; }`;
const FRAGMENT = `precision mediump float; varying vec4 colour;
void main() { if (length(gl_PointCoord - 0.5) > 0.5) discard; gl_FragColor = vec4(colour.rgb * colour.a, colour.a); }`;

// `onLasso(numbers)` is called with the points inside what was drawn while `mode.lasso` is true; `name(i)` is shown at the pointer.
export function points(container, { height, name, onLasso }) {
  const canvas = document.createElement("canvas");
  const over = document.createElement("canvas");
  const label = document.createElement("div");
  label.className = "map-label quiet";
  over.className = "map-over";
  over.setAttribute("role", "img");
  over.setAttribute("aria-label", "Map of points; groups can also be chosen by colour, with the lists below");
  container.replaceChildren(canvas, over, label);
  const gl = canvas.getContext("webgl", { antialias: true, premultipliedAlpha: true });
  if (gl === null) throw new Error("this browser has no WebGL");
  const program = linked(gl);
  const places = gl.createBuffer();
  const tints = gl.createBuffer();
  const state = { x: new Float32Array(), y: new Float32Array(), n: 0, zoom: 1, cx: 0, cy: 0, width: 1, height, mode: { lasso: false } };
  let path = null;
  let moved = null;

  const scale = () => {
    const unit = (2 * 0.94 * state.zoom) / state.span;
    return [unit * Math.min(1, state.height / state.width), unit * Math.min(1, state.width / state.height)];
  };
  const toPixel = (i) => {
    const [sx, sy] = scale();
    return [((state.x[i] - state.cx) * sx + 1) * 0.5 * state.width, (1 - (state.y[i] - state.cy) * sy) * 0.5 * state.height];
  };
  const toPlace = (px, py) => {
    const [sx, sy] = scale();
    return [((2 * px) / state.width - 1) / sx + state.cx, (1 - (2 * py) / state.height) / sy + state.cy];
  };

  function draw(width) {
    const dense = window.devicePixelRatio || 1;
    state.width = width;
    for (const each of [canvas, over]) {
      each.width = width * dense;
      each.height = height * dense;
      each.style.width = `${width}px`;
      each.style.height = `${height}px`;
    }
    gl.viewport(0, 0, canvas.width, canvas.height);
    gl.clearColor(0, 0, 0, 0);
    gl.clear(gl.COLOR_BUFFER_BIT);
    if (state.n > 0) {
      const [sx, sy] = scale();
      gl.useProgram(program);
      gl.uniform2f(gl.getUniformLocation(program, "scale"), sx, sy);
      gl.uniform2f(gl.getUniformLocation(program, "shift"), -state.cx * sx, -state.cy * sy);
      const size = Math.max(2, Math.min(9, 60 / Math.log2(state.n + 2) ** 1.15)) * Math.min(2.2, state.zoom ** 0.25);
      gl.uniform1f(gl.getUniformLocation(program, "size"), size * dense);
      attribute("at", places, 2, gl.FLOAT, false);
      attribute("tint", tints, 4, gl.UNSIGNED_BYTE, true);
      gl.enable(gl.BLEND);
      gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
      gl.drawArrays(gl.POINTS, 0, state.n);
    }
    const ink = over.getContext("2d");
    ink.scale(dense, dense);
    if (path) {
      ink.strokeStyle = colour("ink");
      ink.setLineDash([4, 3]);
      ink.beginPath();
      path.forEach(([x, y], i) => (i === 0 ? ink.moveTo(x, y) : ink.lineTo(x, y)));
      ink.stroke();
    }
  }

  function attribute(which, buffer, size, type, normalised) {
    const at = gl.getAttribLocation(program, which);
    gl.bindBuffer(gl.ARRAY_BUFFER, buffer);
    gl.enableVertexAttribArray(at);
    gl.vertexAttribPointer(at, size, type, normalised, 0, 0);
  }

  let waiting = false;
  const again = () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      draw(container.clientWidth);
    });
  };

  function place(x, y) {
    state.x = Float32Array.from(x);
    state.y = Float32Array.from(y);
    state.n = state.x.length;
    let [lowX, highX, lowY, highY] = [Infinity, -Infinity, Infinity, -Infinity];
    const both = new Float32Array(2 * state.n);
    for (let i = 0; i < state.n; i++) {
      both[2 * i] = state.x[i];
      both[2 * i + 1] = state.y[i];
      lowX = Math.min(lowX, state.x[i]);
      highX = Math.max(highX, state.x[i]);
      lowY = Math.min(lowY, state.y[i]);
      highY = Math.max(highY, state.y[i]);
    }
    state.whole = [(lowX + highX) / 2, (lowY + highY) / 2];
    state.span = Math.max(highX - lowX, highY - lowY) || 1;
    gl.bindBuffer(gl.ARRAY_BUFFER, places);
    gl.bufferData(gl.ARRAY_BUFFER, both, gl.STATIC_DRAW);
    reset();
  }

  function reset() {
    [state.cx, state.cy] = state.whole;
    state.zoom = 1;
    again();
  }

  // `rgba`: four bytes a point
  function tint(rgba) {
    gl.bindBuffer(gl.ARRAY_BUFFER, tints);
    gl.bufferData(gl.ARRAY_BUFFER, rgba, gl.STATIC_DRAW);
    again();
  }

  const at = (event) => {
    const box = over.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  over.addEventListener("pointerdown", (event) => {
    over.setPointerCapture(event.pointerId);
    if (state.mode.lasso) path = [at(event)];
    else moved = at(event);
  });
  over.addEventListener("pointermove", (event) => {
    const [x, y] = at(event);
    if (path) path.push([x, y]);
    else if (moved) {
      const [sx, sy] = scale();
      state.cx -= (2 * (x - moved[0])) / state.width / sx;
      state.cy += (2 * (y - moved[1])) / state.height / sy;
      moved = [x, y];
    } else {
      const near = nearest(x, y);
      label.textContent = near < 0 ? "" : name(near);
      return;
    }
    again();
  });
  over.addEventListener("pointerup", () => {
    if (path && path.length > 2) onLasso(inside(path));
    path = moved = null;
    again();
  });
  over.addEventListener("dblclick", reset);
  over.addEventListener(
    "wheel",
    (event) => {
      event.preventDefault();
      const [x, y] = at(event);
      const before = toPlace(x, y);
      state.zoom = Math.max(0.5, Math.min(2000, state.zoom * Math.exp(-event.deltaY / 300)));
      const after = toPlace(x, y);
      state.cx += before[0] - after[0];
      state.cy += before[1] - after[1];
      again();
    },
    { passive: false },
  );

  function nearest(x, y) {
    let [best, found] = [64, -1];
    for (let i = 0; i < state.n; i++) {
      const [px, py] = toPixel(i);
      const distance = (px - x) ** 2 + (py - y) ** 2;
      if (distance < best) [best, found] = [distance, i];
    }
    return found;
  }

  function inside(line) {
    const found = [];
    for (let i = 0; i < state.n; i++) {
      const [x, y] = toPixel(i);
      let within = false;
      for (let a = 0, b = line.length - 1; a < line.length; b = a++) {
        if (line[a][1] > y !== line[b][1] > y && x < ((line[b][0] - line[a][0]) * (y - line[a][1])) / (line[b][1] - line[a][1]) + line[a][0]) within = !within;
      }
      if (within) found.push(i);
    }
    return found;
  }

  redrawn(container, draw);
  return { place, tint, mode: state.mode };
}

function linked(gl) {
  const program = gl.createProgram();
  for (const [kind, text] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, text);
    gl.compileShader(shader);
    gl.attachShader(program, shader);
  }
  gl.linkProgram(program);
  return program;
}

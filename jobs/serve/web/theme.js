// Colours of the page for pictures on canvas, which cannot see the style sheet.

const SEEDS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8d6e63", "#7a8b00"];
const SEEDS_DARK = ["#4aa8e0", "#ff8a4c", "#35c99a", "#e5a3c8", "#f0bd4a", "#8fd0f5", "#b89a8f", "#b4c24a"];
const dark = window.matchMedia("(prefers-color-scheme: dark)");

export const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

export const seedColours = (seeds) => {
  const known = [...new Set(seeds)].sort((a, b) => a - b);
  const palette = dark.matches ? SEEDS_DARK : SEEDS;
  return new Map(known.map((seed, i) => [seed, palette[i % palette.length]]));
};

// Calls `draw` now, and again when the colours or the element's width change.
export function redrawn(element, draw) {
  let width = 0;
  const again = () => {
    width = element.clientWidth;
    if (width > 0) draw(width);
  };
  dark.addEventListener("change", again);
  new ResizeObserver(() => element.clientWidth !== width && again()).observe(element);
  again();
  return again;
}

export async function fetched(address) {
  const answer = await fetch(address, { headers: { Accept: "application/json" } });
  if (!answer.ok) throw new Error((await answer.json()).error);
  return answer.json();
}

export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name in made && name !== "list") made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

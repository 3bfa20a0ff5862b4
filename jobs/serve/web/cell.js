// The models of a cell: traces over the recorded ones, f-I, e-features and parameters, with one choice of models for all.
import { colour, element, fetched, seedColours } from "./theme.js";
import { correlations } from "./correlations.js";
import { linePlot, uPlot } from "./plots.js";
import { strips } from "./strips.js";

const MOST_TRACES = 40;

export async function cell(root) {
  const { models: modelsAt, stored: storedAt, hasTraces } = root.dataset;
  const part = (name) => root.querySelector(`[data-part="${name}"]`);
  const found = await fetched(modelsAt);
  const count = found.totals.length;
  const state = { selected: new Set([0]), colours: [], count };
  const draws = [];
  const recolour = () => {
    const colours = seedColours(found.seeds);
    state.colours = found.seeds.map((seed) => colours.get(seed));
  };
  recolour();
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    recolour();
    draws.forEach((draw) => draw());
  });
  state.choose = (set) => {
    state.selected = set;
    for (const box of part("models").querySelectorAll("input")) box.checked = set.has(Number(box.value));
    part("chosen").textContent = `${set.size} of ${count} models shown`;
    draws.forEach((draw) => draw());
  };

  // the table of models: the same choice by keyboard
  part("models").append(
    ...found.totals.map((total, i) =>
      element(
        "label",
        { className: "model" },
        element("input", {
          type: "checkbox",
          value: i,
          checked: i === 0,
          onchange: (event) => {
            const set = new Set(state.selected);
            if (event.target.checked) set.add(i);
            else set.delete(i);
            state.choose(set);
          },
        }),
        ` ${i + 1}: seed ${found.seeds[i]}, total ${Number(total.toPrecision(4))}`,
      ),
    ),
  );
  const buttons = {
    best: () => new Set([0]),
    seeds: () => new Set([...new Set(found.seeds)].map((seed) => found.seeds.indexOf(seed))),
    all: () => new Set(found.totals.keys()),
    none: () => new Set(),
  };
  for (const [name, make] of Object.entries(buttons)) {
    part("choose").querySelector(`[data-choose="${name}"]`).addEventListener("click", () => state.choose(make()));
  }

  draws.push(parameters(part("parameters"), found, state));
  draws.push(scores(part("scores"), found, state));
  if (part("correlations")) draws.push(correlations(part("correlations"), found.parameters, found.places));
  if (hasTraces === "true") {
    draws.push(await traces(part("traces"), part("protocol"), storedAt, state));
    draws.push(await rates(part("rates"), storedAt, found, state));
  }
  state.choose(state.selected);
}

function parameters(container, found, state) {
  const number = (value) => Number(value.toPrecision(3)).toString();
  const rows = found.parameters.map((name, i) => ({
    label: name,
    title: `${name}: bounds ${found.bounds[name].map(number).join(" to ")}`,
    values: found.places.map((places) => places[i]),
  }));
  const axis = { low: 0, high: 1, ticks: [[0, "lower"], [1, "upper"]], lines: [0, 1] };
  return strips(container, rows, axis, state, "Parameters of all models inside their bounds");
}

const symlog = (z) => Math.sign(z) * Math.log10(1 + Math.abs(z));

function scores(container, found, state) {
  // a score is the mean distance of all values, such as those of each spike; the sign is that of their mean
  const below = new Set(found.features.filter((each) => each.value !== null && each.value < each.mean).map((each) => `${each.rank} ${each.objective}`));
  const signed = (model, i) => (below.has(`${model + 1} ${found.objectives[i]}`) ? -1 : 1) * (found.scores[model][i] ?? 250);
  const rows = found.objectives.map((name, i) => ({
    label: name.replace(".soma.", " "),
    title: name,
    values: found.scores.map((_, model) => symlog(signed(model, i))),
  }));
  const ticks = [-100, -10, -3, -1, 0, 1, 3, 10, 100].map((z) => [symlog(z), String(z)]);
  const axis = { low: symlog(-250), high: symlog(250), ticks: container.clientWidth < 500 ? ticks.filter((_, i) => i % 2 === 0) : ticks, lines: [0, symlog(1), symlog(-1)] };
  return strips(container, rows, axis, state, "E-features of all models, in standard deviations from the recording");
}

async function traces(container, choice, storedAt, state) {
  const address = storedAt.replace("KIND", "traces");
  const kept = new Map();
  const load = async (ranks) => {
    const missing = ranks.filter((rank) => !kept.has(rank));
    if (missing.length === 0) return;
    const rows = await fetched(`${address}?${missing.map((rank) => `rank=${rank}`).join("&")}`);
    for (const rank of missing) kept.set(rank, rows.filter((row) => row.rank === rank));
    kept.set(null, rows.filter((row) => row.rank === null));
  };
  await load([1]);
  const all = [...kept.get(null), ...kept.get(1)];
  const names = [...new Map(all.map((row) => [row.protocol, row])).values()].sort((a, b) => (a.amplitude_nA ?? 0) - (b.amplitude_nA ?? 0));
  const spiking = all.filter((row) => row.rank === 1 && Math.max(...row.voltage_mV) > -20 && kept.get(null).some((r) => r.protocol === row.protocol));
  choice.append(
    ...names.map((row) =>
      element("option", { value: row.protocol }, row.amplitude_nA === null ? row.protocol : `${row.protocol}: ${Number((row.amplitude_nA * 1000).toPrecision(4))} pA`),
    ),
  );
  choice.value = (spiking.at(-1) ?? names[0]).protocol;
  const draw = linePlot(container, (width) => {
    const chosen = [...state.selected].sort((a, b) => b - a).slice(-MOST_TRACES);
    const recorded = (kept.get(null) ?? []).filter((row) => row.protocol === choice.value);
    const shown = chosen.flatMap((model) => (kept.get(model + 1) ?? []).filter((row) => row.protocol === choice.value).map((row) => ({ ...row, model })));
    const rows = [...recorded, ...shown];
    if (rows.length === 0) return null;
    const { start_ms: start, stop_ms: stop } = rows[0];
    const whole = Math.max(...rows.map((row) => row.time_ms.at(-1)));
    const step = [Math.max(0, start - 0.25 * (stop - start)), stop + 0.4 * (stop - start)];
    // uPlot asks for the whole at first and after a double-click: then the step is shown, with a little around it
    const range = (_, low, high) => (start !== null && low <= 0.5 && high >= whole - 0.5 ? step : [low, high]);
    return {
      data: uPlot.join(rows.map((row) => [row.time_ms, row.voltage_mV])),
      series: rows.map((row) => ({
        label: row.rank === null ? `recorded, sweep ${row.sweep}` : `model ${row.rank}`,
        stroke: row.rank === null ? colour("ink") : state.colours[row.model],
        width: row.rank === null ? 1 : 1.5,
        spanGaps: true,
        points: { show: false },
      })),
      x: "time (ms)",
      y: "membrane potential (mV)",
      xScale: { range },
      height: width < 500 ? 280 : 380,
      legend: rows.length <= 12,
      live: false,
    };
  });
  choice.addEventListener("change", draw);
  return () => {
    draw();
    load([...state.selected].slice(0, MOST_TRACES).map((model) => model + 1)).then(draw);
  };
}

async function rates(container, storedAt, found, state) {
  const rows = await fetched(storedAt.replace("KIND", "rates"));
  const draw = linePlot(container, (width) => {
    const of = (rank) => {
      const points = rows.filter((row) => row.rank === rank).sort((a, b) => a.amplitude_nA - b.amplitude_nA);
      const steps = Map.groupBy ? [...Map.groupBy(points, (row) => row.amplitude_nA).values()] : points.map((row) => [row]);
      return [steps.map((each) => each[0].amplitude_nA * 1000), steps.map((each) => each.reduce((sum, row) => sum + row.rate_Hz, 0) / each.length)];
    };
    const chosen = [...state.selected].sort((a, b) => b - a);
    const tables = [of(null), ...chosen.map((model) => of(model + 1))];
    const used = tables.map((table, i) => [table, i]).filter(([table]) => table[0].length > 0);
    if (used.length === 0) return null;
    return {
      data: uPlot.join(used.map(([table]) => table)),
      series: used.map(([, i]) => {
        const stroke = i === 0 ? colour("ink") : state.colours[chosen[i - 1]];
        return { label: i === 0 ? "recorded, mean" : `model ${chosen[i - 1] + 1}`, stroke, fill: "transparent", width: 1.5, spanGaps: true, points: { show: true, size: i === 0 ? 5 : 6, stroke } };
      }),
      x: "step (pA)",
      y: "firing rate (Hz)",
      height: width < 500 ? 240 : 300,
      legend: used.length <= 12,
    };
  });
  return draw;
}

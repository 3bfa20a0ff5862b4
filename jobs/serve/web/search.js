// How the search of each stage went: the best of each seed, and the spread of each generation.
import { colour, element, fetched, seedColours } from "./theme.js";
import { linePlot, uPlot } from "./plots.js";

export async function search(root) {
  const stages = await fetched(root.dataset.address);
  root.replaceChildren();
  for (const stage of stages) {
    const container = element("div");
    root.append(element("div", { className: "panel" }, element("h3", {}, stage.finished ? stage.stage : `${stage.stage} (not finished)`), container));
    linePlot(container, (width) => {
      const colours = seedColours(stage.seeds.map((each) => each.seed));
      const tables = [[stage.generation, stage.high, stage.low, stage.median], ...stage.seeds.map((each) => [each.generation, each.best])];
      const faint = { stroke: colour("faint"), width: 1, points: { show: false }, spanGaps: true };
      const lines = stage.seeds.map((each) => ({ label: `best, seed ${each.seed}`, stroke: colours.get(each.seed), width: 2, spanGaps: true, points: { show: each.generation.length < 3 } }));
      return {
        data: uPlot.join(tables),
        series: [{ ...faint, label: "90 %" }, { ...faint, label: "10 %" }, { ...faint, label: "median", dash: [5, 4], stroke: colour("soft") }, ...lines],
        bands: [{ series: [1, 2], fill: `${colour("faint")}33` }],
        x: "generation",
        y: "mean |z| (SD)",
        log: true,
        height: width < 500 ? 230 : 260,
      };
    });
  }
}

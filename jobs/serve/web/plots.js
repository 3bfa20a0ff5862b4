// Line pictures with uPlot: drag to zoom, double-click to see all again.
import uPlot from "uplot";
import { colour, redrawn } from "./theme.js";

const axis = (label, more = {}) => ({
  label,
  labelSize: 22,
  labelFont: "13px system-ui, sans-serif",
  font: "12px system-ui, sans-serif",
  stroke: colour("soft"),
  grid: { stroke: colour("line"), width: 1 },
  ticks: { stroke: colour("line"), width: 1 },
  ...more,
});

const short = (value) => (value === null || value === undefined ? "" : Number(value.toPrecision(4)).toString());

// `make(width)` returns { data, series, x, y, height, log, x_time } of the moment; the returned function draws again.
export function linePlot(container, make) {
  let plot = null;
  return redrawn(container, (width) => {
    const made = make(width);
    plot?.destroy();
    container.replaceChildren();
    if (made === null) return;
    plot = new uPlot(
      {
        width,
        height: made.height ?? 260,
        scales: { x: { time: false, ...made.xScale }, y: { distr: made.log ? 3 : 1, ...made.yScale } },
        axes: [axis(made.x), axis(made.y, { size: 58, ...(made.log ? { values: (_, ticks) => ticks.map(short) } : {}) })],
        series: [{ label: made.x, value: (_, value) => short(value) }, ...made.series.map((each) => ({ value: (_, value) => short(value), ...each }))],
        bands: made.bands ?? [],
        cursor: { drag: { x: true, y: true, uni: 30 }, focus: { prox: 20 } },
        legend: { show: made.legend ?? true, live: made.live ?? true },
      },
      made.data,
      container,
    );
  });
}

export { uPlot };

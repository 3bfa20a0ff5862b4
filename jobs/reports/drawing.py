"""What all pictures share: colours that read on light and dark ground, small SVG, thinned traces."""

import html
import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

INK, FAINT, GROUND = "#0a0b0c", "#0a0b0d", "#0a0b0e"  # replaced in the SVG by the page's own colours
BLUE, ORANGE, GREEN, PINK, SKY, VERMILION = "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00"
"""The palette of Okabe and Ito, which colour-blind eyes tell apart; without its yellow, too pale on white."""

MARKERS = "osD^vP*X"
"""Of groups, beside their colours."""

MODEL = VERMILION
SEEDS = (BLUE, ORANGE, GREEN, SKY, VERMILION, PINK, INK)
GOOD, FAIR, POOR, MISSING = BLUE, ORANGE, VERMILION, "#868e96"

WIDTH_IN = 10.0
POINTS = 900  # of a trace: two for each of as many columns as a panel has

_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "neurofleet",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.titlelocation": "left",
    "axes.labelsize": 8,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "axes.linewidth": 0.7,
    "text.color": INK,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "figure.facecolor": "none",
    "legend.frameon": False,
    "legend.fontsize": 7.5,
    "lines.linewidth": 1.1,
    "path.simplify_threshold": 0.2,
    "text.parse_math": False,  # a gene or class may have a $ in its name
}
_LONG_NUMBER = re.compile(r"-?\d+\.\d{3,}")
_PATH = re.compile(r'( d="| points=")([^"]*)"')
_FONTS = re.compile(r"'DejaVu Sans'[^;\"]*")


def _plain_numbers(figure: "Figure") -> None:
    """Write the ticks of logarithmic axes as numbers: powers of ten would need the mathematical text that is off."""
    from matplotlib.ticker import FuncFormatter, LogFormatterMathtext, NullFormatter

    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            if isinstance(axis.get_major_formatter(), LogFormatterMathtext):
                axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
                axis.set_minor_formatter(NullFormatter())


def picture(height_in: float, draw: "Callable[[Figure], None]", label: str) -> str:
    """Draw on a figure as wide as the page and return it as inline SVG.

    Parameters
    ----------
    height_in : float
    draw : callable
        Gets the empty figure.
    label : str
        What the picture shows, for readers who cannot see it.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):  # read at drawing time too; restored afterwards
        figure = Figure(figsize=(WIDTH_IN, height_in), layout="constrained")
        draw(figure)
        _plain_numbers(figure)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    return _inline(buffer.getvalue(), label)


def png(height_in: float, draw: "Callable[[Figure], None]") -> bytes:
    """Draw the same on white ground, as a file for slides."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(WIDTH_IN, height_in), layout="constrained", facecolor="white")
        draw(figure)
        _plain_numbers(figure)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=160, metadata={"Software": None})
    return buffer.getvalue()


def _inline(svg: str, label: str) -> str:
    """Return the SVG element alone, with the page's colours and font and without useless digits."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = _PATH.sub(lambda m: m[1] + _LONG_NUMBER.sub(_rounded, m[2]).replace("\n", "") + '"', svg)
    svg = _FONTS.sub("inherit", svg).replace(INK, "currentColor").replace(FAINT, "var(--faint)")
    svg = svg.replace(GROUND, "var(--ground)")
    head, rest = svg.split(">", 1)
    box = re.search(r'viewBox="[^"]*"', head)
    assert box is not None
    names = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'<svg {names} {box[0]} role="img" aria-label="{html.escape(label)}">{rest}'


def _rounded(match: re.Match[str]) -> str:
    return f"{float(match[0]):.1f}"


def thinned(time_ms: np.ndarray, voltage_mV: np.ndarray, points: int = POINTS) -> tuple[np.ndarray, np.ndarray]:
    """Thin a trace to the lowest and highest sample of each of ``points / 2`` stretches of time.

    Peaks stay where they are; a trace with fewer samples is returned as it is.
    """
    if time_ms.size <= points:
        return time_ms, voltage_mV
    edges = np.linspace(time_ms[0], time_ms[-1], points // 2 + 1)
    starts = np.unique(np.searchsorted(time_ms, edges[:-1]))
    kept = []
    for start, stop in zip(starts, [*starts[1:], time_ms.size], strict=True):
        part = voltage_mV[start:stop]
        kept += sorted({start + int(part.argmin()), start + int(part.argmax())})
    return time_ms[kept], voltage_mV[kept]


def grid(axes: "Axes", which: Literal["x", "y"]) -> None:
    """Draw faint lines across an axis, below the data."""
    axes.grid(axis=which, color=FAINT, linewidth=0.4, alpha=0.6)
    axes.set_axisbelow(True)


def colour_bar(figure: "Figure", mesh: Any, axes: "Axes", label: str, **options: Any) -> "Axes":
    """Add the scale of a map, drawn in lines: the page shows no embedded images; return its axes."""
    bar = figure.colorbar(mesh, ax=axes, label=label, **options)
    if bar.solids is not None:
        bar.solids.set_rasterized(False)
        bar.solids.set_edgecolor("face")  # else the ground shines through between its shades
    bar.outline.set_visible(False)
    return bar.ax


def correlation_map(figure: "Figure", names: Sequence[str], pairs: Sequence[Mapping[str, Any]]) -> "Axes":
    """Draw Spearman's correlations (keys ``a``, ``b``, ``rho``) below the diagonal; return the axes.

    The middle of a name's row and column is half above its place among `names`.
    """
    matrix = np.full((len(names), len(names)), np.nan)
    for row in pairs:
        matrix[names.index(row["b"]), names.index(row["a"])] = row["rho"]
    axes: Axes = figure.subplots()
    shown = axes.pcolormesh(matrix, cmap="RdBu_r", vmin=-1, vmax=1)
    axes.invert_yaxis()
    axes.set_aspect("equal")
    middles = np.arange(len(names)) + 0.5
    axes.set_xticks(middles, names, rotation=60, ha="right")
    axes.set_yticks(middles, names)
    axes.spines[:].set_color(FAINT)
    colour_bar(figure, shown, axes, "Spearman's ρ", shrink=0.7)
    return axes


def seed_colours(seeds: Sequence[int]) -> dict[int, str]:
    """Return a colour for each seed."""
    return {seed: SEEDS[i % len(SEEDS)] for i, seed in enumerate(sorted(set(seeds)))}


def legend_label(name: str) -> str:
    """Return a name as a legend shows it: matplotlib leaves out those that begin with an underscore."""
    return f"\u200b{name}" if name.startswith("_") else name


def plain_log_ticks(axis: "Axis") -> None:
    """Label a log axis with plain numbers, the more of them the shorter it is."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axis.get_view_interval()
    subs = (1.0, 2.0, 3.0, 5.0, 7.0) if high / low < 8 else (1.0, 2.0, 5.0) if high / low < 100 else (1.0,)
    axis.set_major_locator(LogLocator(10, subs=subs, numticks=12))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())

"""Figures that the reports of learners share: confusion matrix, curves by epoch, map of an embedding, reliability."""

import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from neurofleet.jobs.reports.drawing import (
    FAINT,
    INK,
    MISSING,
    MODEL,
    SEEDS,
    grid,
    legend_label,
    picture,
    plain_log_ticks,
)
from neurofleet.jobs.reports.html import escaped
from neurofleet.learners.calibration import ReliabilityBin

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOUR = "#1f66b8"
PAGE_PX = 950
LABEL_CHARACTERS = 26
SIZES = (
    (6, 52, 12.0),
    (12, 36, 12.0),
    (25, 27, 10.5),
    (40, 20, 9.0),
)  # up to so many classes: cell, font, in pixels
SMALLEST = (18, 8.0)
_STRONG = 0.62  # of a colour: from here on text reads better in white


def confusion_figure(classes: Sequence[str], confusion: Sequence[Sequence[int]]) -> str:
    """Return the matrix as SVG at its natural size; resting on a cell shows its names and numbers.

    Parameters
    ----------
    confusion : sequence of sequence of int
        Cells by true (rows) and predicted class (columns).
    """
    n = len(classes)
    cell, font = next(((cell, font) for most, cell, font in SIZES if n <= most), SMALLEST)
    font_px = min(font, 12.0)
    longest = max(len(_short(name)) for name in classes)
    margin = round(longest * font_px * 0.6) + 34
    below = round(longest * font_px * 0.6 * 0.72) + 40
    size = n * cell
    width, height = margin + size + 12, size + below + 4
    parts = [f'<g transform="translate({margin} 2)" font-size="{font:g}">']
    for i, row in enumerate(confusion):
        parts += _row(i, row, classes, cell, font)
    parts += _labels(classes, cell, font_px)
    parts.append(f'<rect width="{size}" height="{size}" fill="none" stroke="var(--faint)"/>')
    parts.append(_words("predicted class", size / 2, size + below - 8, ""))
    parts.append(_words("true class", -margin + 14, size / 2, f"rotate(-90 {-margin + 14} {size / 2:g})"))
    parts.append("</g>")
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" style="width:{width}px" '
        f'role="img" aria-label="confusion matrix" fill="currentColor">{"".join(parts)}</svg>'
    )
    out_of_column = "width:max-content;max-width:calc(100vw - 2.5rem);margin-left:50%;transform:translateX(-50%)"
    style = f' style="{out_of_column}"' if width > PAGE_PX else ""
    return f'<div class="wide"{style}>{svg}</div>'


def _row(i: int, row: Sequence[int], classes: Sequence[str], cell: int, font: float) -> list[str]:
    """Return the cells of a true class that are not empty, coloured by their share of the class."""
    total = sum(row)
    parts = []
    for j, count in enumerate(row):
        if not count:
            continue
        share = count / total
        opacity = 0.08 + 0.92 * share
        x, y = j * cell, i * cell
        ink = "#fff" if opacity > _STRONG else "currentColor"
        told = f"{classes[i]}, predicted as {classes[j]}: {count:,} of {total:,} ({share:.1%})"
        parts.append(
            f"<g><title>{escaped(told)}</title>"
            f'<rect x="{x}" y="{y}" width="{cell}" height="{cell}" fill="{COLOUR}" '
            f'fill-opacity="{opacity:.2f}"/>'
            f'<text x="{x + cell / 2:g}" y="{y + cell / 2 + font * 0.36:.4g}" text-anchor="middle" '
            f'fill="{ink}">{_count(count, cell, font)}</text></g>'
        )
    return parts


def _labels(classes: Sequence[str], cell: int, font_px: float) -> list[str]:
    """Return the names of rows and columns, and faint lines that lead the eye to them."""
    size = len(classes) * cell
    parts = []
    for i, name in enumerate(classes):
        at = i * cell + cell / 2
        text = f"<title>{escaped(name)}</title>{escaped(_short(name))}</text>"
        parts.append(f'<text x="-6" y="{at + font_px * 0.36:.4g}" text-anchor="end" font-size="{font_px:g}">{text}')
        parts.append(
            f'<text x="{at + font_px * 0.3:.4g}" y="{size + 12}" text-anchor="end" font-size="{font_px:g}" '
            f'transform="rotate(-45 {at + font_px * 0.3:.4g} {size + 12})">{text}'
        )
        if i:
            lines = f"M0 {i * cell}H{size}M{i * cell} 0V{size}"
            parts.append(f'<path d="{lines}" stroke="var(--faint)" stroke-width=".5" stroke-opacity=".35"/>')
    return parts


def _words(text: str, x: float, y: float, transform: str) -> str:
    turned = f' transform="{transform}"' if transform else ""
    return f'<text x="{x:g}" y="{y:g}" font-size="12" text-anchor="middle" opacity=".7"{turned}>{text}</text>'


def _count(count: int, cell: int, font: float) -> str:
    """Return a count that fits into its cell, in thousands where it must."""
    for text in (str(count), f"{count / 1000:.1f}k", f"{count / 1000:.0f}k"):
        if len(text) * font * 0.6 <= cell - 3:
            return text
    return f"{count / 1e6:.0f}M" if count >= 1e6 else f"{count / 1000:.0f}k"


def _short(name: str) -> str:
    return name if len(name) <= LABEL_CHARACTERS else name[: LABEL_CHARACTERS - 1] + "…"


Row = Mapping[str, Any]
KINDS = {
    "model": ("model", SEEDS[0]),
    "model-on-all": ("trained again on all", MODEL),
    "shuffled-labels": ("control, shuffled labels", MISSING),
}
PANELS = (
    ("loss (log scale)", ("train_loss", "val_loss")),
    ("accuracy", ("val_accuracy",)),
    ("macro-F1", ("val_macro_f1",)),
)
_FOLD = re.compile(r"^fold-\d+-")


def curves_figure(history: Sequence[Row]) -> str:
    """Draw training and validation loss, and accuracy and macro-F1 on the validation cells."""
    panels = [
        (title, keys) for title, keys in PANELS if any(row.get(key) is not None for row in history for key in keys)
    ]

    def draw(figure: "Figure") -> None:
        from matplotlib.ticker import MaxNLocator

        for axes, (title, keys) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            for key in keys:
                _draw(axes, history, key)
            axes.set_title(title)
            axes.set_xlabel("epoch")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            grid(axes, "y")
            if keys[0] == "train_loss":
                axes.set_yscale("log")
                plain_log_ticks(axes.yaxis)
        _legend(figure, history)

    return picture(3.2, draw, "loss and scores by epoch")


def _draw(axes: "Axes", history: Sequence[Row], key: str) -> None:
    for training in dict.fromkeys(row["training"] for row in history):
        rows = [row for row in history if row["training"] == training and row.get(key) is not None]
        if not rows:
            continue
        _, colour = _kind(training)
        in_fold = _FOLD.match(training) is not None
        axes.plot(
            [row["epoch"] for row in rows],
            [row[key] for row in rows],
            color=colour,
            linewidth=0.8 if in_fold else 1.5,
            alpha=0.6 if in_fold else 1.0,
            linestyle=(0, (3, 1.5)) if key == "val_loss" else "-",
            marker="." if len(rows) == 1 else None,
        )


def _legend(figure: "Figure", history: Iterable[Row]) -> None:
    from matplotlib.lines import Line2D

    found = dict.fromkeys(row["training"] for row in history)
    entries = {}
    for training in found:
        label, colour = _kind(training)
        in_fold = _FOLD.match(training) is not None
        label = f"{label}, each fold" if in_fold else label
        entries[label] = Line2D([], [], color=colour, linewidth=0.8 if in_fold else 1.5)
    entries["training loss"] = Line2D([], [], color=INK, linewidth=1.2)
    entries["validation loss"] = Line2D([], [], color=INK, linewidth=1.2, linestyle=(0, (3, 1.5)))
    figure.legend(list(entries.values()), list(entries), loc="outside lower left", ncols=4)


def _kind(training: str) -> tuple[str, str]:
    name = _FOLD.sub("", training)
    return KINDS.get(name, (name, SEEDS[2]))


SEED = 0
NEIGHBOURS = 15


def plane_map(vectors: "np.ndarray") -> "np.ndarray":
    """Return a map of vectors (n, d) by UMAP, (n, 2); two principal components of fewer than 5."""
    if len(vectors) < 5:
        from sklearn.decomposition import PCA

        flat = PCA(min(2, *vectors.shape)).fit_transform(vectors)
        return np.pad(flat, ((0, 0), (0, 2 - flat.shape[1]))).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from umap import UMAP

        made = UMAP(n_neighbors=min(NEIGHBOURS, len(vectors) - 1), random_state=SEED)
        return made.fit_transform(vectors).astype(np.float32)


MOST_POINTS = 5000
MARKERS = "osD^vP*X"


def embedding_map_figure(flat: np.ndarray, names: Sequence[str] | np.ndarray, what: str) -> str:
    """Draw points by class; those without a class are small and grey.

    Parameters
    ----------
    flat : array, shape (n, 2)
    names : sequence of str
        The classes; "" where there is none.
    what : str
        What the picture shows, for readers who cannot see it.
    """
    names = np.asarray(names)
    classes = sorted(set(names) - {""})
    drawn = np.random.default_rng(0).permutation(len(names))[:MOST_POINTS]
    size = 14.0 if len(drawn) < 1000 else 6.0

    def draw(figure: "Figure") -> None:
        axes = figure.subplots()
        for number, name in enumerate(["", *classes]):
            rows = drawn[names[drawn] == name]
            if not len(rows):
                continue
            colour = SEEDS[(number - 1) % len(SEEDS)] if name else MISSING
            axes.scatter(
                flat[rows, 0],
                flat[rows, 1],
                s=size if name else size / 2,
                color=colour,
                marker=MARKERS[(number - 1) // len(SEEDS) % len(MARKERS)] if name else ".",
                alpha=0.75 if name else 0.6,
                label=legend_label(name) or "no class",
                linewidths=0,
            )
        axes.set_xticks([])
        axes.set_yticks([])
        for spine in axes.spines.values():
            spine.set_color(FAINT)
        axes.set_aspect("equal", adjustable="datalim")
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), ncols=1 + len(classes) // 26)

    return picture(5.0, draw, what)


COLOURS = (MISSING, MODEL)


def reliability_figure(panels: Mapping[str, Sequence[ReliabilityBin]], what: str = "cells") -> str:
    """Draw accuracy over probability with 95 % intervals, and below how many samples are where.

    Parameters
    ----------
    panels : mapping
        One or two: title -> its bins.
    what : str
        What the samples are.
    """

    def draw(figure: "Figure") -> None:
        grid_of_axes = figure.subplots(2, len(panels), sharex=True, sharey="row", height_ratios=(3, 1), squeeze=False)
        colours = COLOURS[-len(panels) :]
        for axes, (title, bins), colour in zip(grid_of_axes.T, panels.items(), colours, strict=True):
            filled = [each for each in bins if each.n]
            _draw_accuracy(axes[0], filled, colour)
            _draw_cells(axes[1], filled, colour)
            axes[0].set_title(title)
            axes[1].set_xlabel("probability of the predicted class")
        grid_of_axes[0, 0].set_ylabel("share predicted right")
        grid_of_axes[1, 0].set_ylabel(what)

    return picture(4.2, draw, f"reliability of probabilities: {', '.join(panels)}")


def _draw_accuracy(axes: "Axes", bins: Sequence[ReliabilityBin], colour: str) -> None:
    from scipy.stats import binomtest

    axes.plot([0, 1], [0, 1], color=FAINT, linewidth=0.8, linestyle=(0, (3, 2)))
    probability = np.array([each.mean_probability for each in bins], dtype=float)
    accuracy = np.array([each.accuracy for each in bins], dtype=float)
    for at, share, each in zip(probability, accuracy, bins, strict=True):
        interval = binomtest(round(share * each.n), each.n).proportion_ci(0.95, method="wilson")
        axes.plot([at, at], [interval.low, interval.high], color=colour, linewidth=1.0, alpha=0.5)
    axes.plot(probability, accuracy, color=colour, marker="o", markersize=4, linewidth=1.2)
    axes.set_xlim(0, 1.02)
    axes.set_ylim(0, 1.04)
    grid(axes, "y")


def _draw_cells(axes: "Axes", bins: Sequence[ReliabilityBin], colour: str) -> None:
    widths = [each.high - each.low for each in bins]
    axes.bar(
        [each.low for each in bins],
        [each.n for each in bins],
        widths,
        align="edge",
        color=colour,
        alpha=0.55,
        linewidth=0,
    )
    axes.set_yscale("log")
    axes.set_ylim(bottom=0.7)
    plain_log_ticks(axes.yaxis)
    grid(axes, "y")

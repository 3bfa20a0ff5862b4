"""Figures that the reports of learners share: confusion matrix, curves by epoch, map of an embedding, reliability."""

import re
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from neurofleet.jobs.reports.drawing import (
    FAINT,
    GREEN,
    GROUND,
    INK,
    MARKERS,
    MISSING,
    MODEL,
    PINK,
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
LABEL_CHARACTERS = 26
SIZES = (
    (6, 52, 12.0),
    (12, 36, 12.0),
    (25, 27, 10.5),
    (40, 20, 9.0),
    (60, 18, 8.0),
)  # up to so many classes: cell, font, in pixels
NUMBERED_CLASSES = SIZES[-1][0]
"""Squares of more classes are small, and without numbers."""
SMALLEST = (9, 7.5)
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
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'style="width:{width}px;min-width:{width}px" role="img" aria-label="confusion matrix" '
        f'fill="currentColor">{"".join(parts)}</svg>'
    )


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
        number = ""
        if len(classes) <= NUMBERED_CLASSES:
            number = (
                f'<text x="{x + cell / 2:g}" y="{y + cell / 2 + font * 0.36:.4g}" text-anchor="middle" '
                f'fill="{ink}">{_count(count, cell, font)}</text>'
            )
        told = f"{classes[i]}, predicted as {classes[j]}: {count:,} of {total:,} ({share:.1%})"
        parts.append(
            f"<g><title>{escaped(told)}</title>"
            f'<rect x="{x}" y="{y}" width="{cell}" height="{cell}" fill="{COLOUR}" '
            f'fill-opacity="{opacity:.2f}"/>{number}</g>'
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


@dataclass(frozen=True)
class MethodScore:
    """What a method reaches, with the ends of its 95 % interval where it has one."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None


def methods_figure(methods: Sequence[MethodScore], score: str, chance: float, chance_is: str) -> str:
    """Draw what methods reach, with intervals, and as a dashed line what chance reaches.

    Parameters
    ----------
    methods : sequence of MethodScore
        From top to bottom.
    score : str
        What is drawn.
    chance : float
    chance_is : str
        What it is called.
    """

    def draw(figure: "Figure") -> None:
        axes = figure.subplots()
        places = range(len(methods))[::-1]
        for place, method in zip(places, methods, strict=True):
            if method.low is not None and method.high is not None:
                axes.plot([method.low, method.high], [place, place], color=SEEDS[0], linewidth=1.6, alpha=0.6)
            axes.plot(method.value, place, "o", color=SEEDS[0], markersize=5)
        axes.axvline(chance, color=INK, linewidth=0.9, linestyle=(0, (3, 2)), label=chance_is)
        axes.set_yticks(places, [legend_label(method.name) for method in methods])
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(-0.6, len(methods) - 0.4)
        axes.set_xlim(0, 1)
        axes.set_xlabel(score)
        grid(axes, "x")
        figure.legend(loc="outside upper left")

    return picture(0.8 + 0.24 * len(methods), draw, f"{score} of the methods")


Row = Mapping[str, Any]
KINDS = {
    "model": ("model", SEEDS[0]),
    "model-continued": ("continued with validation cells", MODEL),
    "model-on-all": ("trained again on all", MODEL),  # of runs before version 0.2
    "shuffled-labels": ("control, shuffled labels", MISSING),
}
PANELS = (
    ("loss (log scale)", ("train_loss", "val_loss")),
    ("accuracy", ("val_accuracy",)),
    ("macro-F1", ("val_macro_f1",)),
)
_FOLD = re.compile(r"^fold-\d+-")
_LEFT_OUT, _PRETRAINING = re.compile(r"^without-type-\d+-"), "-pretraining"


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
        _, colour, is_thin = _kind(training)
        axes.plot(
            [row["epoch"] for row in rows],
            [row[key] for row in rows],
            color=colour,
            linewidth=0.8 if is_thin else 1.5,
            alpha=0.6 if is_thin else 1.0,
            linestyle=(0, (3, 1.5)) if key == "val_loss" else "-",
            marker="." if len(rows) == 1 else None,
        )


def _legend(figure: "Figure", history: Iterable[Row]) -> None:
    from matplotlib.lines import Line2D

    found = dict.fromkeys(row["training"] for row in history)
    entries = {}
    for training in found:
        label, colour, is_thin = _kind(training)
        entries[label] = Line2D([], [], color=colour, linewidth=0.8 if is_thin else 1.5)
    entries["training loss"] = Line2D([], [], color=INK, linewidth=1.2)
    entries["validation loss"] = Line2D([], [], color=INK, linewidth=1.2, linestyle=(0, (3, 1.5)))
    figure.legend(list(entries.values()), list(entries), loc="outside lower left", ncols=4)


def _kind(training: str) -> tuple[str, str, bool]:
    """Return what a training is called in the legend, its colour, and whether there are many of its kind."""
    name = _FOLD.sub("", training)
    fold = ", each fold" if name != training else ""
    if name.endswith(_PRETRAINING):
        return f"pretraining{fold}", SEEDS[2], bool(fold)
    if _LEFT_OUT.match(name):
        return "one type left out, each", SEEDS[3], True
    label, colour = KINDS.get(name, (name, SEEDS[2]))
    return f"{label}{fold}", colour, bool(fold)


def epochs_in_words(history: Sequence[Row]) -> str:
    """Return how many epochs there were, and of which trainings: ``20 epochs (10 model, 10 control, …)``."""
    counts = Counter(_kind(row["training"])[0] for row in history)
    parts = ", ".join(f"{count:,} {label}" for label, count in counts.items())
    return f"{len(history):,} epochs" + (f" ({parts})" if len(counts) > 1 else "")


def examples_figure(examples: pd.DataFrame) -> str:
    """Draw recorded and predicted activity of neurons, a panel for each.

    Parameters
    ----------
    examples : DataFrame
        As `neurofleet.learners.neuprint.activity_examples.activity_examples` returns it; those of earlier versions
        know no times.
    """
    in_s = {"rate_hz", "r2_repeated"} <= set(examples.columns)
    neurons = [group for _, group in examples.groupby("neuron_id", sort=False)]

    def draw(figure: "Figure") -> None:
        panels = figure.subplots(len(neurons), 1, squeeze=False)[:, 0]
        for axes, of_neuron in zip(panels, neurons, strict=True):
            at = of_neuron["frame"] / of_neuron["rate_hz"] if in_s else of_neuron["frame"]
            axes.plot(at, of_neuron["recorded"], color=INK, linewidth=0.9, label="recorded")
            axes.plot(at, of_neuron["predicted"], color=MODEL, linewidth=0.9, label="predicted")
            first = of_neuron.iloc[0]
            repeated = f" (repeated: {first['r2_repeated']:.2f})" if in_s else ""
            axes.set_title(f"{first['class']}: neuron {first['neuron_id']}, R² {first['r2']:.2f}{repeated}")
            axes.set_ylabel("activity (s.d.)")
            axes.margins(x=0)
            grid(axes, "y")
        panels[-1].set_xlabel("time (s)" if in_s else "frame")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower left", ncols=2)

    return picture(0.5 + 1.25 * len(neurons), draw, "recorded and predicted activity")


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
MANY = "petroff10"
"""The palette for more classes than `SEEDS` has colours (Petroff, 2021), as matplotlib names it."""

FOR_GREY = {"#94a4a2": GREEN, "#717581": PINK}
"""What is drawn in place of its greys, which look like no class."""

LINES = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (5, 1.5, 1, 1.5)))
LETTER, LINE = 0.007, 0.035
"""Of the width of one map and of its height, what a letter of a label takes."""

TOGETHER = 0.7
"""Classes that spread wider than this share of all points have no label on the map."""

LABEL_SHARE = 0.004
"""Classes with a smaller share of the points have no label on the map."""


@dataclass(frozen=True)
class ClassStyle:
    """What a class is drawn with; colours that return come with another mark and line."""

    colour: str
    marker: str
    line: Any


NAMELESS, CROSS = ClassStyle(MISSING, ".", "-"), ClassStyle(INK, "x", "-")
"""How points without a class are drawn: in the background, or to be seen beside other grey ones."""


def class_styles(classes: Sequence[str]) -> dict[str, ClassStyle]:
    """Return how each class is drawn, the same for the same classes."""
    colours: Sequence[Any] = SEEDS
    if len(classes) > len(SEEDS):
        from matplotlib import color_sequences
        from matplotlib.colors import to_hex

        colours = [FOR_GREY.get(colour, colour) for colour in map(to_hex, color_sequences[MANY])]
    return {
        name: ClassStyle(colours[turn], MARKERS[round_ % len(MARKERS)], LINES[round_ % len(LINES)])
        for number, name in enumerate(classes)
        for round_, turn in [divmod(number, len(colours))]
    }


def embedding_map_figure(
    flat: np.ndarray,
    panels: Mapping[str, Sequence[str] | np.ndarray],
    what: str,
    nameless: str = "no class",
    method: str = "UMAP",
) -> str:
    """Draw points by class, side by side for several ways to name them; those without a class are small and grey.

    Parameters
    ----------
    flat : array, shape (n, 2)
    panels : mapping
        Title -> the classes; "" where there is none.
    what : str
        What the picture shows, for readers who cannot see it.
    nameless : str
        What those without a class are called.
    method : str
        What made the map, of which the axes have their names.
    """
    named = {title: np.asarray(names) for title, names in panels.items()}
    classes = sorted(set().union(*(set(names.tolist()) for names in named.values())) - {""})
    styles = class_styles(classes)
    drawn = np.random.default_rng(0).permutation(len(flat))[:MOST_POINTS]
    size = 14.0 if len(drawn) < 1000 else 8.0
    n_columns = min(5, max(1, 100 // max(12, max(map(len, classes), default=1))))

    def draw(figure: "Figure") -> None:
        all_axes = figure.subplots(1, len(named), squeeze=False, sharex=True, sharey=True)[0]
        for axes, (title, names) in zip(all_axes, named.items(), strict=True):
            draw_map(axes, flat[drawn], names[drawn], styles, size, nameless, method)
            if len(named) > 1:
                axes.set_title(title)
        entries: dict[str, Any] = {}
        for axes in all_axes:
            for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
                entries.setdefault(label, handle)
        order = sorted(entries, key=lambda label: (label != nameless, label))
        figure.legend(
            [entries[label] for label in order],
            order,
            loc="outside lower left",
            ncols=n_columns,
            markerscale=(20.0 / size) ** 0.5,
        )

    return picture(4.9 + 0.17 * ((len(classes) + n_columns) // n_columns), draw, what)


def draw_map(
    axes: "Axes",
    flat: np.ndarray,
    names: np.ndarray,
    styles: Mapping[str, ClassStyle],
    size: float,
    nameless: str,
    method: str = "UMAP",
    nameless_style: ClassStyle = NAMELESS,
) -> None:
    """Draw points (n, 2) by class; those without a class are small, and called `nameless`."""
    unnamed = names == ""
    if unnamed.any():
        axes.scatter(
            flat[unnamed, 0],
            flat[unnamed, 1],
            s=size,
            color=nameless_style.colour,
            marker=nameless_style.marker,
            alpha=0.5,
            label=nameless,
            linewidths=0 if nameless_style is NAMELESS else 0.8,
        )
    for name, style in styles.items():
        points = flat[names == name]
        if not len(points):
            continue
        axes.scatter(
            points[:, 0],
            points[:, 1],
            s=size,
            color=style.colour,
            marker=style.marker,
            alpha=0.85,
            label=legend_label(name),
            linewidths=0,
        )
    _label_map(axes, flat, names, list(styles))
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlabel(f"{method} 1")
    axes.set_ylabel(f"{method} 2")
    for spine in axes.spines.values():
        spine.set_color(FAINT)
        spine.set_visible(True)


def _label_map(axes: "Axes", flat: np.ndarray, names: np.ndarray, classes: Sequence[str]) -> None:
    """Write the names of classes that lie together in their middle, the largest first, where there is room."""
    span = np.maximum(np.ptp(flat, axis=0), 1e-9)
    whole = _spread(flat / span)
    sizes = {name: int((names == name).sum()) for name in classes}
    placed: list[tuple[np.ndarray, float]] = []
    for name in sorted(classes, key=lambda name: (-sizes[name], name)):
        if sizes[name] <= LABEL_SHARE * len(flat) or len(classes) < 2:
            continue
        points, text = flat[names == name], _short(name)
        if _spread(points / span) > TOGETHER * whole:
            continue
        nearest = points[np.linalg.norm((points - np.median(points, axis=0)) / span, axis=1).argmin()]
        at, width = nearest / span, LETTER * len(text) * len(axes.figure.axes)
        if any(abs(at - other)[0] < (width + its) / 2 and abs(at - other)[1] < LINE for other, its in placed):
            continue
        placed.append((at, width))
        axes.annotate(
            text,
            nearest,
            ha="center",
            va="center",
            fontsize=7,
            bbox={"boxstyle": "square,pad=0.1", "facecolor": GROUND, "edgecolor": "none", "alpha": 0.75},
        )


def _spread(points: np.ndarray) -> float:
    """Return the median distance of points from their middle."""
    return float(np.median(np.linalg.norm(points - np.median(points, axis=0), axis=1)))


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

"""Loss and scores by epoch, a line for each training."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jobs.report.drawing import INK, MISSING, MODEL, SEEDS, grid, picture, plain_log_ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

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
        (title, keys)
        for title, keys in PANELS
        if any(row.get(key) is not None for row in history for key in keys)
    ]

    def draw(figure: "Figure") -> None:
        from matplotlib.ticker import MaxNLocator

        for axes, (title, keys) in zip(
            figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True
        ):
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

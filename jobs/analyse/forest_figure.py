"""What a forest confuses, and what it looks at."""

from typing import TYPE_CHECKING

import numpy as np

from jobs.report.drawing import MODEL, picture

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

MOST_PARAMETERS = 15


def forest_figure(predictions: "pd.DataFrame", importances: "pd.DataFrame") -> str:
    """Draw test cells by true and predicted class, and the most used parameters.

    Parameters
    ----------
    predictions, importances : DataFrame
        As in :class:`neurosim.populations.forest.Classified`.
    """
    names = sorted(set(predictions["true"]) | set(predictions["predicted"]))
    counts = np.zeros((len(names), len(names)), dtype=int)
    rows, columns = ([names.index(one) for one in predictions[key]] for key in ("true", "predicted"))
    np.add.at(counts, (rows, columns), 1)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    top = importances.head(MOST_PARAMETERS)[::-1]

    def draw(figure: "Figure") -> None:
        left, right = figure.subplots(1, 2)
        left.pcolormesh(share, cmap="Blues", vmin=0, vmax=1, linewidth=0)
        for row, column in np.ndindex(*counts.shape):
            shade = "white" if share[row, column] > 0.55 else "#101214"
            left.text(
                column + 0.5, row + 0.5, str(counts[row, column]), ha="center", va="center", color=shade
            )
        left.set_xticks(np.arange(len(names)) + 0.5, names)
        left.set_yticks(np.arange(len(names)) + 0.5, names)
        left.invert_yaxis()
        left.set_aspect("equal")
        left.tick_params(length=0)
        left.set_xlabel("predicted")
        left.set_ylabel("true")
        right.barh(top["quantity"], top["importance"], color=MODEL, height=0.65)
        right.set_xlabel("importance")
        right.tick_params(axis="y", length=0)

    return picture(3.6, draw, "test cells by true and predicted class, and importances of parameters")

"""Effect sizes of conductances beside those of their genes and e-features."""

from typing import TYPE_CHECKING

from jobs.report.drawing import FAINT, GOOD, MODEL, SEEDS, grid, picture

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

FAMILIES = {"parameters": ("o", MODEL), "genes": ("D", GOOD), "features": ("s", SEEDS[0])}
NAMES = {"parameters": "conductance", "genes": "gene", "features": "e-feature"}
ALPHA = 0.05


def links_figure(links: "pd.DataFrame") -> str:
    """Draw a panel for each pair of classes: one line a quantity, grouped by link.

    Parameters
    ----------
    links : DataFrame
        As in :func:`neurosim.populations.links.side_by_side`.
    """
    pairs = sorted(set(links["pair"]))
    lines = list(
        dict.fromkeys(zip(links["link"], links["family"], links["table"], links["quantity"], strict=True))
    )
    order = {name: number for number, name in enumerate(dict.fromkeys(links["link"]))}
    kinds = list(FAMILIES)
    lines.sort(key=lambda line: (order[line[0]], kinds.index(line[1])))
    places = {line: number for number, line in enumerate(lines)}

    def draw(figure: "Figure") -> None:
        panels = figure.subplots(1, len(pairs), sharey=True, squeeze=False)[0]
        for axes, pair in zip(panels, pairs, strict=True):
            mine = links[links["pair"] == pair]
            first = min(mine["higher"].min(), mine["lower"].min())
            for row in mine.itertuples(index=False):
                marker, colour = FAMILIES[row.family]
                delta = row.cliffs_delta if row.higher == first else -row.cliffs_delta
                is_clear = row.p_adjusted < ALPHA
                axes.plot(
                    [delta],
                    [places[row.link, row.family, row.table, row.quantity]],
                    marker=marker,
                    markersize=5,
                    color=colour,
                    markerfacecolor=colour if is_clear else "none",
                    linestyle="",
                )
            axes.axvline(0, color=FAINT, linewidth=0.7)
            axes.set_xlim(-1.08, 1.08)
            axes.set_title(pair)
            axes.set_xlabel("Cliff's delta")
            grid(axes, "y")
        edges = [n for n in range(1, len(lines)) if lines[n][0] != lines[n - 1][0]]
        for axes in panels:
            for edge in edges:
                axes.axhline(edge - 0.5, color=FAINT, linewidth=0.7)
        panels[0].set_yticks(range(len(lines)), [_told(line) for line in lines])
        panels[0].invert_yaxis()
        for family, (marker, colour) in FAMILIES.items():
            if family in set(links["family"]):
                panels[-1].plot([], [], marker=marker, color=colour, linestyle="", label=NAMES[family])
        panels[-1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5))

    return picture(1.0 + 0.2 * len(lines), draw, "effect sizes of conductances, genes and e-features")


def _told(line: tuple[str, str, str, str]) -> str:
    _, family, table, quantity = line
    return quantity if family == "parameters" else f"{quantity} ({table})"

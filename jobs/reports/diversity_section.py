"""The part of a cell's report on how different the models of its hall of fame are."""

from typing import TYPE_CHECKING

import numpy as np

from neurofleet.cluster.store.schemas import HallOfFameRows
from neurofleet.jobs.reports import html
from neurofleet.jobs.reports.drawing import INK, MISSING, grid, picture, seed_colours
from neurofleet.jobs.reports.fit_contents import CellContents
from neurofleet.jobs.results.diversity import Diversity, models_in_words
from neurofleet.jobs.results.parameters_at_bounds import Bounds, positions
from neurofleet.jobs.results.run_tables import RunTables
from neurofleet.neurosim.evolution.diverse_selection import NEAR, distances

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CAPTION = (
    "Left: each line is a model, its parameters from the lower (0) to the upper bound (1); a "
    "population is a band of lines, near-copies lie on each other. Right: the distances of all pairs of models, of one "
    f"seed and of different seeds; dashed: {NEAR:g}, below which two models count as near-copies."
)


def diversity_parts(tables: RunTables, contents: CellContents) -> list[str]:
    """Return the section; empty where there are not two models yet."""
    diversity, models = contents.summary.diversity, contents.models
    if diversity is None or models is None:
        return []
    shares = [(name, f"{share:.3f}") for name, share in diversity.widest]
    return [
        html.heading(3, "How different the models are"),
        *_sentences(tables, contents, diversity, models),
        html.figure(_figure(models, contents.bounds), CAPTION),
        html.details(
            "The spread of each parameter",
            html.table(("parameter", "standard deviation, share of its bounds"), shares, numbers=(1,)),
        ),
    ]


def _sentences(tables: RunTables, contents: CellContents, diversity: Diversity, models: HallOfFameRows) -> list[str]:
    spread = diversity.spread
    text = (
        f"{models_in_words(diversity)}. This distance of two models is the root mean square over the parameters, each"
        f" from 0 at its lower to 1 at its upper bound. {100 * spread.near_share:.2g} % of all pairs are closer than"
        f" {NEAR:g}. The {len(diversity.parameters)} parameters vary along about"
        f" {spread.effective_dimensions:.2g} independent directions (participation ratio)."
    )
    cost = _cost(tables, contents, models)
    warning = (
        "Most of these models are near-copies of a few: statistics over them describe those few. More seeds, a longer "
        "search or a larger evolution.tolerance give a wider population."
    )
    return [html.paragraph(text), html.paragraph(cost)] + ([html.paragraph(warning, "note")] if spread.copies else [])


def _cost(tables: RunTables, contents: CellContents, models: HallOfFameRows) -> str:
    """Say what the models score, and what those with the lowest totals would."""
    stage = contents.stages[-1].summary
    kept = tables.spec.evolution.hall_of_fame
    lowest = tables.rows(
        "select median(total) from (select total, row_number() over (partition by seed order by total, generation, "
        "individual) place from evaluations where cell = ? and stage = ?) where place <= ?",
        [contents.summary.cell, stage.stage, kept],
    )[0][0]
    found = models.totals if models.search_totals is None else models.search_totals
    count = stage.objectives
    return (
        f"The median of their mean |z| is {np.median(models.totals) / count:.3g}. By the scores of the search it is"
        f" {np.median(found) / count:.3g}; of the {kept} lowest totals of each seed, however alike, it would be"
        f" {lowest / count:.3g}."
    )


def _figure(models: HallOfFameRows, bounds: Bounds) -> str:
    names, unit = positions(models, bounds)
    colours = seed_colours(models.seeds.tolist())
    pairs = np.triu_indices(len(models), 1)
    apart = distances(unit, unit)[pairs]
    same = models.seeds[pairs[0]] == models.seeds[pairs[1]]

    def draw(figure: "Figure") -> None:
        lines, histogram = figure.subplots(1, 2, width_ratios=[3, 1])
        for seed, colour in colours.items():
            mine = unit[models.seeds == seed]
            label = [f"seed {seed}", *[None] * (len(mine) - 1)]
            lines.plot(np.arange(len(names)), mine.T, color=colour, linewidth=0.8, alpha=0.6, label=label)
        lines.set_xticks(np.arange(len(names)), names, rotation=90, fontsize=6)
        lines.set_xlim(-0.5, len(names) - 0.5)
        lines.set_ylabel("place between the bounds")
        grid(lines, "y")
        shown = [(apart[same], INK, "one seed"), (apart[~same], MISSING, "different seeds")]
        shown = [part for part in shown if len(part[0])]
        bins = np.linspace(0.0, max(float(apart.max()), 2 * NEAR), 25)
        histogram.hist(
            [part for part, *_ in shown],
            bins=bins,
            stacked=True,
            color=[colour for _, colour, _ in shown],
            label=[label for *_, label in shown],
            alpha=0.6,
        )
        histogram.axvline(NEAR, color=INK, linewidth=0.8, linestyle=(0, (4, 2)))
        histogram.set_xlabel("distance of two models")
        histogram.set_ylabel("pairs")
        histogram.legend()
        figure.legend(*lines.get_legend_handles_labels(), loc="outside upper left", ncols=8)

    return picture(3.6, draw, "the models of the hall of fame beside each other, and their distances")

"""Pictures of the best models: traces, scores, parameters within their bounds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from neurofleet.cluster.store.schemas import HallOfFameRows
from neurofleet.jobs.reports.drawing import (
    FAINT,
    FAIR,
    GOOD,
    INK,
    MISSING,
    MODEL,
    POOR,
    grid,
    picture,
    seed_colours,
    thinned,
)
from neurofleet.jobs.reports.fit_contents import ShownTrace, Trace, first_peak_ms
from neurofleet.jobs.reports.units import parameter_unit, split_objective
from neurofleet.jobs.results.parameters_at_bounds import LOWER, NEAR, Bounds, OnBound, known_positions, positions
from neurofleet.neurosim.cells.fit_model import MAX_SCORE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def scores_sentence(scores: Mapping[str, float]) -> str:
    """Say how close the best model is to its targets."""
    values = list(scores.values())
    missing = sum(score >= MAX_SCORE for score in values)
    close, near = (sum(score <= limit for score in values) for limit in (1, 3))
    worst = max(scores, key=lambda name: scores[name])
    mean = score_text(sum(values) / len(values))
    text = (
        f"Mean |z| of the best model: {mean} standard deviations from its {len(values)} "
        f"targets. {close} within 1, {near} within 3."
    )
    if missing:
        return f"{text} {missing} {'is' if missing == 1 else 'are'} as far off as a score can be."
    return f"{text} Farthest off: {worst} ({score_text(scores[worst])})."


def score_text(score: float) -> str:
    """Return a score with two digits, and never as a power of ten."""
    return f"{score:.2g}" if score < 100 else f"{score:.0f}"


def bounds_sentences(hits: Sequence[OnBound], bounds: Bounds, full_bounds: Bounds) -> list[str]:
    """Say which parameters sit on a bound, in no less than a quarter of the models, and what that means."""
    off, handed_over, recipe = [], [], []
    common = [hit for hit in hits if hit.models * 4 >= hit.of]
    for hit in common:
        side = 0 if hit.side == LOWER else 1
        full = full_bounds.get(hit.parameter)
        if full is not None and bounds[hit.parameter][side] != full[side]:
            handed_over.append(hit)
        elif hit.side == LOWER and hit.parameter.startswith("gbar_"):
            off.append(hit)
        else:
            recipe.append(hit)
    sentences = (
        (recipe, "On a bound: {}. A wider bound may fit better."),
        (
            handed_over,
            "At the end of the range around the winner of the stage before: {}. The stages disagree there.",
        ),
        (off, "At the lower bound, the channel as good as switched off: {}."),
    )
    found = [sentence.format(", ".join(map(str, hits))) for hits, sentence in sentences if hits]
    if not common:
        found.append("No parameter sits on a bound.")
    if rare := [hit.parameter for hit in hits if hit not in common]:
        found.append(f"In single models only: {', '.join(dict.fromkeys(rare))}.")
    return found


def listed(words: Sequence[str]) -> str:
    """Return words with commas and an "and"."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


BEFORE_PEAK_MS, AFTER_PEAK_MS = 4.0, 16.0
CURRENT_PART = 0.28
"""Height of the stimulus, of that of the voltage above it."""

RECORDED: dict[str, Any] = {"color": INK, "linewidth": 1.8, "alpha": 0.5}
FITTED: dict[str, Any] = {"color": MODEL, "linewidth": 0.9}


def traces_figure(groups: Sequence[Sequence[ShownTrace]]) -> str:
    """Draw a panel for each group of traces, its stimulus below; where some spike, the first spikes beside them."""
    spiking = any(trace.spikes for group in groups for trace in group)
    with_current = all(trace.current is not None for group in groups for trace in group)
    heights = [1.0, CURRENT_PART] if with_current else [1.0]

    def draw(figure: "Figure") -> None:
        rows, columns = len(heights), 2 if spiking else 1
        places = figure.add_gridspec(
            rows * len(groups), columns, width_ratios=[3.2, 1][:columns], height_ratios=heights * len(groups)
        )
        for n, group in enumerate(groups):
            voltage = lowest = figure.add_subplot(places[rows * n, 0])
            _draw_group(voltage, group)
            if with_current:
                lowest = figure.add_subplot(places[rows * n + 1, 0], sharex=voltage)
                _draw_stimulus(lowest, group)
                voltage.tick_params(labelbottom=False)
            if spiking:
                _draw_first_spike(figure.add_subplot(places[rows * n : rows * (n + 1), 1]), group[0])
            if n == 0:
                figure.legend(*voltage.get_legend_handles_labels(), loc="outside lower left", ncols=2)
        from_onset = all(shown.onset_ms is not None for group in groups for shown in group)
        lowest.set_xlabel("time from the onset of the step (ms)" if from_onset else "time (ms)")
        figure.align_ylabels()

    each = (1.75 if with_current else 1.4) if len(groups) > 1 else 3.4
    return picture(each * len(groups) + 0.6, draw, "recorded and fitted voltage")


def _draw_group(axes: "Axes", group: Sequence[ShownTrace]) -> None:
    for i, shown in enumerate(group):
        for k, trace in enumerate(shown.recorded[:1] if shown.spikes else shown.recorded):
            label = "recorded" if i == k == 0 else None
            axes.plot(*_from_onset(_cut(trace, shown.window_ms), shown), label=label, **RECORDED)
    for i, shown in enumerate(group):
        model = _from_onset(_cut(shown.model, shown.window_ms), shown)
        axes.plot(*model, label="best model" if i == 0 else None, **FITTED)
    grid(axes, "y")
    windows = np.array([shown.window_ms for shown in group]) - [[shown.onset_ms or 0.0] for shown in group]
    axes.set_xlim(windows[:, 0].min(), windows[:, 1].max())
    axes.set_ylabel("voltage (mV)")
    axes.set_title(_title(group))


def _draw_stimulus(axes: "Axes", group: Sequence[ShownTrace]) -> None:
    currents = [_from_onset(shown.current, shown) for shown in group if shown.current is not None]
    for current in currents:
        axes.plot(*current, color=INK, linewidth=0.9)
    levels = np.concatenate([amplitude for _, amplitude in currents])
    ends = [float(levels.min()), float(levels.max())]
    axes.set_yticks(ends, [f"{end:.4g}" for end in ends])
    axes.margins(y=0.25)
    axes.set_ylabel("current\n(pA)")
    grid(axes, "y")


def _title(group: Sequence[ShownTrace]) -> str:
    if len(group) == 1:
        return group[0].title
    steps = ", ".join(f"{shown.amplitude_pA:.4g}" for shown in group)
    return f"{group[0].name} … {group[-1].name}: {steps} pA"


def _draw_first_spike(axes: "Axes", shown: ShownTrace) -> None:
    """Draw the first spikes with their peaks at 0."""
    lines = [(trace, RECORDED) for trace in shown.recorded[:1]] + [(shown.model, FITTED)]
    for (time, voltage), style in lines:
        if (peak_ms := first_peak_ms(time, voltage, shown.spike_mV)) is not None:
            part = _cut((time, voltage), (peak_ms - BEFORE_PEAK_MS, peak_ms + AFTER_PEAK_MS))
            axes.plot(part[0] - peak_ms, part[1], **style)
    if not axes.lines:
        axes.set_axis_off()
        return
    grid(axes, "y")
    axes.set_xlim(-BEFORE_PEAK_MS, AFTER_PEAK_MS)
    axes.set_title("first spike")
    axes.set_ylabel("voltage (mV)")
    axes.set_xlabel("time from the peak (ms)")


def _from_onset(trace: Trace, shown: ShownTrace) -> Trace:
    """Return a trace with its times from the onset of the step: steps of different stimuli begin at different times."""
    return trace[0] - (shown.onset_ms or 0.0), trace[1]


def _cut(trace: Trace, window_ms: tuple[float, float]) -> Trace:
    time, voltage = trace
    inside = (time >= window_ms[0]) & (time <= window_ms[1])
    return thinned(time[inside], voltage[inside])


COLUMNS = 6
SHOWN_STD = 6.0


def scores_figure(scores: Mapping[str, float], titles: Mapping[str, str]) -> str:
    """Draw a panel of bars a protocol.

    Parameters
    ----------
    scores : mapping
        Objective -> distance from the target in its standard deviations.
    titles : mapping
        Protocol -> what to call it; those named here come first, in this order.
    """
    protocols: dict[str, dict[str, float]] = {}
    for objective, score in scores.items():
        protocol, feature = split_objective(objective)
        protocols.setdefault(protocol, {})[feature] = score
    order = [*(name for name in titles if name in protocols), *protocols]
    protocols = {name: protocols[name] for name in dict.fromkeys(order)}
    features = list(dict.fromkeys(feature for found in protocols.values() for feature in found))
    n_rows = -(-len(protocols) // COLUMNS)
    n_columns = min(COLUMNS, len(protocols))
    limit = min(SHOWN_STD, max(2.0, 1.15 * max(scores.values())))

    def draw(figure: "Figure") -> None:
        panels = figure.subplots(n_rows, n_columns, squeeze=False, sharey=True, sharex=True)
        for axes in panels.flat[len(protocols) :]:
            axes.set_axis_off()
        for axes, (protocol, found) in zip(panels.flat, protocols.items(), strict=False):
            _draw_bars(axes, features, found, limit)
            axes.set_title(titles.get(protocol, protocol))
        for axes in panels.flat[max(0, len(protocols) - n_columns) : len(protocols)]:
            axes.tick_params(labelbottom=True)
            axes.set_xlabel("score (SD)")

    return picture(n_rows * (0.17 * len(features) + 0.65) + 0.2, draw, "scores by objective")


def _draw_bars(axes: "Axes", features: list[str], found: Mapping[str, float], limit: float) -> None:
    places = np.arange(len(features))[::-1]
    for place, feature in zip(places, features, strict=True):
        if feature not in found:
            continue
        score = found[feature]
        axes.barh(place, min(score, limit), height=0.66, color=score_colour(score), linewidth=0)
        inside = score > 0.8 * limit
        axes.annotate(
            score_text(score),
            (min(score, limit), place),
            xytext=(-3 if inside else 3, 0),
            textcoords="offset points",
            ha="right" if inside else "left",
            va="center",
            fontsize=6.5,
            color="white" if inside else None,
        )
    axes.axvline(1.0, color=FAINT, linewidth=0.8, linestyle=(0, (3, 2)))
    axes.set_yticks(places, features)
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(0, limit)
    axes.set_ylim(-0.7, len(features) - 0.3)
    grid(axes, "x")


def score_colour(score: float) -> str:
    """Return blue within 1 SD, orange within 3, vermilion above, grey for the highest score there is."""
    if score >= MAX_SCORE:
        return MISSING
    return GOOD if score <= 1 else FAIR if score <= 3 else POOR


SHOWN_OBJECTIVES = 8


@dataclass(frozen=True)
class Change:
    """How far an objective's scores moved when they were scored again: over models, in their unit."""

    objective: str
    median: float
    largest: float


def changes(models: HallOfFameRows) -> list[Change]:
    """Return the objectives of a hall of fame with both scores, those that moved most first."""
    assert models.search_scores is not None
    moved = np.abs(models.scores - models.search_scores)
    found = [
        Change(name, float(np.median(column)), float(column.max()))
        for name, column in zip(models.objective_names, moved.T, strict=True)
    ]
    return sorted(found, key=lambda change: (-change.median, -change.largest))


def rescored_sentence(models: HallOfFameRows) -> str:
    """Say how much the totals moved."""
    assert models.search_totals is not None
    moved = models.totals - models.search_totals
    still = sum(change.largest < 0.1 for change in changes(models))
    return (
        f"Scored again by NEURON with CVODE, the totals of these {len(models)} models moved by "
        f"{score_text(float(np.median(np.abs(moved))))} in the median (from {moved.min():+.2g} to "
        f"{moved.max():+.2g}); {still} of {len(models.objective_names)} objectives moved by less than 0.1 "
        "standard deviations in all of them."
    )


def rescored_figure(models: HallOfFameRows) -> str:
    """Draw total against total, and the objectives that moved most."""
    shown = [change for change in changes(models) if change.largest > 0][:SHOWN_OBJECTIVES]

    def draw(figure: "Figure") -> None:
        totals, objectives = figure.subplots(1, 2, width_ratios=(1.0, 1.5))
        _draw_totals(totals, models)
        _draw_changes(objectives, shown)

    return picture(2.9, draw, "scores of the search and scores of NEURON")


def _draw_totals(axes: "Axes", models: HallOfFameRows) -> None:
    assert models.search_totals is not None
    both = np.concatenate([models.totals, models.search_totals])
    margin = 0.06 * (both.max() - both.min()) or 0.06 * both.max()
    limits = (float(both.min() - margin), float(both.max() + margin))
    axes.plot(limits, limits, color=FAINT, linewidth=0.8, linestyle=(0, (3, 2)))
    for seed, colour in seed_colours(models.seeds.tolist()).items():
        of = models.seeds == seed
        axes.plot(
            models.search_totals[of],
            models.totals[of],
            color=colour,
            marker="o",
            markersize=4,
            linestyle="none",
            label=f"seed {seed}",
        )
    axes.set_xlim(limits)
    axes.set_ylim(limits)
    axes.set_box_aspect(1)
    axes.set_title("total score (SD)")
    axes.set_xlabel("as the search scored it")
    axes.set_ylabel("scored again by NEURON")
    grid(axes, "x")
    grid(axes, "y")
    axes.legend(loc="upper left", handletextpad=0.1, borderaxespad=0.2)


def _draw_changes(axes: "Axes", shown: list[Change]) -> None:
    places = np.arange(len(shown))[::-1]
    for place, change in zip(places, shown, strict=True):
        axes.plot([0, change.largest], [place, place], color=FAINT, linewidth=0.8)
        first = place == places[0]
        median: dict[str, Any] = {"marker": "o", "markersize": 4.5, "label": "median of the models" if first else None}
        largest: dict[str, Any] = {"marker": "|", "markersize": 8, "label": "largest" if first else None}
        axes.plot(change.median, place, color=MODEL, linestyle="none", **median)
        axes.plot(change.largest, place, color=MODEL, linestyle="none", **largest)
    axes.set_yticks(places, [" ".join(split_objective(change.objective)) for change in shown])
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(left=0)
    axes.set_ylim(-0.7, max(len(shown) - 0.3, 0.7))
    axes.set_title("objectives that moved most")
    axes.set_xlabel("difference of the two scores (SD)")
    grid(axes, "x")
    axes.legend(loc="lower right")


KNOWN: dict[str, Any] = {"marker": "|", "markersize": 11, "markeredgewidth": 2, "linestyle": "none", "color": MODEL}


def parameters_figure(models: HallOfFameRows, bounds: Bounds, known: Mapping[str, float]) -> str:
    """Draw one line a parameter, from its lower to its upper bound, with a mark for each model.

    Parameters
    ----------
    models : HallOfFameRows
    bounds : mapping
        Full parameter name -> (lower, upper).
    known : mapping
        The parameters of a simulated cell; those outside of their bounds stand at the edge.
    """
    names, unit = positions(models, bounds)
    rows = np.arange(len(names))[::-1]
    colours = seed_colours(models.seeds.tolist())
    true = [(place, row) for place, row in zip(known_positions(known, names, bounds), rows, strict=True)]

    def draw(figure: "Figure") -> None:
        axes = figure.subplots()
        axes.hlines(rows, 0, 1, color=FAINT, linewidth=0.6, alpha=0.8)
        axes.vlines([0, 1], -0.6, len(names) - 0.4, color=FAINT, linewidth=0.8)
        for seed, colour in colours.items():
            mine = unit[models.seeds == seed]
            axes.plot(
                mine.ravel(),
                np.tile(rows, len(mine)),
                marker="o",
                markersize=4,
                linestyle="none",
                color=colour,
                alpha=0.6,
                markeredgewidth=0,
                label=f"seed {seed}",
            )
        axes.plot(
            unit[0],
            rows,
            marker="D",
            markersize=4.5,
            linestyle="none",
            markerfacecolor="none",
            color=INK,
            label="best model",
        )
        if known:
            axes.plot(*zip(*true, strict=True), label="known value", **KNOWN)
        _label(axes, names, rows, unit, bounds)
        figure.legend(loc="outside upper center", ncols=len(colours) + 2)

    return picture(0.19 * len(names) + 0.8, draw, "parameter values inside their bounds")


def _label(axes, names, rows, unit, bounds: Bounds) -> None:
    axes.set_yticks(rows, names)
    axes.tick_params(axis="y", length=0)
    hit = ((unit <= NEAR) | (unit >= 1 - NEAR)).mean(axis=0) >= 0.5
    for label, on_bound in zip(axes.get_yticklabels(), hit, strict=True):
        if on_bound:
            label.set_color(POOR)
            label.set_fontweight("bold")
    for row, name in zip(rows, names, strict=True):
        low, high = bounds[name]
        text = f"{low:.4g} to {high:.4g} {parameter_unit(name)}".rstrip()
        axes.annotate(
            text,
            (1.02, row),
            va="center",
            fontsize=7,
            xycoords=("axes fraction", "data"),
            annotation_clip=False,
        )
    axes.set_xticks([0, 1], ["lower bound", "upper bound"])
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.8, len(names) - 0.2)
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)

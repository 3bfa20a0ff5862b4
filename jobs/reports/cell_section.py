"""The part of the report about one cell."""

from neurofleet.jobs.fit.campaign_state import FINAL
from neurofleet.jobs.fit.fit_problem import CellSubject
from neurofleet.jobs.fit.uncertain_steps import UNCERTAIN
from neurofleet.jobs.reports import html
from neurofleet.jobs.reports.diversity_section import diversity_parts
from neurofleet.jobs.reports.firing_rate_figure import rates_figure
from neurofleet.jobs.reports.fit_contents import CellContents, StageContents, shown_traces
from neurofleet.jobs.reports.model_figures import (
    bounds_sentences,
    listed,
    parameters_figure,
    rescored_figure,
    rescored_sentence,
    scores_figure,
    scores_sentence,
    traces_figure,
)
from neurofleet.jobs.reports.search_figures import outcomes_figure, search_figure
from neurofleet.jobs.reports.tables import table_of_recording
from neurofleet.jobs.reports.units import feature_unit, split_objective
from neurofleet.jobs.results.parameters_at_bounds import on_bounds
from neurofleet.jobs.results.run_summary import CellSummary, evaluations, far_stages, generations, short
from neurofleet.jobs.results.run_tables import RunTables
from neurofleet.neurosim.cells.morphology_check import axon_line

SHOWN_REASONS = 8
UNCERTAIN_MEANS = (
    "A small error of integration decides there how a model fires, as for models close to their rheobase: the step "
    "tells little about how good a model is."
)
SPIKES_CAPTION = " Right: the first spike of each, with the peaks laid over each other."


def cell_section(tables: RunTables, contents: CellContents) -> str:
    """Return the section of a cell, with all the pictures that its state allows."""
    cell = contents.summary
    parts = _opening(cell)
    if contents.missing:
        parts.append(html.paragraph(f"Without traces and firing rates: {contents.missing}", "note"))
    parts += recording_parts(contents)
    if not cell.stages:
        return _section(cell, parts)
    parts += _search(tables, contents)
    for stage in contents.stages:
        parts += _stage(contents, stage)
    if contents.rates is not None:
        parts += _rates(contents)
    parts += _rescored(contents)
    parts += _parameters(contents)
    parts += diversity_parts(tables, contents)
    parts += _outcomes(tables, cell)
    return _section(cell, parts)


def plain_section(cell: CellSummary) -> str:
    """Return the section of a cell without pictures, for runs of very many cells."""
    note = html.paragraph("Its pictures are left out to keep this page small.", "quiet")
    return _section(cell, [*_opening(cell), note])


def _section(cell: CellSummary, parts: list[str]) -> str:
    return f'<section class="cell" id="cell-{html.escaped(cell.cell)}">\n' + "\n".join(parts) + "\n</section>"


def _opening(cell: CellSummary) -> list[str]:
    parts = [html.heading(2, cell.cell)]
    if cell.state == "failed":
        parts.append(html.paragraph(f"The fit failed: {cell.reason}", "note"))
    elif not cell.stages:
        parts.append(html.paragraph("Nothing has been evaluated yet."))
    elif cell.state == "unfinished":
        parts.append(html.paragraph(f"Not finished: stage {cell.stages[-1].stage} is under way.", "note"))
    if cell.stages:
        head = (
            "stage",
            "seeds",
            "generations",
            "evaluations",
            "objectives",
            "best total",
            "best mean |z|",
        )
        rows = [
            (
                stage.stage,
                ", ".join(str(seed.seed) for seed in stage.seeds),
                generations(stage),
                evaluations(stage),
                stage.objectives,
                short(stage.best_total),
                short(stage.best_mean_score),
                f"{stage.core_hours:.2g}",
            )
            for stage in cell.stages
        ]
        parts.append(html.table((*head, "core-hours"), rows, numbers=range(2, 8)))
        parts += [html.paragraph(f"{line[:1].upper()}{line[1:]}.", "note") for line in far_stages(cell)]
    return parts


def recording_parts(contents: CellContents) -> list[str]:
    """Return what becomes of the cell's axon, what is used of its recording, and what looks odd about it."""
    subject = contents.subject
    table = subject.recording_table if subject is not None else None
    axon = axon_line(subject.summary, subject.axon) if isinstance(subject, CellSubject) else ""
    parts = [html.paragraph(f"{axon}.".capitalize(), "quiet")] if axon else []
    if table is None:
        return parts
    return [
        *parts,
        html.paragraph(f"Recording {table.summary}.", "quiet"),
        *(html.paragraph(f"{table.file}: {note}.", "quiet") for note in table.notes),
        html.details("The recording, sweep by sweep", table_of_recording(table).html()),
    ]


def _search(tables: RunTables, contents: CellContents) -> list[str]:
    parts = []
    if isinstance(contents.subject, CellSubject):
        parts.append(html.paragraph(f"Morphology {contents.subject.summary.line()}.", "quiet"))
    for warning in getattr(contents.subject, "warnings", ()):
        parts.append(html.paragraph(warning, "quiet"))
    for stage in contents.summary.stages:
        if stage.engine:
            sentence = f"Stage {stage.stage} was searched with engine {stage.engine} ({stage.engine_reason})."
            parts.append(html.paragraph(sentence.replace(".).", ")."), "quiet"))
    caption = (
        "Mean score of the best individual so far of each seed, and the spread of all individuals of a "
        "generation that could be evaluated. Lower is better; 1 is one standard deviation from the recording."
    )
    if any(stage.finalists for stage in contents.summary.stages):
        caption += " Diamonds: the best finalist, scored again by NEURON with a tighter integration."
    parts += [html.heading(3, "The search"), html.figure(search_figure(tables, contents.summary), caption)]
    return parts


def _stage(contents: CellContents, stage: StageContents) -> list[str]:
    name = stage.summary.stage
    so_far = "" if stage.summary.finished else " so far"
    parts = [html.heading(3, f"Best model of stage {name}{so_far}")]
    parts.append(html.paragraph(scores_sentence(stage.scores)))
    simulation = stage.simulation
    if simulation is not None and simulation.fault:
        parts.append(html.paragraph(f"It could not be simulated to the end: {simulation.fault}.", "note"))
    if groups := shown_traces(contents, stage):
        spikes = any(trace.spikes for group in groups for trace in group)
        with_current = groups[0][0].current is not None
        caption = _traces_caption(contents, name, with_current) + (SPIKES_CAPTION if spikes else "")
        parts.append(html.figure(traces_figure(groups), caption))
    caption = (
        "Score of each objective: its distance from the target in standard deviations (SD); dashed: 1 SD. Blue: within"
        " 1 SD, light orange: within 3, dark orange: farther; grey: the model has no such e-feature."
    )
    parts.append(html.figure(scores_figure(stage.scores, _titles(stage)), caption))
    parts.append(html.details("The same in numbers", _scores_table(stage)))
    return parts


def _traces_caption(contents: CellContents, stage: str, with_current: bool) -> str:
    current = ", and below it the current injected, holding current included" if with_current else ""
    fitted = f"Voltage at the soma{current}. Orange: the best model of stage {stage}"
    recording = contents.recording
    if recording is None:
        return f"{fitted}. There are no recorded traces of this cell to lay under it."
    junction = getattr(contents.subject, "junction_potential_mV", 0.0)
    return (
        f"{fitted}; black or white: recorded ({recording.path.name}), with the liquid junction potential of "
        f"{junction:g} mV subtracted."
    )


def _titles(stage: StageContents) -> dict[str, str]:
    steps = stage.problem.steps.values() if stage.problem else ()
    weakest_first = sorted(steps, key=lambda step: step.amplitude_nA)
    return {step.name: f"{step.name}\n{step.amplitude_nA * 1000:.4g} pA" for step in weakest_first}


def _scores_table(stage: StageContents) -> str:
    features = stage.simulation.features if stage.simulation else {}
    rows = []
    for objective, score in stage.scores.items():
        protocol, feature = split_objective(objective)
        found = features.get(objective)
        target = value = ""
        if found is not None:
            if found.mean is not None and found.std is not None:
                target = f"{short(found.mean)} ± {short(found.std)}"
            value = short(found.value) if found.value is not None else "none"
        rows.append((protocol, feature, feature_unit(feature), target, value, short(score)))
    head = ("protocol", "e-feature", "unit", "target, mean ± std", "model", "score")
    return html.table(head, rows, numbers=(3, 4, 5))


def _rates(contents: CellContents) -> list[str]:
    assert contents.rates is not None
    parts = [html.heading(3, "Firing rate and current (f-I)")]
    if contents.rates.fault:
        parts.append(html.paragraph(f"Not all steps could be simulated: {contents.rates.fault}.", "note"))
    if contents.rates.rates:
        caption = "Spikes during the step, divided by its duration."
        if contents.published_rates:
            features = listed(list(dict.fromkeys(rate.feature for rate in contents.published_rates)))
            caption += (
                f" Published: mean and standard deviation of {features}; mean_frequency divides by the time of the last"
                " spike, not by the duration, and Spikecount is divided by it here."
            )
        elif contents.recording is None:
            caption += " There is no recording to compare with; the steps are those of the published protocols."
        parts.append(html.figure(rates_figure(contents), caption))
    return parts


def _rescored(contents: CellContents) -> list[str]:
    models = contents.models
    if models is None or models.search_totals is None:
        return []
    engine = contents.stages[-1].summary.engine or "neuron"
    uncertain = contents.stages[-1].summary.uncertain_steps
    how = "in single precision" if engine == "vector" else "with a looser tolerance"
    caption = (
        f"The models of the hall of fame. The search scored them {how} (engine {engine}); the scores that "
        "count are those of NEURON with CVODE at a tolerance of 1e-4. Dashed: equal totals. A spike that "
        "comes or goes at the edge of a step moves an objective by many standard deviations."
    )
    return [
        html.heading(3, "The search's scores and NEURON's"),
        html.paragraph(rescored_sentence(models)),
        *(html.paragraph(f"{UNCERTAIN.capitalize()} {step}. {UNCERTAIN_MEANS}", "note") for step in uncertain),
        html.figure(rescored_figure(models), caption),
    ]


def _parameters(contents: CellContents) -> list[str]:
    models = contents.models
    if models is None or not contents.bounds:
        return []
    finished = contents.summary.hall_of_fame > 0
    title = "Parameters of the hall of fame" if finished else "Parameters of the best individuals so far"
    caption = (
        f"The {len(models)} models inside the bounds of stage {contents.stages[-1].summary.stage}; active "
        "conductances and calcium parameters on a log axis, which begins at a ten-thousandth of the upper "
        "bound where the lower is below that. Bold names: at least half of the models sit on a bound."
    )
    known = {name: value for name, value in contents.known.items() if name in contents.bounds}
    if known:
        caption += " The recording is a simulation; bars: its parameters."
        outside = [n for n, value in known.items() if not contents.bounds[n][0] <= value <= contents.bounds[n][1]]
        if outside:
            caption += f" Outside of the bounds, and at their edge here: {listed(outside)}."
    hits = on_bounds(models, contents.bounds)
    return [
        html.heading(3, title),
        *map(html.paragraph, bounds_sentences(hits, contents.bounds, contents.full_bounds)),
        html.figure(parameters_figure(models, contents.bounds, known), caption),
    ]


def _outcomes(tables: RunTables, cell: CellSummary) -> list[str]:
    reasons = tables.rows(
        "select replace(stage, ?, ''), status, reason, count(*) n from evaluations "
        "where cell = ? and status <> 'ok' group by 1, 2, 3 order by n desc, 1, 2, 3",
        [FINAL, cell.cell],
    )
    parts = [html.heading(3, "Outcomes and evaluation times")]
    counts: dict[str, int] = {}
    for stage in cell.stages:
        for status, count in stage.outcomes.items():
            counts[status] = counts.get(status, 0) + count
    failed = [f"{count:,} {status}" for status, count in counts.items() if status != "ok"]
    of = sum(counts.values())
    parts.append(
        html.paragraph(
            f"Of {of:,} evaluations {listed(failed)}; those score 250 on every objective."
            if failed
            else f"All {of:,} evaluations gave scores."
        )
    )
    parts.append(html.figure(outcomes_figure(tables, cell), "Times are wall-clock times of single evaluations."))
    if reasons:
        more = f", the {SHOWN_REASONS} most frequent" if len(reasons) > SHOWN_REASONS else ""
        head = ("stage", "outcome", "reason", "evaluations")
        parts.append(html.details(f"Reasons{more}", html.table(head, reasons[:SHOWN_REASONS], numbers=(3,))))
    return parts

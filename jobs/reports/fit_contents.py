"""Gather what the report says of one cell: from the run folder, the job's inputs and new simulations."""

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow.compute as pc

from neurofleet.cluster.store.run_store import POOLED, RunStore
from neurofleet.cluster.store.schemas import FEATURES, OBJECTIVE_PREFIX, PARAMETER_PREFIX, TRACES, HallOfFameRows
from neurofleet.errors import InputError, UsageError
from neurofleet.jobs.fit.campaign_state import FINAL
from neurofleet.jobs.fit.fit_inputs import prepare
from neurofleet.jobs.fit.fit_job import QUICK_RATE_STEPS
from neurofleet.jobs.fit.fit_problem import Problem, Subject
from neurofleet.jobs.job_folder import job_folder_of
from neurofleet.jobs.reports.simulation import Request, Simulation, simulate
from neurofleet.jobs.results.cell_models import stored_of_cell
from neurofleet.jobs.results.parameters_at_bounds import Bounds
from neurofleet.jobs.results.run_summary import CellSummary, StageSummary
from neurofleet.jobs.results.run_tables import RunTables
from neurofleet.neurosim.cells.demo_cell import known_parameters
from neurofleet.neurosim.cells.fit_model import recording_name
from neurofleet.neurosim.cells.model_responses import FeatureValue
from neurofleet.neurosim.features.step_protocols import StepProtocol, TargetSet, group_sweeps
from neurofleet.neurosim.features.training_targets import SPIKES_IN_STEP, FiringRate, firing_rates
from neurofleet.neurosim.recordings.recorded_spikes import SPIKE_THRESHOLD_MV
from neurofleet.neurosim.recordings.recording import Recording

SPIKES, MEAN_FREQUENCY = "Spikecount", "mean_frequency"
SHOWN_MODELS = 10  # of an unfinished search, in place of the hall of fame
RATE_MODELS, RATE_STEPS = 3, 10
"""Models of the f-I curve, and steps of those beside the best, which is simulated at all steps that were recorded."""

MOST_RATE_STEPS = 40


@dataclass
class StageContents:
    """One stage: its best model so far, and what that does.

    Attributes
    ----------
    summary : StageSummary
    parameters, scores : dict
        Of the best model: full parameter name -> value, fixed ones included; objective -> score.
    problem : Problem or None
        None where the inputs of the job are gone.
    simulation : Simulation or None
    """

    summary: StageSummary
    parameters: dict[str, float]
    scores: dict[str, float]
    problem: "Problem | None" = None
    simulation: Simulation | None = None


@dataclass
class CellContents:
    """One cell.

    Attributes
    ----------
    summary : CellSummary
    stages : list of StageContents
    models : HallOfFameRows or None
        The pooled hall of fame, or the best individuals so far of the stage under way.
    bounds, full_bounds : mapping
        Box that the last stage searched, and the recipe's own, which the winner of the stage before it has
        narrowed; empty if not known.
    subject : Subject or None
    missing : str
        Why the inputs could not be read again.
    recorded_rates : list of FiringRate
    published_rates : list of PublishedRate
        Where the targets are published and nothing was recorded.
    rates : Simulation or None
        Spikes of the best models at the recorded steps.
    known : mapping
        The parameters of a simulated cell, full name -> value; empty for others.
    """

    summary: CellSummary
    stages: list[StageContents]
    models: HallOfFameRows | None
    bounds: Bounds
    full_bounds: Bounds = field(default_factory=dict)
    subject: "Subject | None" = None
    missing: str = ""
    recorded_rates: "list[FiringRate]" = field(default_factory=list)
    published_rates: "list[PublishedRate]" = field(default_factory=list)
    rates: Simulation | None = None
    known: Mapping[str, float] = field(default_factory=dict)

    @property
    def recording(self) -> "Recording | None":
        return getattr(self.subject, "recording", None)


def gather(tables: RunTables, summary: CellSummary, pool: Executor) -> CellContents:
    """Collect a cell's contents; its simulations run side by side in `pool`."""
    events = [e for e in tables.store.read_events() if e.get("cell") == summary.cell]
    bounds = {e["stage"]: e["bounds"] for e in events if e["event"] == "stage started"}
    winners = {e["stage"]: e["parameters"] for e in events if e["event"] == "stage finished"}
    stages = [_stage(tables, summary.cell, stage, winners) for stage in summary.stages]
    last = stages[-1].summary.stage if stages else ""
    contents = CellContents(
        summary=summary,
        stages=stages,
        models=_models(tables, summary, last) if stages else None,
        bounds=bounds.get(last, {}),
    )
    contents.subject, contents.missing = _subject(tables, summary.cell)
    if contents.subject is not None and stages:
        _set_problems(contents, winners, tables.parameters)
        _simulate(tables, contents, pool)
    if contents.recording is not None:
        contents.known = known_parameters(contents.recording.path)
    return contents


def _stage(
    tables: RunTables, cell: str, summary: StageSummary, winners: Mapping[str, dict[str, float]]
) -> StageContents:
    stage = summary.stage + FINAL if summary.finalists else summary.stage
    best = _best(tables, cell, stage, 1)
    parameters = dict(zip(best.parameter_names, best.parameters[0].tolist(), strict=True))
    return StageContents(
        summary=summary,
        parameters=winners.get(summary.stage, parameters),
        scores=dict(zip(best.objective_names, best.scores[0].tolist(), strict=True)),
    )


def _models(tables: RunTables, summary: CellSummary, stage: str) -> HallOfFameRows:
    hall = tables.store.read_hall_of_fame(summary.cell, POOLED)
    return _best(tables, summary.cell, stage, SHOWN_MODELS) if hall is None else hall


def _best(tables: RunTables, cell: str, stage: str, size: int) -> HallOfFameRows:
    """Return the best individuals of a stage over all seeds; equal ones in the order they were found."""
    names, objectives = tables.parameters[cell, stage], tables.objectives[cell, stage]
    wide = [PARAMETER_PREFIX + name for name in names] + [OBJECTIVE_PREFIX + name for name in objectives]
    columns = ", ".join('"' + column.replace('"', '""') + '"' for column in wide)
    best = tables.rows(
        "select seed, generation, individual from evaluations "
        f"where cell = ? and stage = ? order by total, seed, generation, individual limit {size}",
        [cell, stage],
    )
    one = "cell = ? and stage = ? and seed = ? and generation = ? and individual = ?"
    rows = [  # scores of these rows alone are read
        tables.rows(f"select total, {columns} from evaluations where {one}", [cell, stage, *place])[0] for place in best
    ]
    numbers = np.array(rows, float)
    seeds, generations, individuals = np.array(best, int).T
    return HallOfFameRows(
        cell=cell,
        seeds=seeds,
        generations=generations,
        individuals=individuals,
        parameter_names=names,
        objective_names=objectives,
        parameters=numbers[:, 1 : 1 + len(names)],
        scores=numbers[:, 1 + len(names) :],
        totals=numbers[:, 0],
    )


def _subject(tables: RunTables, cell: str) -> "tuple[Subject | None, str]":
    """Read the inputs of this cell alone: files of another that are gone do not matter to it."""
    spec = tables.spec
    if spec.cells is not None:
        spec = spec.model_copy(update={"cells": [c for c in spec.cells if c.id == cell]})
    try:
        return prepare(spec, job_folder_of(tables.store))[0], ""
    except (UsageError, InputError, OSError) as error:
        return None, str(error)


def _set_problems(
    contents: CellContents,
    winners: Mapping[str, dict[str, float]],
    searched: Mapping[tuple[str, str], tuple[str, ...]],
) -> None:
    """Find out what each stage searched, and with that the fixed parameters of its best model."""
    subject = contents.subject
    assert subject is not None
    names = [plan.name for plan in subject.stages]
    winner = None
    for stage in contents.stages:
        name = stage.summary.stage
        problem = subject.problem(names.index(name), winner) if name in names else None
        if problem is None or set(problem.names) != set(searched[contents.summary.cell, name]):
            contents.missing = (
                f"the job's inputs have changed since; they do not give the parameters that stage {name} searched."
            )
            return
        stage.problem = problem
        stage.parameters = {**problem.fixed, **stage.parameters}
        contents.bounds = _box(problem)
        contents.full_bounds = _box(subject.problem(names.index(name), None))
        winner = winners.get(name)


def _box(problem: "Problem") -> Bounds:
    return dict(zip(problem.names, zip(problem.lower, problem.upper, strict=True), strict=True))


def _simulate(tables: RunTables, contents: CellContents, pool: Executor) -> None:
    max_steps, quick = tables.spec.max_steps, tables.spec.quick
    under_way = []
    for stage in contents.stages:
        if (problem := stage.problem) is not None:
            best = tuple(stage.parameters[name] for name in problem.names)
            if stage is contents.stages[-1] and (
                stored := stored_simulation(tables.store, contents.models, problem, best)
            ):
                stage.simulation = stored
                continue
            request = Request(problem.final_model or problem.model, (best,), max_steps=max_steps)
            under_way.append((stage, pool.submit(simulate, request)))
    curves = [pool.submit(simulate, request) for request in _rates_requests(contents, max_steps, quick)]
    if curves:
        of_best, *of_others = (curve.result() for curve in curves)
        rates = [replace(rate, individual=rate.individual + 1) for other in of_others for rate in other.rates]
        fault = of_best.fault or next((other.fault for other in of_others), "")
        contents.rates = Simulation(rates=of_best.rates + rates, fault=fault)
    for stage, future in under_way:
        stage.simulation = future.result()


def stored_simulation(
    store: RunStore, models: HallOfFameRows | None, problem: "Problem", best: tuple[float, ...]
) -> Simulation | None:
    """Return what the best model did when its cell ended, None where that was not stored."""
    if models is None:
        return None
    columns = [list(models.parameter_names).index(name) for name in problem.names]
    tables = [stored_of_cell(store, kind, models.cell) for kind in (TRACES, FEATURES)]
    traces, features = ([] if table is None else table.filter(pc.field("rank") == 1).to_pylist() for table in tables)
    if not traces or not features or tuple(models.parameters[0, columns].tolist()) != best:
        return None
    done = Simulation()
    for row in traces:
        name = recording_name(row["protocol"]) if row["protocol"] in problem.steps else row["protocol"]
        done.traces[name] = (np.array(row["time_ms"]), np.array(row["voltage_mV"]))
    for row in features:
        done.features[row["objective"]] = FeatureValue(row["value"], row["mean"], row["std"])
    return done


def _rates_requests(contents: CellContents, max_steps: int | None, quick: bool) -> list[Request]:
    """Ask for the spikes of the best models at the recorded steps, once the stage that spikes has begun.

    The first request is of the best model alone; a quick run has no other.
    """
    assert contents.subject is not None
    problem, models = contents.stages[-1].problem, contents.models
    recording = contents.recording
    if problem is None or models is None or len(contents.stages) < len(contents.subject.stages):
        return []
    if recording is not None:
        contents.recorded_rates = [rate for rate in firing_rates(recording) if rate.amplitude_nA > 0]
        protocols = [protocol for protocol, _ in group_sweeps(recording)]
    else:
        protocols = list(problem.steps.values())
        contents.published_rates = published_rates(problem.targets) if problem.targets else []
    protocols = [protocol for protocol in protocols if protocol.amplitude_nA > 0]
    if not protocols:
        return []
    columns = [list(models.parameter_names).index(name) for name in problem.names]
    best, *others = (tuple(row) for row in models.parameters[:RATE_MODELS, columns].tolist())
    model = problem.final_model or problem.model
    steps = spread(protocols, QUICK_RATE_STEPS if quick else MOST_RATE_STEPS)
    requests = [Request(model, (best,), tuple(steps), max_steps)]
    if others and not quick:
        requests.append(Request(model, tuple(others), tuple(spread(protocols, RATE_STEPS)), max_steps))
    return requests


@dataclass(frozen=True)
class PublishedRate:
    """Spikes per second at a step as published targets tell them: mean and standard deviation of an e-feature."""

    amplitude_nA: float
    mean_Hz: float
    std_Hz: float
    feature: str


def published_rates(targets: TargetSet) -> list[PublishedRate]:
    """Return the firing rates that targets tell at steps that depolarise, weakest step first."""
    rates = []
    for step in sorted(targets.protocols.values(), key=lambda step: step.amplitude_nA):
        of_step = {target.feature: target for target in targets.targets if target.protocol == step.name}
        step_s = (step.stop_ms - step.start_ms) / 1000.0
        for feature, per_s in ((SPIKES, step_s), (SPIKES_IN_STEP, step_s), (MEAN_FREQUENCY, 1.0)):
            if step.amplitude_nA > 0 and (target := of_step.get(feature)) is not None:
                rates.append(PublishedRate(step.amplitude_nA, target.mean / per_s, target.std / per_s, feature))
                break
    return rates


def spread(steps: "Sequence[StepProtocol]", most: int) -> "list[StepProtocol]":
    """Return at most `most` of the steps, over the whole range of amplitudes, weakest first."""
    ordered: list[Any] = sorted(steps, key=lambda step: step.amplitude_nA)
    if len(ordered) <= most:
        return ordered
    amplitudes_nA = np.linspace(ordered[0].amplitude_nA, ordered[-1].amplitude_nA, most)
    amplitudes = np.array([step.amplitude_nA for step in ordered])
    return [ordered[i] for i in sorted({int(np.abs(amplitudes - a).argmin()) for a in amplitudes_nA})]


SPIKING_STEPS, SILENT_STEPS, REPEATS = 4, 5, 2
BEFORE, AFTER = 0.15, 0.35  # of the step's length, shown around it

Trace = tuple[np.ndarray, np.ndarray]
"""Time in ms and voltage in mV (or current in pA), (n,) arrays."""


@dataclass(frozen=True)
class ShownTrace:
    """What is shown of one protocol.

    Attributes
    ----------
    name : str
    amplitude_pA : float or None
        Of its step; None for a protocol of a user's own model.
    model : Trace
    recorded : tuple of Trace
        Repeats; empty where nothing was recorded.
    window_ms : tuple of float
        The step and a little around it.
    onset_ms : float or None
        When the step begins; None for a protocol of a user's own model.
    current : Trace or None
        What is injected, in pA, holding current included; None where it is not known.
    spike_mV : float
        Voltage that a spike rises above.
    """

    name: str
    amplitude_pA: float | None
    model: Trace
    recorded: tuple[Trace, ...]
    window_ms: tuple[float, float]
    onset_ms: float | None = None
    current: Trace | None = None
    spike_mV: float = SPIKE_THRESHOLD_MV

    @property
    def spikes(self) -> bool:
        """Whether the cell or the model spikes."""
        return any(voltage.size and voltage.max() > self.spike_mV for _, voltage in (self.model, *self.recorded))

    @property
    def title(self) -> str:
        return self.name if self.amplitude_pA is None else f"{self.name}: {self.amplitude_pA:.4g} pA"


def shown_traces(contents: CellContents, stage: StageContents) -> list[list[ShownTrace]]:
    """Return groups of traces, one group for each panel.

    Silent steps are shown over each other where no step spikes; else the strongest silent one and the
    strongest spiking ones, each by itself. Of a user's own model the first protocols are shown.
    """
    if stage.simulation is None or stage.problem is None:
        return []
    if stage.problem.targets is None:
        return [[trace] for trace in _of_user_model(stage.simulation.traces)[:SPIKING_STEPS]]
    steps = sorted(stage.problem.steps.values(), key=lambda step: step.amplitude_nA)
    traces = [trace for step in steps if (trace := _of_step(contents, stage, step)) is not None]
    silent = [trace for trace in traces if not trace.spikes]
    spiking = [trace for trace in traces if trace.spikes][-SPIKING_STEPS:]
    if not spiking:
        return [_spread(silent)] if silent else []
    return [[trace] for trace in (*silent[-1:], *spiking)]


def _of_user_model(traces: dict[str, Trace]) -> list[ShownTrace]:
    somatic = {name: trace for name, trace in traces.items() if "soma" in name.lower()} or traces
    return [
        ShownTrace(name, None, (time, voltage), (), (float(time[0]), float(time[-1])))
        for name, (time, voltage) in somatic.items()
        if time.size
    ]


def _of_step(contents: CellContents, stage: StageContents, step: "StepProtocol") -> ShownTrace | None:
    assert stage.simulation is not None
    trace = stage.simulation.traces.get(recording_name(step.name))
    if trace is None or not step.sweeps:  # a step that was not recorded, such as the check for a block
        return None
    sweeps = {sweep.number: sweep for sweep in contents.recording.sweeps} if contents.recording else {}
    recorded = tuple(step.align(sweeps[number]) for number in step.sweeps[:REPEATS] if number in sweeps)
    length = step.stop_ms - step.start_ms
    window = (
        max(0.0, step.start_ms - BEFORE * length),
        min(step.duration_ms, step.stop_ms + AFTER * length),
    )
    threshold_mV = contents.recording.spike_threshold_mV if contents.recording else SPIKE_THRESHOLD_MV
    current = injected_pA(step, window)
    return ShownTrace(
        step.name, step.amplitude_nA * 1000, trace, recorded, window, step.start_ms, current, threshold_mV
    )


def injected_pA(step: "StepProtocol", window_ms: tuple[float, float]) -> Trace:
    """Return the current that a model is given: the step on top of the holding current."""
    holding, top = 1000 * step.holding_nA, 1000 * (step.holding_nA + step.amplitude_nA)
    times_ms = [window_ms[0], step.start_ms, step.start_ms, step.stop_ms, step.stop_ms, window_ms[1]]
    return np.array(times_ms), np.array([holding, holding, top, top, holding, holding])


def _spread(traces: Sequence[ShownTrace]) -> list[ShownTrace]:
    """Return a few of the steps, from the weakest to the strongest."""
    count = min(len(traces), SILENT_STEPS)
    return [traces[round(i)] for i in np.linspace(0, len(traces) - 1, count)]


def first_peak_ms(time_ms: np.ndarray, voltage_mV: np.ndarray, spike_mV: float = SPIKE_THRESHOLD_MV) -> float | None:
    """Return the time of the first spike's peak, None without a spike."""
    above = voltage_mV > spike_mV
    if not above.any():
        return None
    first = int(above.argmax())
    below = np.flatnonzero(~above[first:])
    last = first + int(below[0]) if below.size else voltage_mV.size
    return float(time_ms[first + int(voltage_mV[first:last].argmax())])

"""What is compared: cells that have models of both types, and the steps that these are given."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.compare.spec import CompareSpec, StepsSpec
from jobs.errors import UsageError
from jobs.populations.models import read_populations
from neurosim.errors import InputError
from neurosim.faults import nearest
from neurosim.population import Population, RecordingSource
from neurosim.protocols import StepProtocol

if TYPE_CHECKING:
    from neurosim.recordings import Sweep

AFTER_MS = 200.0
ENOUGH = 3
"""Steps that are taken from a recording or from published targets."""

Statistics = tuple[float, float, int]


@dataclass(frozen=True)
class Comparison:
    """A cell whose models are compared.

    Attributes
    ----------
    cell : str
    populations : dict of str to Population
        By type.
    steps : tuple of StepProtocol
        Weakest first.
    recorded : dict of (str, str) to (float, float, int)
        Step and e-feature -> mean, standard deviation and number of values; without those that the
        recording does not have.
    """

    cell: str
    populations: dict[str, Population]
    steps: tuple[StepProtocol, ...]
    recorded: Mapping[tuple[str, str], Statistics]


def read_comparisons(spec: CompareSpec, folder: Path) -> tuple[list[Comparison], list[str]]:
    """Read both types of models and their steps; relative paths start at `folder`.

    Returns
    -------
    list of Comparison
    list of str
        Which cells and e-features are left out, and why.

    Raises
    ------
    UsageError, InputError
        Models cannot be used, no cell has both types, or nothing tells which steps to simulate.
    """
    check_features(spec.features)
    by_type = {
        name: {p.cell: p for p in read_populations(models, folder)} for name, models in spec.models.items()
    }
    first, second = by_type
    both = [cell for cell in by_type[first] if cell in by_type[second]]
    if not both:
        raise UsageError(
            f"models: no cell has models of both types: {first} has {_listed(by_type[first])}, {second} has "
            f"{_listed(by_type[second])}. Give the same cell the same id in both."
        )
    notes = [
        f"{cell}: left out, it has no models of type {other}"
        for name, other in ((first, second), (second, first))
        for cell in by_type[name]
        if cell not in by_type[other]
    ]
    found = []
    for cell in both:
        populations = {name: by_type[name][cell] for name in by_type}
        steps, recorded, said = _steps(spec, populations)
        notes += [f"{cell}: {line}" for line in said]
        found.append(Comparison(cell, populations, steps, recorded))
    return found, notes


def check_features(names: Sequence[str]) -> None:
    """Raise `InputError` for e-features that neither eFEL nor perisomatic models have."""
    import efel

    from neurosim.perisomatic.features import FEATURES

    known = [*FEATURES, *efel.get_feature_names()]
    unknown = [f"{name}{nearest(name, known)}" for name in names if name not in known]
    if unknown:
        raise InputError(
            f"features: expected names of eFEL's or perisomatic e-features, found {', '.join(unknown)}."
        )


def _listed(populations: Mapping[str, Population]) -> str:
    return ", ".join(list(populations)[:5])


def _steps(
    spec: CompareSpec, populations: Mapping[str, Population]
) -> tuple[tuple[StepProtocol, ...], Mapping[tuple[str, str], Statistics], list[str]]:
    if spec.steps is not None:
        return _own_steps(spec.steps), {}, []
    for population in populations.values():
        if population.recording is not None:
            return _recorded_steps(population.recording, spec.features)
    for population in populations.values():
        trained = sorted((s for s in population.trained if s.amplitude_nA > 0), key=lambda s: s.amplitude_nA)
        if trained:
            means = {
                (target.protocol, target.feature): (target.mean, target.std, target.n)
                for target in population.model.targets.targets
                if target.feature in spec.features
            }
            return tuple(trained[-ENOUGH:]), means, []
    raise UsageError(
        f"cell {next(iter(populations.values())).cell}: nothing tells which steps to simulate. Give one of "
        "its models `recordings:` or `targets:`, or the job `steps: {amplitudes_nA: [0.2]}`."
    )


def _own_steps(steps: StepsSpec) -> tuple[StepProtocol, ...]:
    stop_ms = steps.delay_ms + steps.duration_ms
    return tuple(
        StepProtocol(f"{1000 * amplitude:g}pA", amplitude, steps.delay_ms, stop_ms, stop_ms + AFTER_MS)
        for amplitude in sorted(steps.amplitudes_nA)
    )


def _recorded_steps(
    source: RecordingSource, features: Sequence[str]
) -> tuple[tuple[StepProtocol, ...], Mapping[tuple[str, str], Statistics], list[str]]:
    """Return the weakest, the middle and the strongest step with spikes, and what was recorded there."""
    from neurosim.extraction import SPIKES_IN_STEP, TargetExtraction, recorded_features
    from neurosim.protocols import group_sweeps
    from neurosim.recordings import read_recording

    recording = read_recording(
        source.path,
        junction_potential_mV=source.junction_potential_mV,
        stimuli=source.stimuli,
        exclude=source.exclude,
    )
    spiking: list[tuple[StepProtocol, list[Sweep]]] = []
    for protocol, sweeps in group_sweeps(recording):
        counts = recorded_features(protocol, sweeps, [SPIKES_IN_STEP])[SPIKES_IN_STEP]
        if protocol.amplitude_nA > 0 and all(count.sum() for count in counts):
            spiking.append((protocol, sweeps))
    if not spiking:
        raise InputError(
            f"{source.path}: expected depolarising steps at which every repeat spikes, found none. Name "
            "other `stimuli:`, or give the job `steps: {amplitudes_nA: [0.2]}`."
        )
    chosen = sorted({0, len(spiking) // 2, len(spiking) - 1})
    extraction = TargetExtraction(source.path)
    for i in chosen:
        extraction.add(*spiking[i], features)
    targets = extraction.target_set()
    means = {(t.protocol, t.feature): (t.mean, t.std, t.n) for t in targets.targets}
    return tuple(spiking[i][0] for i in chosen), means, list(targets.warnings)

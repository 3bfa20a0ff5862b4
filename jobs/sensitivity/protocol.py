"""The step current at which a cell's features are measured: by default the strongest Long Square."""

from collections.abc import Mapping

from jobs.errors import UsageError
from jobs.sensitivity.spec import AFTER_STEP_MS, SensitivitySpec
from neurosim.faults import nearest
from neurosim.population import Population
from neurosim.protocols import StepProtocol
from neurosim.targets import BLOCK_CHECK


def protocol_of(spec: SensitivitySpec, population: Population) -> StepProtocol:
    """Return the step that a job means for a cell.

    Raises
    ------
    UsageError
        When the cell has no such protocol, or none is known for it.
    """
    if spec.step is not None:
        end_ms = spec.step.stop_ms + AFTER_STEP_MS
        step = spec.step
        return StepProtocol("step", step.amplitude_nA, step.start_ms, step.stop_ms, end_ms, 0.0, "step")
    known = _known(population)
    if not known:
        raise UsageError(
            f"cell {population.cell}: no protocol is known for it. Give its fit `targets:` or `recordings:`, "
            "or the job a `step: {amplitude_nA: 0.2}`."
        )
    if spec.protocol is None:
        return max(known.values(), key=lambda protocol: protocol.amplitude_nA)
    if spec.protocol not in known:
        raise UsageError(
            f"protocol: cell {population.cell} has no {spec.protocol}{nearest(spec.protocol, known)}; it has "
            f"{', '.join(known)}."
        )
    return known[spec.protocol]


def _known(population: Population) -> Mapping[str, StepProtocol]:
    """Return the protocols that the models were fitted to, else those of the recording."""
    fitted = population.model.targets.protocols
    if fitted:
        return {name: protocol for name, protocol in fitted.items() if name != BLOCK_CHECK}
    if population.recording is None:
        return {}
    from neurosim.protocols import group_sweeps
    from neurosim.recordings import read_recording

    source = population.recording
    recording = read_recording(
        source.path,
        junction_potential_mV=source.junction_potential_mV,
        stimuli=source.stimuli,
        exclude=source.exclude,
    )
    return {protocol.name: protocol for protocol, _ in group_sweeps(recording)}

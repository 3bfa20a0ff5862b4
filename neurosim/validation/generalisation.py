"""Targets at the steps of a recording that a fit was not trained on."""

from collections.abc import Sequence

from neurosim.errors import InputError
from neurosim.extraction import TargetExtraction
from neurosim.population import Population
from neurosim.protocols import StepProtocol, amplitude_tolerance_nA, group_sweeps
from neurosim.recordings import read_recording
from neurosim.targets import AIS_FEATURE, TargetSet

NOT_OF_ALL_STEPS = (AIS_FEATURE, "depol_block")


def generalisation_targets(population: Population) -> TargetSet | None:
    """Return the targets at all steps of the trained stimuli that no stage was scored at.

    The e-features are those that the last stage was scored on, each where the recorded cell has it.

    Returns
    -------
    TargetSet or None
        None where there is no recording, or no such step.

    Raises
    ------
    InputError
        The recording cannot be read, or the models' targets are not known.
    """
    source = population.recording
    if source is None:
        return None
    recording = read_recording(
        source.path,
        junction_potential_mV=source.junction_potential_mV,
        stimuli=source.stimuli,
        exclude=source.exclude,
    )
    features = [
        name
        for name in dict.fromkeys(target.feature for target in population.model.targets.targets)
        if name not in NOT_OF_ALL_STEPS
    ]
    if not features:
        raise InputError(
            f"cell {population.cell}: which e-features its models were fitted to is not known. Give its "
            "targets (`targets:`, a folder with features.json and protocols.json)."
        )
    extraction, found = TargetExtraction(source.path), False
    for protocol, sweeps in group_sweeps(recording):
        if not _is_trained(protocol, population.trained):
            extraction.add(protocol, sweeps, features)
            found = True
    return extraction.target_set() if found else None


def _is_trained(protocol: StepProtocol, trained: Sequence[StepProtocol]) -> bool:
    return any(
        abs(protocol.amplitude_nA - step.amplitude_nA) <= amplitude_tolerance_nA(step.amplitude_nA)
        and protocol.stimulus_name == step.stimulus_name
        for step in trained
    )

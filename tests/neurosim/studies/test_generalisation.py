"""The known cell beside recordings that were simulated from it: it has to explain them, another has not."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from neurofleet.errors import InputError
from neurofleet.neurosim.cells.demo_cell import JUNCTION_POTENTIAL_MV, KNOWN_PARAMETERS, demo_model
from neurofleet.neurosim.recordings.recording import RecordingSource
from neurofleet.neurosim.studies.cell_models import make_cell_models
from neurofleet.neurosim.studies.explained_variance import explained_variance_ratio, rates, smoothed
from neurofleet.neurosim.studies.generalisation import ValidationMeasure, generalisation_targets, played_stimuli
from tests.neurosim.cells.noisy_cell import NOISE_TRIALS

RUN = """
import pickle, sys
asked, individuals = pickle.load(sys.stdin.buffer)
run = asked.build()
sys.stdout.buffer.write(b"\\nVALUES" + pickle.dumps([run(values) for values in individuals]))
"""


def measured(asked, individuals):
    """Measure in a process of its own: NEURON keeps whatever cell stands in it."""
    import pickle

    done = subprocess.run(
        [sys.executable, "-c", RUN], input=pickle.dumps((asked, individuals)), capture_output=True, check=True
    )
    return pickle.loads(done.stdout.partition(b"\nVALUES")[2])


@pytest.fixture(scope="module")
def noisy(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("noisy")
    subprocess.run([sys.executable, "-m", "tests.neurosim.cells.noisy_cell", str(folder)], check=True)
    return folder


@pytest.fixture(scope="module")
def known(noisy):
    """The cell with its known parameters, and one of much less sodium in the axon; trained on two steps."""
    from neurofleet.neurosim.features.step_protocols import group_sweeps
    from neurofleet.neurosim.features.training_targets import TargetExtraction
    from neurofleet.neurosim.recordings.recording import read_recording

    source = RecordingSource(noisy / "cell.nwb", JUNCTION_POTENTIAL_MV)
    recording = read_recording(source.path)
    extraction = TargetExtraction(recording)
    for step, sweeps in group_sweeps(recording):
        if step.amplitude_nA in (pytest.approx(0.13), pytest.approx(0.2), pytest.approx(-0.1)):
            extraction.add(step, sweeps, ["mean_frequency", "AP_amplitude", "steady_state_voltage_stimend"])
    targets = extraction.target_set()
    model = replace(demo_model(noisy / "cell.swc"), targets=targets)
    values = np.array([[KNOWN_PARAMETERS[p.full_name] for p in model.free]] * 2)
    values[1, [p.full_name for p in model.free].index("gbar_NaTa_t.axon")] *= 0.4
    trained = tuple(targets.protocols.values())
    return make_cell_models(model, values, np.zeros(2, int), np.arange(2), trained, source)


def test_the_known_cell_explains_what_it_was_not_fitted_to_and_another_one_less(known):
    stimuli, notes = played_stimuli(known.recording)
    general = generalisation_targets(known)
    truth, other = measured(ValidationMeasure(known.model, general, tuple(stimuli)), known.values)
    assert [stimulus.stimulus_name for stimulus in stimuli] == ["Noise 1", "Ramp"]
    assert not notes
    assert {target.protocol for target in general.targets} == {"LongDC_1", "LongDC_3", "LongDC_4"}
    # A step was recorded once: the standard deviation of AP_amplitude is that of its spikes, whose distances
    # from their mean are scored one by one, so that even the truth is not at zero.
    assert truth.training.mean() < 0.5
    assert truth.generalisation.mean() < 0.5
    assert other.generalisation.mean() > 3 * truth.generalisation.mean()
    noise, ramp = stimuli
    for stimulus in (noise, ramp):
        found, recorded = truth.spikes_ms[stimulus.name], stimulus.spikes_ms[0]
        assert len(found) == len(recorded) > 2
    assert np.abs(truth.spikes_ms[ramp.name] - ramp.spikes_ms[0]).max() < 1.0
    trials = rates(noise.spikes_ms, noise.duration_ms)
    assert len(trials) == NOISE_TRIALS
    ratio = [
        explained_variance_ratio(trials, smoothed(one.spikes_ms[noise.name], noise.duration_ms))
        for one in (truth, other)
    ]
    assert ratio[0] > 0.9
    assert ratio[0] > ratio[1] + 0.1


def test_trials_of_another_current_and_stimuli_not_asked_for_are_left_out(known, noisy):
    stimuli, notes = played_stimuli(known.recording, noise=["Noise*", "Ramp", "Test"], others=["nothing"])
    assert [stimulus.stimulus_name for stimulus in stimuli] == ["Noise 1", "Ramp", "Test"]
    stimuli, notes = played_stimuli(known.recording, noise=["*"], others=["nothing"])
    assert len(stimuli) == 3
    everything, _ = played_stimuli(RecordingSource(noisy / "cell.nwb", stimuli=("Ramp",)), sweeps_each=2)
    assert [len(s.sweeps) for s in everything if s.is_noise] == [NOISE_TRIALS]
    assert [s.sweeps for s in everything if not s.is_noise] == [(0,), (5,)]


def test_without_features_generalisation_asks_for_targets(known):
    nothing = replace(known, model=demo_model(known.recording.path.parent / "cell.swc"))
    with pytest.raises(InputError, match="targets"):
        generalisation_targets(nothing)

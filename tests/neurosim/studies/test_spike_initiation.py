"""Where spikes begin: made-up times, and two cells of which it is known."""

from dataclasses import replace

import numpy as np
import pytest

from neurofleet.neurosim.cells.demo_cell import KNOWN_PARAMETERS, SWC, demo_model
from neurofleet.neurosim.features.step_protocols import StepProtocol
from neurofleet.neurosim.studies.explained_variance import spike_times
from neurofleet.neurosim.studies.spike_initiation import (
    ALONE,
    AT_ONCE,
    AXON_FIRST,
    SOMA_FIRST,
    StepsMeasure,
    passages,
)
from tests.neurosim.studies.test_generalisation import measured


def test_a_rise_through_the_level_is_timed_between_samples():
    times = np.array([0.0, 1.0, 2.0, 3.0, 4.0])
    assert spike_times(times, np.array([-60.0, -30.0, 10.0, -30.0, -20.0]), -20.0) == pytest.approx([1.25, 4.0])
    assert spike_times(times, np.full(5, 0.0), -20.0).size == 0


@pytest.mark.parametrize(
    ("near_ms", "far_ms", "begins", "delays"),
    [
        ([9.7], [9.6], AXON_FIRST, (-0.3, -0.4)),
        ([10.1], [10.3], SOMA_FIRST, (0.1, 0.3)),
        ([10.001], [10.3], AT_ONCE, (0.001, 0.3)),
        ([10.2], [], SOMA_FIRST, (0.2, np.nan)),
        ([], [14.0], ALONE, (np.nan, np.nan)),
    ],
)
def test_the_first_place_is_where_a_spike_begins(near_ms, far_ms, begins, delays):
    (spike,) = passages(np.array([10.0]), [np.array(near_ms), np.array(far_ms)])
    assert spike.begins == begins
    assert spike.delays_ms == pytest.approx(delays, abs=1e-9, nan_ok=True)


def test_an_active_axon_fires_first_and_a_passive_one_follows(tmp_path):
    (tmp_path / "cell.swc").write_text(SWC)
    model = demo_model(tmp_path / "cell.swc")
    known = np.array([KNOWN_PARAMETERS[p.full_name] for p in model.free])
    step = StepProtocol("step", 0.3, 250.0, 320.0, 330.0)
    asked = StepsMeasure(model, (step,), ("avg_rate", "AP_amplitude_from_voltagebase"))
    passive = known.copy()
    for i, parameter in enumerate(model.free):
        if parameter.section == "axon":
            passive[i] = 0.0
        elif parameter.full_name == "gbar_NaTs2_t.soma":
            passive[i] = 2.0
    wide = replace(model, free=tuple(replace(p, lower=0.0 if p.name != "e_pas" else -110.0) for p in model.free))
    active, follower = (one["step"] for one in measured(replace(asked, model=wide), [known, passive]))
    assert [place.name for place in active.places] == ["soma[0](0.5)", "axon[0](0.5)", "axon[1](0.5)"]
    assert active.features["avg_rate"] == pytest.approx(1000.0 * active.spikes_ms[0].size / 70.0)
    assert active.spikes_ms[0].size >= 1
    assert {spike.begins for spike in passages(active.spikes_ms[0], active.spikes_ms[1:])} == {AXON_FIRST}
    assert follower.spikes_ms[0].size >= 1
    begun = passages(follower.spikes_ms[0], follower.spikes_ms[1:])
    assert {spike.begins for spike in begun} == {SOMA_FIRST}
    assert all(0 < spike.delays_ms[0] < spike.delays_ms[1] for spike in begun)
    assert active.close_mV.shape == (3, active.close_ms.size)

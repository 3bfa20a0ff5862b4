"""NaV, a chain of twelve states, and NEURON's own hh: the kernel gives the voltages that NEURON gives."""

import numpy as np
import pytest

from neurofleet.neurosim.features.step_protocols import StepProtocol
from tests.fresh_process import in_fresh_process
from tests.neurosim.vector.reference import both, made_up_cell, spike_times

STEP = StepProtocol("step", 0.3, 20.0, 80.0, 90.0)
ASPINY = {"all": ("pas",), "soma": ("NaV", "Kv3_1"), "axon": ("NaV", "Kv3_1", "Kd"), "dend": ("NaV",)}
ASPINY_VALUES = {
    "g_pas.all": 5e-5,
    "e_pas.all": -75.0,
    "gbar_NaV.soma": 0.05,
    "gbar_NaV.axon": 0.3,
    "gbar_NaV.dend": 0.01,
    "gbar_Kv3_1.soma": 0.2,
    "gbar_Kv3_1.axon": 0.3,
}
SQUID = {"all": ("pas",), "soma": ("hh",), "axon": ("hh",)}
SQUID_VALUES = {"g_pas.all": 5e-5, "gnabar_hh.soma": 0.5, "gkbar_hh.soma": 0.03, "gnabar_hh.axon": 0.2}


def runs():
    from neuron import h

    values = np.array([list(ASPINY_VALUES.values())]) * [[1.0], [1.2]]
    aspiny = made_up_cell(ASPINY, ASPINY_VALUES)
    kinds = ((1, "float64"), (2, "float64"), (2, "float32"))
    found = {("NaV", *kind): both(aspiny, values, STEP, *kind) for kind in kinds}
    squid = made_up_cell(SQUID, SQUID_VALUES, {"e_pas.all": -65.0})
    for table in (0, 1):
        h.usetable_hh = table
        found["hh", table] = both(squid, np.array([list(SQUID_VALUES.values())]), STEP, 2)
    return found


@pytest.fixture(scope="module")
def found():
    return in_fresh_process(runs)


def check(found, spike_ms, quiet_mV, n_spikes):
    """Compare the spikes of all individuals, and all voltages until the first spike."""
    for vector, neuron in zip(found["vector"], found["neuron"], strict=True):
        expected = spike_times(found["times"], neuron[0])
        assert len(expected) >= n_spikes
        np.testing.assert_allclose(spike_times(found["times"], vector[0]), expected, atol=spike_ms)
        quiet = found["times"] < expected[0] - 1.0
        np.testing.assert_allclose(vector[:, quiet], neuron[:, quiet], atol=quiet_mV)


@pytest.mark.parametrize("order", [1, 2])
def test_nav_is_that_of_neuron(found, order):
    check(found["NaV", order, "float64"], 1e-6, 1e-9, 5)


def test_nav_in_half_the_precision_is_near(found):
    check(found["NaV", 2, "float32"], 0.01, 1e-3, 5)


def test_hh_is_that_of_neuron(found):
    exact, interpolated = found["hh", 0], found["hh", 1]
    assert np.ptp(exact["neuron"]) > 15
    np.testing.assert_allclose(exact["vector"], exact["neuron"], atol=1e-9)
    # NEURON interpolates in tables of 1 mV, which tells where the voltage runs.
    quiet = exact["times"] < STEP.start_ms
    vector, neuron = (interpolated[engine][..., quiet] for engine in ("vector", "neuron"))
    np.testing.assert_allclose(vector, neuron, atol=5e-3)


def published_485184849(folder):
    from neurofleet.neurosim.cells.morphology import MorphologyFile
    from neurofleet.neurosim.exchange.allen_fit import read_fit
    from neurofleet.neurosim.studies.cell_models import published_cell_models

    fit = read_fit(folder / "485184849_fit.json")
    file = MorphologyFile.read(folder / "485184849_reconstruction.swc")
    published = published_cell_models("485184849", fit, file, "stub")
    assert "NaV" in published.model.mechanisms["soma"]
    step = StepProtocol("step", 0.5, 20.0, 70.0, 80.0)
    return both(published.model, published.values[:1], step, 2)


def test_the_published_model_of_the_aspiny_mouse_485184849(shared_data):
    found = in_fresh_process(published_485184849, shared_data / "neuron" / "bmtk_morphologies")
    check(found, 0.01, 1e-3, 3)

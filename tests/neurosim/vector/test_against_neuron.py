"""The kernel gives NEURON's own voltages at the same step and order."""

import numpy as np
import pytest

from neurofleet.neurosim.features.step_protocols import StepProtocol
from tests.fresh_process import in_fresh_process
from tests.neurosim.vector.reference import SPINY, SPINY_VALUES, both, made_up_cell, spike_times, spiny_sets

STEP = StepProtocol("step", 0.3, 20.0, 120.0, 150.0, holding_nA=0.005)


def same_spikes(found, atol_ms):
    """Check the spikes of all individuals and return how many there are."""
    n = 0
    for vector, neuron in zip(found["vector"], found["neuron"], strict=True):
        expected = spike_times(found["times"], neuron[0])
        np.testing.assert_allclose(spike_times(found["times"], vector[0]), expected, atol=atol_ms)
        n += len(expected)
    return n


@pytest.mark.parametrize(("axon", "order"), [("stub", 1), ("full", 2)])
def test_a_passive_tree(axon, order):
    free = {"g_pas.all": 3e-5, "cm.soma": 1.0, "cm.dend": 1.5, "Ra.all": 100.0, "Ra.axon": 90.0}
    model = made_up_cell({"all": ("pas",)}, free, {"e_pas.all": -75.0}, axon=axon)
    values = np.array([list(free.values()), [8e-5, 0.7, 1.1, 60.0, 250.0]])
    found = in_fresh_process(both, model, values, STEP, order)
    assert np.ptp(found["neuron"][:, 0], axis=1).min() > 10
    np.testing.assert_allclose(found["vector"], found["neuron"], atol=1e-9)
    assert found["ok"].all()


def spiny_runs():
    model = made_up_cell(SPINY, SPINY_VALUES)
    kinds = ((1, "float64"), (2, "float64"), (2, "float32"))
    return {kind: both(model, spiny_sets(3), STEP, *kind) for kind in kinds}


@pytest.fixture(scope="module")
def spiny():
    return in_fresh_process(spiny_runs)


@pytest.mark.parametrize("order", [1, 2])
def test_the_spiny_channels(spiny, order):
    found = spiny[order, "float64"]
    assert same_spikes(found, 0.01) >= 6
    first = min(t for v in found["neuron"] for t in spike_times(found["times"], v[0])[:1])
    quiet = found["times"] < first - 1.0
    np.testing.assert_allclose(found["vector"][..., quiet], found["neuron"][..., quiet], atol=1e-3)
    assert found["ok"].all()


def test_half_the_precision_is_near(spiny):
    found = spiny[2, "float32"]
    assert same_spikes(found, 0.1) >= 6
    quiet = found["times"] < STEP.start_ms
    np.testing.assert_allclose(found["vector"][..., quiet], found["neuron"][..., quiet], atol=5e-3)


OTHER = {
    "all": ("pas",),
    "soma": ("NaTa", "Nap", "K_P", "K_T", "Im_v2", "Ca_HVA"),  # calcium without a pool
    "axon": ("NaTs", "Kd", "Kv2like"),
}
OTHER_VALUES = {
    "gbar_NaTa.soma": 0.3,
    "gbar_Nap.soma": 1e-4,
    "gbar_K_P.soma": 0.01,
    "gbar_K_T.soma": 0.01,
    "gbar_Im_v2.soma": 1e-3,
    "gbar_Ca_HVA.soma": 1e-4,
    "gbar_NaTs.axon": 0.5,
    "gbar_Kd.axon": 0.02,
    "gbar_Kv2like.axon": 0.1,
}


def test_the_other_channels_and_a_distribution_over_distance():
    spread = {"gbar_NaTs.axon": "(1.0 + exp(-distance/20))*value"}
    model = made_up_cell(OTHER, OTHER_VALUES, distributions=spread)
    values = np.array([list(OTHER_VALUES.values())]) * [[1.0], [0.9]]
    found = in_fresh_process(both, model, values, STEP, 2)
    assert same_spikes(found, 0.01) >= 2
    quiet = found["times"] < 30
    np.testing.assert_allclose(found["vector"][..., quiet], found["neuron"][..., quiet], atol=1e-3)


def published_483101699(folder, amplitude_nA):
    from neurofleet.neurosim.cells.morphology import MorphologyFile
    from neurofleet.neurosim.exchange.allen_fit import read_fit
    from neurofleet.neurosim.studies.cell_models import published_cell_models

    fit = read_fit(folder / "483101699_fit.json")
    file = MorphologyFile.read(folder / "483101699.swc")
    published = published_cell_models("483101699", fit, file, "stub")
    step = StepProtocol("step", amplitude_nA, 50.0, 200.0, 220.0)
    return both(published.model, published.values, step, 2)


def test_the_published_model_of_mouse_483101699(shared_data):
    found = in_fresh_process(published_483101699, shared_data / "neuron" / "allen_483101699", 0.29)
    assert same_spikes(found, 0.01) >= 3
    quiet = found["times"] < spike_times(found["times"], found["neuron"][0, 0])[0] - 1.0
    np.testing.assert_allclose(found["vector"][..., quiet], found["neuron"][..., quiet], atol=1e-3)

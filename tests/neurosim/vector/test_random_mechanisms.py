"""Random mechanisms: the kernel gives the voltages that NEURON gives with the same NMODL."""

from pathlib import Path

import numpy as np
import pytest

from neurofleet.neurosim.features.step_protocols import StepProtocol
from tests.fresh_process import in_fresh_process
from tests.neurosim.vector.random_mechanisms import write_mechanisms
from tests.neurosim.vector.reference import both, made_up_cell, spike_times

STEP = StepProtocol("step", 0.3, 10.0, 60.0, 80.0)
SOMA = ("NaTs2_t", "Kv3_1", "Ca_HVA", "CaDynamics")
VALUES = {
    "g_pas.all": 5e-5,
    "gbar_NaTs2_t.soma": 0.5,
    "gbar_Kv3_1.soma": 0.3,
    "gbar_Ca_HVA.soma": 1e-4,
    "gamma_CaDynamics.soma": 0.02,
}
# Together they have every form there is: each METHOD, steady, open and closed schemes, all kinds of currents.
SEEDS = [2, 3, 4, 6, 7, 9, 24, 36, 41, 79]


def runs(folder: Path, seeds: list[int]):
    """Return what both engines give with half of the mechanisms in the soma and half in the dendrites."""
    from neurofleet.neurosim.mechanisms import UserMechanisms
    from neurofleet.neurosim.vector import kernel_build

    paths = write_mechanisms(folder, seeds)
    kernel_build.FLAGS = [{"-O3": "-O1"}.get(flag, flag) for flag in kernel_build.FLAGS]  # compiles faster
    names = [path.stem for path in paths]
    half = len(names) // 2
    placed = {"all": ("pas",), "soma": (*SOMA, *names[:half]), "dend": (*SOMA[2:], *names[half:])}
    values = VALUES | {"gbar_Ca_HVA.dend": 2e-5}
    model = made_up_cell(placed, values, own=UserMechanisms.read(folder))
    return [both(model, np.array([list(values.values())]), STEP, order) for order in (1, 2)]


@pytest.mark.slow
def test_voltages_with_random_mechanisms(tmp_path):
    for found in in_fresh_process(runs, tmp_path, SEEDS):
        vector, neuron = found["vector"][0], found["neuron"][0]
        expected = spike_times(found["times"], neuron[0])
        assert expected.size >= 2
        np.testing.assert_allclose(spike_times(found["times"], vector[0]), expected, atol=1e-5)
        quiet = found["times"] < expected[0] - 1.0
        np.testing.assert_allclose(vector[:, quiet], neuron[:, quiet], atol=1e-5)

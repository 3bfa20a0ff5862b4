"""The published all-active model 491766131, run with our mechanisms and cells, gives the published voltage.

The set-up is that of the released run (sweep 35): fixed step of 0.1 ms, first order, -80 mV at the start
whatever the fit file says, the step of 0.15 nA and an undocumented test pulse of 0.05 nA before it, no
junction potential.
"""

from dataclasses import replace

import numpy as np
import pytest

from neurosim.allen import read_fit
from neurosim.mechanisms import load_mechanisms
from neurosim.morphology import CellMorphology

DT_MS = 0.1
DURATION_MS = 3000.0
THRESHOLD_MV = -15.0
PULSES = ((0.15, 1020.0, 1000.0), (0.05, 5.0, 10.0))  # nA, start ms, duration ms


def published_voltage(folder, variant):
    h5py = pytest.importorskip("h5py")
    with h5py.File(folder / f"output_{variant}_sweep35_membrane_potential.h5") as file:
        return np.asarray(file[f"report/bio_{variant}/data"]).ravel()


def simulate(folder, axon):
    """Return the somatic voltage; sample i is at (i + 1) * 0.1 ms, as in the published file."""
    from bluepyopt.ephys.simulators import NrnSimulator

    load_mechanisms()
    fit = read_fit(folder / "fit_parameters.json")
    fit = replace(fit, conditions=replace(fit.conditions, v_init_mV=-80.0))
    cell = fit.cell_model("published", CellMorphology(folder / "reconstruction.swc", axon=axon))
    simulator = NrnSimulator(cvode_active=False, dt=DT_MS)
    h = simulator.neuron.h
    cell.instantiate(sim=simulator)
    soma = cell.icell.soma[0](0.5)
    clamps = []
    for amplitude, start, duration in PULSES:
        clamp = h.IClamp(soma)
        clamp.amp, clamp.delay, clamp.dur = amplitude, start, duration
        clamps.append(clamp)
    voltage = h.Vector().record(soma._ref_v)
    simulator.run(tstop=DURATION_MS, dt=DT_MS, cvode_active=False)
    found = np.array(voltage)[1:]
    cell.destroy(sim=simulator)
    return found


def spike_times(voltage):
    above = voltage >= THRESHOLD_MV
    last_below = np.flatnonzero(~above[:-1] & above[1:])
    rise = voltage[last_below + 1] - voltage[last_below]
    return DT_MS * (last_below + 1 + (THRESHOLD_MV - voltage[last_below]) / rise)


@pytest.mark.parametrize(
    ("axon", "variant", "n_spikes"), [("legacy-stub", "stubaxon", 4), ("full", "fullaxon", 3)]
)
def test_published_voltage_is_reproduced(shared_data, axon, variant, n_spikes):
    folder = shared_data / "neuron" / "allen_allactive_491766131"
    expected = published_voltage(folder, variant)
    found = simulate(folder, axon)
    assert len(found) == len(expected) == round(DURATION_MS / DT_MS)
    spikes = spike_times(expected)
    assert len(spike_times(found)) == len(spikes) == n_spikes
    np.testing.assert_allclose(spike_times(found), spikes, atol=0.1)
    time = DT_MS * np.arange(1, len(expected) + 1)
    quiet = np.all([(time < spike - 20) | (time > spike + 60) for spike in spikes], axis=0)
    assert np.sqrt(np.mean((found - expected)[quiet] ** 2)) <= 0.01

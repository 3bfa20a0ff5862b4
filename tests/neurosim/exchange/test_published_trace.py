"""The published all-active model 491766131, run with our mechanisms and cells, gives the published voltage.

The set-up is that of the released run (sweep 35): fixed step of 0.1 ms, first order, -80 mV at the start
whatever the fit file says, the step of 0.15 nA and an undocumented test pulse of 0.05 nA before it, no
junction potential.
"""

import json
from dataclasses import replace

import numpy as np
import pytest

from neurofleet.neurosim.cells.cell_morphology import CellMorphology
from neurofleet.neurosim.exchange.allen_fit import read_fit
from neurofleet.neurosim.mechanisms import load_mechanisms

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


@pytest.mark.parametrize(("axon", "variant", "n_spikes"), [("legacy-stub", "stubaxon", 4), ("full", "fullaxon", 3)])
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


def test_the_published_fit_of_mouse_483101699_spikes_as_reported(shared_data):
    """A 2022 model: stub axon of 1 um, variable steps; spikes during the training steps of its fit."""
    from bluepyopt.ephys.simulators import NrnSimulator

    folder = shared_data / "neuron" / "allen_483101699"
    load_mechanisms()
    fit = read_fit(folder / "483101699_fit.json")
    cell = fit.cell_model("483101699", CellMorphology(folder / "483101699.swc", axon="stub"))
    simulator = NrnSimulator(cvode_active=True)
    h = simulator.neuron.h
    cell.instantiate(sim=simulator)
    soma = cell.icell.soma[0](0.5)
    clamp = h.IClamp(soma)
    protocols = json.loads((folder / "protocols.json").read_text())
    counts = {}
    for name in ("LongDC_73", "LongDC_50", "LongDC_55", "LongDC_56"):
        (stimulus,) = protocols[name]["stimuli"]
        clamp.amp, clamp.delay, clamp.dur = (stimulus[key] for key in ("amp", "delay", "duration"))
        voltage, time = h.Vector().record(soma._ref_v), h.Vector().record(h._ref_t)
        simulator.run(tstop=stimulus["totduration"], cvode_active=True)
        above = np.array(voltage) >= -20.0
        assert time[-1] == pytest.approx(stimulus["totduration"])
        counts[round(stimulus["amp"], 2)] = int(np.sum(~above[:-1] & above[1:]))
    cell.destroy(sim=simulator)
    assert counts == {0.16: 0, 0.17: 4, 0.27: 19, 0.29: 21}

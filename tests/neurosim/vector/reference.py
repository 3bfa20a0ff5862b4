"""The same run by NEURON, in fixed steps, and by the vector engine."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from neurofleet.neurosim.cells.cell_model import Accuracy, CellParameter, Conditions
from neurofleet.neurosim.cells.fit_model import FitModel
from neurofleet.neurosim.cells.morphology import MorphologyFile
from neurofleet.neurosim.features.step_protocols import StepProtocol, TargetSet
from neurofleet.neurosim.mechanisms import UserMechanisms
from neurofleet.neurosim.vector.kernel_setup import Steps
from tests.neurosim.cells.small_cells import AXON_SWC

SPIKE_MV = -20.0
NO_OWN = UserMechanisms()
SPINY = {
    "all": ("pas",),
    "soma": ("Ih", "NaTs2_t", "Nap_Et2", "K_Tst", "K_Pst", "Kv3_1", "SK", "Ca_HVA", "Ca_LVA", "CaDynamics"),
    "axon": ("NaTa_t", "Nap_Et2", "K_Tst", "K_Pst", "Kv3_1", "SK", "Ca_HVA", "Ca_LVA", "CaDynamics"),
    "dend": ("Ih", "Im", "Kv3_1", "NaTs2_t"),
    "apic": ("Ih", "Im", "Kv3_1", "NaTs2_t"),
}
SPINY_VALUES = {
    "g_pas.all": 5e-5,
    "e_pas.all": -80.0,
    "cm.soma": 1.0,
    "cm.axon": 1.2,
    "cm.dend": 1.7,
    "cm.apic": 1.6,
    "Ra.all": 110.0,
    "Ra.axon": 90.0,
    "gbar_NaTs2_t.soma": 0.6,
    "gbar_NaTa_t.axon": 1.5,
    "gbar_Nap_Et2.soma": 2e-4,
    "gbar_Nap_Et2.axon": 1e-3,
    "gbar_K_Tst.soma": 5e-3,
    "gbar_K_Pst.soma": 1e-3,
    "gbar_K_Pst.axon": 0.01,
    "gbar_Kv3_1.soma": 0.4,
    "gbar_Kv3_1.axon": 0.6,
    "gbar_SK.soma": 5e-4,
    "gbar_Ca_HVA.soma": 2e-4,
    "gbar_Ca_LVA.soma": 1e-3,
    "gamma_CaDynamics.soma": 0.01,
    "decay_CaDynamics.soma": 200.0,
    "gbar_Ih.soma": 1e-4,
    "gbar_Ih.apic": 3e-4,
    "gbar_Im.apic": 5e-4,
    "gbar_NaTs2_t.dend": 0.01,
    "gbar_NaTs2_t.apic": 0.01,
}


def made_up_cell(
    mechanisms: Mapping[str, Sequence[str]],
    free: Mapping[str, float],
    fixed: Mapping[str, float] | None = None,
    distributions: Mapping[str, str] | None = None,
    axon: str = "stub",
    own: UserMechanisms = NO_OWN,
) -> FitModel:
    """Return a small branched cell with free parameters about the given values."""
    spread = distributions or {}
    parameters = []
    for full_name, value in free.items():
        name, _, section = full_name.rpartition(".")
        room = 3 * abs(value)
        kind = spread.get(full_name, "uniform")
        parameters.append(CellParameter(name, section, value - room, value + room, kind))
    return FitModel(
        cell="made-up",
        morphology=MorphologyFile("cell.swc", AXON_SWC.encode()),
        axon=axon,
        conditions=Conditions(),
        mechanisms={section: tuple(names) for section, names in mechanisms.items()},
        free=tuple(parameters),
        fixed=dict(fixed or {}),
        distributions={},
        targets=TargetSet({}, ()),
        accuracy=Accuracy(),
        user_mechanisms=own,
    )


def spiny_sets(n: int) -> np.ndarray:
    """Return parameter sets about `SPINY_VALUES`, the first one exactly these."""
    about = np.exp(0.1 * np.random.default_rng(3).standard_normal((n, len(SPINY_VALUES))))
    about[0] = 1.0
    return about * np.array(list(SPINY_VALUES.values()))


def neuron_voltages(
    model: FitModel, values: Sequence[float], protocol: StepProtocol, dt_ms: float, order: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the voltages of soma and axon as NEURON integrates them in fixed steps."""
    from bluepyopt.ephys.simulators import NrnSimulator

    model.user_mechanisms.load()
    simulator = NrnSimulator(cvode_active=False, dt=dt_ms)
    h = simulator.neuron.h
    cell = model.build_cell()
    cell.freeze(dict(zip((p.full_name for p in model.free), values, strict=True)))
    cell.instantiate(sim=simulator)
    soma, axon = cell.icell.soma[0](0.5), next(iter(cell.icell.axonal))(0.5)
    clamps = []
    for amplitude, start, duration in (
        (protocol.amplitude_nA, protocol.start_ms, protocol.stop_ms - protocol.start_ms),
        (protocol.holding_nA, 0.0, protocol.duration_ms),
    ):
        clamp = h.IClamp(soma)
        clamp.amp, clamp.delay, clamp.dur = amplitude, start, duration
        clamps.append(clamp)
    recorded = [h.Vector().record(place._ref_v) for place in (soma, axon)]
    h.secondorder = 2 if order == 2 else 0
    simulator.run(protocol.duration_ms, dt=dt_ms, cvode_active=False)
    found = tuple(np.array(voltage) for voltage in recorded)
    cell.destroy(sim=simulator)
    return found


def spike_times(times_ms: np.ndarray, voltage_mV: np.ndarray) -> np.ndarray:
    """Return when the voltage rises through -20 mV, interpolated."""
    (before,) = np.nonzero((voltage_mV[:-1] < SPIKE_MV) & (voltage_mV[1:] >= SPIKE_MV))
    rise = voltage_mV[before + 1] - voltage_mV[before]
    return times_ms[before] + (SPIKE_MV - voltage_mV[before]) / rise * np.diff(times_ms)[before]


def fixed_steps(dt_ms: float, order: int, record_every: int = 1) -> Steps:
    """Return steps of equal length, of which every `record_every`-th is recorded."""
    return Steps(dt_ms, order, record_near=record_every, record_away=record_every)


def both(
    model: FitModel,
    values: np.ndarray,
    protocol: StepProtocol,
    order: int,
    dtype: str = "float64",
    dt_ms: float = 0.05,
) -> dict[str, Any]:
    """Return voltages of both engines; for a process of its own."""
    from neurofleet.neurosim.vector.vector_evaluator import VectorCell

    (run,) = VectorCell(model).run(values, [protocol], fixed_steps(dt_ms, order), dtype)
    neuron = [neuron_voltages(model, row, protocol, dt_ms, order) for row in values]
    return {
        "times": run.times_ms,
        "vector": np.stack([run.soma_mV, run.axon_mV], axis=1),
        "neuron": np.array(neuron),
        "ok": run.ok,
    }

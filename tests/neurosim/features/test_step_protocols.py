"""Grouping sweeps into protocols."""

from pathlib import Path

import numpy as np
import pytest

from neurofleet.errors import InputError
from neurofleet.neurosim.features.step_protocols import StepProtocol, group_sweeps, protocol_name
from neurofleet.neurosim.recordings.recording import Recording, read_recording
from tests.neurosim.recordings.recording_files import make_sweep


def recording(*sweeps):
    return Recording(Path("cell.nwb"), tuple(sweeps))


def test_repeats_of_one_amplitude_are_one_protocol_weakest_first():
    groups = group_sweeps(
        recording(
            make_sweep(4, 0.2),
            make_sweep(5, -0.1),
            make_sweep(6, 0.201, holding_nA=0.02),
            make_sweep(7, 0.21),
        )
    )
    assert [(p.name, p.sweeps) for p, _ in groups] == [
        ("LongDC_5", (5,)),
        ("LongDC_4", (4, 6)),
        ("LongDC_7", (7,)),
    ]
    protocol, sweeps = groups[1]
    assert [sweep.number for sweep in sweeps] == [4, 6]
    assert protocol.amplitude_nA == pytest.approx(0.2005)
    assert protocol.holding_nA == pytest.approx(0.01)


def test_stimuli_of_other_names_or_lengths_are_other_protocols():
    groups = group_sweeps(recording(make_sweep(1), make_sweep(2, stimulus_name="IV"), make_sweep(3, stop_ms=400.0)))
    assert sorted(p.name for p, _ in groups) == ["IV_2", "LongDC_1", "LongDC_3"]


@pytest.mark.parametrize("change", [{"start_ms": 100.2}, {"stop_ms": 300.2}])
def test_repeats_that_disagree_on_the_timing_fail_loudly(change):
    with pytest.raises(InputError, match=r"cell\.nwb.*sweep 1 at .*sweep 2 at "):
        group_sweeps(recording(make_sweep(1), make_sweep(2, **change)))


def test_an_early_step_is_moved_back_so_that_a_model_can_settle():
    ((protocol, (sweep,)),) = group_sweeps(recording(make_sweep()))
    assert (protocol.start_ms, protocol.settling_ms) == (250.0, 150.0)
    assert protocol.stop_ms - protocol.start_ms == pytest.approx(sweep.stop_ms - sweep.start_ms)
    time_ms, voltage_mV = protocol.align(sweep)
    assert time_ms[0] == 150.0
    assert time_ms[-1] == pytest.approx(protocol.duration_ms)
    at_start = np.searchsorted(time_ms, protocol.start_ms)
    assert voltage_mV[at_start - 1] == pytest.approx(-70.0)
    assert voltage_mV[at_start] > -70.0 + 0.05


def test_a_late_step_stays_where_it_is():
    sweep = make_sweep(start_ms=300.0, stop_ms=400.0)
    ((protocol, _),) = group_sweeps(recording(sweep))
    assert (protocol.start_ms, protocol.settling_ms, protocol.duration_ms) == (300.0, 0.0, sweep.duration_ms)


def test_the_tail_can_be_cut_and_ends_with_the_shortest_repeat():
    short = make_sweep(2, duration_ms=450.0)
    ((whole, _),) = group_sweeps(recording(make_sweep(1), short))
    ((cut, _),) = group_sweeps(recording(make_sweep(1), short), tail_ms=50.0)
    assert whole.duration_ms == pytest.approx(450.0 + whole.settling_ms)
    assert cut.duration_ms == pytest.approx(cut.stop_ms + 50.0)
    time_ms, voltage_mV = cut.align(make_sweep(1))
    assert time_ms.size == voltage_mV.size == 3500


@pytest.mark.parametrize(
    ("stimulus", "name"),
    [
        ("Long Square", "LongDC_46"),
        ("long_square", "LongDC_46"),
        ("IDrest", "IDrest_46"),
        (r"C:\Axon\Params\cc25pA1s protocol", "cc25pA1sprotocol_46"),
        ("100 pA", "Step100pA_46"),
    ],
)
def test_protocol_names(stimulus, name):
    assert protocol_name(stimulus, 46) == name


def test_rat_cell_has_its_repeats(shared_data):
    path = shared_data / "neuron" / "rat_L5PC_C060114A7" / "C060114A7-SR-C1.nwb"
    groups = group_sweeps(read_recording(path, stimuli=["IDrest", "IV"]))
    assert [len(sweeps) for _, sweeps in groups] == [3] * 9 + [2] * 16
    strongest = groups[-1][0]
    assert isinstance(strongest, StepProtocol)
    assert strongest.sweeps == (368, 413)
    assert strongest.amplitude_nA == pytest.approx(1.012, abs=0.001)
    assert strongest.holding_nA == pytest.approx(-0.1125, abs=0.001)

"""Postsynaptic potentials against the equations of a ball, and of their reader against made-up ones."""

import numpy as np
import pytest

from neurofleet.errors import InputError
from neurofleet.neurosim.cells.demo_cell import KNOWN_PARAMETERS, SWC, demo_model
from neurofleet.neurosim.studies.synaptic_potentials import (
    SETTLE_MS,
    PSPMeasure,
    Site,
    Synapse,
    read_psp,
    relative_change,
)
from tests.neurosim.studies.test_generalisation import measured

SOMA = Site("soma", 0.0, 0.0)


def made(rise):
    times = np.arange(SETTLE_MS - 20.0, SETTLE_MS + 200.0, 0.05)
    after = np.maximum(times - SETTLE_MS, 0.0)
    return times, -70.0 + rise(after)


def test_a_potential_is_read_as_it_was_made():
    psp = read_psp(SOMA, *made(lambda t: 0.5 * np.exp(1) * (t / 5.0) * np.exp(-t / 5.0)), -20.0)
    assert psp.amplitude_mV == pytest.approx(0.5, rel=1e-3)
    assert psp.latency_ms == pytest.approx(5.0, abs=0.05)
    assert psp.half_width_ms == pytest.approx(5.0 * (2.67834 - 0.23196), abs=0.05)  # of x e^(1-x) = 1/2
    assert psp.baseline_mV == pytest.approx(-70.0)


@pytest.mark.parametrize(
    ("rise", "why"),
    [
        (lambda t: 100.0 * (t > 5), "spikes"),
        (lambda t: np.where(t > 1, 0.5, 0.0), "half"),
        (lambda t: -0.1 * np.minimum(t, 1.0), "depolarise"),
    ],
)
def test_what_is_no_potential_has_no_numbers(rise, why):
    psp = read_psp(SOMA, *made(rise), -20.0)
    assert why in psp.fault
    assert np.isnan([psp.amplitude_mV, psp.half_width_ms, psp.latency_ms]).all()


def test_a_restless_cell_is_said_to_be_one():
    times, voltage = made(lambda t: 0.0 * t)
    assert "rest" in read_psp(SOMA, times, voltage + 0.01 * (times - times[0]), -20.0).fault


@pytest.fixture(scope="module")
def psps(tmp_path_factory):
    morphology = tmp_path_factory.mktemp("psp") / "cell.swc"
    morphology.write_text(SWC)
    model = demo_model(morphology)
    known = np.array([KNOWN_PARAMETERS[p.full_name] for p in model.free])
    twice = PSPMeasure(model, (40.0, 90.0, 400.0), synapse=Synapse(weight_uS=2e-4))
    return measured(PSPMeasure(model, (40.0, 90.0, 400.0)), [known])[0], measured(twice, [known])[0]


def test_a_potential_from_farther_out_is_smaller_later_and_there_is_none_beyond_the_dendrite(psps):
    found, _ = psps
    assert [psp.site.requested_um for psp in found] == [0.0, 40.0, 90.0]
    assert all(abs(psp.site.distance_um - psp.site.requested_um) < 25.0 for psp in found)
    amplitudes = [psp.amplitude_mV for psp in found]
    assert amplitudes == sorted(amplitudes, reverse=True)
    assert [psp.latency_ms for psp in found] == sorted(psp.latency_ms for psp in found)
    change = relative_change(found, "amplitude_mV")
    assert change[0] == 0.0
    assert change[2] == pytest.approx(100 * (amplitudes[2] / amplitudes[0] - 1))


def test_a_small_potential_is_twice_as_large_with_twice_the_weight(psps):
    once, twice = psps
    for one, two in zip(once, twice, strict=True):
        assert two.amplitude_mV / one.amplitude_mV == pytest.approx(2.0, rel=0.03)


def test_a_cell_without_an_apical_dendrite_is_refused(tmp_path):
    from subprocess import CalledProcessError

    basal = "\n".join(line for line in SWC.splitlines() if not line.startswith(("8 ", "9 "))) + "\n"
    (tmp_path / "cell.swc").write_text(basal)
    model = demo_model(tmp_path / "cell.swc")
    with pytest.raises(CalledProcessError) as refused:
        measured(PSPMeasure(model, (40.0,)), [np.zeros(len(model.free))])
    assert InputError.__name__ in refused.value.stderr.decode()
    assert "no apical dendrite" in refused.value.stderr.decode()

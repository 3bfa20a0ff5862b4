"""Steps at which finalists fire otherwise by NEURON than in the search, found and told."""

from dataclasses import asdict

import numpy as np

from neurofleet.cluster.store.schemas import HallOfFameRows
from neurofleet.jobs.fit.uncertain_steps import UncertainStep, uncertain_steps
from neurofleet.jobs.results.run_summary import remarks, summaries, verdict
from neurofleet.jobs.results.run_tables import RunTables
from neurofleet.neurosim.features.step_protocols import FeatureTarget, StepProtocol, TargetSet
from tests.jobs.made_run import write_run

STEPS = {name: StepProtocol(name, nA, 250.0, 750.0, 800.0) for name, nA in (("weak", 0.34), ("strong", 0.5))}
TARGETS = (
    FeatureTarget("weak", "soma", "Spikecount", 1.0, 0.05, 3),
    FeatureTarget("weak", "soma", "AP_width", 1.0, 0.1, 3),
    FeatureTarget("strong", "soma", "mean_frequency", 80.0, 4.0, 3),
)
LARGEST = 250.0


def _models(search, neuron) -> HallOfFameRows:
    """Finalists with scores of counts at the weak step and rates at the strong one, as (n, 2) arrays."""

    def scores(found):
        count, rate = np.array(found, float).T
        z = np.stack([abs(count - 1.0) / 0.05, np.zeros(len(count)), abs(rate - 80.0) / 4.0], axis=1)
        return np.where(np.isnan(z), LARGEST, np.minimum(z, LARGEST))

    n, nobody = len(search), np.zeros(len(search), int)
    final, searched = scores(neuron), scores(search)
    objectives = [target.objective for target in TARGETS]
    totals = final.sum(axis=1), searched.sum(axis=1)
    return HallOfFameRows(
        "a", nobody, nobody, nobody, ["p"], objectives, np.zeros((n, 1)), final, totals[0], searched, totals[1]
    )


def test_steps_at_which_many_finalists_fire_otherwise_are_found():
    searched = [(1, 80.0)] * 8
    rescored = [(1, 80.0)] * 4 + [(30, 81.0), (28, np.nan), (0, 80.0), (2, 79.0)]
    (found,) = uncertain_steps(TargetSet(STEPS, TARGETS), [_models(searched, rescored)], LARGEST)
    # 28 and 30 spikes are beyond the largest score of 13.5; one spike more or less is no other firing
    assert (found.step, found.finalists, found.of) == ("weak", 2, 8)
    assert (found.amplitude_pA, found.search_Hz, found.neuron_Hz) == (340.0, 2.0, 27.0)
    assert str(found).endswith(
        "fire at 2 Hz in the search and at 27 Hz or more when NEURON scores them again (medians)"
    )

    silent = [(1, 80.0)] * 5 + [(1, np.nan)] * 3
    (found,) = uncertain_steps(TargetSet(STEPS, TARGETS), [_models(searched, silent)], LARGEST)
    assert (found.step, found.finalists, found.search_Hz, found.neuron_Hz) == ("strong", 3, 80.0, 0.0)


def test_two_rates_that_one_score_allows_are_no_difference():
    few = [(1, 80.0)] * 4
    both_sides = [(1, 60.0)] * 4, [(1, 100.0)] * 4
    assert uncertain_steps(TargetSet(STEPS, TARGETS), [_models(*both_sides)], LARGEST) == []
    assert uncertain_steps(TargetSet(STEPS, TARGETS), [_models(few, few)], LARGEST) == []
    failed = _models(few, few)
    failed.scores[:] = LARGEST
    assert uncertain_steps(TargetSet(STEPS, TARGETS), [failed], LARGEST) == []
    assert uncertain_steps(None, [failed], LARGEST) == []


def test_results_tell_step_and_rates(tmp_path):
    store = write_run(tmp_path)
    assert not any("accuracy of integration" in line for line in verdict(summaries(RunTables(tmp_path))))
    step = UncertainStep("LongDC_40", 340.0, 41, 128, 59.0, 1.0)
    with store.locked():
        store.append_event(
            "stage finished", cell="a", stage="active", seed=1, total=1.0, parameters={}, uncertain_steps=[asdict(step)]
        )
    (cell,) = summaries(RunTables(tmp_path))
    told = (
        "firing depends on the accuracy of integration at LongDC_40 (340 pA): 41 of 128 finalists fire at 59 Hz in the "
        "search and at 1 Hz when NEURON scores them again (medians)"
    )
    assert f"active: {told}" in remarks(cell)
    assert told in verdict([cell])

"""The warm evaluator gives BluePyOpt's own scores, keeps its budget and leaves the user's evaluator alone."""

import numpy as np
import pytest

from tests.fresh_process import in_fresh_process

INDIVIDUALS = [[0.1, 0.03], [0.05, 0.075], [0.12, 0.01], [0.1, 0.03]]


def simple_cell():
    """BluePyOpt's own example, with more features and a second, shorter protocol."""
    from bluepyopt import ephys
    from bluepyopt.ephys.examples.simplecell.simplecell import SimpleCell

    cell = SimpleCell()
    evaluator = cell.cell_evaluator
    short = ephys.protocols.SweepProtocol(
        "Step2",
        [
            ephys.stimuli.NrnSquarePulse(
                step_amplitude=0.05,
                step_delay=20,
                step_duration=50,
                total_duration=90,
                location=cell.soma_loc,
            )
        ],
        [ephys.recordings.CompRecording(name="Step2.soma.v", location=cell.soma_loc, variable="v")],
    )
    features = [
        ephys.efeatures.eFELFeature(
            f"{protocol}.{name}",
            efel_feature_name=name,
            recording_names={"": f"{protocol}.soma.v"},
            stim_start=start,
            stim_end=start + 50,
            exp_mean=mean,
            exp_std=std,
            threshold=threshold,
            force_max_score=forced,
        )
        for protocol, start in (("Step1", 100), ("Step2", 20))
        for name, mean, std, threshold, forced in (
            ("Spikecount", 1, 0.05, None, False),
            ("AP_amplitude", 60, 5, -20, True),
            ("mean_frequency", 40, 4, -20, True),
            ("voltage_base", -65, 1, -20, True),
            ("AP_amplitude_from_voltagebase", 100, 0.3, -20, True),
            ("AHP_depth", 10, 1e-9, -20, True),
            ("adaptation_index2", 0, 1, -20, False),
        )
    ]
    objectives = [ephys.objectives.SingletonObjective(f.name, f) for f in features]
    objectives.append(ephys.objectives.MaxObjective("worst", features[:3]))
    objectives.append(ephys.objectives.WeightedSumObjective("sum", features[:3], [1.0, 2.0, 0.5]))
    evaluator.fitness_calculator.objectives = objectives
    evaluator.fitness_protocols["Step2"] = short
    evaluator.isolate_protocols = False
    return evaluator


def cold_scores():
    evaluator = simple_cell()
    return [evaluator.evaluate_with_lists(individual) for individual in INDIVIDUALS]


def warm_scores():
    from neurofleet.neurosim.cells.warm_evaluator import WarmEvaluator

    warm = WarmEvaluator(simple_cell())
    return [warm.evaluate(individual).tolist() for individual in INDIVIDUALS]


@pytest.fixture(scope="module")
def cold() -> list[list[float]]:
    return in_fresh_process(cold_scores)


def test_scores_are_equal_to_bluepyopts_own(cold):
    assert cold == in_fresh_process(warm_scores)
    assert len({tuple(scores) for scores in cold}) > 1


def interrupted_then_again():
    from neurofleet.neurosim.cells.warm_evaluator import BudgetExceeded, WarmEvaluator

    warm = WarmEvaluator(simple_cell(), max_steps=50)
    with pytest.raises(BudgetExceeded, match="max_steps = 50"):
        warm.evaluate(INDIVIDUALS[0])
    warm.max_steps = None
    return warm.evaluate(INDIVIDUALS[0]).tolist(), warm.steps


def test_the_step_budget_ends_an_evaluation_and_leaves_the_evaluator_usable(cold):
    scores, steps = in_fresh_process(interrupted_then_again)
    assert scores == cold[0]
    assert steps > 50


def closed_then_cold():
    from neurofleet.neurosim.cells.warm_evaluator import WarmEvaluator

    evaluator = simple_cell()
    warm = WarmEvaluator(evaluator)
    warm.build()
    warm.evaluate(INDIVIDUALS[1])
    warm.close()
    return [evaluator.evaluate_with_lists(individual) for individual in INDIVIDUALS]


def test_a_closed_warm_evaluator_leaves_the_users_own_as_it_was(cold):
    assert in_fresh_process(closed_then_cold) == cold


def ended_early():
    from neurofleet.neurosim.cells.warm_evaluator import IncompleteRun, WarmEvaluator

    warm = WarmEvaluator(simple_cell())
    warm.build()
    h = warm._warm.sim.neuron.h
    h("proc advance() { fadvance() if (t > 60) stoprun = 1 }")
    with pytest.raises(IncompleteRun, match="instead of 200.000 ms"):
        warm.evaluate(INDIVIDUALS[0])
    return True


def test_a_run_that_ends_early_is_not_scored():
    assert in_fresh_process(ended_early)


def test_feature_values_are_named_by_objective():
    values = in_fresh_process(values_of_first)
    assert values["Step1.voltage_base"] == pytest.approx(-65, abs=1)
    assert np.isfinite(values["Step1.Spikecount"])


def values_of_first():
    from neurofleet.neurosim.cells.model_responses import feature_values
    from neurofleet.neurosim.cells.warm_evaluator import WarmEvaluator

    evaluator = simple_cell()
    warm = WarmEvaluator(evaluator)
    scores, residuals = warm.evaluate_signed(INDIVIDUALS[0])
    again, features, responses = warm.evaluate_traced(INDIVIDUALS[0])
    np.testing.assert_array_equal(again, [scores, residuals])
    assert features == feature_values(evaluator.fitness_calculator, responses)
    own, others = evaluator.fitness_calculator.objectives[:14], len(scores) - 14
    assert np.isnan(residuals[-others:]).all()  # of objectives that are no plain e-feature, the sign is not known
    warm.close()
    evaluator.fitness_calculator.objectives = own
    values = WarmEvaluator(evaluator).feature_values(INDIVIDUALS[0])
    for objective, score, residual in zip(own, scores, residuals, strict=False):
        value, feature = values[objective.name], objective.features[0]
        if value is None:
            assert np.isnan(residual)
        else:
            assert residual == pytest.approx((value - feature.exp_mean) / feature.exp_std)
            assert abs(residual) <= score + 1e-9 or score == feature.max_score
    return values

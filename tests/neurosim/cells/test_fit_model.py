"""A stage of a cell as an evaluator: warm and cold agree to the last bit, and decays are read accurately."""

from dataclasses import replace

import numpy as np
import pytest

from neurofleet.neurosim.cells.cell_model import Accuracy
from tests.benchmarks.evaluation import sets_around
from tests.benchmarks.small_cell import small_problem
from tests.fresh_process import in_fresh_process


@pytest.fixture(scope="module", params=[0, 2], ids=["passive", "active"])
def problem(request, demo_recordings):
    return small_problem(request.param, demo_recordings)


def near_known(problem, count=4) -> list[list[float]]:
    from neurofleet.neurosim.cells.demo_cell import KNOWN_PARAMETERS

    return sets_around(problem, KNOWN_PARAMETERS, count)


def cold_scores(model, sets) -> list[list[float]]:
    evaluator = model.build_evaluator()
    return [[float(s) for s in evaluator.evaluate_with_lists(values)] for values in sets]


def warm_scores(model, sets) -> list[list[float]]:
    from neurofleet.neurosim.cells.warm_evaluator import WarmEvaluator

    warm = WarmEvaluator(model.build_evaluator())
    warm.build()
    return [warm.evaluate(values).tolist() for values in sets]


def test_warm_scores_are_bluepyopts_to_the_last_bit(problem):
    sets = near_known(problem)
    cold = in_fresh_process(cold_scores, problem.model, sets)
    assert in_fresh_process(warm_scores, problem.model, sets) == cold
    assert np.std(cold, axis=0).max() > 0


def test_the_known_cell_fits_its_own_recordings(demo_recordings):
    problem = small_problem(2, demo_recordings)
    from neurofleet.neurosim.cells.demo_cell import KNOWN_PARAMETERS

    known = [KNOWN_PARAMETERS[name] for name in problem.names]
    (scores,) = in_fresh_process(warm_scores, problem.final_model, [known])
    assert np.mean(scores) < 1.0


def search(problem, evaluations: int, seed: int) -> dict[str, float]:
    """Best parameters of a search in this process."""
    from neurofleet.neurosim.cells.warm_evaluator import WarmEvaluator
    from neurofleet.neurosim.evolution import FastConfig, ParameterSpace, make_strategy

    warm = WarmEvaluator(problem.model.build_evaluator())
    warm.build()
    space = ParameterSpace.from_bounds(problem.names, np.array(problem.lower), np.array(problem.upper))
    strategy = make_strategy(FastConfig(evaluations), space, seed)
    while not strategy.finished:
        parameters = strategy.ask()
        strategy.tell(parameters, np.array([warm.evaluate(values) for values in parameters]))
    return dict(zip(problem.names, strategy.candidates(1)[0].tolist(), strict=True))


@pytest.mark.slow
def test_the_passive_parameters_are_recovered(demo_recordings):
    from neurofleet.neurosim.cells.demo_cell import KNOWN_PARAMETERS

    problem = small_problem(0, demo_recordings)
    targets, steps = problem.model.targets, ("LongDC_0", "LongDC_10")  # half of them: half of the time
    fewer = replace(
        targets,
        protocols={name: targets.protocols[name] for name in steps},
        targets=tuple(target for target in targets.targets if target.protocol in steps),
    )
    found = in_fresh_process(search, replace(problem, model=replace(problem.model, targets=fewer)), 384, 1)
    assert set(found) == {"cm.all", "g_pas.all", "e_pas.all"}
    for name, value in found.items():
        assert value == pytest.approx(KNOWN_PARAMETERS[name], rel=0.01 if name == "e_pas.all" else 0.1), name


def test_decay_is_more_accurate_than_at_neurons_default(demo_recordings):
    problem = small_problem(0, demo_recordings)
    sets = near_known(problem)
    decay = [i for i, name in enumerate(problem.objectives) if "decay_time_constant" in name]
    scores = {
        name: np.array(in_fresh_process(warm_scores, replace(problem.model, accuracy=accuracy), sets))
        for name, accuracy in (
            ("ours", problem.model.accuracy),
            ("default", Accuracy()),
            ("truth", Accuracy(1e-8, dense=True)),
        )
    }
    error = {name: np.abs(scores[name] - scores["truth"])[:, decay].max() for name in ("ours", "default")}
    assert error["ours"] < 0.05
    assert error["ours"] < error["default"]

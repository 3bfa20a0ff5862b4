"""Search spaces as a job file has them, good and bad."""

import numpy as np
import pytest
import yaml

from neurofleet.cluster.sweeps.search_space import SearchSpaceRefused, parse_space

SPACE = """
lr: {log_uniform: [1.0e-4, 1.0e-1]}
dropout: {uniform: [0, 0.5]}
steps: {integer: [1, 3]}
width: [64, 128]
norm: {choice: [null, l2]}
epochs: 20
"""


def test_samples_are_in_their_ranges_and_fill_them():
    space = parse_space(yaml.safe_load(SPACE))
    drawn = [space.sample(np.random.default_rng(i)) for i in range(400)]
    assert {d["steps"] for d in drawn} == {1, 2, 3}
    assert {d["width"] for d in drawn} == {64, 128}
    assert {d["norm"] for d in drawn} == {None, "l2"}
    assert {d["epochs"] for d in drawn} == {20}
    dropouts = np.array([d["dropout"] for d in drawn])
    assert 0 <= dropouts.min() < 0.02
    assert 0.48 < dropouts.max() <= 0.5
    exponents = np.log10([d["lr"] for d in drawn])
    assert -4 <= exponents.min()
    assert exponents.max() <= -1
    assert np.mean(exponents) == pytest.approx(-2.5, abs=0.15), "uniform in the logarithm"


def test_a_grid_has_every_combination():
    grid = parse_space({"width": [64, 128], "norm": {"choice": ["none", "l2"]}, "epochs": 20}).grid()
    assert grid == [
        {"width": 64, "norm": "none", "epochs": 20},
        {"width": 64, "norm": "l2", "epochs": 20},
        {"width": 128, "norm": "none", "epochs": 20},
        {"width": 128, "norm": "l2", "epochs": 20},
    ]


def test_a_grid_of_a_range_is_refused():
    with pytest.raises(SearchSpaceRefused, match=r"a list of values for every parameter; lr has a range"):
        parse_space({"lr": {"uniform": [0, 1]}, "width": [64]}).grid()


def test_values_are_brought_back_into_their_range():
    space = parse_space(yaml.safe_load(SPACE)).dimensions
    assert space["steps"].clip(3.6) == 3
    assert space["dropout"].clip(-0.1) == 0.0
    assert space["lr"].clip(0.01) == 0.01


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"loguniform": [0.1, 1]}, "one of uniform, log_uniform, integer, choice was expected"),
        ({"uniform": [0, 1], "integer": [0, 1]}, "it has uniform, integer"),
        ({}, "it has nothing"),
        ({"uniform": [1, 0]}, "from the lower number to the higher; it has 1 and 0"),
        ({"uniform": [1]}, "takes two numbers"),
        ({"uniform": 3}, "takes two numbers"),
        ({"integer": [1, 2.5]}, "takes two whole numbers"),
        ({"log_uniform": [0, 1]}, "its lowest is 0"),
        ({"log_uniform": ["1e-4x", 1]}, "takes two numbers"),
        ({"integer": ["1.5", 2]}, "takes two whole numbers"),
        ({"choice": "abc"}, "a list of values was expected, it has 'abc'"),
        ([], "a list of values was expected"),
    ],
)
def test_faults_are_told_in_sentences(value, message):
    with pytest.raises(SearchSpaceRefused) as raised:
        parse_space({"lr": value})
    assert str(raised.value).startswith("search.lr: ")
    assert message in str(raised.value)


def test_numbers_that_yaml_takes_for_words_are_numbers():
    space = parse_space(yaml.safe_load("{lr: {log_uniform: [1e-4, 1e-1]}, n: {integer: ['2', 8]}}"))
    assert space.dimensions["lr"].tested() == (1e-4, 1e-1, pytest.approx(0.0368511562))
    assert space.dimensions["n"].tested() == (2, 8, 4, 5)


def test_all_combinations_are_tested_or_some_at_random():
    space = parse_space({"a": [1, 2], "b": {"uniform": [0, 1]}, "c": 3})
    assert [(each["a"], each["c"]) for each in space.tested()] == [(1, 3)] * 3 + [(2, 3)] * 3
    assert len(list(space.tested(most=4))) == 4
    assert list(parse_space({"c": 3}).tested()) == [{"c": 3}]


def test_all_faults_are_told_at_once():
    with pytest.raises(SearchSpaceRefused) as raised:
        parse_space({"a": {"uniform": 3}, "b": [1], "c": []})
    assert [line.partition(":")[0] for line in str(raised.value).splitlines()] == ["search.a", "search.c"]

"""Stages build on each other, and a winner's parameters re-enter the next stage with narrowed bounds."""

from pathlib import Path

import pytest

from neurosim.recipe import BUILT_IN, check_names, hand_over, load_recipe


@pytest.mark.parametrize("name", BUILT_IN)
def test_recipes_of_the_house_name_only_what_exists(name):
    check_names(load_recipe(name, "spiny", Path()), name)


@pytest.mark.parametrize(
    ("dendrite", "apical", "free"),
    [("spiny", True, 36), ("spiny", False, 31), ("aspiny", False, 31)],
)
def test_number_of_free_parameters_is_the_published_one(dendrite, apical, free):
    recipe = load_recipe("all-active", dendrite, Path())
    assert len(recipe.bounds_until(2, apical)) == free


def test_apical_entries_go_with_the_apical_tree():
    recipe = load_recipe("all-active", "spiny", Path())
    without = recipe.bounds_until(2, has_apical=False)
    assert set(recipe.bounds_until(2, has_apical=True)) - set(without) == {
        "cm.apic",
        "gbar_Ih.apic",
        "gbar_NaTs2_t.apic",
        "gbar_Im.apic",
        "gbar_Kv3_1.apic",
    }
    assert "apic" not in recipe.mechanisms_until(2, has_apical=False)


def test_stages_add_to_those_before():
    recipe = load_recipe("all-active", "spiny", Path())
    assert recipe.mechanisms_until(0, True) == {"all": ["pas"]}
    assert recipe.mechanisms_until(1, True)["soma"] == ["Ih"]
    assert recipe.mechanisms_until(2, True)["soma"][:2] == ["Ih", "NaTs2_t"]


def test_the_winner_narrows_the_bounds():
    bounds = {"cm.all": (0.1, 10.0), "e_pas.all": (-110.0, -60.0), "g.new": (0.0, 1.0), "g.zero": (0.0, 1.0)}
    winner = {"cm.all": 8.0, "e_pas.all": -80.0, "g.zero": 0.0}
    free, fixed = hand_over(bounds, winner, 0.5)
    assert free == {"cm.all": (4.0, 10.0), "e_pas.all": (-110.0, -60.0), "g.new": (0.0, 1.0)}
    assert fixed == {"g.zero": 0.0}
    assert hand_over(bounds, winner, None) == (bounds, {})
    free, fixed = hand_over(bounds, winner, 0.0)
    assert set(free) == {"g.new"}
    assert fixed == winner

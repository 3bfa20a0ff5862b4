"""Stages build on each other, and a winner's parameters re-enter the next stage with narrowed bounds."""

from pathlib import Path

import pytest
import yaml

from neurofleet.errors import InputError
from neurofleet.neurosim.cells.recipe import BUILT_IN, check_recipe_names, load_recipe
from neurofleet.neurosim.cells.stage_bounds import next_stage_bounds


@pytest.mark.parametrize("name", BUILT_IN)
def test_recipes_of_the_house_name_only_what_exists(name):
    check_recipe_names(load_recipe(name, "spiny", Path()), name)


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
    free, fixed = next_stage_bounds(bounds, winner, 0.5)
    assert free == {"cm.all": (4.0, 10.0), "e_pas.all": (-110.0, -60.0), "g.new": (0.0, 1.0)}
    assert fixed == {"g.zero": 0.0}
    assert next_stage_bounds(bounds, winner, None) == (bounds, {})
    free, fixed = next_stage_bounds(bounds, winner, 0.0)
    assert set(free) == {"g.new"}
    assert fixed == winner


@pytest.mark.parametrize(("dendrite", "stages"), [("spiny", ["f6", "f9"]), ("aspiny", ["f12", "f13"])])
def test_perisomatic_recipes_are_active_at_the_soma_alone(dendrite, stages):
    recipe = load_recipe("perisomatic", dendrite, Path())
    assert [stage.name for stage in recipe.stages] == ["passive", *stages]
    mechanisms = recipe.mechanisms_until(2, has_apical=True)
    assert {section for section, names in mechanisms.items() if names != ["pas"]} == {"soma"}
    sodium = "NaTs" if dendrite == "spiny" else "NaV"
    assert recipe.bounds_until(2, has_apical=True)[f"gbar_{sodium}.soma"] == (0.0, 15.0)
    assert len(recipe.bounds_until(1, has_apical=True)) == len(recipe.bounds_until(2, has_apical=True))
    assert recipe.stages[2].block_check


def test_a_stage_hands_single_parameters_over_in_its_own_way():
    bounds = {"cm.dend": (0.1, 10.0), "g_pas.soma": (0.0, 1.0), "gbar_Im.soma": (0.0, 1.0)}
    winner = {"cm.dend": 2.0, "g_pas.soma": 0.1, "gbar_Im.soma": 0.4}
    free, fixed = next_stage_bounds(bounds, winner, 0.5, {"cm": 0, "g_pas": None})
    assert free == {"g_pas.soma": (0.0, 1.0), "gbar_Im.soma": (0.2, pytest.approx(0.6))}
    assert fixed == {"cm.dend": 2.0}


@pytest.mark.parametrize(
    ("stage", "said"),
    [
        ({"targets": "training", "block_check": True, "parameters": {"cm": {"all": [1, 2]}}}, "block_check"),
        ({"targets": "training"}, "needs `parameters:`"),
    ],
)
def test_faults_of_a_recipe_are_said(tmp_path, stage, said):
    whole = {"name": "own", "stages": [{"name": "one", "features": ["AP_width"], **stage}]}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(whole))
    with pytest.raises(InputError, match=said):
        load_recipe("own.yaml", "spiny", tmp_path)

"""Stages build on each other, and a winner's parameters re-enter the next stage with narrowed bounds."""

from pathlib import Path

import pytest
import yaml

from neurofleet.errors import InputError
from neurofleet.neurosim.cells.cell_model import Conditions, reversal_notes
from neurofleet.neurosim.cells.recipe import BUILT_IN, Recipe, check_recipe_names, load_recipe
from neurofleet.neurosim.cells.stage_bounds import next_stage_bounds
from neurofleet.neurosim.mechanisms import MECHANISMS, Mechanism
from neurofleet.neurosim.mechanisms.catalogue import IonUse


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


HCN = Mechanism("Hcn", {"gbar": 1e-3}, {"hcn": IonUse(("ehcn",), ("ihcn",))}, shared=("vh",), calculated=("ninf",))


def own_recipe(folder: Path, conditions: dict | None = None, unfit: dict | None = None, **stage) -> Recipe:
    whole = {"name": "one", "targets": "training", "features": ["AP_width"], "mechanisms": {"soma": ["Hcn"]}}
    whole |= {"parameters": {"gbar_Hcn": {"soma": [0, 1]}}, **stage}
    recipe = {"name": "own", "conditions": conditions or {}, "stages": [whole]}
    (folder / "own.yaml").write_text(yaml.safe_dump(recipe))
    return load_recipe("own.yaml", "spiny", folder, MECHANISMS | {"Hcn": HCN}, unfit or {})


def test_the_reversal_potential_of_any_ion_is_a_condition_or_a_parameter(tmp_path):
    found = own_recipe(tmp_path, {"celsius": 30, "ehcn_mV": -45}).conditions.conditions()
    assert found == Conditions(30.0, other_reversals_mV={"hcn": -45.0})
    assert found.reversals_mV == {"na": 53.0, "k": -107.0, "hcn": -45.0}
    assert own_recipe(tmp_path, fixed={"ehcn": {"soma": -45}}).fixed_until(0, True) == {"ehcn.soma": -45.0}
    searched = own_recipe(tmp_path, parameters={"ehcn": {"soma": [-60, -20]}})
    assert searched.bounds_until(0, True) == {"ehcn.soma": (-60.0, -20.0)}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"conditions": {"ehcn": -45}}, "unknown key 'ehcn' .did you mean 'ehcn_mV'"),
        ({"conditions": {"ehnc_mV": -45}}, "no mechanism of the recipe uses an ion hnc .did you mean 'ehcn_mV'"),
        ({"conditions": {"ehcn_mV": float("inf")}}, "conditions.ehcn_mV: .*finite"),
        ({"fixed": {"ehcn": {"dend": -45}}}, "ehcn.dend needs a mechanism that uses the ion hcn in dend"),
        ({"fixed": {"vh_Hcn": {"soma": 1}}}, "vh of Hcn is GLOBAL, not RANGE"),
        ({"fixed": {"ninf_Hcn": {"soma": 1}}}, "ninf of Hcn is no PARAMETER: the mechanism calculates it"),
        ({"fixed": {"gbr_Hcn": {"soma": 1}}}, "no parameter 'gbr_Hcn' .did you mean 'gbar_Hcn'"),
        ({"unfit": {"Hcn": "(h.mod) cannot be"}}, r"own.yaml: stage one: mechanism Hcn \(h.mod\) cannot be\.$"),
    ],
)
def test_what_a_recipe_cannot_set_has_its_own_reason(tmp_path, given, said):
    with pytest.raises(InputError, match=said):
        own_recipe(tmp_path, **given)


@pytest.mark.parametrize("name", BUILT_IN)
def test_recipes_of_the_house_leave_no_ion_to_chance(name):
    recipe = load_recipe(name, "spiny", Path())
    last = len(recipe.stages) - 1
    given = [*recipe.bounds_until(last, True), *recipe.fixed_until(last, True)]
    assert not reversal_notes(recipe.mechanisms_until(last, True), given, recipe.conditions.conditions())

import numpy as np
import pandas as pd
import pytest
from scipy.stats import false_discovery_control, mannwhitneyu

from neurofleet.neurosim.studies.class_comparisons import (
    LEAST_CELLS_OF_CLASS,
    LINKS,
    Link,
    cliffs_delta,
    cliffs_delta_interval,
    compare,
    missing_genes,
    side_by_side,
)


def test_the_interval_of_cliffs_delta_is_as_wide_as_the_deltas_of_repeated_draws():
    """With ties; the variance is compared with that of its definition, pair by pair."""
    draw = np.random.default_rng(1)

    def drawn() -> tuple[np.ndarray, np.ndarray]:
        return draw.integers(0, 20, 30) + 4.0, draw.integers(0, 20, 40) * 1.0

    truth = cliffs_delta(*(np.concatenate([drawn()[i] for _ in range(200)]) for i in (0, 1)))
    intervals = [cliffs_delta_interval(*drawn()) for _ in range(400)]
    held = np.mean([low <= truth <= high for low, high in intervals])
    assert 0.91 <= held <= 0.985
    assert cliffs_delta_interval(np.array([2.0, 3.0]), np.array([0.0, 1.0])) == (1.0, 1.0)
    first, second = drawn()
    low, high = cliffs_delta_interval(first, second)
    assert cliffs_delta_interval(second, first) == pytest.approx((-high, -low))


def test_cliffs_delta_counts_pairs():
    a, b = np.array([1.0, 2.0, 5.0]), np.array([2.0, 3.0])
    by_hand = sum(np.sign(x - y) for x in a for y in b) / 6
    assert cliffs_delta(a, b) == pytest.approx(by_hand)


@pytest.fixture
def table():
    rng = np.random.default_rng(0)
    values = pd.DataFrame({"up": rng.normal(size=30), "flat": rng.normal(size=30), "few": np.nan})
    values.loc[:9, "up"] += 3.0
    values.loc[:1, "few"] = 1.0
    classes = pd.Series(["b"] * 10 + ["a"] * 10 + ["c"] * 9 + [""])
    return values, classes


def test_the_smaller_one_sided_p_is_adjusted_over_all_pairs_and_quantities(table):
    values, classes = table
    found = compare(values, classes)
    assert len(found) == 6, "three pairs of two quantities; no class has enough of the third"
    by_hand = []
    for row in found.itertuples():
        high, low = (values.loc[classes == name, row.quantity] for name in (row.higher, row.lower))
        by_hand.append(min(mannwhitneyu(high, low, alternative=side).pvalue for side in ("less", "greater")))
        assert row.cliffs_delta >= 0
        assert (row.n_higher, row.n_lower) == (len(high), len(low))
    np.testing.assert_allclose(found["p"], by_hand)
    np.testing.assert_allclose(found["p_adjusted"], false_discovery_control(by_hand))
    assert (found["significant"] == (found["p_adjusted"] < 0.05)).all()
    up = found[found["quantity"] == "up"]
    assert up[up["significant"]][["higher", "lower"]].to_numpy().tolist() == [["b", "a"], ["b", "c"]]


def test_classes_with_too_few_values_are_not_tested(table):
    values, classes = table
    few = values.assign(up=values["up"].where(classes.ne("a") | (values.index < 10 + LEAST_CELLS_OF_CLASS - 1)))
    found = compare(few, classes)
    assert not (found[found["quantity"] == "up"][["higher", "lower"]] == "a").any(axis=None)


def row(family, quantity, higher, lower, significant=True):
    return {
        "grouping": "g",
        "family": family,
        "table": family,
        "quantity": quantity,
        "higher": higher,
        "lower": lower,
        "n_higher": 9,
        "n_lower": 9,
        "cliffs_delta": 0.5,
        "p_adjusted": 0.01 if significant else 0.5,
        "p_adjusted_two_sided": 0.02,
        "significant": significant,
    }


def test_genes_and_features_agree_with_significant_conductances_alone():
    links = {"Ih": Link(("Ih",), ("Hcn1", "Hcn2"), ("sag",))}
    tests = [
        row("parameters", "gbar_Ih.soma", "a", "b", significant=False),
        row("parameters", "gbar_Ih.dend", "b", "a"),
        row("parameters", "gbar_Im.dend", "a", "b"),
        row("genes", "Hcn1", "b", "a"),
        row("genes", "Hcn2", "a", "b"),
        row("features", "sag", "b", "a"),
    ]
    found = side_by_side(pd.DataFrame(tests), links)
    assert "gbar_Im.dend" not in set(found["quantity"])
    agrees = dict(zip(found["quantity"], found["agrees"], strict=True))
    assert [bool(agrees[name]) for name in ("Hcn1", "Hcn2", "sag")] == [True, False, True]
    assert pd.isna(agrees["gbar_Ih.dend"])
    nothing = side_by_side(pd.DataFrame([tests[0], tests[3]]), links)
    assert nothing["agrees"].isna().all()


def test_the_papers_links_know_their_genes():
    assert LINKS["Kv3.1"].has_parameter("gbar_Kv3_1.soma")
    assert not LINKS["K_P"].has_parameter("gbar_K_Tst.soma")
    assert missing_genes(LINKS, ["Kcnc1", "Hcn1", "Hcn2", "Hcn3", "Scn8a"]) == [
        *("Kcna1", "Kcna2", "Kcna3", "Kcna6", "Kcnd1", "Kcnd2", "Kcnd3")
    ]

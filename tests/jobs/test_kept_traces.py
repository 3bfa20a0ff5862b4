"""What finalists did is kept outside of memory until it is asked for."""

import logging

import numpy as np

from neurofleet.jobs.fit.engines import ModelTraces
from neurofleet.jobs.fit.kept_traces import KeptTraces
from neurofleet.neurosim.cells.model_responses import FeatureValue

A, B = np.array([1.0, 2.0]), np.array([1.0, np.nextafter(2.0, 3.0)])


def did(value: float, points: int = 4) -> ModelTraces:
    trace = np.arange(points, dtype=np.float32), np.full(points, value, np.float32)
    return ModelTraces(np.full((2, 1), value), {"step.soma.v": trace}, {"width": FeatureValue(value, 1.0, None)}, {})


def test_a_model_is_found_by_its_cell_and_its_exact_parameters():
    kept = KeptTraces()
    for cell, parameters, value in (("a", A, 1.0), ("a", B, 2.0), ("b", A, 3.0), ("a", B, 4.0)):
        kept.put(cell, parameters, did(value))
    found = kept.get("a", A)
    assert found.features == did(1.0).features
    np.testing.assert_array_equal(found.traces["step.soma.v"], did(1.0).traces["step.soma.v"])
    assert [kept.get(*key).scores[0, 0] for key in (("a", B), ("b", A))] == [4.0, 3.0]
    assert kept.get("b", B) is None
    kept.drop("a")
    assert kept.get("a", A) is None
    assert kept.get("b", A).scores[0, 0] == 3.0


def test_where_the_disk_is_full_what_was_kept_stays(caplog):
    kept = KeptTraces()
    kept.put("a", A, did(1.0))
    kept._database.execute("PRAGMA max_page_count = 20")
    for _ in range(2):
        kept.put("a", B, did(2.0, 100_000))
    assert [r.levelno for r in caplog.records] == [logging.WARNING]
    assert "database or disk is full" in caplog.text
    assert kept.get("a", B) is None
    assert kept.get("a", A).scores[0, 0] == 1.0
    kept.put("a", B, did(2.0))
    assert kept.get("a", B).scores[0, 0] == 2.0

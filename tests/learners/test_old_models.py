"""Models that neurofleet 0.1.0 wrote still open, and predict as they did; in a process that loads little."""

from pathlib import Path

import numpy as np
import pytest

from neurofleet import fresh_process, load_model
from neurofleet.learners.sims.cell_prediction import open_query
from tests.learners import fresh_prediction
from tests.learners.cells.made_cells import made_counts, written
from tests.learners.hippie.small_units import write_units

OLD = Path(__file__).parent / "old_models"


def expected(learner: str) -> dict[str, np.ndarray]:
    """What the version that wrote the model predicted for the same made data."""
    with np.load(OLD / learner / "expected.npz") as arrays:
        return dict(arrays)


def test_an_old_sims_model(tmp_path):
    model, cells = load_model(OLD / "sims"), made_counts(12, seed=5)
    ((_, values),) = open_query(model, cells).blocks()
    np.testing.assert_allclose(model.probabilities(values), expected("sims")["probabilities"], atol=1e-6)
    path = written(cells, tmp_path / "query.h5ad")
    loaded, probability, vectors = fresh_process.call(fresh_prediction.predict, str(OLD / "sims"), str(path))
    assert loaded == []
    np.testing.assert_allclose(probability[:, 0], expected("sims")["probabilities"].max(1), atol=1e-6)
    assert vectors.shape == (12, model.embedding_size)


def test_an_old_hippie_model(tmp_path):
    path = write_units(tmp_path / "units.npz", 12, seed=3)
    loaded, probabilities, vectors = fresh_process.call(fresh_prediction.predict, str(OLD / "hippie"), str(path))
    assert loaded == []
    before = expected("hippie")
    np.testing.assert_allclose(probabilities, before["probabilities"], atol=1e-6)
    np.testing.assert_allclose(vectors, np.hstack([before["fusion"], before["mean"]]), atol=1e-5)


def test_an_old_neuprint_model():
    loaded, probabilities, phi = fresh_process.call(fresh_prediction.predict, str(OLD / "neuprint"), "recordings")
    assert loaded == []
    before = expected("neuprint")
    np.testing.assert_allclose(phi, before["phi"], atol=1e-5)
    np.testing.assert_allclose(probabilities, before["probabilities"], atol=1e-4)


def test_learners_need_no_simulator():
    assert len(fresh_process.call(fresh_prediction.import_all_learners)) > 60


@pytest.mark.parametrize(("learner", "words"), [("sims", "60 genes"), ("hippie", "waveform"), ("neuprint", "bilinear")])
def test_a_model_says_what_it_is(learner, words):
    text = repr(load_model(OLD / learner))
    assert "classes: " in text
    assert words in text
    assert "trained " in text
    assert "neurofleet 0.1.0" in text
    assert "Linear(" not in text

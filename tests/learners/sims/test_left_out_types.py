"""Types left out of training, and how well they are told."""

import numpy as np
import pytest

from neurofleet.errors import LearnerError
from neurofleet.learners.local_training import train_here
from neurofleet.learners.sims.held_out_scores import leave_types_out
from tests.learners.sims.small_reference import QUICK, small_reference, small_split


def test_a_type_is_left_out_of_every_training_and_swept(tmp_path):
    reference = small_reference(tmp_path, classes=("B", "NK", "T", "Mono"))
    trained = []

    def train(task, name, seed):
        trained.append((name, set(task.labels[np.r_[task.train_rows, task.validation_rows]])))
        return train_here(task, name, seed)

    found = leave_types_out(reference, small_split(reference), QUICK, train, names=["NK", "T"])
    assert list(found) == ["NK", "T"]
    assert trained
    for name, classes in trained:
        assert classes == {0, 1, 2, 3} - {int(name.split("-")[2])}
    curve = found["NK"]
    assert curve.known_accuracy[0] > 0.8
    assert (curve.unknown_recall[0], curve.unknown_recall[-1]) == (0.0, 1.0)
    assert (np.diff(curve.unknown_recall) >= 0).all()
    assert (np.diff(curve.known_accuracy) <= 0).all()


def test_what_cannot_be_left_out_is_refused(tmp_path):
    reference = small_reference(tmp_path)
    with pytest.raises(LearnerError, match="No class is called 'NKK' .did you mean 'NK'"):
        leave_types_out(reference, small_split(reference), QUICK, train_here, names=["NKK"])
    with pytest.raises(LearnerError, match="test part"):
        leave_types_out(reference, small_split(reference, test=0.0), QUICK, train_here)

"""What a job file is told about its keys and values: in its user's words."""

import pytest

from neurofleet.errors import UsageError
from neurofleet.jobs.job_file import load_job, parse_job

SIMS = "kind: train\nlearner: sims\nreference: a.h5ad\nlabel: type\n"
HIPPIE = "kind: train\nlearner: hippie\nunits: a.nwb\nlabel: type\n"
NEUPRINT = "kind: train\nlearner: neuprint\nrecordings: a.npz\nlabel: 3\n"
CELL = "{id: %s, morphology: a.swc, recordings: a.nwb}"


def job(text):
    return parse_job(text, "job.yaml", "small")


@pytest.mark.parametrize(
    ("text", "read", "meant"),
    [
        (SIMS + "split: {test: {donor: [1, d2]}}", lambda job: job.split.test, {"donor": ["1", "d2"]}),
        (SIMS + "split: {test: {donor: d1}}", lambda job: job.split.test, {"donor": ["d1"]}),
        (SIMS + "split: {validation: {5: 2.5}}", lambda job: job.split.validation, {"5": ["2.5"]}),
        (SIMS + "split: {folds: 3, by: 7}", lambda job: job.split.by, "7"),
        (SIMS + "unknown_curve: [1, L5]", lambda job: job.unknown_curve, ["1", "L5"]),
        (SIMS + "unknown_curve: true", lambda job: job.unknown_curve, True),
        (HIPPIE + "classes: [0, 1]", lambda job: job.classes, ["0", "1"]),
        (HIPPIE + "classes: {0: [1, 2], PV: 3}", lambda job: job.classes, {"0": ["1", "2"], "PV": ["3"]}),
        (HIPPIE + "group: 2", lambda job: job.group, "2"),
        (HIPPIE + "classes: [NO, true]", lambda job: job.classes, ["NO", "True"]),
        (NEUPRINT + "split: single-animal\nanimal: 12", lambda job: (job.label, job.animal), ("3", "12")),
        (SIMS + "name: 2024", lambda job: job.name, "2024"),
        (f"kind: fit\ncells: [{CELL % 483101699}]", lambda job: job.cells[0].id, "483101699"),
        (SIMS + "baselines: majority", lambda job: job.baselines, ["majority"]),
        (SIMS + "learning_rate: 1e-3", lambda job: job.chosen.learning_rate, 1e-3),
    ],
)
def test_numbers_are_text_where_a_label_is_meant(text, read, meant):
    assert read(job(text)) == meant


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (SIMS + "split: {test: d1}", "split.test: expected a fraction from 0 to below 1, or groups by their column"),
        (SIMS + "split: {test: 1.5}", "split.test: expected a number below 1, found 1.5."),
        (SIMS + "split: {test: {donor: []}}", "split.test.donor: expected at least 1 of them, found []."),
        (SIMS + "split: {test: {donor: [[1]]}}", "split.test.donor.0: expected text, found [1]."),
        (SIMS + "split: {tests: 0.2}", "split.tests: unknown key (did you mean 'test'?)."),
        (SIMS + "workers: two", "workers: expected a whole number or a list, found 'two'."),
        (SIMS + "workers: -1", "workers: expected a number of at least 0, found -1."),
        (SIMS + "epochs: 0", "settings: epochs: expected a number of at least 1, found 0."),
        (
            SIMS + "mask: entmax",
            "mask: expected one of sparsemax or entmax15, found 'entmax' (did you mean 'entmax15'?)",
        ),
        (SIMS + "n_shared: 0\nn_independent: 0", "settings: n_shared and n_independent are both 0"),
        (SIMS + "loggers: [tensorbord]", "loggers.0: expected one of tensorboard, wandb or mlflow, found 'tensor"),
        (SIMS + "drop_unlabelled: maybe", "drop_unlabelled: expected true or false, found 'maybe'."),
        (SIMS + "baselines: [majorty]", "found 'majorty' (did you mean 'majority'?)"),
        (SIMS + "1: x", "expected keys that are words, found 1."),
        (SIMS + "seed: 1\nseed: 2", "the key 'seed' stands twice, in lines 5 and 6"),
        (HIPPIE + "classes: abc", "classes: expected a list or keys and values, found 'abc'."),
        ("kind: [fit]", "kind: expected one of fit, train"),
        (f"cells: [{CELL % ('x' * 300)}]", "cells.0.id: expected at most 128 characters, found 'xxx"),
        (f"cells: [{CELL % '../a'}]", "cells.0.id: expected letters, digits, `.`, `_` and `-`"),
        ("evaluator: model", "evaluator: expected a module and a function in it"),
        ("evaluator: a:b\ndeadline_s: soon", "deadline_s: expected a number or auto, found 'soon'."),
        ("", "expected keys such as `kind: fit` and `cells:`, found nothing."),
    ],
)
def test_faults_are_told_in_the_words_of_the_file(text, told):
    with pytest.raises(UsageError) as refused:
        job(text)
    said = str(refused.value)
    assert said.startswith("job.yaml: ")
    assert told in said
    assert not any(word in said for word in ("constrained", "dict[", "list[", "function-", "Input should", "pydantic"))


def test_a_job_is_named_after_its_file_whatever_that_is_called(tmp_path):
    for file, name in (("räume 2.yaml", "r-ume-2"), ("é.yaml", "job"), ("x" * 200 + ".yaml", "x" * 128)):
        (tmp_path / file).write_text(SIMS)
        assert load_job(tmp_path / file).name == name

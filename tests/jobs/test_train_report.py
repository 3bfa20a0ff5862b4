"""The page, the table and the status of a training: what they say, from made facts."""

import io
import json
import re
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from rich.console import Console
from safetensors.numpy import save_file

from neurofleet.cluster.store.run_store import RunStore
from neurofleet.errors import UsageError
from neurofleet.jobs.job_kinds import write_report
from neurofleet.jobs.learners.learner_figures import NUMBERED_CLASSES, confusion_figure
from neurofleet.jobs.learners.learner_folder import is_training
from neurofleet.jobs.learners.learner_report import stored_model, typed
from neurofleet.jobs.learners.sims_report import FACTS, SimsReport, SimsScores, invalid, remarks, scores_rows
from neurofleet.jobs.results.results_command import results_command
from neurofleet.jobs.status import print_status
from neurofleet.learners.calibration import (
    Calibration,
    calibrated_probabilities,
    expected_calibration_error,
    fit_temperature,
    negative_log_likelihood,
    reliability_table,
)
from neurofleet.learners.model_folder import ModelRefused, write_model
from neurofleet.learners.scores import score
from neurofleet.learners.sims.tabnet_settings import settings_of
from tests.jobs.test_report import Page

HOSTILE = "<script>alert(1)</script> & \"T\" 'cells'"


def made_facts(classes, n=400, folds=1, draw=None):
    """Return facts as a training job makes them, of a model that is right in 8 of 10 cells."""
    draw = draw or np.random.default_rng(1)
    true = draw.integers(0, len(classes), n)
    logits = draw.normal(0, 1, (n, len(classes)))
    logits[np.arange(n), true] += 3.0
    worse = np.where(draw.random(n) < 0.3, 0, true)
    scores = {
        "sims": score(true, logits.argmax(1), classes).to_dict(),
        "linear": score(true, worse, classes).to_dict(),
    }
    probabilities = {
        "before": calibrated_probabilities(logits, 1.0),
        "after": calibrated_probabilities(logits, 1.2),
    }
    simple = {"seconds": 0.1, "notes": ["Fitted on few."], "settings": [{}]}
    cells = {"train": 2 * n, "validation": n // 2, "test": n}
    facts = {
        "role": "test",
        "scores": scores,
        "baselines": {
            "majority": simple | {"accuracy": 0.1, "macro_f1": 0.01},
            "celltypist": {"seconds": 0.0, "notes": ["celltypist is not installed."], "settings": []},
        },
        "control": {"valid": True, "accuracy": 0.1, "chance": 0.12, "limit": 0.16},
        "reliability": {
            name: {
                "ece": expected_calibration_error(found, true),
                "nll": negative_log_likelihood(found, true),
                "bins": [vars(one) for one in reliability_table(found, true)],
            }
            for name, found in probabilities.items()
        },
        "name": "made",
        "preset": "default",
        "seed": 1,
        "notes": ["2 cells have no label."],
        "data": {
            "files": ["made.h5ad"],
            "sha256": {"made.h5ad": "0" * 64},
            "n_cells": 4 * n,
            "n_genes": 321,
            "n_genes_seen": 123,
            "label": "type",
            "cells_of_class": dict.fromkeys(classes, 3 * n // len(classes)),
            "normalisation": "log1p of 10000 per cell",
        },
        "split": {"fingerprint": "f" * 64, "cells": [cells] * folds},
        "versions": {"torch": "2.13.0"},
    }
    if folds > 1:
        one = {name: {"accuracy": 0.5, "macro_f1": 0.25, "n": n} for name in scores}
        other = {name: {"accuracy": 0.75, "macro_f1": 0.75, "n": n} for name in scores}
        facts["folds"] = [one] * (folds - 1) + [other]
    return facts


def made_history(trainings=("model", "model-continued", "shuffled-labels"), epochs=4):
    rows = []
    for training in trainings:
        for epoch in range(1, epochs + 1):
            row = {"training": training, "epoch": epoch, "seconds": 0.5, "train_loss": 2.0 / epoch}
            if training != "model-continued":
                row |= {"val_loss": 2.5 / epoch, "val_accuracy": 0.5, "val_macro_f1": 0.4}
            rows.append(row)
    return pa.Table.from_pylist(rows).to_pylist()


@dataclass(frozen=True)
class Made:
    """A training that has ended, with its scores as JSON."""

    facts: dict
    classes: tuple
    settings: dict
    calibration: Calibration
    has_linear: bool
    history: list

    @property
    def scores(self):
        return typed(SimsScores, self.facts)

    @property
    def report(self):
        return SimsReport(
            self.scores, list(self.classes), self.settings, self.calibration, self.has_linear, self.history
        )


def made_contents(classes=("B", "NK", "T"), folds=1, **changes):
    calibration = fit_temperature(np.array([[2.0, 0.0], [0.0, 2.0], [2.0, 0.0]]), np.array([0, 1, 1]))
    return Made(
        facts=made_facts(list(classes), folds=folds) | changes,
        classes=tuple(classes),
        settings=settings_of("default", {"epochs": 7}).model_dump(),
        calibration=calibration,
        has_linear=True,
        history=made_history(),
    )


def written(folder, contents):
    path = contents.report.write(folder)
    assert path == f"{folder}/report.html"
    content = (folder / "report.html").read_text()
    page = Page(content)
    assert page.open == []
    return content, page


def save(folder, contents):
    """Write a model folder with these contents."""
    description = {
        "classes": list(contents.classes),
        "settings": dict(contents.settings),
        "calibration": contents.calibration.to_dict(),
        "linear": {} if contents.has_linear else None,
        "facts": dict(contents.facts),
    }
    write_model(folder, learner="sims", run="r", description=description, tensors={"x": np.zeros(1)})
    pq.write_table(pa.Table.from_pylist(list(contents.history)), folder / "history.parquet")


def shown(print_to, *arguments):
    console = Console(width=120, file=io.StringIO())
    print_to(*arguments, console)
    return console.file.getvalue()


def test_page_says_what_was_trained_and_how_good_it_is(tmp_path):
    contents = made_contents()
    content, page = written(tmp_path, contents)
    accuracy = contents.report.model_scores.accuracy
    assert "SIMS model of 3 classes (3 networks averaged and a linear model)" in page.text
    assert "Scores on 400 test cells" in page.text
    assert f"the model {accuracy:.3f} {contents.report.model_scores.accuracy_low:.3f} – " in page.text
    assert "always the most frequent class 0.100" in page.text
    assert "celltypist: celltypist is not installed." in page.text
    assert "control: a model of shuffled labels 0.100 The control is sound" in page.text
    assert "reaches 0.160 at most" in page.text
    assert "321; the networks see 123, which 3 training cells or more express" in page.text
    assert "log1p of 10000 per cell" in page.text
    assert "800 training, 200 validation, 400 test cells" in page.text
    assert "f" * 64 in page.text
    assert "epochs 7 60" in page.text
    assert "2 cells have no label." in page.text
    assert "torch 2.13.0" in page.text
    assert "Calibration holds for cells like the validation cells." in page.text
    assert page.pictures == [
        "confusion matrix",
        "reliability of probabilities: before calibration, after calibration",
        "loss and scores by epoch",
    ]
    assert all(target.startswith("#") for target in page.loads)
    assert "default-src 'none'" in content
    assert 'class="alarm"' not in content
    assert len(content) < 300_000


def test_page_shows_every_class_with_its_scores(tmp_path):
    contents = made_contents()
    _, page = written(tmp_path, contents)
    for one in contents.report.model_scores.per_class:
        row = f"{one.name} 400 {one.support} {one.precision:.3f} {one.recall:.3f} {one.f1:.3f}"
        assert row in page.text


def test_a_class_that_was_neither_tested_nor_predicted_has_no_scores(tmp_path):
    contents = made_contents()
    facts = dict(contents.facts)
    sims = score([0, 0, 1, 1], [0, 0, 1, 0], ["B", "NK", "T"]).to_dict()
    _, page = written(tmp_path, replace(contents, facts=facts | {"scores": {"sims": sims}}))
    assert "T 400 0 – – –" in page.text
    assert "NK B 1 50%" in page.text


def test_an_invalid_control_is_loud(tmp_path):
    contents = made_contents(control={"valid": False, "accuracy": 0.6, "chance": 0.3, "limit": 0.4})
    content, page = written(tmp_path, contents)
    assert content.count('<p class="alarm">') == 1
    assert content.index('<p class="alarm">') < content.index("<table>")
    assert "no score of this training can be trusted" in page.text
    assert "INVALID" in shown(contents.report.print_tables)
    assert invalid(made_contents().scores) == []


def test_a_better_baseline_is_named(tmp_path):
    facts = made_contents().facts
    assert remarks(typed(SimsScores, facts)) == []
    accuracy, high = facts["scores"]["sims"]["accuracy"], facts["scores"]["sims"]["accuracy_high"]
    baseline = {"notes": [], "macro_f1": 0.0}

    def with_logistic(**found):
        return facts | {"baselines": {"logistic": baseline | found}}

    def remarks_with_logistic(**found):
        return remarks(typed(SimsScores, with_logistic(**found)))

    (inside,) = remarks_with_logistic(accuracy=(accuracy + high) / 2)
    assert inside.startswith("Logistic regression does better than the model: accuracy")
    assert inside.endswith("inside the model's 95 % interval.")
    (above,) = remarks_with_logistic(accuracy=0.999, macro_f1=1.0)
    assert "above the model's 95 % interval; macro-F1 1.000 against" in above
    (rare,) = remarks_with_logistic(accuracy=accuracy, macro_f1=1.0)
    assert rare.startswith("Logistic regression does better than the model on rare classes")
    assert remarks_with_logistic(accuracy=accuracy + 1e-9) == []
    _, page = written(tmp_path, made_contents(baselines=with_logistic(accuracy=0.999)["baselines"]))
    assert "Logistic regression does better than the model: accuracy 0.999" in page.text


def test_hostile_names_stay_text(tmp_path):
    contents = made_contents((HOSTILE, "[red]NK[/red]", "$\\frac{T$"))
    changes = {"name": HOSTILE, "notes": [HOSTILE], "versions": {HOSTILE: HOSTILE}}
    baselines = {HOSTILE: {"notes": [HOSTILE], "accuracy": 1.0, "macro_f1": 1.0}}
    facts = contents.facts | changes | {"baselines": baselines}
    content, page = written(tmp_path, replace(contents, facts=facts))
    assert "<script" not in content
    assert HOSTILE in page.text
    assert "[red]NK[/red]" in page.text
    markup = facts | {"baselines": {"[red]kNN[/red]": baselines[HOSTILE]}}
    assert "[red]kNN[/red]" in shown(replace(contents, facts=markup).report.print_tables)


def test_folds_are_listed_and_compared_by_the_mean_over_folds(tmp_path):
    trainings = ("model", "fold-0-model", "fold-1-model", "fold-1-shuffled-labels")
    contents = replace(made_contents(folds=2), history=made_history(trainings))
    _, page = written(tmp_path, contents)
    assert "Folds" in page.text
    assert "1 800 200 400 0.750 0.750" in page.text
    assert "by one of 2 models that had not seen it" in page.text
    assert scores_rows(contents.scores)[0].macro_f1 == pytest.approx(0.5)
    assert "Folds" not in written(tmp_path, made_contents())[1].text


def test_scores_of_validation_cells_say_what_they_are(tmp_path):
    _, page = written(tmp_path, made_contents(role="validation", control=None))
    assert "There are no test cells: these are the validation cells" in page.text
    assert "there is no control of shuffled labels" in page.text
    assert "On the test cells" not in page.text


def test_calibration_that_does_harm_or_is_missing_is_said(tmp_path):
    contents = made_contents()
    reliability = dict(contents.facts["reliability"])
    swapped = {"before": reliability["after"], "after": reliability["before"]}
    harmed = [
        "does harm" in written(tmp_path, made_contents(reliability=one))[1].text for one in (reliability, swapped)
    ]
    assert sorted(harmed) == [False, True]
    calibration = replace(contents.calibration, n=0, temperature=1.0)
    _, page = written(tmp_path, replace(contents, calibration=calibration))
    assert "no validation cells to calibrate with" in page.text


@pytest.mark.parametrize("n_classes", [2, 9, 40, 60, 200])
def test_confusion_matrix_has_every_count_and_fits_its_cells(n_classes):
    classes = [f"excitatory neuron {i:02d}" for i in range(n_classes)]
    confusion = np.random.default_rng(2).integers(0, 3, (n_classes, n_classes)) * 7
    confusion[0, 0] = 12345
    svg = confusion_figure(classes, confusion.tolist())
    page = Page(svg)
    assert page.open == []
    cells = re.findall(r"<title>([^<]*), predicted as ([^<]*): ([\d,]+) of", svg)
    found = np.zeros_like(confusion)
    for true, predicted, count in cells:
        found[classes.index(true), classes.index(predicted)] = int(count.replace(",", ""))
    assert (found == confusion).all()
    width, font = (
        int(re.search(pattern, svg)[1]) for pattern in (r'<rect x="0" y="0" width="(\d+)', r'font-size="(\d+)')
    )
    longest = max(map(len, re.findall(r'fill="(?:#fff|currentColor)">([^<]*)</text>', svg)), default=0)
    assert (longest > 0) == (n_classes <= NUMBERED_CLASSES)
    assert longest * font * 0.6 <= width - 3
    for name in classes:
        assert svg.count(f"<title>{name}</title>") == 2


def test_history_without_validation_or_without_anything(tmp_path):
    contents = replace(made_contents(), history=made_history(("model-continued",), epochs=1))
    assert "loss and scores by epoch" in written(tmp_path, contents)[1].pictures
    _, page = written(tmp_path, replace(contents, history=[]))
    assert "history.parquet" in page.text
    assert "loss and scores by epoch" not in page.pictures


def test_report_and_results_of_a_model_folder(tmp_path, capsys):
    contents = made_contents()
    save(tmp_path / "model", contents)
    assert SimsReport.read(tmp_path / "model").history == contents.history
    assert write_report(tmp_path / "model") == f"{tmp_path}/model/report.html"
    assert Page((tmp_path / "model/report.html").read_text()).open == []
    results_command(str(tmp_path / "model"), None, json=False)
    assert f"{contents.report.model_scores.accuracy:.3f}" in capsys.readouterr().out
    results_command(str(tmp_path / "model"), None, json=True)
    assert json.loads(capsys.readouterr().out) == contents.facts
    results_command(str(tmp_path / "model"), "select run from runs", json=True)
    assert json.loads(capsys.readouterr().out) == [{"run": "."}]
    told = shown(print_status, str(tmp_path / "model"), False)
    assert "model: finished" in told
    assert f"{contents.report.model_scores.accuracy:.3f}" in told


def test_a_damaged_model_or_one_without_scores_is_refused(tmp_path):
    save(tmp_path / "model", made_contents())
    (tmp_path / "model/model.safetensors").write_bytes(b"")
    with pytest.raises(ModelRefused):
        write_report(tmp_path / "model")
    save(tmp_path / "bare", replace(made_contents(), facts={}))
    with pytest.raises(UsageError, match="expected a model with its scores"):
        stored_model(tmp_path / "bare", "sims", FACTS)


@pytest.fixture
def unfinished(tmp_path):
    """A training that was interrupted after three epochs."""
    store = RunStore(tmp_path / "run")
    with store.locked():
        store.write_text("job.yaml", yaml.safe_dump({"kind": "train", "learner": "sims", "name": "pbmc"}))
        store.append_event("started")
    training = tmp_path / "run/trainings/fold-0-model"
    (training / "checkpoints").mkdir(parents=True)
    for epoch in (2, 3):
        (training / f"checkpoints/epoch-{epoch:05d}.ckpt").write_bytes(b"")
    (training / "task.json").write_text(json.dumps({"epochs": 10}))
    save_file({"train_rows": np.arange(640)}, training / "task.safetensors")
    return tmp_path / "run"


def test_status_of_an_unfinished_training_counts_its_epochs(unfinished, capsys):
    told = shown(print_status, str(unfinished), False)
    assert "pbmc: not finished; it is not running" in told
    assert "fold-0-model: epoch 3 of 10, 640 training samples" in told
    with RunStore(unfinished).locked():
        assert "not finished; running: " in shown(print_status, str(unfinished), False)
    print_status(str(unfinished), as_json=True)
    (training,) = json.loads(capsys.readouterr().out)["trainings"]
    assert training == {"training": "fold-0-model", "epochs": 3, "planned": 10, "samples": 640}


def test_an_unfinished_training_has_no_report_and_no_results_yet(unfinished):
    for ask in (lambda: write_report(unfinished), lambda: results_command(str(unfinished), None, json=False)):
        with pytest.raises(UsageError, match="found one that has not ended"):
            ask()
    assert not (unfinished / "report.html").exists()


def test_status_of_a_sweep_counts_its_trials(tmp_path):
    (tmp_path / "job.yaml").write_text("{kind: sweep, learner: sims, name: s}")
    for number in range(3):
        (tmp_path / f"sweep/trial-{number:05d}").mkdir(parents=True)
    (tmp_path / "sweep/trial-00000/result.json").write_text("{}")
    assert "trials: 1 of the 3 begun have ended" in shown(print_status, str(tmp_path), False)


def test_folders_of_other_kinds_are_no_trainings(tmp_path):
    assert not is_training(tmp_path)
    assert not is_training(tmp_path / "gone")
    assert not is_training("s3://bucket/run")
    (tmp_path / "job.yaml").write_text("kind: fit")
    assert not is_training(tmp_path)

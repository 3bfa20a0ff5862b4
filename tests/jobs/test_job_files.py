"""What a job file is told about its keys and values: in its user's words."""

import hashlib
from pathlib import Path

import pytest
import yaml

from neurofleet.errors import UsageError
from neurofleet.jobs.cli import main
from neurofleet.jobs.job_file import load_job, parse_job
from neurofleet.jobs.run_folder import digests, refuse_missing
from neurofleet.jobs.run_job import results_place
from tests.file_server import FileServer, serve

SIMS = "kind: train\nlearner: sims\nreference: a.h5ad\nlabel: type\n"
HIPPIE = "kind: train\nlearner: hippie\nunits: a.nwb\nlabel: type\n"
NEUPRINT = "kind: train\nlearner: neuprint\nrecordings: a.npz\nlabel: 3\n"
CELLS = "cells: [{id: a, morphology: a.swc, recordings: a.nwb, "
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
        (SIMS + "split: {test: {donor: 5p}}", lambda job: job.split.test, {"donor": ["5p"]}),
        (NEUPRINT + "methods: phi, pca", lambda job: job.methods, ["phi", "pca"]),
        (f"cells: [{CELL % 'a'}]\nevolution: {{seeds: 4}}", lambda job: job.evolution.seeds, [1, 2, 3, 4]),
        (f"cells: [{CELL % 'a'}]\nevolution: {{seeds: '2, 5'}}", lambda job: job.evolution.seeds, [2, 5]),
        (CELLS + "stimuli: 'IDrest, IV'}]", lambda job: job.cells[0].stimuli, ["IDrest", "IV"]),
        (CELLS + "exclude_sweeps: 7}]", lambda job: job.cells[0].exclude_sweeps, [7]),
        (CELLS + "weight: ~}]\nmax_wall_hours: ~", lambda job: (job.cells[0].weight, job.max_wall_hours), (None, None)),
    ],
)
def test_numbers_are_text_where_a_label_is_meant(text, read, meant):
    assert read(job(text)) == meant


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (SIMS + "split: {test: d1}", "split.test: expected a fraction from 0 to below 1, or groups by their column"),
        (SIMS + "split: {test: 1.5}", "split.test: expected a number below 1, found 1.5."),
        (SIMS + "split: {test: {donor: []}}", "split.test.donor: expected at least one, found []."),
        (SIMS + "split: {test: {donor: [[1]]}}", "split.test.donor, value 1: expected text, found [1]."),
        (SIMS + "split: {tests: 0.2}", "split.tests: unknown key (did you mean 'test'?)."),
        (SIMS + "workers: two", "workers: expected a whole number or a list, found 'two'."),
        (SIMS + "workers: -1", "workers: expected a number of at least 0, found -1."),
        (SIMS + "epochs: 0", "settings: epochs: expected a number of at least 1, found 0."),
        (
            SIMS + "mask: entmax",
            "mask: expected one of sparsemax or entmax15, found 'entmax' (did you mean 'entmax15'?)",
        ),
        (SIMS + "n_shared: 0\nn_independent: 0", "settings: n_shared and n_independent are both 0"),
        (
            SIMS + "loggers: [tensorbord]",
            "loggers, value 1: expected one of tensorboard, csv, mlflow or wandb, found 'tensor",
        ),
        (SIMS + "drop_unlabelled: maybe", "drop_unlabelled: expected true or false, found 'maybe'."),
        (SIMS + "baselines: [majorty]", "found 'majorty' (did you mean 'majority'?)"),
        (SIMS + "1: x", "expected keys that are words, found 1."),
        (SIMS + "seed: 1\nseed: 2", "the key 'seed' is given twice, in lines 5 and 6"),
        (HIPPIE + "classes: abc", "classes: expected a list or keys and values, found 'abc'."),
        ("kind: [fit]", "kind: expected one of fit, train"),
        (f"cells: [{CELL % ('x' * 300)}]", "cell 1: id: expected at most 128 characters, found 'xxx"),
        (f"cells: [{CELL % '../a'}]", "cell 1: id: expected letters, digits, `.`, `_` and `-`"),
        (CELLS + "axon: stubb}]", "cell a: axon: expected one of stub, legacy-stub, legacy-stub-60um or full, found"),
        (CELLS + "stimuli: []}]", "cell a: stimuli: expected at least one, found []"),
        (f"cells: [{CELL % 'a'}]\nevolution: {{seeds: [1, x]}}", "evolution.seeds, value 2: expected a whole number"),
        (f"cells: [{CELL % 'a'}]\nevolution: {{seeds: 1, 5}}", "evolution.5: expected a key that is a word, found 5"),
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


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of a job with files, which is not the working folder, and a home."""
    for name in ("home", "job/data", "cache"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("b.h5ad", "a.h5ad", "c.nwb", "c.swc", "m.npz"):
        (tmp_path / "job" / "data" / name).write_text(name)
        (tmp_path / "home" / name).write_text(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NEUROFLEET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return tmp_path / "job"


def in_folder(folder, text):
    (folder / "job.yaml").write_text(text)
    return load_job(folder / "job.yaml")


def test_patterns_of_a_job_are_what_they_match_beside_it(folder):
    sims = in_folder(folder, SIMS.replace("a.h5ad", "data/*.h5ad"))
    assert sims.reference == ["data/a.h5ad", "data/b.h5ad"]
    assert list(digests(sims, folder)) == ["data/a.h5ad", "data/b.h5ad"]
    kept = parse_job(yaml.safe_dump(sims.plain()), "kept", "small")  # as a run folder does, from elsewhere
    assert kept.identity() == sims.identity()
    hippie = in_folder(folder, HIPPIE.replace("a.nwb", "data/*.nwb") + "pool: [{units: 'data/m.*'}]")
    assert (hippie.units, hippie.pool[0].units) == (["data/c.nwb"], ["data/m.npz"])
    assert in_folder(folder, NEUPRINT.replace("a.npz", "'*/*.npz'")).recordings == ["data/m.npz"]
    (cell,) = in_folder(folder, "cells: [{id: a, morphology: '*/*.swc', recordings: data/c*.nwb}]").cells
    assert (str(cell.morphology), str(cell.recordings)) == ("data/c.swc", "data/c.nwb")


def test_a_pattern_that_matches_nothing_or_too_much_is_told(folder):
    spec = in_folder(folder, SIMS.replace("a.h5ad", "data/*.loom"))
    with pytest.raises(UsageError, match=r"data/\*\.loom: no file matches this pattern. A relative path starts at"):
        refuse_missing(spec, folder)
    with pytest.raises(UsageError, match=r"cell a: morphology: expected one file, data/\* matches 5: data/a.h5ad"):
        in_folder(folder, "cells: [{id: a, morphology: data/*, recordings: data/c.nwb}]")


def test_a_tilde_is_the_home_folder(folder):
    home = folder.parent / "home"
    keys = "labels: ~/l.csv\nquery: ~/b*\nout: ~/results"
    sims = in_folder(folder, SIMS.replace("a.h5ad", "[~/a.h5ad, ~/b*]") + keys)
    assert sims.files_named() == [f"{home}/{name}" for name in ("a.h5ad", "b.h5ad", "b.h5ad", "l.csv")]
    assert results_place(None, sims, folder) == f"{home}/results"
    assert results_place("~/x", sims, folder) == f"{home}/x"
    fit = in_folder(
        folder, "cells: [{id: a, morphology: ~/c.swc, recordings: ~/c.nwb}]\nrecipe: ~/r.yaml\nwarm_start: ~/w"
    )
    assert {str(path) for path in fit.paths_named()} == {f"{home}/{name}" for name in ("c.swc", "c.nwb", "r.yaml", "w")}
    many = in_folder(folder, "cells: {glob: ~/*.nwb}")
    assert str(many.cells[0].recordings) == f"{home}/c.nwb"
    study = in_folder(folder, "kind: validate\nmodels: {run: ~/fit}")
    assert study.paths_named()[0] == home / "fit" / "job.yaml"
    analysis = "kind: analyse\npopulations: ../h*\ncells: ~/c.csv\ngroupings: {class: {column: class}}"
    spec = in_folder(folder, analysis)
    assert [str(path) for path in spec.populations] == ["../home"]
    assert str(spec.cells.table) == f"{home}/c.csv"


def test_urls_stay_urls_and_their_content_is_digested(folder):
    with serve(FileServer({"/x/a.h5ad": b"a.h5ad"})) as server:
        spec = in_folder(folder, SIMS.replace("a.h5ad", f"[{server.address}/x/a.h5ad, data/b.h5ad]"))
        assert spec.urls_named() == [f"{server.address}/x/a.h5ad"]
        assert spec.paths_named() == [Path("data/b.h5ad")]
        refuse_missing(spec, folder)
        found = digests(spec, folder)
    assert found[f"{server.address}/x/a.h5ad"] == hashlib.sha256(b"a.h5ad").hexdigest()
    assert len(found) == 2
    assert spec.plain()["reference"] == spec.reference


def test_the_command_line_knows_a_tilde_in_quotes(folder, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["neurofleet", "status", "~/nowhere"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert f"{folder.parent}/home/nowhere" in capsys.readouterr().err


def test_a_job_is_named_after_its_file_whatever_that_is_called(tmp_path):
    for file, name in (("räume 2.yaml", "r-ume-2"), ("é.yaml", "job"), ("x" * 200 + ".yaml", "x" * 128)):
        (tmp_path / file).write_text(SIMS)
        assert load_job(tmp_path / file).name == name


TWO_CELLS = f"cells: [{CELL % 'a'}, {CELL % 'b'}]\n"
QUICK_JOBS = {
    "fit": TWO_CELLS + "evolution: {strategy: paper, generations: {active: 200}}",
    "validate": "models: {run: fit}",
    "sensitivity": "models: {run: fit}\ncheck: salib",
    "synapse": "models: {sample: draws}",
    "sample": TWO_CELLS + "draws: 100000",
    "posterior": "fit: fit",
    "compare": "models: {full: {run: fit}, point: {run: other}}\nsteps: {amplitudes_nA: [0.2, 0.1]}",
    "analyse": "populations: fit\ncells: cells.csv\ngroupings: {layer: {column: layer}}",
    "train sims": "learner: sims\nreference: a.h5ad\nlabel: x\nsplit: {folds: 5, by: donor}\nunknown_curve: true",
    "train hippie": "learner: hippie\nunits: a.npz\nlabel: x\nmethods: [best, head]",
    "train neuprint": "learner: neuprint\nrecordings: a.npz\nlabel: x\nseeds: 5",
    "sweep sims": "learner: sims\nreference: a.h5ad\nlabel: x\nsearch: {epochs: [20, 90], n_d: [8, 16, 32]}\n"
    "trials: {method: grid, scheduler: asha, repeats: 3}",
    "sweep hippie": "learner: hippie\nunits: a.npz\nlabel: x\nsearch: {latent: {integer: [2, 20]}}\n"
    "trials: {number: 40}",
    "sweep neuprint": "learner: neuprint\nrecordings: a.npz\nlabel: x\ntrials: {repeats: 40}",
    "evaluate hippie": "learner: hippie\nsets: [{name: a, units: a.npz, label: x}, {name: b, units: b.npz, label: x}]",
    "evaluate neuprint": "learner: neuprint\nrecordings: a.npz\nlabel: x\nablation: true",
}
"""A job of each kind that has something to be made less of."""


@pytest.mark.parametrize("kind", QUICK_JOBS)
def test_the_quick_version_of_a_job_has_less_is_marked_and_reads_as_itself_again(kind):
    text = f"kind: {kind.split()[0]}\n{QUICK_JOBS[kind]}"
    full, quick = job(text), job(f"quick: true\n{text}")
    assert "quick" not in full.plain()
    assert quick.plain()["quick"] is True
    assert quick.reduced
    assert not any(line.startswith("quick") for line in quick.reduced)
    again = job(yaml.safe_dump(quick.plain()))
    assert again.plain() == quick.plain()
    assert not again.reduced
    assert quick.identity() != full.identity()


def test_a_quick_sweep_has_few_trials_of_what_a_quick_training_leaves_open():
    quick = job(f"kind: sweep\nquick: true\n{QUICK_JOBS['sweep sims']}")
    assert quick.search == {"n_d": [8, 16]}
    assert (quick.trials.scheduler, quick.trials.repeats) == ("none", 1)
    assert quick.chosen.epochs == 10
    asked = job(f"kind: train\nquick: true\nepochs: 3\n{QUICK_JOBS['train hippie']}")
    assert asked.chosen.epochs == 3
    assert asked.methods == ["head"]

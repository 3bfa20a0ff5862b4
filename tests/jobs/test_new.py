"""`neurofleet new`: job files that are valid, with what was seen in the files as comments."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from neurofleet.errors import UsageError
from neurofleet.jobs.cli import app
from neurofleet.jobs.drafts.new_command import DRAFTS, new_command
from neurofleet.jobs.job_file import load_job
from neurofleet.jobs.learners.learner_job import checked_inputs, job_of
from tests.jobs.made_run import write_run
from tests.jobs.test_inspect_file import sweeps
from tests.learners.cells.made_cells import made_counts, written
from tests.learners.hippie.small_units import write_units
from tests.neurosim.cells.small_cells import FULL_SWC
from tests.neurosim.recordings.recording_files import write_series
from tests.test_examples import write_recordings

REPOSITORY = Path(__file__).parents[2]


def new(kind, *files, **options):
    """Return the job that is written, and the text of its file."""
    out = files[0].parent / f"{kind}.yaml"
    new_command(kind, files, out, options.get("overwrite", False), options.get("layout"))
    return load_job(out), out.read_text()


def test_cells_are_drafted_with_classes_and_a_donor_held_out(tmp_path):
    cells = made_counts(90)
    cells.obs["donor"] = np.repeat(["d1", "d2", "d3"], 30)
    cells.obs.loc[cells.obs.index[:4], "cell_type"] = None
    job, text = new("sims", written(cells, tmp_path / "cells.h5ad"))
    assert (job.reference, job.label, job.drop_unlabelled) == (["cells.h5ad"], "cell_type", True)
    assert job.split.test == {"donor": ["d1"]}
    assert "# 90 cells × 60 genes" in text
    assert "# cell_type: 3 (" in text
    assert "# donor: 3 (d1 30, d2 30, d3 30)" in text
    query = made_counts(30, seed=2)[:, :40].copy()
    del query.obs["cell_type"]
    job, text = new("sims", tmp_path / "cells.h5ad", written(query, tmp_path / "query.h5ad"), overwrite=True)
    assert (job.reference, job.query) == (["cells.h5ad"], ["query.h5ad"])
    assert "# 90 cells × 40 genes" in text
    assert checked_inputs(job_of(job, tmp_path))


def test_cells_without_classes_are_refused(tmp_path):
    cells = made_counts(60)
    cells.obs["Cell Type"] = [f"type of {name}" for name in cells.obs_names]
    del cells.obs["cell_type"]
    with pytest.raises(
        UsageError, match=r"none among donor, Cell Type \(Cell Type has 60 values in 60 rows\): `labels"
    ):
        new("sims", written(cells, tmp_path / "cells.h5ad"))
    del cells.obs["Cell Type"]
    with pytest.raises(UsageError, match="classes, found none among donor: `labels: FILE.csv` adds columns"):
        new("sims", written(cells, tmp_path / "cells.h5ad"))
    assert not (tmp_path / "sims.yaml").exists()


def test_units_are_drafted_with_animals_kept_apart(tmp_path):
    job, text = new("hippie", write_units(tmp_path / "units.npz"))
    assert (job.label, job.group, job.folds) == ("cell_type", "animal", 5)
    assert "# 48 units: 48 with waveform, 48 with isi, 48 with acg" in text
    assert checked_inputs(job_of(job, tmp_path))


def test_units_whose_waveforms_have_no_rate_are_drafted_without_them(tmp_path):
    arrays = dict(np.load(write_units(tmp_path / "units.npz")))
    del arrays["waveform_rate_hz"]
    np.savez(tmp_path / "units.npz", **arrays)
    job, text = new("hippie", tmp_path / "units.npz")
    assert job.layout == {"without": ["waveform"]}
    assert "the sampling rate of the waveforms is unknown" in " ".join(text.replace("#", " ").split())
    np.savez(tmp_path / "units.npz", **arrays, group=np.resize(["good", "mua"], 48))
    job, text = new("hippie", tmp_path / "units.npz", overwrite=True, layout="{waveform_rate_hz: 30000}")
    assert job.layout == {"waveform_rate_hz": 30000}
    assert "# group: 2 (good 24, mua 24); all of them are used. `layout: {keep: {group: [good]}}` leaves" in text
    assert "other columns with classes" not in text
    del arrays["cell_type"]
    arrays |= {"n_spikes": np.resize([70, 80, 90], 48)}
    np.savez(tmp_path / "units.npz", **arrays)
    with pytest.raises(UsageError, match="column with classes, found none among animal"):
        new("hippie", tmp_path / "units.npz", overwrite=True)
    with pytest.raises(UsageError, match="--layout: sims has none; hippie and neuprint have"):
        new("sims", tmp_path / "units.npz", layout="a: 1")


def test_recordings_are_drafted_with_a_layout_by_the_lengths_of_their_arrays(tmp_path):
    write_recordings(tmp_path)
    job, text = new("neuprint", tmp_path / "animal_a.npz", tmp_path / "animal_b.npz")
    assert job.layout == {"labels": {"neuron_class": "neuron_class"}, "behaviour": ["velocity", "head_angle"]}
    assert (job.label, job.split) == ("neuron_class", "cross-animal")
    assert "2 recordings of 2 animals, 48 neurons" in text
    assert checked_inputs(job_of(job, tmp_path))
    arrays = dict(np.load(tmp_path / "animal_a.npz"))
    arrays |= {"pumping": np.full(len(arrays["velocity"]), np.nan), "neuron_class": arrays["neuron_class"][:-1]}
    np.savez(tmp_path / "animal_c.npz", **arrays)
    with pytest.raises(UsageError, match=r"found no columns: .*neuron_class \(23 values, .*pumping \(never measured\)"):
        new("neuprint", tmp_path / "animal_c.npz", overwrite=True)


def test_a_fit_is_drafted_with_stimuli_and_says_what_is_a_guess(tmp_path):
    morphology = tmp_path / "cell.swc"
    morphology.write_text(FULL_SWC)
    recording = write_series(tmp_path / "cell.nwb", list(sweeps("el", (-0.1, 0.1, 0.2))))
    job, text = new("fit", morphology, recording)
    (cell,) = job.cells
    assert (cell.id, cell.stimuli) == ("cell", ["Long Square"])
    assert cell.dendrite == "spiny"
    assert "a guess" in text
    assert "Long Square: " in text
    sample, _ = new("sample", morphology, recording)
    assert sample.cells == job.cells


def test_studies_are_drafted_for_a_run_and_for_fit_files(tmp_path):
    write_run(tmp_path / "run", cells=("a", "b"))
    for kind in ("validate", "sensitivity", "synapse"):
        job, text = new(kind, tmp_path / "run")
        assert (job.kind, str(job.models.run)) == (kind, "run")
        assert "finished are a, b" in text
    write_run(tmp_path / "other", cells=("a", "b"))
    job, _ = new("compare", tmp_path / "run", tmp_path / "other")
    assert {name: str(models.run) for name, models in job.models.items()} == {"run": "run", "other": "other"}
    (tmp_path / "cells.csv").write_text("id,layer,depth\na,L4,1.5\nb,L5,2.5\n")
    with pytest.raises(UsageError, match="expected a column with 2 to 20 classes, found id, layer, depth"):
        new("analyse", tmp_path / "run", tmp_path / "cells.csv")
    shutil.copy(REPOSITORY / "tests/old_runs/fit/models/demo/fit.json", tmp_path / "demo_fit.json")
    (tmp_path / "demo.swc").write_text(FULL_SWC)
    job, text = new("sensitivity", tmp_path / "demo_fit.json", tmp_path / "demo.swc", overwrite=True)
    assert (job.models.fits[0].id, job.step.amplitude_nA) == ("demo", 0.2)


def test_wrong_use_is_refused_and_nothing_is_overwritten(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "run")
    told = CliRunner().invoke(app, ["new", "validate", "run"])
    assert told.exit_code == 0, told.output
    assert "neurofleet plan validate.yaml" in told.output
    with pytest.raises(UsageError, match=r"validate.yaml exists already. Nothing was written"):
        new_command("validate", [Path("run")], None, False)
    new_command("validate", [Path("run")], None, True)
    with pytest.raises(UsageError, match="did you mean 'fit'"):
        new_command("fitt", [Path("run")], None, False)
    with pytest.raises(UsageError, match="gone.nwb: no such file"):
        new_command("fit", [Path("gone.nwb")], None, False)
    with pytest.raises(UsageError, match="no morphology and run"):
        new_command("fit", [Path("run")], None, False)
    assert set(DRAFTS) == set(kinds_in_help())


def kinds_in_help():
    """Return the kinds that the help of the command names."""
    told = CliRunner().invoke(app, ["new", "--help"], env={"COLUMNS": "300"}).output
    line = next(line for line in told.splitlines() if "fit, sims" in line)
    return [word for word in DRAFTS if word in line]

"""The command that writes a model for use elsewhere."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from neurofleet.errors import InputError, UsageError
from neurofleet.jobs.cli import app
from neurofleet.jobs.export import FORMATS, export_command
from neurofleet.jobs.fit.fit_job import CellSpec, FitSpec
from neurofleet.jobs.learners.onnx_export import FIT_FORMATS
from neurofleet.jobs.quick import QUICK_NOTE
from neurofleet.neurosim.exchange.allen_fit import read_fit, write_fit
from neurofleet.neurosim.studies.cell_models import make_cell_models
from tests.neurosim.exchange.test_model_export import CLAMPS, DT_MS, IH, STOP_MS, VALUES, made_up_model, own_voltage


@pytest.fixture
def fit_file(tmp_path):
    model = made_up_model(distribution="uniform")
    (tmp_path / "cell.swc").write_bytes(model.morphology.content)
    path = tmp_path / "12_fit.json"
    write_fit(path, dict(model.fixed) | VALUES, model.mechanisms, model.conditions, 9.0, [7])
    return path


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Stand in for the run of a fit of two cells with three models each."""
    values = np.array([[2e-5, 3.0], [1e-5, 2.0], [3e-5, 1.0]])
    found = make_cell_models(made_up_model("full"), values, np.array([1, 2, 1]), np.arange(3))
    cells = [CellSpec.model_construct(id=cell) for cell in ("made-up", "other")]
    spec = FitSpec.model_construct(cells=cells)
    monkeypatch.setattr("neurofleet.jobs.export.open_fit", lambda root: (None, spec, root))
    monkeypatch.setattr("neurofleet.jobs.export.read_populations", lambda models, folder: [found])
    return tmp_path / "run"


def test_a_published_model_goes_through_each_format(fit_file, tmp_path, capsys):
    swc = tmp_path / "cell.swc"
    for format in ("sonata", "allen", "hoc"):
        export_command(fit_file, tmp_path / format, format, morphology=swc, axon="legacy-stub")
        assert f"(12, {format}, axon legacy-stub)" in capsys.readouterr().out
    original = read_fit(fit_file)
    for place in ("allen/fit.json", "sonata/components/fits/fit.json"):
        again = read_fit(tmp_path / place)
        assert again.conditions == original.conditions
        assert again.junction_potential_mV == 9.0
        assert again.parameters["gbar_NaTa_t.axon"] == 3.0
    assert (tmp_path / "allen" / "cell.swc").read_bytes() == swc.read_bytes()
    assert "aibs_allactive" in (tmp_path / "sonata/network/node_types.csv").read_text()
    assert (tmp_path / "hoc/modfiles/NaTa_t.mod").is_file()


def test_the_chosen_model_of_a_run_is_written(run, tmp_path):
    export_command(run, tmp_path / "out", "sonata", cell="made-up", rank=3)
    fit = read_fit(tmp_path / "out/components/fits/fit.json")
    assert fit.parameters["gbar_NaTa_t.axon"] == 1.0
    assert fit.parameters["cm.dend"] == 2.5
    assert "2.087 * math.exp(0.0031 * distance)" in (tmp_path / "out/distributions.py").read_text()
    assert "full_axon" in (tmp_path / "out/network/node_types.csv").read_text()


def test_a_model_of_a_quick_run_says_so_in_every_format(run, tmp_path, monkeypatch):
    spec = FitSpec.model_construct(cells=[CellSpec.model_construct(id="made-up")])
    monkeypatch.setattr("neurofleet.jobs.export.open_fit", lambda root: (None, spec, root))
    run.mkdir()
    (run / "job.yaml").write_text("kind: fit\nquick: true\n")
    model = made_up_model("full", distribution="uniform")
    found = make_cell_models(model, np.array([[2e-5, 3.0]]), np.array([1]), np.arange(1))
    monkeypatch.setattr("neurofleet.jobs.export.read_populations", lambda models, folder: [found])
    for format, file in (("sonata", "README.txt"), ("allen", "fit.json"), ("hoc", "made_up.hoc")):
        export_command(run, tmp_path / format, format)
        assert QUICK_NOTE in (tmp_path / format / file).read_text()
    assert read_fit(tmp_path / "allen/fit.json").parameters["gbar_NaTa_t.axon"] == 3.0


def test_the_hoc_template_gives_the_same_voltage(run, tmp_path):
    from neuron import h

    model = replace(made_up_model("full", IH), cell="elsewhere")  # a template's name can be used once
    expected = own_voltage(model)
    export_command(run, tmp_path / "out", "hoc", cell="made-up", rank=1)
    h.load_file(str(tmp_path / "out" / "made_up.hoc"))
    cell = h.made_up(str(tmp_path / "out"))
    clamps = []
    for clamp in CLAMPS:
        clamps.append(h.IClamp(cell.soma[0](0.5)))
        clamps[-1].amp, clamps[-1].delay = clamp.amplitude_nA, clamp.start_ms
        clamps[-1].dur = clamp.duration_ms
    voltage = h.Vector().record(cell.soma[0](0.5)._ref_v)
    h.celsius, h.v_init, h.dt, h.steps_per_ms = 33.0, -77.0, DT_MS, 1 / DT_MS
    h.cvode_active(0)
    h.tstop = STOP_MS
    h.run()
    found = np.array(voltage)[1:]
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_what_cannot_be_exported_is_refused_and_nothing_is_written(run, fit_file, tmp_path):
    out, swc = tmp_path / "out", tmp_path / "cell.swc"
    refused = [
        ((fit_file, out, "neuroml"), {"morphology": swc}, "one of sonata, allen, hoc"),
        ((fit_file, out, "hoc"), {}, "--morphology FILE.swc"),
        ((fit_file, out, "hoc"), {"morphology": swc, "rank": 2}, "holds one model"),
        ((fit_file, out, "hoc"), {"morphology": swc, "axon": "none"}, "axon: expected one of"),
        ((run, out, "hoc"), {}, "holds 2 cells: name one with --cell"),
        ((run, out, "hoc"), {"cell": "othre"}, "did you mean 'other'"),
        ((run, out, "hoc"), {"cell": "made-up", "rank": 4}, "the models 1 to 3, found 4"),
        ((run, out, "hoc"), {"cell": "made-up", "rank": 0}, "ranks start at 1"),
        ((run, out, "hoc"), {"cell": "made-up", "axon": "full"}, "belong to a fit file"),
        ((run, out, "allen"), {"cell": "made-up"}, "gbar_Ih.apic. Take --format hoc or sonata"),
        ((run, tmp_path, "hoc"), {"cell": "made-up"}, "new or an empty folder"),
    ]
    for arguments, options, said in refused:
        with pytest.raises((UsageError, InputError)) as error:
            export_command(*arguments, **options)
        assert said in str(error.value)
        assert not out.exists()


def test_a_format_alone_names_the_folder_and_is_never_a_folder_of_that_name(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = CliRunner().invoke(app, ["export", str(run), "--cell", "made-up", "--to", "allen"])
    assert isinstance(told.exception, UsageError)  # its parameters depend on the distance
    assert "--format allen: a fit file holds one value" in str(told.exception)
    told = CliRunner().invoke(app, ["export", str(run), "--cell", "made-up", "--to", "sonata", "--json"])
    assert told.exit_code == 0, told.output
    assert json.loads(told.stdout)["folder"] == "made-up-sonata"
    assert (tmp_path / "made-up-sonata/circuit_config.json").is_file()
    assert not (tmp_path / "sonata").exists()
    told = CliRunner().invoke(app, ["export", str(run), "--cell", "made-up", "--to", "sonat"])
    assert "is the format sonata meant?" in str(told.exception)
    for name in ("swc", "NeuroML", "json"):
        told = CliRunner().invoke(app, ["export", str(run), "--cell", "made-up", "--to", name])
        assert f"--to {name}: a model can be exported as sonata, allen, hoc, not as" in str(told.exception)
        assert f"--to ./{name}" in str(told.exception)
    assert [file.name for file in tmp_path.iterdir()] == ["made-up-sonata"]
    with pytest.raises(UsageError, match="did you mean 'sonata'"):
        export_command(run, None, "sonat", cell="made-up")


def test_a_sims_model_as_onnx_gives_its_probabilities(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs neurofleet[onnx]")
    from neurofleet.learners.model_folder import load_model
    from neurofleet.learners.sims.reference_space import HiddenGenes
    from tests.jobs.small_model import small_model
    from tests.learners.cells.made_cells import made_counts

    folder = small_model(tmp_path)
    hidden = HiddenGenes((0.1, 0.4, 0.6), (0.5, 2.0, 3.0))
    replace(load_model(folder), hidden=hidden).save(folder, "made")
    told = CliRunner().invoke(app, ["export", str(folder), "--to", str(tmp_path / "out"), "--json"])
    assert told.exit_code == 0, told.output
    written = json.loads(told.stdout)
    assert written["largest_difference"] < 1e-6
    session = onnxruntime.InferenceSession(written["file"])
    facts = session.get_modelmeta().custom_metadata_map
    cells, model = made_counts(40, seed=7), load_model(folder)
    genes, classes = json.loads(facts["genes"]), json.loads(facts["classes"])
    assert (facts["sha256"], facts["format"]) == (model.identity["sha256"], "neurofleet sims 1")
    for lacking in ([], ["Gene3", "Gene10", "Gene11"]):
        counts = cells.to_df()[genes].assign(**{gene: np.nan for gene in lacking}).to_numpy(np.float32)
        probabilities, distance, places = session.run(["probabilities", "distance", "map"], {"counts": counts})
        named = model.predict(cells[:, ~cells.var_names.isin(lacking)].copy())
        assert classes == list(named.uns["sims"]["classes"])
        np.testing.assert_allclose(probabilities, named.obsm["sims_probabilities"], atol=1e-6)
        np.testing.assert_allclose(distance, named.obs["sims_distance"], rtol=1e-4)
        np.testing.assert_allclose(places, named.obsm["X_sims_map"], rtol=1e-3, atol=1e-3)
    for wrong in (["--to", "onnx", "--cell", "a"], ["--to", "sonata"], ["--format", "hoc"]):
        told = CliRunner().invoke(app, ["export", str(folder), *wrong])
        assert isinstance(told.exception, UsageError)
        assert "a trained model is written as onnx" in str(told.exception)
    told = CliRunner().invoke(app, ["export", str(Path(__file__).parents[1] / "old_runs/hippie"), "--to", "sonata"])
    assert "expected 'sims'" in str(told.exception)
    assert not [file for file in tmp_path.iterdir() if file.name.startswith(".")]
    assert tuple(FORMATS) == FIT_FORMATS


def test_masks_of_a_file_are_those_of_training():
    pytest.importorskip("onnx", reason="needs neurofleet[onnx]")
    import torch

    from neurofleet.learners.sims.onnx_model import _MASKS
    from neurofleet.learners.sims.tabnet import mask_function

    scores = torch.randn(50, 300, generator=torch.Generator().manual_seed(1)) * torch.logspace(-3, 2, 50)[:, None]
    for name, mask in _MASKS.items():
        torch.testing.assert_close(mask(scores), mask_function(name)(scores), atol=2e-6, rtol=0)

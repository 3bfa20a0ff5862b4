"""The package as a whole: linters, import contracts, what importing it costs, and what the wheel holds."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import neurofleet

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
HEAVY = set("ray neuron torch lightning bluepyopt efel matplotlib duckdb pynwb pandas sklearn umap".split())


@pytest.mark.parametrize(
    "command",
    [
        ["ruff", "check", "."],
        ["ruff", "format", "--check", "."],
        pytest.param(["mypy"], marks=pytest.mark.slow),
        ["lint-imports"],
    ],
    ids=" ".join,
)
def test_tool_is_content(command):
    done = subprocess.run([BIN / command[0], *command[1:]], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def loaded_by(code: str) -> set[str]:
    """Return which of the heavy packages a fresh interpreter has loaded after `code`."""
    code += f"\nimport sys; print(*({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "module",
    [
        "neurofleet",
        "neurofleet.cluster",
        "neurofleet.neurosim",
        "neurofleet.learners",
        "neurofleet.jobs.cli",
        "neurofleet.jobs.job_file",
    ],
)
def test_importing_a_package_loads_nothing_heavy(module):
    assert loaded_by(f"import {module}") == set()


@pytest.mark.parametrize(
    ("module", "packages"),
    [
        ("jobs.fit.fit_run", {"ray"}),
        ("jobs.fit.input_process", set()),
        ("jobs.fit.engines", set()),
        ("jobs.learners.sims_job", {"pandas"}),
        ("jobs.learners.hippie_job", {"pandas"}),
        ("jobs.learners.neuprint_job", {"pandas"}),
        ("cluster.pool.host_worker", set()),
        ("cluster.training.trainer", set()),
    ],
)
def test_each_process_loads_what_it_uses(module, packages):
    """Every process of a run imports the module of its job; torch, Lightning or BluePyOpt would cost it seconds."""
    assert loaded_by(f"import neurofleet.{module}") <= packages


def test_the_python_face_is_cheap_until_it_is_used():
    assert loaded_by("import neurofleet as nf; dir(nf); nf.run; nf.open_run; nf.open_recording; nf.load_model") == set()
    assert loaded_by("import neurofleet as nf; nf.sims; nf.hippie; nf.neuprint") == set()


def test_opening_a_run_needs_no_ray_torch_or_neuron():
    folder = ROOT / "tests" / "old_runs" / "fit"
    code = f"import neurofleet as nf; run = nf.open_run({str(folder)!r}); run.status, run.hall_of_fame(), run.tables"
    assert not loaded_by(code) & {"ray", "torch", "neuron", "bluepyopt", "sklearn"}


WITHOUT_EXTRAS = """
import sys
from neurofleet.errors import _EXTRAS
class Missing:
    def find_spec(self, name, path=None, target=None):
        if any(name.partition(".")[0] in packages for packages in _EXTRAS.values()):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
"""


@pytest.mark.parametrize("kind", ["fit", "sims", "hippie", "validate", "sweep"])
def test_a_run_opens_with_no_extra_installed(kind):
    folder = str(ROOT / "tests" / "old_runs" / kind)
    code = (
        f"{WITHOUT_EXTRAS}\nimport neurofleet as nf; run = nf.open_run({folder!r}); print(run.status, len(run.tables))"
    )
    code += f"\nfrom neurofleet.jobs.cli import app; app(['results', {folder!r}], standalone_mode=False)"
    code += f"\napp(['status', {folder!r}], standalone_mode=False)"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("finished ")


def test_a_learner_reports_without_the_packages_of_fits(tmp_path):
    folder = shutil.copytree(ROOT / "tests" / "old_runs" / "hippie", tmp_path / "hippie")
    code = WITHOUT_EXTRAS.replace("_EXTRAS.values()", "({'bluepyopt', 'efel', 'neuron', 'SALib'},)")
    code += f"\nimport neurofleet as nf; print(nf.open_run({str(folder)!r}).report())"
    subprocess.run([sys.executable, "-P", "-c", code], check=True)
    assert (folder / "report.html").is_file()


@pytest.mark.slow
def test_the_wheel_holds_one_package_and_no_tests(tmp_path):
    """Built from a copy, as the build writes into the tree."""
    tree = tmp_path / "tree"
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, files.split("\0")):
        source, target = ROOT / name, tree / name
        if name.startswith("tests/") or not (source.is_file() or source.is_symlink()):
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_symlink():
            target.symlink_to(source.readlink())
        else:
            target.write_bytes(source.read_bytes())
    command = [sys.executable, "-P", "-m", "build", "--no-isolation", "--outdir", str(tmp_path / "dist"), str(tree)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"neurofleet"}
    for package in ("cluster", "neurosim", "learners", "jobs"):
        own = {str(path.relative_to(ROOT)) for path in (ROOT / package).rglob("*.py")}
        assert {name.removeprefix("neurofleet/") for name in names if name.startswith(f"neurofleet/{package}/")} >= own
    for folder, pattern in (
        ("neurosim", "*.mod"),
        ("neurosim", "*.yaml"),
        ("neurosim", "*.hpp"),
        ("cluster", "*.j2"),
        ("jobs", "*.j2"),
    ):
        files = {f"neurofleet/{path.relative_to(ROOT)}" for path in (ROOT / folder).rglob(pattern)}
        assert files
        assert files <= set(names)
    assert {"neurofleet/py.typed", "neurofleet/jobs/remote/start.sh", "neurofleet/jobs/serve/static/app.js"} <= set(
        names
    )
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    assert len(names) == len(set(names))


def test_the_version_is_said_once():
    done = subprocess.run([sys.executable, "-P", "-m", "neurofleet", "--version"], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout == f"neurofleet {neurofleet.__version__}\n"

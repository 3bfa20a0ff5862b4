"""``neurofleet export MODEL --to onnx``: a SIMS model for any runtime, and a page that runs it in a browser."""

import os
import shutil
import tempfile
from pathlib import Path

from neurofleet.errors import UsageError
from neurofleet.jobs.serve.bundle import PAGE_FILES
from neurofleet.jobs.terminal import print_json

ONNX = "onnx"
FIT_FORMATS = ("sonata", "allen", "hoc")
"""What `neurofleet.jobs.export` writes, known without what fits need."""

MODEL = "model.onnx"
HINT = "Beside it lies a page that names cells in a browser: in the folder, python -m http.server, or on any web host."


def is_trained_model(folder: Path) -> bool:
    """Tell whether a folder holds a trained model, of any learner."""
    from neurofleet.learners.model_folder import DESCRIPTION

    return (folder / DESCRIPTION).is_file()


def export_onnx(source: Path, to: Path | None, as_json: bool = False) -> Path:
    """Write a SIMS model as an ONNX file that gives its probabilities, beside a page that names cells by it.

    Parameters
    ----------
    source : Path
        The folder of the model.
    to : Path, optional
        The folder to write, new or empty; by default ``MODEL-onnx`` in the working folder.
    as_json : bool
        Print what was written as JSON.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    UsageError, LearnerError
        The source is no SIMS model, or none that takes counts; the folder is in use; or the file does not give the
        model's probabilities.
    """
    from neurofleet.learners.published_models import title_of
    from neurofleet.learners.sims.onnx_model import to_onnx
    from neurofleet.learners.sims.sims_model import SimsModel

    model = SimsModel.load(source)
    to = Path(f"{title_of(source)}-{ONNX}") if to is None else to
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise UsageError(
            f"--to {to}: expected a new or an empty folder, found one that is in use. Name another with --to."
        )
    made = to_onnx(model)
    to.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".neurofleet-", dir=to.resolve().parent) as folder:
        for name, file in PAGE_FILES.items():
            shutil.copyfile(file, Path(folder, name))
        Path(folder, MODEL).write_bytes(made.content)
        for name in (*PAGE_FILES, MODEL):
            os.replace(Path(folder, name), to / name)
    n_genes, n_classes = len(model.genes), len(model.classes)
    written = {
        "folder": str(to),
        "file": str(to / MODEL),
        "format": ONNX,
        "genes": n_genes,
        "classes": n_classes,
        "bytes": len(made.content),
        "largest_difference": made.difference,
        "hint": HINT,
    }
    text = (
        f"Written: {to / MODEL} ({n_genes:,} genes, {n_classes} classes, {len(made.content) / 1e6:.1f} MB). Its"
        f" probabilities of made cells differ by at most {made.difference:.1g} from the model's. {HINT}"
    )
    if as_json:
        print_json(written)
    else:
        print(text)
    return to

"""The errors that neurofleet raises on purpose: one base, each with the exit code of the command line."""

import difflib
from collections.abc import Iterable
from pathlib import Path

from neurofleet.wording import agreeing


class NeurofleetError(Exception):
    """Something that a user can mend, or has to know.

    The message is one paragraph: what was expected, what was found, and what to do next. The command line prints
    it as it is and ends with `exit_code`.

    Attributes
    ----------
    exit_code : int
        0 is success, 1 a job that failed, 2 a job file, input or command line that cannot be used, 3 a cluster or
        an object store that cannot be reached, 130 an interruption after which the same command goes on.
    """

    exit_code = 1

    def __init__(self, *args: object) -> None:
        super().__init__(*(agreeing(arg) if isinstance(arg, str) else arg for arg in args))


class UsageError(NeurofleetError):
    """The job file, the folder or the command line is wrong."""

    exit_code = 2


class InputError(NeurofleetError, ValueError):
    """A file or a value that cannot be used."""

    exit_code = 2


class JobError(NeurofleetError):
    """The job cannot go on."""


class Interrupted(NeurofleetError):
    """The user stopped the job; the same command goes on with it."""

    exit_code = 130


class ClusterError(NeurofleetError):
    """Work that could not be placed, run or stored."""


class ClusterUnreachable(ClusterError):
    """No Ray cluster answers, or it refuses us."""

    exit_code = 3


class TokenRefused(ClusterUnreachable):
    """A Ray cluster needs a token, and does not accept ours."""


class StorageUnreachable(ClusterError):
    """An object store does not answer, or not any more; the same command goes on once it does."""

    exit_code = 3


class RunFolderRefused(ClusterError):
    """The run folder holds something else, or another driver is writing it."""

    exit_code = 2


class LearnerError(NeurofleetError):
    """Something a learner cannot work with: files, labels, or how they are to be split."""

    exit_code = 2


class CellsRefused(LearnerError):
    """Cells, genes, values or labels that cannot be used."""


class TrainingFailed(JobError):
    """A training that has come to nothing, such as one whose weights are NaN."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return " (did you mean '…'?)" with the known name closest to `name`, or an empty string."""
    names = [str(other) for other in known]  # numpy's strings have a repr of their own
    same_letters = [other for other in names if other.casefold() == str(name).casefold()]
    close = same_letters or difflib.get_close_matches(str(name), names, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def nearest_file(path: Path) -> str:
    """Return " (did you mean '…'?)" with the name in the same folder closest to that of `path`, or an empty string."""
    try:
        return did_you_mean(path.name, sorted(other.name for other in path.parent.iterdir()))
    except OSError:
        return ""


_EXTRAS = {
    "fit": ("bluepyopt", "deap", "efel", "hdmf", "neuron", "pynwb", "SALib"),
    "learn": (
        "anndata",
        "entmax",
        "lightning",
        "optuna",
        "scdataset",
        "tensorboard",
        "tensorboardX",
        "torch",
        "torchmetrics",
        "umap",
        "zarr",
    ),
    "objectstore": ("obstore",),
    "formats": ("hdf5plugin", "neo", "pyabf"),
    "onnx": ("onnx", "onnxruntime", "onnxscript"),
    "serve": ("argon2", "fastapi", "multipart", "python_multipart", "uvicorn"),
}
"""Extra -> the packages that it installs, as they are imported."""


def missing_extra(error: ModuleNotFoundError) -> str | None:
    """Return what to install for a package that is not there; None if it belongs to no extra."""
    package = (error.name or "").partition(".")[0]
    for extra, packages in _EXTRAS.items():
        if package in packages:
            return f"{package} is not installed; it belongs to neurofleet[{extra}]: pip install 'neurofleet[{extra}]'"
    return None

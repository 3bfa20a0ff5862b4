"""Where the results of a job go: what the command line says, else what the job file says."""

import os
from pathlib import Path

from jobs.errors import UsageError
from jobs.spec import JobSpec


def results_place(given: str | None, spec: JobSpec, folder: Path) -> str:
    """Return the run folder, a path or a URI.

    Parameters
    ----------
    given : str or None
        ``--out``. A relative path starts at the working folder.
    spec : JobSpec
        Its ``out:`` is taken when `given` is None. A relative path starts at the job file.
    folder : Path
        Of the job file.

    Raises
    ------
    UsageError
        When neither says.
    """
    if given is not None:
        return given
    if spec.out is None:
        raise UsageError(
            f"{spec.name}: expected a place for the results, found none. Give --out OUT, or `out: OUT` in the"
            " job file: a folder, or a URI such as s3://bucket/folder."
        )
    return spec.out if "://" in spec.out else os.path.normpath(folder / spec.out)

"""The command ``neurofleet new``: looks at files and writes a job file that `neurofleet plan` accepts."""

from collections.abc import Callable, Sequence
from pathlib import Path

from neurofleet.errors import UsageError, did_you_mean
from neurofleet.jobs.drafts.draft import Draft
from neurofleet.jobs.job_file import named, parse_job
from neurofleet.jobs.learners.layout_option import read_layout
from neurofleet.jobs.new_files import check_new, new_files

_HERE = "neurofleet.jobs.drafts"
DRAFTS = {
    "fit": f"{_HERE}.fit_drafts:fit_draft",
    "sims": f"{_HERE}.learner_drafts:sims_draft",
    "hippie": f"{_HERE}.learner_drafts:hippie_draft",
    "neuprint": f"{_HERE}.learner_drafts:neuprint_draft",
    "validate": f"{_HERE}.study_drafts:validate_draft",
    "sensitivity": f"{_HERE}.study_drafts:sensitivity_draft",
    "synapse": f"{_HERE}.study_drafts:synapse_draft",
    "sample": f"{_HERE}.fit_drafts:sample_draft",
    "posterior": f"{_HERE}.study_drafts:posterior_draft",
    "compare": f"{_HERE}.study_drafts:compare_draft",
    "analyse": f"{_HERE}.study_drafts:analyse_draft",
}
"""What a job is called here, and where it is drafted."""

LEARNERS, LEARNER_KINDS = ("sims", "hippie", "neuprint"), ("train", "sweep", "evaluate")
"""What is drafted by the name of the learner; what such jobs are called in the file."""

WITH_LAYOUT = ("hippie", "neuprint")
"""Jobs whose files are described by a ``layout:``."""


def new_command(kind: str, files: Sequence[Path], out: Path | None, overwrite: bool, layout: str | None = None) -> None:
    """Write a job file for files, with comments.

    Parameters
    ----------
    kind : str
        One of `DRAFTS`.
    files : sequence of Path
        What the job is to read.
    out : Path, optional
        The job file; by default ``KIND.yaml`` in the working folder.
    overwrite : bool
        Whether an earlier job file may be replaced.
    layout : str, optional
        Of units and recordings: see `neurofleet.jobs.learners.layout_option.read_layout`.

    Raises
    ------
    UsageError, InputError, LearnerError
        There is no such kind, the files cannot be used for it, or the job file is there already.
    """
    target = Path(f"{kind}.yaml") if out is None else out
    text = drafted(kind, files, target, layout)
    check_new([target], overwrite, files)
    with new_files([target]) as partial:
        partial[target].write_text(text)
    print(f"Written: {target}. Read what it says, change what is a wrong guess, then: neurofleet plan {target}")


def drafted(kind: str, files: Sequence[Path], target: Path, layout: str | None = None) -> str:
    """Return the text of the job file `target` for files; raises as `new_command` does."""
    if kind not in DRAFTS:
        of_learner = f" Of a training, KIND is the learner: {', '.join(LEARNERS)}." if kind in LEARNER_KINDS else ""
        raise UsageError(
            f"KIND: expected one of {', '.join(DRAFTS)}, found {kind!r}{did_you_mean(kind, DRAFTS)}.{of_learner}"
        )
    if missing := [str(file) for file in files if not file.exists()]:
        raise UsageError(f"{', '.join(missing)}: no such file. Name the files or folders that the job is to read.")
    if layout is not None and kind not in WITH_LAYOUT:
        raise UsageError(f"--layout: {kind} has none; {' and '.join(WITH_LAYOUT)} have.")
    draft: Callable[..., Draft] = named(DRAFTS[kind])
    text = draft(files, target.parent, *([read_layout(layout)] if layout is not None else [])).text
    parse_job(text, str(target), target.stem, target.parent)
    return text

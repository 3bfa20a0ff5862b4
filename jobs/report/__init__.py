"""``neurofleet report``: one page with the pictures of a run."""

from collections.abc import Callable
from pathlib import Path


def write_report(root: str | Path, tell: Callable[[str], None] = lambda text: None) -> str:
    """Write ``report.html`` into the folder of a fit, or of a training that has ended.

    Returns
    -------
    str
        Where the report is.

    Raises
    ------
    UsageError, LearnerError
        When `root` is neither.
    """
    from jobs.spec import named
    from jobs.train.folder import is_training, learner_of

    if is_training(root):
        return named(f"jobs.{learner_of(root)}.report:write_report_again")(Path(root))
    from jobs.report.write import write_report as write_fit_report

    return write_fit_report(root, tell)


__all__ = ["write_report"]

"""``neurofleet report``: one page with the pictures of a run."""

from collections.abc import Callable
from pathlib import Path


def write_report(root: str | Path, tell: Callable[[str], None] = lambda text: None) -> str:
    """Write ``report.html`` into the folder of a fit, or of another job that has ended.

    Returns
    -------
    str
        Where the report is.

    Raises
    ------
    UsageError, LearnerError
        When `root` is neither.
    """
    from jobs.rooms import FIT, room_of
    from jobs.spec import named

    room = room_of(root)
    if room != FIT:
        return named(f"{room}.report:write_report_again")(Path(root))
    from jobs.report.write import write_report as write_fit_report

    return write_fit_report(root, tell)


__all__ = ["write_report"]

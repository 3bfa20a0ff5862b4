"""The report of a training: one page with its scores, curves, confusions and reliability."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

    from learners.sims.model import SimsModel


def write_training_report(out: Path, model: "SimsModel", history: "pa.Table") -> str:
    """Write ``report.html`` into the folder of a training that has just ended.

    Parameters
    ----------
    model : SimsModel
        Its facts are those of `jobs.sims.run`.
    history : pyarrow.Table
        A row for each epoch of each training.

    Returns
    -------
    str
        Where the report is.
    """
    from jobs.sims.report.contents import contents_of
    from jobs.sims.report.write import write_page

    return write_page(out, contents_of(model, history))


def write_report_again(folder: Path) -> str:
    """Write ``report.html`` into a model folder from what the folder holds.

    Raises
    ------
    ModelRefused
        If the folder holds no model of ours, or a damaged one.
    UsageError
        If the model was written without scores.
    """
    from jobs.sims.report.contents import read_contents
    from jobs.sims.report.write import write_page

    return write_page(folder, read_contents(folder))

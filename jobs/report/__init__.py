"""``neurofleet report``: one page with the pictures of a run."""

from jobs.report.write import write_report

__all__ = ["write_report"]

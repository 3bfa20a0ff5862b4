"""The findings of the toy study, and how they are shown."""

from dataclasses import dataclass, field
from typing import Annotated

from pydantic import Field

from neurofleet.cluster.store.run_store import RunStore
from neurofleet.jobs.reports.tables import ReportTable
from neurofleet.jobs.studies.findings import Findings


@dataclass(frozen=True, kw_only=True)
class CellSquares:
    cell: str
    group: Annotated[str, Field(alias="class")]
    total: float
    added_later: int | None = None


@dataclass(frozen=True, kw_only=True)
class ToyFindings(Findings):
    cells: list[CellSquares] = field(default_factory=list)

    def tables(self) -> list[ReportTable]:
        rows = [(cell.cell, f"{cell.total:g}") for cell in self.cells]
        return [ReportTable(("cell", "total"), rows, numbers=[1], title=f"{self.name}: squares [all]")]

    def verdict(self) -> list[str]:
        return [f"{len(self.cells)} cell squared"]

    def sections(self, store: RunStore) -> list[str]:
        return [table.html() for table in self.tables()]

"""A kind of study for tests: every number of a list, squared. This file and `toy_report` are all that a kind needs."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import pyarrow as pa

from neurofleet.cluster.store.run_store import RunStore
from neurofleet.errors import InputError
from neurofleet.jobs.studies.findings import stored_rows
from neurofleet.jobs.studies.measurements import Measurement, mean_seconds
from neurofleet.jobs.studies.study import Plan, Study, StudySpec, rows_table, run_study
from tests.jobs.studies.toy_report import CellSquares, ToyFindings


class ToySpec(StudySpec):
    study: ClassVar[str] = "tests.jobs.studies.toy_study:ToyStudy"
    decisive_packages: ClassVar[tuple[str, ...]] = ()

    kind: Literal["toy"] = "toy"
    numbers: Path
    seconds: float = 0.0
    deadline_s: float = 10.0
    memory_limit_mb: int = 4096

    def quick_version(self) -> "ToySpec":
        return self.model_copy(update={"seconds": 0.0})

    def paths_named(self) -> list[Path]:
        return [self.numbers]


@dataclass(frozen=True)
class Squared:
    """Squares a number, and takes its time over it."""

    seconds: float

    def build(self) -> Callable[[np.ndarray], float]:
        def square(values: np.ndarray) -> float:
            time.sleep(self.seconds)
            return float(values[0]) ** 2

        return square


class ToyStudy(Study[ToySpec, list[float]]):
    def read(self) -> tuple[list[float], list[str]]:
        lines = (self.folder / self.spec.numbers).read_text().split()
        numbers = [float(line) for line in lines if line != "skip"]
        if not numbers:
            raise InputError("numbers: expected some, found none.")
        return numbers, [f"{len(lines) - len(numbers)} left out"]

    def measurements(self, inputs: list[float]) -> list[Measurement]:
        values = np.array(inputs)[:, None]
        return [
            Measurement(
                file="squares/cell=a/block",
                cell="a",
                measure=Squared(self.spec.seconds),
                size=len(inputs),
                individuals=lambda rows: list(values[rows]),
                table=lambda rows, outcomes: pa.table(
                    {"number": inputs[rows], "square": [outcome.value for outcome in outcomes]}
                ),
                engine="toy",
                block_size=2,
            )
        ]

    def assemble(self, inputs: list[float], store: RunStore) -> tuple[dict[str, pa.Table], ToyFindings]:
        rows = stored_rows(store, "squares")
        cell = CellSquares(cell="a", group="all", total=sum(row["square"] for row in rows))
        return {"squares.parquet": rows_table(rows), "nothing.parquet": rows_table([])}, ToyFindings(cells=[cell])

    def plan(self, inputs: list[float]) -> Plan:
        each_s = mean_seconds("a", Squared(0.0), [np.array(inputs[:1])])
        return Plan(lines=[f"{len(inputs)} numbers, below a second each: {each_s < 1}"])


def run_alone(numbers: Path, out: Path) -> None:
    """Run a slow toy study, for a process that is killed meanwhile."""
    spec = ToySpec(name="slow", numbers=Path(numbers.name), seconds=0.3)
    run_study(spec, numbers.parent, str(out), None, 1)

"""The run of an analysis: inputs checked, all steps in this process, tables, findings, report."""

import os
from pathlib import Path
from typing import Any

from jobs.analyse.analysis import Tables, analyse
from jobs.analyse.findings import findings_of
from jobs.analyse.inputs import Inputs, read_inputs
from jobs.analyse.spec import AnalyseSpec
from jobs.carrying_out import Opened, carry_out
from jobs.populations.folder import FINDINGS, write_findings


def run_analyse(spec: AnalyseSpec, folder: Path, out: str, address: str | None, cpus: int | None) -> None:
    """Analyse populations with everything kept in `out`; raises as `carry_out` does.

    It takes a minute or less and runs here, also where `address` names a cluster.
    """
    carry_out(spec, folder, out, lambda: read_inputs(spec, folder), lambda run: _analyse(run, cpus), FINDINGS)


def _analyse(run: Opened, cpus: int | None) -> None:
    from jobs.analyse.report import write_analysis_report
    from jobs.analyse.results import print_findings

    spec: AnalyseSpec = run.spec
    inputs: Inputs = run.inputs
    jobs = cpus or len(os.sched_getaffinity(0))

    def say(step: str) -> None:
        run.console.print(f"{spec.name}: {step} …", highlight=False, markup=False)

    tables = analyse(spec, inputs, jobs, say)
    write_tables(run, tables)
    found = findings_of(spec, inputs, tables, run.notes)
    write_analysis_report(run.out, found)
    print_findings(found, run.console)
    write_findings(run.out, found)


def write_tables(run: Any, tables: Tables) -> None:
    """Write tables as Parquet without an index, `NAME.parquet` in the run's folder."""
    import pyarrow as pa

    for name, table in tables.items():
        plain = pa.Table.from_pandas(table, preserve_index=False).replace_schema_metadata(None)
        run.store.write_table(f"{name}.parquet", plain)

"""``neurofleet demo``: a small cell of known parameters, recorded, fitted, and compared with them."""

from pathlib import Path

from rich.table import Table

from neurofleet import fresh_process
from neurofleet.cluster.store.run_store import RunStore
from neurofleet.errors import JobError
from neurofleet.jobs.reports.units import parameter_unit
from neurofleet.jobs.run_job import run_job
from neurofleet.jobs.terminal import terminal
from neurofleet.neurosim.cells.demo_cell import KNOWN_PARAMETERS, write_demo_cell

JOB = """\
kind: fit
name: demo
cells:
  - id: demo
    morphology: cell.swc
    recordings: cell.nwb
    junction_potential_mV: 14
recipe: demo
evolution:
  strategy: fast
  seeds: [1, 2]
  evaluations: {passive: 768, ih: 768, active: 900}
deadline_s: 20
"""


def run_demo(out: Path, *, cpus: int | None = None) -> None:
    """Write the demo's input into ``out/input``, fit it into ``out/run``, and compare what was found."""
    folder = out / "input"
    job = folder / "demo.yaml"
    if not job.is_file():
        make_input(folder)
        job.write_text(JOB)
    store = RunStore(run_job(job, str(out / "run"), cpus=cpus))
    _print_recovery(store)
    print(
        f"\nThe input is in {folder}, the results are in {store.root}. Look further:\n"
        f"  neurofleet results {store.root}\n"
        f"  neurofleet report {store.root}"
    )


def make_input(folder: Path) -> None:
    """Simulate the recordings in a process of their own, because NEURON keeps what was built in it."""
    try:
        fresh_process.call(write_demo_cell, folder)
    except Exception as error:
        raise JobError(f"the demo's recordings could not be simulated: {error}") from error


def _print_recovery(store: RunStore) -> None:
    """Compare the passive stages' winner and the best model with the parameters of the cell."""
    hall = store.read_hall_of_fame("demo")
    stages = {e["stage"]: e["parameters"] for e in store.read_events() if e["event"] == "stage finished"}
    if hall is None:
        return
    best = dict(zip(hall.parameter_names, hall.parameters[0], strict=True))
    passive = stages["ih"]
    table = Table(title="Known parameters and what the fit found", title_justify="left")
    for column in ("parameter", "unit", "known", "after the subthreshold stages", "best model"):
        table.add_column(column, justify="left" if column in ("parameter", "unit") else "right")
    for name, known in KNOWN_PARAMETERS.items():
        unit = parameter_unit(name)
        subthreshold = compared(passive[name], known, unit) if name in passive else ""
        table.add_row(name, unit, f"{known:.4g}", subthreshold, compared(best[name], known, unit))
    console = terminal()
    console.print(table)
    console.print(
        f"Mean |z| of the best model: {hall.scores[0].mean():.2f} standard deviations from the recordings, over "
        f"{len(hall.objective_names)} e-features. A recording determines the passive parameters best; many "
        "combinations of the active conductances fire alike, which is why a hall of fame is kept.",
        soft_wrap=True,
    )


def compared(value: float, known: float, unit: str) -> str:
    """Return a value and how far off it is: of a potential, which has no zero, in mV, else in per cent."""
    off = f"{value - known:+.1f} mV" if unit == "mV" else f"{100 * (value / known - 1):+.0f} %"
    return f"{value:.4g} ({off})"

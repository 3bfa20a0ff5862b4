"""The best model of a cell for use elsewhere: Allen fit JSON and a hoc template."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.fit.search import best_values
from jobs.fit.subjects import CellSubject, Subject
from neurosim.fit_model import FitModel

if TYPE_CHECKING:
    from cluster.schemas import HallOfFameRows
    from cluster.store import RunStore


def write_best_model(subject: Subject, hall: "HallOfFameRows", store: "RunStore") -> None:
    """Write ``models/ID/fit.json`` and ``models/ID/cell.hoc``; a user's own evaluator can export itself.

    Mechanisms of the job's own go along, to ``models/ID/modfiles``. The hoc template asks for the folder of
    the morphology, which is not copied.
    """
    if not isinstance(subject, CellSubject):
        return
    from neurosim.allen import write_fit
    from neurosim.export import write_hoc

    values = best_values(hall)
    stage = len(subject.stages) - 1
    problem = subject.problem(stage, None)
    model = problem.model
    assert isinstance(model, FitModel)
    sweeps = sorted({sweep for step in model.targets.protocols.values() for sweep in step.sweeps})
    sections = ["soma", "axon", "dend", *(["apic"] if subject.has_apical else [])]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_fit(
            folder / "fit.json",
            values,
            model.mechanisms,
            model.conditions,
            subject.junction_potential_mV,
            sweeps,
            sections,
            model.own.known,
        )
        write_hoc(folder / "cell.hoc", model.build_cell(), values)
        for file in ("fit.json", "cell.hoc"):
            store.write_text(f"models/{subject.id}/{file}", (folder / file).read_text())
    for name, text in model.own_used.sources.items():
        store.write_text(f"models/{subject.id}/modfiles/{name}.mod", text)

"""A fitted model is written into the run folder: as an Allen fit file and as a hoc template."""

from collections.abc import Mapping

from neurofleet.cluster.store.run_store import RunStore
from neurofleet.jobs.fit.fit_problem import CellSubject, Subject
from neurofleet.jobs.quick import quick_lines
from neurofleet.neurosim.cells.fit_model import FitModel
from neurofleet.neurosim.exchange.allen_fit import write_fit
from neurofleet.neurosim.exchange.model_export import write_hoc
from neurofleet.scratch import scratch_folder


def write_best_model(subject: Subject, values: Mapping[str, float], store: RunStore) -> None:
    """Write ``models/ID/fit.json`` and ``models/ID/cell.hoc`` for a cell; nothing for a user's own evaluator.

    Mechanisms of the job's own are written to ``models/ID/modfiles``. The morphology is copied only where NEURON
    cannot read the user's own file: the hoc template takes its folder as an argument.

    Parameters
    ----------
    values : mapping
        Full name -> value of the parameters that were fitted.
    """
    if not isinstance(subject, CellSubject):
        return
    stage = len(subject.stages) - 1
    problem = subject.problem(stage, None)
    model = problem.model
    assert isinstance(model, FitModel)
    sweeps = sorted({sweep for step in model.targets.protocols.values() for sweep in step.sweeps})
    remark = " ".join(quick_lines(store.root))
    sections = ["soma", "axon", "dend", *(["apic"] if subject.has_apical else [])]
    with scratch_folder() as folder:
        write_fit(
            folder / "fit.json",
            values,
            model.mechanisms,
            model.conditions,
            subject.junction_potential_mV,
            sweeps,
            sections,
            model.user_mechanisms.known,
            remark,
        )
        write_hoc(folder / "cell.hoc", model.build_cell(), values, remark)
        for file in ("fit.json", "cell.hoc"):
            store.write_text(f"models/{subject.id}/{file}", (folder / file).read_text())
    if model.morphology.converted:
        store.write_text(f"models/{subject.id}/{model.morphology.name}", model.morphology.content.decode())
    for name, text in model.user_mechanisms.texts(model.mechanism_names).items():
        store.write_text(f"models/{subject.id}/modfiles/{name}", text)

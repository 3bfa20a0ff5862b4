"""Job files for models that were fitted before: the folders of runs, published fit files, and tables of cells."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from neurofleet.cluster.store.run_store import POOLED, RunStore
from neurofleet.errors import UsageError
from neurofleet.jobs.drafts.draft import Draft, as_id, partner
from neurofleet.jobs.studies.analysis_inputs import HALLS
from neurofleet.neurosim.studies.model_table import CELL_COLUMNS, read_models, read_table
from neurofleet.wording import listed

MOST_CLASSES = 20


def validate_draft(files: Sequence[Path], folder: Path) -> Draft:
    """Return a validation of models; raises UsageError where the files name none."""
    draft = Draft("validate", folder)
    _put_models(draft, files)
    draft.say(
        "Unseen steps and noise are looked for in the recordings of the cells: `noise: [NAME]`, `others: [NAME]`."
    )
    return draft


def sensitivity_draft(files: Sequence[Path], folder: Path) -> Draft:
    """Return a sensitivity analysis of models; raises as `validate_draft` does."""
    draft = Draft("sensitivity", folder)
    if not _put_models(draft, files):
        draft.put("step", {"amplitude_nA": 0.2}, "a guess: no protocol of theirs is known")
    draft.put("features", ["Spikecount", "AP_width", "AHP_depth", "ISI_CV", "AP_amplitude"], "names of eFEL's")
    draft.say("`check: salib` computes the indices of the first model in another way as well.")
    return draft


def synapse_draft(files: Sequence[Path], folder: Path) -> Draft:
    """Return a study of PSPs along the apical dendrite; raises as `validate_draft` does."""
    draft = Draft("synapse", folder)
    _put_models(draft, files)
    draft.say("Cells without an apical dendrite are left out.")
    draft.say("`classes: {table: cells.csv, column: layer}` draws one curve a class.")
    return draft


def posterior_draft(files: Sequence[Path], folder: Path) -> Draft:
    """Return a posterior of the cells of a fit.

    Raises
    ------
    UsageError
        Something else than one finished fit was given.
    """
    if len(files) != 1 or not _is_run(files[0]):
        raise UsageError(f"Expected the folder of one finished fit, found {listed(map(str, files))}.")
    draft = Draft("posterior", folder)
    draft.say(_of_run(files[0]))
    draft.put("fit", draft.path(files[0]), "also `cells: [ID]`")
    draft.put("draws", 1000, "effective draws of each cell, after which sampling ends")
    draft.put("most_evaluations", 400_000, "of each cell; with more, the same command goes on")
    return draft


def compare_draft(files: Sequence[Path], folder: Path) -> Draft:
    """Return a comparison of the models of two runs.

    Raises
    ------
    UsageError
        Not two runs were given.
    """
    if len(files) != 2 or not all(_is_run(file) for file in files):
        raise UsageError(
            f"Expected the folders of two fits of the same cells, such as an all-active and a perisomatic one, found "
            f"{listed(map(str, files))}."
        )
    draft = Draft("compare", folder)
    for run in files:
        draft.say(_of_run(run))
    names = [as_id(run.name) for run in files]
    names = names if names[0] != names[1] else ["first", "second"]
    draft.put("models", {name: {"run": draft.path(run)} for name, run in zip(names, files, strict=True)})
    return draft


def analyse_draft(files: Sequence[Path], folder: Path) -> Draft:
    """Return an analysis of populations by the classes of their cells.

    Raises
    ------
    UsageError
        Populations or a table of cells are missing, or the table has no column of classes.
    """
    draft = Draft("analyse", folder)
    tables = [file for file in files if file.suffix.lower() == ".csv"]
    populations = [file for file in files if file not in tables]
    if not populations or len(tables) != 1:
        raise UsageError(
            "Expected populations (runs, or Parquet files of models) and one table of cells as CSV, found "
            f"{listed(map(str, populations)) or 'no population'} and {listed(map(str, tables)) or 'no table'}."
        )
    draft.put("populations", [draft.path(path) for path in populations])
    cells: set[str] = set()
    for path in populations:
        models = read_models(path)
        cells |= set(models.cells)
        draft.say(
            f"{path.name}: {len(models)} models of {len(set(models.cells))} cells, {len(models.parameters)} parameters"
        )
    table = read_table(tables[0])
    ids = {name: len(cells & set(table[name].astype(str))) for name in table}
    id = max(ids, key=lambda name: (ids[name], name in CELL_COLUMNS))
    if not ids[id]:
        raise UsageError(
            f"{tables[0]}: no column has the ids of the models' cells, such as {listed(sorted(cells), 3)}."
        )
    draft.put("cells", {"table": draft.path(tables[0]), "id": str(id)}, f"{ids[id]} of {len(cells)} cells are in it")
    known = table[table[id].astype(str).isin(cells)]
    classes = {}
    for name in known:
        counts = known[name].dropna().astype(str).value_counts()
        if name != id and 2 <= len(counts) <= MOST_CLASSES and counts.iloc[1] >= 2:
            classes[str(name)] = counts
            draft.say(f"{name}: {listed(f'{value} {count}' for value, count in counts.items())}")
    if not classes:
        raise UsageError(
            f"{tables[0]}: expected a column with 2 to {MOST_CLASSES} classes, found {listed(map(str, known))}."
        )
    draft.put(
        "groupings", {as_id(name): {"column": name} for name in list(classes)[:3]}, "a guess: which cells to compare"
    )
    return draft


def _put_models(draft: Draft, files: Sequence[Path]) -> bool:
    """Write the key `models` for the folder of a run, or for fit files with their morphologies.

    Returns
    -------
    bool
        Whether it is known what all of them were fitted to.
    """
    runs = [file for file in files if _is_run(file)]
    if len(runs) == len(files) == 1:
        draft.say(_of_run(runs[0]))
        draft.put("models", {"run": draft.path(runs[0])}, "also `cells: [ID]` and `best: 10`")
        return True
    fits = [file for file in files if file.suffix.lower() == ".json"]
    morphologies = [file for file in files if file.suffix.lower() in (".swc", ".asc", ".h5")]
    if not fits or len(fits) + len(morphologies) != len(files):
        raise UsageError(
            "Expected the folder of a finished fit, or Allen fit files (.json) with their morphologies, found "
            f"{listed(map(str, files))}."
        )
    entries: list[dict[str, Any]] = []
    for fit in fits:
        morphology = partner(fit, morphologies) if morphologies else None
        if morphology is None:
            raise UsageError(
                f"{fit}: which morphology belongs to it? Found {listed(map(str, morphologies)) or 'none'}."
            )
        entry = {"id": as_id(fit.stem.removesuffix("_fit")), "fit": draft.path(fit)}
        entries.append(entry | {"morphology": draft.path(morphology)})
        if all((fit.parent / name).is_file() for name in ("features.json", "protocols.json")):
            entries[-1]["targets"] = draft.path(fit.parent)
    draft.lines += ["models:", "  fits:"]
    draft.say("also `targets: FOLDER`, `recordings: FILE` of each, where what it was fitted to is known", indent="    ")
    for entry in entries:
        for number, (key, value) in enumerate(entry.items()):
            draft.put(key, value, indent="    - " if number == 0 else "      ")
    return all("targets" in entry for entry in entries)


def _is_run(path: Path) -> bool:
    return path.is_dir() and (path / "job.yaml").is_file()


def _of_run(run: Path) -> str:
    halls = RunStore(run).halls_of_fame()
    finished = [cell for cell, seed in halls if seed == POOLED]
    if not finished:
        raise UsageError(f"{run}: no {HALLS} yet. `neurofleet status {run}` says how far the fit is.")
    return f"{run}: finished are {listed(finished)}"

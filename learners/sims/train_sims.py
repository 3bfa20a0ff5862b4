"""Train a SIMS model on labelled cells: split, fit, score beside simple methods, and keep what judges a query."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from neurofleet.errors import CellsRefused, LearnerError
from neurofleet.learners.cells.cell_copies import KnownCells, ProfileMaker, Profiles, find_copies, looked_at
from neurofleet.learners.cells.cell_files import open_cells, query_name
from neurofleet.learners.cells.cell_labels import Labels, confounded, read_labels, refuse_files_without
from neurofleet.learners.cells.cell_matrix import CellMatrix, stretches
from neurofleet.learners.cells.gene_columns import refuse_telling_columns
from neurofleet.learners.cells.normalisation import check_query, recognise
from neurofleet.learners.folds import check_inner_sizes
from neurofleet.learners.local_training import Train, TrainHere
from neurofleet.learners.model_folder import (
    checked_settings,
    model_fingerprint,
    now_in_words,
    package_versions,
    refuse_other_model,
    source_names,
)
from neurofleet.learners.progress import logger, told
from neurofleet.learners.sims.held_out_scores import Tested, cross_validate, facts, fit_and_test, query_facts
from neurofleet.learners.sims.hidden_genes import measure_hidden_genes
from neurofleet.learners.sims.labelled_reference import Reference, reference_of
from neurofleet.learners.sims.reference_fit import fit
from neurofleet.learners.sims.reference_space import reference_space
from neurofleet.learners.sims.sims_model import SimsModel
from neurofleet.learners.sims.tabnet_settings import DEFAULT, PRESETS, RELEASED_WARNING, SimsSettings, settings_of
from neurofleet.learners.splits import Groups, Split, fingerprint, make_folds, make_split
from neurofleet.threads import one_thread

if TYPE_CHECKING:
    import anndata


@told
@one_thread()
def train(
    cells: str | Path | anndata.AnnData | Sequence[str | Path | anndata.AnnData],
    label: str,
    *,
    batch: str | None = None,
    test: float | Groups = 0.2,
    validation: float | Groups = 0.15,
    folds: int | None = None,
    labels: str | Path | None = None,
    layer: str = "X",
    gene_names: str | None = None,
    target_sum: float | None = None,
    values: str | None = None,
    drop_unlabelled: bool = False,
    query: str | Path | anndata.AnnData | Sequence[str | Path | anndata.AnnData] | None = None,
    query_layer: str | None = None,
    preset: str = DEFAULT,
    settings: Mapping[str, Any] | None = None,
    baselines: Sequence[str] | None = None,
    seed: int = 1,
    split_seed: int = 0,
    out: str | Path | None = None,
    quiet: bool = False,
) -> SimsModel:
    """Train a SIMS model on a labelled reference.

    All that ``neurofleet run`` of a job (``kind: train``, ``learner: sims``) does, with the same defaults: validation
    cells calibrate the model, small references are trained on again with these, and test cells, which decide nothing,
    give the scores in ``model.facts``, beside those of simple methods and of shuffled labels.

    Parameters
    ----------
    cells : AnnData, path, or a sequence of either
        AnnData in memory, or files of any format of ``docs/formats.md``; cells in rows. Counts or logarithms.
    label : str
        The column of ``obs`` that holds the classes.
    batch : str, optional
        The column of ``obs`` that tells donors or batches apart. Cells of one batch are then tested together, and
        never trained on beside it, so that the scores are those of donors that the model has not seen.
    test, validation : float or mapping
        The share of each class that tests, and that calibrates; or groups, such as ``{"donor": ["5p"]}``. With `batch`,
        whole batches of about the share `test`.
    folds : int, optional
        Score by cross-validation with so many folds in place of one test part, by `batch` where it is given. The model
        that is returned is then trained on all labelled cells.
    labels : path, optional
        A csv or tsv file with cell ids and columns which are added to ``obs``.
    layer : str
        ``X``, ``raw``, or the name of a layer.
    gene_names : str, optional
        The column of ``var`` that names genes, such as ``gene_ids``, and what need not be equal in the names of several
        files, such as ``ignore-version``.
    target_sum : float, optional
        To how many counts a cell values are scaled; of log values, to how many they were.
    values : str, optional
        What they are, where that cannot be seen: one of `neurofleet.learners.cells.value_kinds.KINDS`.
    drop_unlabelled : bool
        Whether cells without a label are left out, in place of being refused.
    query : AnnData, path, or a sequence of either, optional
        Cells that the model is to predict: of all genes, those that each of these has as well are trained on, so that
        none has to be estimated. Their cells are not trained on, and not scored; their labels are not read.
    query_layer : str, optional
        The query's values, where they are not in `layer`.
    preset : str
        A name of `neurofleet.learners.sims.PRESETS`.
    settings : mapping, optional
        What differs from the preset: keys of `SimsSettings`.
    baselines : sequence of str, optional
        The simple methods that are scored beside the model; all by default, ``()`` for none.
    seed, split_seed : int
        The first decides weights and the order of cells, the second the split.
    out : path, optional
        A folder for the model. The same training may write there again; the model of another one is never replaced.
    quiet : bool
        Whether no progress is printed on standard error.

    Returns
    -------
    SimsModel

    Raises
    ------
    LearnerError
        If cells, labels or the split cannot be used.
    UsageError
        If there is no such preset or setting.
    Interrupted
        Ctrl-C (the notebook's stop button); no model was written.

    Examples
    --------
    >>> model = nf.sims.train(adata, label="cell_type", batch="donor", out="model")
    >>> model.facts["scores"]["sims"]["accuracy"]
    """
    chosen = checked_settings(settings_of, PRESETS, preset, settings)
    prepared = prepare_reference(
        open_cells(cells, labels_path=labels, layer=layer, gene_names=gene_names, query=query, query_layer=query_layer),
        label,
        batch=batch,
        test=test,
        validation=validation,
        folds=folds,
        target_sum=target_sum,
        values=values,
        drop_unlabelled=drop_unlabelled,
        seed=split_seed,
    )
    run = model_fingerprint(
        {
            "learner": "sims",
            "label": label,
            "settings": chosen.model_dump(mode="json"),
            "seed": seed,
            "split": fingerprint([*prepared.splits, prepared.final]),
            "genes": [str(gene) for gene in prepared.reference.cells.genes],
            "codes": prepared.reference.labels.tolist(),
            "normalisation": str(prepared.reference.normalisation),
        }
    )
    if out is not None:
        refuse_other_model(out, run)
    log = TrainHere()
    notes = [*prepared.notes, *prepared.final.notes]
    notes += filter(None, [chosen.batch_note(len(prepared.final.rows("train")))])
    notes += [RELEASED_WARNING] if preset.startswith("released") else []
    for note in notes:
        log.print(note)
    model, _ = fit_and_score(prepared, chosen, log, seed, baselines=baselines)
    circumstances = {
        "preset": preset,
        "seed": seed,
        "data": prepared.data_facts(source_names(cells), label, len(model.inputs.columns)),
        "split": {"fingerprint": fingerprint(prepared.splits), "cells": prepared.cells_by_role()},
        "notes": [*notes, *(note for note in model.facts["notes"] if note not in notes)],
        "versions": package_versions(),
        "trained_at": now_in_words(),
    }
    model = replace(model, facts={**model.facts, **circumstances})
    if out is not None:
        model.save(out, run)
    if model.facts["answer"] and model.facts["answer"]["in_words"]:
        log.print(model.facts["answer"]["in_words"])
    scores = model.facts["scores"]["sims"]
    log.print(
        f"accuracy {scores['accuracy']:.3f}, macro-F1 {scores['macro_f1']:.3f} on {scores['n']:,}"
        f" {model.facts['role']} cells"
    )
    return model


@dataclass(frozen=True)
class PreparedReference:
    """Labelled cells with their splits.

    Attributes
    ----------
    reference : Reference
    labels : Labels
    splits : tuple of Split
        One, or one a fold: what is scored.
    final : Split
        What the model that is kept is trained on: the one split, or with folds all labelled cells.
    notes : tuple of str
        What the user should know of cells, labels and values.
    profiles : Profiles
        Of all cells, to find them again in a query.
    """

    reference: Reference
    labels: Labels
    splits: tuple[Split, ...]
    final: Split
    notes: tuple[str, ...]
    profiles: Profiles

    def data_facts(self, files: Sequence[str], label: str, n_genes_seen: int) -> dict[str, Any]:
        """Return what a model was trained on, as plain JSON."""
        n_cells, n_genes = self.reference.cells.shape
        queries = self.reference.cells.queries
        return {
            "files": list(files),
            "n_cells": n_cells,
            "n_genes": n_genes,
            "n_genes_seen": n_genes_seen,
            "label": label,
            "cells_of_class": dict(zip(self.labels.classes, self.labels.counts.tolist(), strict=True)),
            "normalisation": str(self.reference.normalisation),
            **({"query": [Path(query_name(query)).name for query in queries]} if queries else {}),
        }

    def cells_by_role(self) -> list[dict[str, int]]:
        """Return the number of training, validation and test cells of each split."""
        roles = ("train", "validation", "test")
        return [{role: len(split.rows(role)) for role in roles} for split in self.splits]


SCALED_NOTE = (
    "A model of scaled values labels only queries that were scaled by the same means and deviations. If you have"
    " counts, or logarithms of them, train on these."
)


def prepare_reference(
    cells: CellMatrix,
    label: str,
    *,
    batch: str | None = None,
    test: float | Groups = 0.2,
    validation: float | Groups = 0.15,
    folds: int | None = None,
    target_sum: float | None = None,
    values: str | None = None,
    drop_unlabelled: bool = False,
    most_labelled: int | None = None,
    seed: int = 0,
) -> PreparedReference:
    """Read the labels of cells, recognise and check their values, look for copies, and split them; see `train`.

    All cells are read once. With `most_labelled`, the labels of about so many cells are used alone.

    Raises
    ------
    LearnerError
        If labels or values cannot be used, or the cells cannot be split so.
    """
    labelled = read_labels(cells, label, drop_missing=drop_unlabelled)
    labels = labelled if most_labelled is None else labelled.some(most_labelled, seed)
    for part in (test, validation, {} if batch is None else {batch: ()}):
        for column in part if isinstance(part, Mapping) else ():
            refuse_files_without(cells, column)
    seen = recognise(cells, target_sum=target_sum, stated=values)
    reference = reference_of(cells, labels, seen, target_sum)
    some = labels.rows[stretches(len(labels.rows), 32, 64)]
    refuse_telling_columns(cells.read(some), reference.labels[some], labels.classes, cells.genes)
    profiles = looked_at(cells, seen, reference.normalisation)
    copies = find_copies(profiles, labels.rows)
    names = np.full(len(cells), "", dtype=object)
    names[labelled.rows] = np.asarray(labelled.classes, dtype=object)[labelled.codes]
    in_query, query_notes = _look_at_queries(cells, reference, profiles)
    reference = replace(reference, in_query=in_query)
    left_out = np.union1d(np.union1d(copies.rows, in_query), np.setdiff1d(labelled.rows, labels.rows))
    common: dict[str, Any] = {"columns": cells.obs, "left_out": left_out, "seed": seed}
    if folds is not None or batch is not None:
        if not isinstance(validation, float | int):
            raise LearnerError("With folds or a batch, validation is a share of the cells, not groups of them.")
        if folds is None:
            folds = _folds_of_share(test, cells, batch)
            splits = make_folds(cells.cell_ids, names, folds, validation=validation, group=batch, **common)[:1]
            final = splits[0]
        else:
            splits = make_folds(cells.cell_ids, names, folds, validation=validation, group=batch, **common)
            final = make_split(cells.cell_ids, names, test=0.0, validation=validation, **common)
    else:
        final = make_split(cells.cell_ids, names, test=test, validation=validation, **common)
        splits = [final]
    for split in [*splits, final]:
        check_inner_sizes(reference.labels[split.rows("train")])
    notes = [*cells.notes, *labels.notes, copies.note(cells, reference.labels), *confounded(cells, labels, batch)]
    notes += [f"Values: {seen.kind} ({seen.evidence}).", SCALED_NOTE if seen.kind == "scaled" else "", seen.advice]
    notes += query_notes
    return PreparedReference(reference, labels, tuple(splits), final, tuple(filter(None, notes)), profiles)


def _look_at_queries(cells: CellMatrix, reference: Reference, profiles: Profiles) -> tuple[np.ndarray, list[str]]:
    """Return which cells, labelled or not, are in the queries as well, and what is to be said of the labelled ones.

    Raises
    ------
    LearnerError
        If all labelled cells are, or the values of a query cannot be used.
    """
    labelled, notes = reference.labels >= 0, []
    n_labelled = int(labelled.sum())
    found, maker = np.zeros(len(cells), dtype=bool), ProfileMaker(cells.genes)
    for query in cells.queries:
        name = Path(query_name(query)).name
        try:
            normalised = check_query(reference.normalisation, recognise(query)).apply
            known = KnownCells(Profiles.joined([maker.of(normalised(block)) for block in query.blocks()]))
        except CellsRefused as error:
            raise CellsRefused(
                f"{name} cannot be predicted as it is, nor looked through for cells of the reference: {error} Give its"
                " counts (`query_layer`), or train without `query`."
            ) from None
        here = known.has(profiles)
        if n_here := int((here & labelled).sum()):
            notes.append(
                f"{n_here:,} of {n_labelled:,} labelled cells are in {name} as well (the same genes, but"
                " for a few). They are left out, so that no cell of the query is trained on."
            )
        found |= here
    if n_labelled and found[labelled].all():
        raise LearnerError(
            "All labelled cells are in the query as well, so none is left to train on. Give as `query` the cells"
            " that are to be predicted, or leave it out."
        )
    return np.flatnonzero(found), notes


def _folds_of_share(test: float | Groups, cells: CellMatrix, batch: str | None) -> int:
    """Return of how many parts one is about the share `test`, with at least one batch in each."""
    if not isinstance(test, float | int) or not 0 < test < 1:
        raise LearnerError(
            f"With a batch, test is a share of the cells between 0 and 1, found {test!r}: whole batches are held out."
            " To name them, give groups without `batch`, such as test={'donor': ['a']}."
        )
    n_batches = cells.obs[batch].nunique() if batch in cells.obs else 2
    return max(2, min(round(1 / test), n_batches))


def fit_and_score(
    prepared: PreparedReference,
    settings: SimsSettings,
    train: Train,
    seed: int = 1,
    *,
    baselines: Sequence[str] | None = None,
) -> tuple[SimsModel, list[Tested]]:
    """Fit a model, score it, and return it with its scores and with what judges a query later.

    Parameters
    ----------
    train : Train
        In this process, or on a cluster.
    baselines : sequence of str, optional
        See `neurofleet.learners.sims.expression_baselines.run_baselines`; all by default.

    Returns
    -------
    model : SimsModel
        Its facts: those of `held_out_scores.facts` and `held_out_scores.query_facts`, ``answer`` (see
        `neurofleet.learners.sims.linear_share.ChosenShare.to_dict`; None without validation cells), and ``notes`` of
        the fit.
    tested : list of Tested
        What was predicted for the scored cells, by split.

    Raises
    ------
    LearnerError
        If the cells cannot be learned from.
    """
    reference, splits = prepared.reference, prepared.splits
    if len(splits) > 1:
        fitted = fit(reference, prepared.final, settings, train, seed)
        tested = cross_validate(reference, splits, settings, train, seed, baselines)
    else:
        fitted, only = fit_and_test(reference, prepared.final, settings, train, seed, baselines)
        tested = [only]
    logger.info("measuring distances from the reference, and what missing genes do to the probabilities")
    known = facts(tested, reference) | query_facts(fitted, reference, prepared.final, seed)
    known["answer"] = None if fitted.choice is None else fitted.choice.to_dict()
    kept = prepared.profiles.some(np.setdiff1d(prepared.labels.rows, reference.in_query)).to_array()
    rows = np.sort(np.concatenate([prepared.final.rows("train"), prepared.final.rows("validation")]))
    space = reference_space(reference.values, rows, reference.labels, seed)
    hidden = measure_hidden_genes(fitted.validated, reference, prepared.final, seed)
    judged = {"facts": known | {"notes": list(fitted.notes)}, "known_cells": kept, "space": space, "hidden": hidden}
    return replace(fitted.model, **judged), tested

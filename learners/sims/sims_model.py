"""A trained SIMS model: it labels, embeds and explains the cells of an AnnData or a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from neurofleet.errors import UsageError
from neurofleet.learners.embedding_tables import warn_of
from neurofleet.learners.model_folder import model_summary
from neurofleet.learners.sims.cell_prediction import (
    MOST_MISSING,
    Query,
    absent_in_all,
    open_query,
    predict,
    rows_of_cells,
)
from neurofleet.learners.sims.gene_importance import (
    Explanation,
    GeneTables,
    cell_tables,
    cells_in_block,
    class_table,
    explain,
    global_table,
)
from neurofleet.learners.sims.majority_vote import Votes, cluster_cells
from neurofleet.learners.sims.sims_classifier import SimsClassifier
from neurofleet.learners.unknown_labels import UNKNOWN, labels_or_unknown, threshold_for
from neurofleet.threads import one_thread

if TYPE_CHECKING:
    import anndata

    from neurofleet.learners.sims.cell_prediction import Cells

OBS_COLUMNS = {
    "label": "sims_label",
    "pred_0": "sims_class",
    "prob_0": "sims_prob",
    "margin": "sims_margin",
    "entropy": "sims_entropy",
    "unknown": "sims_unknown",
    "distance": "sims_distance",
    "outside": "sims_outside",
    "cluster": "sims_cluster",
    "majority": "sims_majority",
}
"""Column of a table of predictions -> column of `obs`."""

EMBEDDING = "X_sims"
"""Where the embedding of cells is in `obsm`."""

CONTRIBUTION, IN_TOP = "sims_contribution", "sims_in_top"
"""In `varm`, genes × classes: see `SimsModel.explain`."""

EXPLANATION = "sims_explanation"
"""In `uns`: the classes of these matrices, their cells, and the model."""

FEW_CELLS = 10_000

PROBABILITIES, MAP, UNS = "sims_probabilities", "X_sims_map", "sims"
"""In `obsm` the probabilities of all classes, and the place on the reference's map; in `uns` whose they are."""


def uns_of(
    identity: Mapping[str, str], classes: Sequence[str], threshold: float, n_shared: int, n_missing: int
) -> dict[str, Any]:
    """Return what `uns` says of predictions.

    Which model made them, its classes in order, the threshold, and how many of the model's genes the query has and
    lacks.
    """
    model = {name: str(value) for name, value in identity.items()}
    genes = {"shared": n_shared, "missing": n_missing}
    return {"model": model, "classes": np.asarray(classes, dtype=object), "threshold": float(threshold), "genes": genes}


@dataclass(frozen=True, repr=False)
class SimsModel(SimsClassifier):
    """A trained SIMS model.

    Made by `neurofleet.learners.sims.train`, or read by `neurofleet.load_model`. All methods take an AnnData in
    memory or the path of an h5ad, zarr, csv or tsv file; genes are aligned to the model's, and values are recognised
    (counts or logarithms) and normalised as the reference was.

    Examples
    --------
    >>> model = nf.load_model("model")
    >>> adata = model.predict(adata, unknown_below=0.6)
    >>> adata.obs["sims_label"].value_counts()
    """

    def predict(
        self,
        cells: Cells,
        *,
        unknown_below: float | None = None,
        coverage: float | None = None,
        layer: str = "X",
        target_sum: float | None = None,
        values: str | None = None,
        gene_names: str | None = None,
        most_missing: float = MOST_MISSING,
        close_missing: bool = False,
        embedding: bool = True,
        majority: float | None = None,
    ) -> anndata.AnnData:
        """Label cells.

        Parameters
        ----------
        cells : AnnData, path, or a sequence of either
            An AnnData is changed in place. Files are read into memory and stay as they are; of several, the genes that
            all of them have are in the AnnData that is returned.
        unknown_below : float, optional
            The label of a cell becomes ``unknown`` where its calibrated top probability is below this.
        coverage : float, optional
            In place of `unknown_below`: the share of the validation cells that keeps its label, which gives the
            threshold.
        layer : str
            ``X``, ``raw``, or the name of a layer.
        target_sum : float, optional
            For log values: to how many counts a cell they were scaled, where that cannot be seen.
        values : str, optional
            What values are, where that cannot be seen: ``counts``, ``log1p``, ``log2`` …
        gene_names : str, optional
            The column of ``var`` that names genes as the model does, such as ``gene_ids``; or ``ignore-version``,
            ``ignore-prefix`` (of the genome), ``ignore-case``; or both, as ``gene_ids+ignore-version``.
        most_missing : float
            The query is refused when a larger share of the model rests on genes that it lacks.
        close_missing : bool
            Whether masks may not choose genes that the query lacks.
        embedding : bool
            Whether the embedding is written, too: see `embed`.
        majority : float, optional
            Labels are smoothed over clusters of the cells, too: each cluster has the label of most of its cells, or
            ``unknown`` where that has a smaller share than this. 0 for any share.

        Returns
        -------
        AnnData
            The same, with these columns of ``obs``, as ``neurofleet predict --write-h5ad`` writes them:
            ``sims_label`` (the class, or ``unknown``), ``sims_class`` (the likeliest class), ``sims_prob`` (its
            calibrated probability), ``sims_margin`` (to the second), ``sims_entropy`` (nats), ``sims_unknown``;
            ``sims_distance`` from the reference and ``sims_outside`` (farther than 95 % of its held-out cells; not of
            models that earlier versions trained); ``sims_cluster`` and ``sims_majority``;
            ``obsm["sims_probabilities"]`` of ``uns["sims"]["classes"]``, ``obsm["X_sims_map"]`` (on the reference's
            map), and ``obsm["X_sims"]``. What was found out about the cells comes as a warning.

        Raises
        ------
        CellsRefused
            If the cells cannot be read, lack too many genes, or their values cannot be made like the reference's.
        UsageError
            If the threshold cannot be found.

        Examples
        --------
        >>> model.predict(adata).obs["sims_class"]
        """
        threshold = threshold_for(unknown_below, coverage, self.facts, "the model")
        query = open_query(
            self,
            cells,
            layer=layer,
            target_sum=target_sum,
            values=values,
            gene_names=gene_names,
            most_missing=most_missing,
            close_missing=close_missing,
        )
        with _threads(query):
            predictions = predict(self, query, np.arange(len(query)), top=1, embedding=embedding)
        warn_of([*query.notes, *predictions.warnings()])
        best = predictions.best[:, 0]
        columns: dict[str, Any] = {
            "pred_0": np.asarray(self.classes, dtype=object)[best],
            "prob_0": predictions.probabilities[np.arange(len(best)), best],
            "margin": predictions.margin,
            "entropy": predictions.entropy,
        }
        columns |= labels_or_unknown(columns["pred_0"], columns["prob_0"], threshold)
        data = _to_write_into(cells, query)
        if predictions.distance is not None:
            columns |= {"distance": predictions.distance, "outside": predictions.distance > 1}
            data.obsm[MAP] = predictions.plane
        if majority is not None:
            columns |= self._majority_of(predictions.coordinates, columns["label"], majority)
        for column, values_of_cells in columns.items():
            is_word = values_of_cells.dtype.kind in "OU"
            data.obs[OBS_COLUMNS[column]] = pd.Categorical(values_of_cells) if is_word else values_of_cells
        data.obsm[PROBABILITIES] = predictions.probabilities
        aligned = query.alignment
        data.uns[UNS] = uns_of(self.identity, self.classes, threshold, aligned.n_shared, aligned.n_missing)
        if predictions.vectors is not None:
            data.obsm[EMBEDDING] = predictions.vectors
        return data

    def embed(
        self,
        cells: Cells,
        *,
        layer: str = "X",
        target_sum: float | None = None,
        values: str | None = None,
        gene_names: str | None = None,
        most_missing: float = MOST_MISSING,
    ) -> anndata.AnnData:
        """Write the embedding of cells into ``obsm["X_sims"]``, (cells, n_d + classes) float32.

        It is what the first network's logits are made of: what its steps decided, summed, and what its skip adds to
        the logit of each class.

        Parameters
        ----------
        cells, layer, target_sum, values, gene_names, most_missing
            See `predict`.

        Returns
        -------
        AnnData

        Raises
        ------
        CellsRefused
            See `predict`.

        Examples
        --------
        >>> sc.pp.neighbors(model.embed(adata), use_rep="X_sims")
        """
        query = open_query(self, cells, layer, target_sum, values, gene_names, most_missing)
        warn_of(query.notes)
        data = _to_write_into(cells, query)
        with _threads(query):
            data.obsm[EMBEDDING] = np.concatenate([self.vectors(values) for _, values in query.blocks()])
        return data

    def explain(
        self,
        cells: Cells,
        *,
        cell_ids: Sequence[str] = (),
        weighting: str = "decision",
        top: int = 20,
        layer: str = "X",
        target_sum: float | None = None,
        values: str | None = None,
        gene_names: str | None = None,
        most_missing: float = MOST_MISSING,
        into_varm: bool = False,
    ) -> GeneTables:
        """Say which genes speak for each class, over cells that are predicted as it.

        Parameters
        ----------
        cells, layer, target_sum, values, gene_names, most_missing
            See `predict`.
        cell_ids : sequence of str
            Cells that are explained one by one, too.
        weighting : {'decision', 'uniform'}
            How the masks of several steps are added up: by what each step decided, or alike.
        top : int
            Genes of a cell that is explained by itself.
        into_varm : bool
            Whether matrices genes × classes are written into the AnnData, as ``neurofleet explain --write-h5ad`` does:
            ``varm["sims_contribution"]``, in logits, and ``varm["sims_in_top"]``, the share of the networks that have
            the gene among their 20 of largest contribution. NaN for genes that the model does not know, and for
            classes that no cell is predicted as. ``uns["sims_explanation"]`` names the ``classes``, their ``cells``,
            the number of ``networks`` and the ``model``.

        Returns
        -------
        GeneTables
            ``classes``, ``overall`` and ``cells`` as pandas tables, and ``means``, the arrays behind them.

        Raises
        ------
        CellsRefused
            See `predict`.
        UsageError
            If a cell of `cell_ids` is not there, or there is no AnnData to write into.

        Examples
        --------
        >>> model.explain(adata).classes.groupby("class").head(8)
        """
        if into_varm and not hasattr(cells, "varm"):
            raise UsageError(
                "into_varm writes into an AnnData, found a file. Read it with anndata.read_h5ad, or use"
                " `neurofleet explain --write-h5ad`."
            )
        query = open_query(self, cells, layer, target_sum, values, gene_names, most_missing)
        warn_of(query.notes)
        (rows,) = rows_of_cells([query], cell_ids)
        size = cells_in_block(self)
        means = explain(self, (values for _, values in query.blocks(size=size)), weighting)
        means = means.without(absent_in_all([query]))
        if into_varm:
            data = _to_write_into(cells, query)
            for name, matrix in gene_matrices(means, query, data.var_names).items():
                data.varm[name] = matrix
            data.uns[EXPLANATION] = explanation_uns(means, self)
        tables = [
            table.to_pandas()
            for ids, values in (query.blocks(rows, size) if len(rows) else ())
            for table in cell_tables(self, ids, values, weighting, top)
        ]
        return GeneTables(
            class_table(means, self).to_pandas(),
            global_table(means, self).to_pandas(),
            pd.concat(tables, ignore_index=True) if tables else None,
            means,
        )

    def _majority_of(self, coordinates: np.ndarray, labels: np.ndarray, least_share: float) -> dict[str, np.ndarray]:
        """Return the cluster of each cell, and the label of most of its cells."""
        names = pd.Index([*(name for name in self.classes if name != UNKNOWN), UNKNOWN])
        clusters = cluster_cells(lambda: iter([coordinates]), len(coordinates))
        votes = Votes.of(clusters, names.get_indexer(labels), int(clusters.max(initial=-1)) + 1, len(names))
        winners, _ = votes.winners(least_share)  # -1, for none, is the last name
        return {"cluster": clusters, "majority": names.to_numpy()[winners[clusters]]}

    def __repr__(self) -> str:
        settings, data = self.settings, self.facts.get("data", {})
        networks = f"{settings.members} network{'s' if settings.members > 1 else ''}"
        if self.linear is not None:
            networks += f" and a linear model (weight {self.linear_share:g})"
        lines = [
            f"{len(self.classes)} classes: {', '.join(self.classes)}",
            f"{len(self.genes):,} genes, of which {len(self.inputs.columns):,} are seen by {networks}",
        ]
        if data:
            lines.append(f"trained on {data['n_cells']:,} cells of {', '.join(data['files'])}, label {data['label']!r}")
        if scores := self.facts.get("scores", {}).get("sims"):
            lines.append(f"accuracy {scores['accuracy']:.3f} on {scores['n']:,} {self.facts['role']} cells")
        return model_summary("SIMS", lines, self.facts, self.written)


def gene_matrices(means: Explanation, query: Query, var_names: pd.Index) -> dict[str, np.ndarray]:
    """Return what an explanation says of each gene of a query, (genes of the query, classes) float32, by its name.

    Parameters
    ----------
    var_names : Index
        Of the AnnData or file that gets them. Genes are found by these names, else by their place.
    """
    genes = pd.Index(query.cells.genes).astype(str)
    places = var_names.astype(str).get_indexer(genes) if var_names.is_unique else np.full(len(genes), -1)
    part = query.cells.parts[0]
    if (places < 0).any() and part.source.shape[1] == len(var_names):
        places = np.arange(len(genes)) if part.columns is None else np.asarray(part.columns)
    columns = query.alignment.columns
    there = np.flatnonzero(columns >= 0)
    there = there[places[columns[there]] >= 0]
    matrices = {}
    for name, values in ((CONTRIBUTION, means.whole_contribution()), (IN_TOP, means.in_top())):
        matrix = np.full((len(var_names), len(means.n_cells)), np.nan, np.float32)
        matrix[places[columns[there]]] = values[:, there].T
        matrix[:, means.n_cells == 0] = np.nan
        matrices[name] = matrix
    return matrices


def explanation_uns(means: Explanation, model: SimsClassifier) -> dict[str, Any]:
    """Return what `uns` says of the matrices of an explanation."""
    return {
        "classes": np.asarray(model.classes, dtype=object),
        "cells": means.n_cells,
        "networks": len(means.contribution),
        "model": {name: str(value) for name, value in model.identity.items()},
    }


def _threads(query: Query) -> AbstractContextManager[None]:
    """Return one thread for a query so small that threads would mostly wait for each other."""
    return one_thread(fits=False) if len(query) <= FEW_CELLS else nullcontext()


def _to_write_into(cells: Cells, query: Query) -> anndata.AnnData:
    """Return the AnnData that a user gave, or one of the files."""
    return cells if hasattr(cells, "obsm") else query.to_anndata()

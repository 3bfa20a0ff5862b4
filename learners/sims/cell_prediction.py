"""Predict the classes of a query's cells: its genes are aligned and its values normalised as the model's were."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp
import zarr

from neurofleet.errors import CellsRefused, UsageError
from neurofleet.input_paths import local_files
from neurofleet.learners.calibration import entropy, margin
from neurofleet.learners.cells.cell_copies import ProfileMaker
from neurofleet.learners.cells.cell_files import IN_MEMORY_NAME, open_cells
from neurofleet.learners.cells.cell_matrix import CellMatrix, open_group
from neurofleet.learners.cells.gene_alignment import Alignment, GeneNaming, align
from neurofleet.learners.cells.normalisation import Normalisation, check_query, check_values, recognise
from neurofleet.learners.cells.value_kinds import Values
from neurofleet.learners.reference_distance import FAR, WARNED_OUTSIDE, outside_in_words
from neurofleet.learners.sims.reference_space import ReferenceSpace, filled
from neurofleet.learners.sims.sims_classifier import SimsClassifier

if TYPE_CHECKING:
    import anndata

    Cells: TypeAlias = str | Path | anndata.AnnData | Sequence[str | Path | anndata.AnnData]
    """What a model reads: an AnnData, a file, or several."""

MOST_MISSING = 0.8
WARNED_MISSING, WARNED_MISSING_GENES = 0.2, 0.5
IMPORTANCE = "gene_importance"
"""The fact of a model that holds the share of its attention that each of its genes has."""

_BLOCK_VALUES = 16_000_000
_BLOCK_CELLS = 4096


@dataclass(frozen=True)
class Query:
    """Cells of a file, of several, or of an AnnData in memory, as a model takes them.

    Attributes
    ----------
    path : Path
        ``AnnData`` for cells in memory, ``query`` for several files.
    cells : CellMatrix
        As they are in the file.
    alignment : Alignment
    values : Values
        What the file's values were recognised as.
    normalisation : Normalisation
        What is done to them.
    missing_share : float
        The share of the model that rests on genes which the query lacks: of its global importance where
        the model knows it, else of its genes.
    by_importance : bool
        Which of the two.
    closed : array of bool, shape (model genes,), or None
        Genes that no mask may choose.
    space : ReferenceSpace or None
        The model's.
    gene_means : array of float32, shape (model genes,), or None
        The model's; they stand in for missing genes where it has no space.
    temperature : float
        Calibrates the predictions; above the model's own where genes are missing, if the model knows how far.
    calibrated : bool
        Whether the model knows that.
    """

    path: Path
    cells: CellMatrix
    alignment: Alignment
    values: Values
    normalisation: Normalisation
    missing_share: float
    by_importance: bool
    closed: np.ndarray | None
    space: ReferenceSpace | None
    gene_means: np.ndarray | None
    temperature: float
    calibrated: bool

    def __len__(self) -> int:
        return len(self.cells)

    @property
    def warning(self) -> str:
        """What the user must know, empty if few genes are missing, and few that the model rests on."""
        if self.missing_share <= WARNED_MISSING and self.alignment.missing_share <= WARNED_MISSING_GENES:
            return ""
        probabilities = "and probabilities too high"
        if self.calibrated:
            probabilities = (
                f"and probabilities are lowered for it (temperature {self.temperature:.3g}, measured on validation"
                " cells of which as much was hidden)"
            )
        return (
            f"{self.path.name} lacks {self.alignment.n_missing} of the model's {len(self.alignment.columns)}"
            f" genes ({self.share_in_words}): {_some(self.alignment.missing)}. They are {self.missing_genes_are}, so"
            f" predictions may be worse than the model's scores say, {probabilities}. A model of the shared genes alone"
            " (`query:` in the training job) needs no estimates."
        )

    @property
    def missing_genes_are(self) -> str:
        """What is done about genes of the model that the query lacks."""
        if self.space is not None:
            return "estimated from the others"
        return "taken as zero" if self.gene_means is None else "set to their mean in the reference"

    @cached_property
    def absent(self) -> np.ndarray | None:
        """Genes of the model that the query lacks, (model genes,) bool; None where it has all."""
        return self.alignment.columns < 0 if self.alignment.n_missing else None

    def filled(self, values: sp.csr_matrix) -> sp.csr_matrix:
        """Return values of the model's genes with those that the query lacks filled in.

        By the reference's principal components, given the genes that the query has; by their means in the reference
        where the model has no components.
        """
        if self.absent is None or self.gene_means is None:
            return values
        dense = values.toarray()
        if self.space is not None:
            below_zero = self.normalisation.kind == "scaled"
            return sp.csr_matrix(filled(dense, self.absent, self.space.estimates, below_zero=below_zero))
        dense[:, self.absent] = self.gene_means[self.absent]
        return sp.csr_matrix(dense)

    def coordinates(self, values: sp.csr_matrix) -> np.ndarray:
        """Return where cells lie in the model's space, (cells, components); not filled values are expected."""
        assert self.space is not None
        return self.space.distances.coordinates(values.toarray(), self.absent)

    @property
    def notes(self) -> list[str]:
        """What the user must know of the cells, and of how they were read."""
        return [*self.cells.notes, *([self.warning] if self.warning else [])]

    @property
    def share_in_words(self) -> str:
        """The share that is missing, and of what."""
        return share_in_words(self.alignment.missing_share, self.missing_share if self.by_importance else None)

    def blocks(
        self, rows: np.ndarray | None = None, size: int | None = None, *, filled: bool = True
    ) -> Iterator[tuple[np.ndarray, sp.csr_matrix]]:
        """Yield cells (all by default) in order: their ids, and log-normalised values of the model's genes.

        Parameters
        ----------
        rows : array of int, optional
        size : int, optional
            Cells of a block; by default as many as take about 64 MB as a dense matrix.
        filled : bool
            Whether genes that the query lacks are filled in; else they are zero.

        Raises
        ------
        CellsRefused
            If a value is not finite, negative where it cannot be, or of another kind than the file's others, or the
            file is damaged.
        """
        rows = np.arange(len(self)) if rows is None else rows
        size = size or max(min(_BLOCK_VALUES // len(self.alignment.columns), _BLOCK_CELLS), 64)
        for start in range(0, len(rows), size):
            some = rows[start : start + size]
            ids = self.cells.cell_ids[some]
            try:
                with _named(f"{self.path}, cells {ids[0]} to {ids[-1]}"):
                    found = self.cells.read(some)
                    check_values(found, self.values, ids)
                    values = self.normalisation.apply_to_query(found, self.alignment)
            except OSError as error:
                raise CellsRefused(
                    f"{self.path}: cells {ids[0]} to {ids[-1]} cannot be read ({error}). The file is damaged"
                    " or only partly copied."
                ) from error
            yield ids, self.filled(values) if filled else values

    def to_anndata(self) -> anndata.AnnData:
        """Return the cells in memory, with all that an h5ad or zarr file holds of them."""
        import anndata

        cells = self.cells
        content = open_group(self.path) if self.path.suffix in (".h5ad", ".zarr") else {}
        if isinstance(content.get("obs"), h5py.Group | zarr.Group):
            return anndata.read_h5ad(self.path) if self.path.is_file() else anndata.read_zarr(self.path)
        return anndata.AnnData(cells.read(np.arange(len(cells))), cells.obs.copy(), cells.var.copy())


def open_query(
    model: SimsClassifier,
    cells: Cells,
    layer: str = "X",
    target_sum: float | None = None,
    values: str | None = None,
    gene_names: str | None = None,
    most_missing: float = MOST_MISSING,
    close_missing: bool = False,
) -> Query:
    """Open cells and check them against a model; cells of a file are not read yet.

    Parameters
    ----------
    layer : str
        ``X``, ``raw``, or the name of a layer.
    target_sum : float, optional
        For log values: to how many counts a cell they were scaled, where that cannot be seen.
    values : str, optional
        What they are, where that cannot be seen: one of `neurofleet.learners.cells.value_kinds.KINDS`.
    gene_names : str, optional
        The column of var that names genes as the model does, and what need not be equal; see
        `neurofleet.learners.cells.gene_alignment.GeneNaming.parsed`.
    most_missing : float
        The query is refused when a larger share of the model rests on genes that it lacks.
    close_missing : bool
        Whether masks may not choose these genes. The skip and the linear model see what they are filled with.

    Raises
    ------
    CellsRefused
        If the file cannot be read, too many genes are missing, or its values cannot be made like those that
        the model was trained on.
    """
    sources = [
        place
        for source in (cells if isinstance(cells, list | tuple) else [cells])
        for place in (local_files([source]) if isinstance(source, str | Path) else [source])
    ]
    path = Path(IN_MEMORY_NAME if len(sources) == 1 else "query")
    if len(sources) == 1 and isinstance(sources[0], Path):
        path = sources[0]
    with _named(path):
        opened = open_cells(sources, layer=layer, gene_names=gene_names)
        naming = GeneNaming.parsed(gene_names)
        alignment = align(model.genes, opened.genes, opened.var, opened.cell_ids, naming)
        share, by_importance = _missing_share(model, alignment)
        if share > most_missing:
            missing = share_in_words(alignment.missing_share, share if by_importance else None)
            raise CellsRefused(
                f"the query lacks {alignment.n_missing} of the model's {len(model.genes)} genes ({missing}), and at"
                f" most {100 * most_missing:g} % may be missing: {_some(alignment.missing)}. Give the query with all"
                " its genes, or allow more with --most-missing."
            )
        closed = alignment.columns < 0 if close_missing and alignment.n_missing else None
        if closed is not None and closed[model.inputs.columns].all():
            raise CellsRefused(
                f"the query has none of the {len(model.inputs.columns)} genes that the model's networks look"
                " at, so not all missing genes can be closed. Leave --close-missing away."
            )
        seen = recognise(opened, target_sum=target_sum, stated=values)
        normalisation = check_query(model.normalisation, seen)
        if model.space is not None and alignment.n_missing:
            normalisation = normalisation.for_genes(float(model.space.share[alignment.columns >= 0].sum()))
    absent = alignment.columns < 0 if alignment.n_missing else None
    return Query(
        path,
        opened,
        alignment,
        seen,
        normalisation,
        share,
        by_importance,
        closed,
        model.space,
        model.gene_means,
        model.temperature_without(absent),
        model.space is not None and model.hidden is not None,
    )


def absent_in_all(queries: Sequence[Query]) -> np.ndarray:
    """Return which genes of the model no query has, (model genes,) bool."""
    return np.all([query.alignment.columns < 0 for query in queries], axis=0)


def rows_of_cells(queries: Sequence[Query], cell_ids: Sequence[str]) -> list[np.ndarray]:
    """Return the rows of cells in each query, by their ids, ascending.

    Raises
    ------
    UsageError
        If a cell is in none of the queries; with the nearest id.
    """
    rows = []
    missing = list(cell_ids)
    for query in queries:
        positions = pd.Index(query.cells.cell_ids).get_indexer(pd.Index(np.asarray(cell_ids, dtype=object)))
        rows.append(np.sort(positions[positions >= 0]))
        missing = [name for name, row in zip(cell_ids, positions, strict=True) if row < 0 and name in missing]
    if missing:
        known = [str(name) for query in queries for name in query.cells.cell_ids[:20_000]]
        close = difflib.get_close_matches(missing[0], known, n=1, cutoff=0.8)
        advice = f" Did you mean {close[0]}?" if close else f" The first cell is {known[0]}."
        raise UsageError(
            f"{len(missing)} of {len(cell_ids)} cells are not in the query: {', '.join(missing[:5])}.{advice}"
        )
    return rows


def share_in_words(of_genes: float, of_attention: float | None) -> str:
    """Return the share of the genes that are missing, and how much of the networks' attention falls on these."""
    text = f"{100 * of_genes:.1f} %"
    return text if of_attention is None else f"{text}; {100 * of_attention:.1f} % of its networks' attention"


@contextmanager
def _named(path: str | Path) -> Iterator[None]:
    """Have refusals say which file they are about."""
    try:
        yield
    except CellsRefused as error:
        if str(path) in str(error):
            raise
        raise CellsRefused(f"{path}: {error}") from None


def _missing_share(model: SimsClassifier, alignment: Alignment) -> tuple[float, bool]:
    absent = alignment.columns < 0
    importance = np.asarray(model.facts.get(IMPORTANCE, ()), dtype=np.float64)
    if len(importance) == len(absent) and importance.sum() > 0:
        return float(importance[absent].sum() / importance.sum()), True
    return alignment.missing_share, False


def _some(genes: tuple[str, ...]) -> str:
    return ", ".join(genes[:5]) + (", …" if len(genes) > 5 else "")


@dataclass(frozen=True)
class Predictions:
    """Predictions of some cells, in order.

    Attributes
    ----------
    cell_ids : array of str, shape (cells,)
    probabilities : array of float32, shape (cells, classes)
        Calibrated.
    best : array of int, shape (cells, top)
        The likeliest classes, likeliest first; of equal ones the class that comes first.
    margin : array of float32, shape (cells,)
        Between the largest and the second largest probability.
    entropy : array of float32, shape (cells,)
        In nats.
    n_empty : int
        Cells without any value in the model's genes.
    n_known : int
        Cells that the model's reference holds as well, or nearly so.
    coordinates : array of float32, shape (cells, components)
        In the model's space; in its embedding where it has none.
    distance : array of float32, shape (cells,), or None
        From the reference; at 1 lies the limit that 95 % of its held-out cells do not exceed.
    plane : array of float32, shape (cells, 2), or None
        On the reference's map.
    vectors : array of float32, shape (cells, embedding size), or None
        The embedding, where it was asked for.
    """

    cell_ids: np.ndarray
    probabilities: np.ndarray
    best: np.ndarray
    margin: np.ndarray
    entropy: np.ndarray
    n_empty: int
    n_known: int
    coordinates: np.ndarray
    distance: np.ndarray | None
    plane: np.ndarray | None
    vectors: np.ndarray | None = None

    def warnings(self) -> Iterator[str]:
        """Yield what the user must know of them."""
        n_outside = 0 if self.distance is None else int((self.distance > 1).sum())
        if n_outside > WARNED_OUTSIDE * len(self.cell_ids):
            yield f"{outside_in_words(n_outside, len(self.cell_ids))}. {FAR}"
        if self.n_empty:
            yield f"{self.n_empty:,} cells have no value in any of the model's genes."
        if self.n_known:
            yield known_cells_in_words(self.n_known, len(self.cell_ids))


def known_cells_in_words(n_known: int, n_cells: int) -> str:
    """Say that cells of a query are in the reference."""
    return (
        f"{n_known:,} of {n_cells:,} cells are in the reference that the model was trained on (the same genes, but for"
        " a few): their predictions say nothing of how well it does on new cells."
    )


def predict(model: SimsClassifier, query: Query, rows: np.ndarray, top: int, *, embedding: bool = False) -> Predictions:
    """Predict some cells of a query, block by block.

    Parameters
    ----------
    rows : array of int
    top : int
        How many of the likeliest classes are returned for each cell.
    embedding : bool
        Whether the embedding is returned, too.

    Raises
    ------
    CellsRefused
        If their values cannot be used.
    """
    ids, parts, coordinates, vectors, n_empty, n_known = [], [], [], [], 0, 0
    maker = None if model.known is None else ProfileMaker(model.genes)
    for some, values in query.blocks(rows, filled=False):
        complete = query.filled(values)
        ids.append(some)
        parts.append(model.probabilities(complete, query.closed, query.temperature))
        if embedding or model.space is None:
            vectors.append(model.vectors(complete, query.closed))
        coordinates.append(vectors[-1] if model.space is None else query.coordinates(values))
        n_empty += int((np.diff(values.indptr) == 0).sum())
        if maker is not None and model.known is not None:
            n_known += int(model.known.has(maker.of(values)).sum())
    exact, where = np.concatenate(parts), np.concatenate(coordinates)
    distance, plane = (None, None) if model.space is None else model.space.placed(where)
    probabilities = exact.astype(np.float32)
    return Predictions(
        np.concatenate(ids),
        probabilities,
        np.argsort(-probabilities, axis=1, kind="stable")[:, :top],
        margin(exact).astype(np.float32),
        entropy(exact).astype(np.float32),
        n_empty,
        n_known,
        where,
        distance,
        plane,
        np.concatenate(vectors) if embedding else None,
    )

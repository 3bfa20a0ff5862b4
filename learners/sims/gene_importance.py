"""Which genes a SIMS model looks at, and which speak for a class.

Two readings, which answer different questions:

- *attention*: the masks, weighted by what each step decided (the SIMS paper, methods; Arik and Pfister,
  AAAI 2021, section 3). Which genes were chosen. Two networks of equal accuracy choose mostly different genes
  among correlated ones, so attention is averaged over the members, and their overlap stands beside it.
- *contribution*: input times gradient of a class's logit less the mean logit. How much a gene's value speaks
  for the class, with its sign; of the members, and of the linear model that is averaged with them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import scipy.sparse as sp
import torch
from torch import Tensor

from neurofleet.learners.sims.sims_classifier import SimsClassifier, blocks_of
from neurofleet.learners.sims.tabnet import TabNetEnsemble, TabNetStep
from neurofleet.threads import one_thread

HIGHER, LOWER = "higher", "lower"

TOP_GENES = 20
"""Length of the lists of genes that members are compared by."""

_BLOCK_VALUES = 8_000_000


@dataclass(frozen=True)
class Explanation:
    """Means over the cells predicted as a class; genes in the model's order, 0 where networks do not look.

    Attributes
    ----------
    attention : array, shape (members, classes, genes)
        Each cell's attention sums to 1.
    contribution : array, shape (members, classes, genes)
        In units of logits.
    linear_contribution : array, shape (classes, genes)
        The linear model's; 0 where there is none.
    linear_share : float
        The weight that the linear model has in the average.
    global_attention : array, shape (members, genes)
        Mean over all cells.
    n_cells : array of int, shape (classes,)
        Cells predicted as each class.
    value : array, shape (classes, genes)
        Mean log-normalised value. A gene can speak for a class by being low.
    global_value : array, shape (genes,)
        Mean over all cells.
    """

    attention: np.ndarray
    contribution: np.ndarray
    linear_contribution: np.ndarray
    linear_share: float
    global_attention: np.ndarray
    n_cells: np.ndarray
    value: np.ndarray
    global_value: np.ndarray

    def without(self, genes: np.ndarray) -> Explanation:
        """Return the same where some genes, (genes,) bool, say nothing: those that the cells do not have."""
        names = ("attention", "contribution", "linear_contribution", "global_attention")
        return replace(self, **{name: np.where(genes, 0.0, getattr(self, name)) for name in names})

    def dispersion(self) -> np.ndarray:
        """Return the attention of a class over that of all cells, (classes, genes); 0 where both are 0.

        The SIMS paper's dispersion index.
        """
        whole = self.global_attention.mean(0)
        return np.divide(self.attention.mean(0), whole, out=np.zeros_like(self.attention[0]), where=whole > 0)

    def whole_contribution(self) -> np.ndarray:
        """Return the contribution of members and linear model by their weights, (classes, genes)."""
        members = self.contribution.mean(0) * (1.0 - self.linear_share)
        return members + self.linear_contribution * self.linear_share

    def in_top(self) -> np.ndarray:
        """Return the share of the members that have a gene among their top genes by contribution, (classes, genes)."""
        members, classes, _ = self.contribution.shape
        return np.stack([_in_top(self.contribution[:, number]) for number in range(classes)]) / members

    def overlap(self, reading: str) -> np.ndarray:
        """Return the mean Jaccard index of the members' top genes, for each class; NaN for one member.

        Parameters
        ----------
        reading : {'attention', 'contribution'}
        """
        by_member = getattr(self, reading)
        members, classes, _ = by_member.shape
        overlaps = np.full(classes, np.nan)
        for number in range(classes):
            if members > 1 and self.n_cells[number]:
                overlaps[number] = mean_overlap(by_member[:, number])
        return overlaps

    def global_contribution(self) -> np.ndarray:
        """Return the members' mean contribution over all cells, each for its class, (members, genes)."""
        share = self.n_cells / max(self.n_cells.sum(), 1)
        return np.einsum("k,mkg->mg", share, self.contribution)


def top_genes(weights: np.ndarray, number: int = TOP_GENES) -> set[int]:
    """Return the genes of largest weight, fewer where fewer have any."""
    order = np.argsort(-weights, kind="stable")[:number]
    return {int(gene) for gene in order if weights[gene] > 0}


def mean_overlap(by_member: np.ndarray) -> float:
    """Return the mean Jaccard index of the members' top genes, over pairs; NaN for one member.

    Parameters
    ----------
    by_member : array, shape (members, genes)
    """
    tops = [top_genes(weights) for weights in by_member]
    shares = [len(a & b) / len(a | b) if a | b else 0.0 for a, b in combinations(tops, 2)]
    return float(np.mean(shares)) if shares else float("nan")


@one_thread()
def explain(model: SimsClassifier, blocks: Iterable[sp.csr_matrix], weighting: str = "decision") -> Explanation:
    """Explain cells, block by block; memory does not grow with their number.

    Parameters
    ----------
    blocks : iterable of csr_matrix, shape (cells, genes)
        Log-normalised, in the order of the model's genes; see `cells_in_block`.
    weighting : {'decision', 'uniform'}
        Whether a step's mask counts by how much the step decided (the released code) or as it is (the
        paper's wording).
    """
    members, classes, genes = len(model.networks.members), len(model.classes), len(model.genes)
    attention = np.zeros((members, classes, genes))
    contribution = np.zeros((members, classes, genes))
    linear = np.zeros((classes, genes))
    value = np.zeros((classes, genes))
    n_cells = np.zeros(classes, dtype=np.int64)
    linear_weights = _linear_weights(model)
    for values in blocks:
        predicted = model.log_probabilities(values).argmax(1)
        n_cells += np.bincount(predicted, minlength=classes)
        onto = sp.csr_matrix(
            (np.ones(len(predicted)), (predicted, np.arange(len(predicted)))), (classes, len(predicted))
        )
        looked, spoke = cell_explanations(model, values, predicted, weighting)
        if model.linear is not None:
            linear += (onto @ model.linear.scaled(values.toarray())) * linear_weights
        value += (onto @ values).toarray()
        for member in range(members):
            attention[member][:, model.inputs.columns] += onto @ looked[member]
            contribution[member][:, model.inputs.columns] += onto @ spoke[member]
    share = np.maximum(n_cells, 1)[:, None]
    n_all = max(n_cells.sum(), 1)
    return Explanation(
        attention / share,
        contribution / share,
        linear / share,
        model.linear_share,
        attention.sum(1) / n_all,
        n_cells,
        value / share,
        value.sum(0) / n_all,
    )


def mean_attention(networks: TabNetEnsemble, values: sp.csr_matrix) -> np.ndarray:
    """Return the attention of all members, mean over cells, (genes used,).

    Parameters
    ----------
    values : csr_matrix, shape (cells, genes used)
    """
    total = np.zeros(values.shape[1])
    for block in blocks_of(*values.shape):
        seen = networks.look(torch.from_numpy(values[block].toarray()).to(networks.mean.device))
        with torch.no_grad():
            for member in networks.members:
                total += _attention(member(seen)[1], "decision").sum(0).double().cpu().numpy()
    return total / (values.shape[0] * len(networks.members))


def cell_explanations(
    model: SimsClassifier, values: sp.csr_matrix, predicted: np.ndarray, weighting: str = "decision"
) -> tuple[np.ndarray, np.ndarray]:
    """Return attention and contribution of each member for each cell, (members, cells, genes used).

    Parameters
    ----------
    predicted : array of int, shape (cells,)
        The class for which contributions are taken.
    """
    model.networks.eval()
    seen = model.networks.look(model.network_input(values)).detach().requires_grad_()
    chosen = torch.from_numpy(predicted).to(seen.device)
    looked, spoke = [], []
    for member in model.networks.members:
        logits, steps = member(seen)
        margin = logits.gather(1, chosen[:, None]).sum() - logits.mean(1).sum()
        (gradient,) = torch.autograd.grad(margin, seen)
        looked.append(_attention(steps, weighting).cpu().numpy())
        spoke.append((gradient * seen).detach().cpu().numpy())
    return np.stack(looked), np.stack(spoke)


def _attention(steps: list[TabNetStep], weighting: str) -> Tensor:
    weights = [step.decision.detach().sum(1, keepdim=True) if weighting == "decision" else 1.0 for step in steps]
    whole = torch.stack([w * step.mask.detach() for w, step in zip(weights, steps, strict=True)]).sum(0)
    return whole / whole.sum(1, keepdim=True).clamp(min=torch.finfo(whole.dtype).tiny)


def linear_contribution(model: SimsClassifier, values: sp.csr_matrix, predicted: np.ndarray) -> np.ndarray:
    """Return the contribution of the linear model for each cell, (cells, genes); 0 where there is none."""
    if model.linear is None:
        return np.zeros(values.shape)
    return model.linear.scaled(values.toarray()) * _linear_weights(model)[predicted]


def _linear_weights(model: SimsClassifier) -> np.ndarray:
    """Return the linear model's weights less their mean over classes, (classes, genes); 0 where there is none."""
    if model.linear is None:
        return np.zeros((len(model.classes), len(model.genes)))
    return (model.linear.weights - model.linear.weights.mean(1, keepdims=True)).T


@dataclass(frozen=True, repr=False)
class GeneTables:
    """The genes that speak for classes, as pandas tables.

    Attributes
    ----------
    classes : DataFrame
        See `class_table`.
    overall : DataFrame
        See `global_table`.
    cells : DataFrame or None
        See `cell_tables`; None where no single cell was asked for.
    means : Explanation
        The arrays behind them.
    """

    classes: pd.DataFrame
    overall: pd.DataFrame
    cells: pd.DataFrame | None
    means: Explanation

    def __repr__(self) -> str:
        n = self.means.n_cells
        return f"Genes of {int((n > 0).sum())} classes, over {int(n.sum()):,} cells: .classes, .overall, .cells, .means"


def cells_in_block(model: SimsClassifier) -> int:
    """Return how many cells are explained at once: by each member, attention and contribution are dense."""
    values_of_cell = max(len(model.genes), len(model.networks.members) * len(model.inputs.columns))
    return max(min(_BLOCK_VALUES // values_of_cell, 1024), 16)


def class_table(means: Explanation, model: SimsClassifier) -> pa.Table:
    """Return one row for each class that was predicted and each gene that the model looks at.

    ``class``, ``rank`` by contribution, ``gene``, ``contribution`` of members and linear model together,
    ``members_in_top`` (members that have the gene among their 20 of largest contribution),
    ``contribution_sd`` (over members), ``linear_contribution``, ``attention`` and ``attention_sd`` (mean and
    sd over members), ``members_in_top_attention``, ``dispersion``, ``value`` and ``value_all`` (mean
    log-normalised value in the class and in all cells), ``direction`` (`HIGHER` or `LOWER` in the class than in all
    cells; of a gene that is lower, its absence speaks for the class), ``cells`` of the class, ``overlap_contribution``
    and ``overlap_attention`` (mean Jaccard index of the members' top 20). In the order of classes and ranks.
    With one member sd and overlap are null.
    """
    whole, dispersion = means.whole_contribution(), means.dispersion()
    overlaps = {name: means.overlap(name) for name in ("contribution", "attention")}
    parts = []
    for number, name in enumerate(model.classes):
        if not means.n_cells[number]:
            continue
        columns = _gene_columns(
            whole[number],
            means.contribution[:, number],
            means.linear_contribution[number],
            means.attention[:, number],
        )
        columns |= {"dispersion": dispersion[number]}
        columns |= {"value": means.value[number], "value_all": means.global_value}
        lower = means.value[number] < means.global_value
        columns |= {"direction": np.where(lower, LOWER, HIGHER)}
        table = _ranked(columns, model)
        constant: dict[str, float | int] = {"cells": int(means.n_cells[number])}
        constant |= {f"overlap_{reading}": float(overlap[number]) for reading, overlap in overlaps.items()}
        parts.append(_with_constants(table, {"class": name}, constant))
    return pa.concat_tables(parts)


def global_table(means: Explanation, model: SimsClassifier) -> pa.Table:
    """Return one row for each gene, over all cells and each for its predicted class; columns as above."""
    share = means.n_cells / max(means.n_cells.sum(), 1)
    members = means.global_contribution()
    columns = _gene_columns(
        share @ means.whole_contribution(), members, share @ means.linear_contribution, means.global_attention
    )
    columns |= {"value_all": means.global_value}
    constant: dict[str, float | int] = {"cells": int(means.n_cells.sum())}
    constant |= {"overlap_contribution": mean_overlap(members)}
    constant |= {"overlap_attention": mean_overlap(means.global_attention)}
    return _with_constants(_ranked(columns, model), {}, constant)


def cell_tables(
    model: SimsClassifier, ids: np.ndarray, values: sp.csr_matrix, weighting: str, top: int
) -> list[pa.Table]:
    """Return the top genes of single cells, for the class that each is predicted as.

    Parameters
    ----------
    ids : array of str, shape (cells,)
    values : csr_matrix, shape (cells, genes)
        Log-normalised.
    """
    predicted = model.log_probabilities(values).argmax(1)
    looked, spoke = cell_explanations(model, values, predicted, weighting)
    linear = linear_contribution(model, values, predicted)
    dense = values.toarray()
    tables = []
    for place, name in enumerate(ids):
        attention, contribution = np.zeros((2, len(looked), len(model.genes)))
        attention[:, model.inputs.columns] = looked[:, place]
        contribution[:, model.inputs.columns] = spoke[:, place]
        share = model.linear_share
        whole = contribution.mean(0) * (1.0 - share) + linear[place] * share
        columns = _gene_columns(whole, contribution, linear[place], attention) | {"value": dense[place]}
        constant: dict[str, float | int] = {"overlap_contribution": mean_overlap(contribution)}
        constant |= {"overlap_attention": mean_overlap(attention)}
        first = {"cell_id": str(name), "class": model.classes[predicted[place]]}
        tables.append(_with_constants(_ranked(columns, model).slice(0, top), first, constant))
    return tables


def _gene_columns(
    whole: np.ndarray, contribution: np.ndarray, linear: np.ndarray, attention: np.ndarray
) -> dict[str, np.ndarray]:
    return {
        "contribution": whole,
        "members_in_top": _in_top(contribution),
        "contribution_sd": _sd(contribution),
        "linear_contribution": linear,
        "attention": attention.mean(0),
        "attention_sd": _sd(attention),
        "members_in_top_attention": _in_top(attention),
    }


def _sd(by_member: np.ndarray) -> np.ndarray:
    """Return how far the members differ on each gene; NaN for one member."""
    return by_member.std(0) if len(by_member) > 1 else np.full(by_member.shape[1], np.nan)


def _in_top(by_member: np.ndarray) -> np.ndarray:
    """Return for each gene how many members have it among their top genes."""
    chosen = [gene for weights in by_member for gene in top_genes(weights)]
    return np.bincount(np.asarray(chosen, dtype=np.int64), minlength=by_member.shape[1])


def _ranked(columns: dict[str, np.ndarray], model: SimsClassifier) -> pa.Table:
    """Return the genes by contribution, without those that nothing looks at."""
    seen = (columns["contribution"] != 0) | (columns["attention"] != 0)
    genes = np.flatnonzero(seen)
    order = genes[np.argsort(-columns["contribution"][genes], kind="stable")]
    content: dict[str, Any] = {
        "rank": pa.array(np.arange(1, len(order) + 1), pa.int32()),
        "gene": pa.array([model.genes[gene] for gene in order], pa.string()),
    }
    for name, values in columns.items():
        kind = {"i": pa.int32(), "U": pa.string()}.get(values.dtype.kind, pa.float32())
        content[name] = pa.array(values[order], kind, from_pandas=True)  # NaN is null
    return pa.table(content)


def _with_constants(table: pa.Table, first: dict[str, str], last: dict[str, float | int]) -> pa.Table:
    """Return the table with columns of one value: words before its own, figures after them."""
    for place, (name, word) in enumerate(first.items()):
        table = table.add_column(place, name, pa.array([word] * len(table), pa.string()))
    for name, figure in last.items():
        kind = pa.int32() if isinstance(figure, int) else pa.float32()
        table = table.append_column(name, pa.array([figure] * len(table), kind, from_pandas=True))
    return table

"""The genes that speak for a class, for all cells, and for single cells, as tables."""

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    import scipy.sparse as sp

    from learners.sims.explain import Explanation
    from learners.sims.model import SimsModel


def class_table(found: "Explanation", model: "SimsModel") -> pa.Table:
    """Return one row for each class that was predicted and each gene that the model looks at.

    ``class``, ``rank`` by contribution, ``gene``, ``contribution`` of members and linear model together,
    ``members_in_top`` (members that have the gene among their 20 of largest contribution),
    ``contribution_sd`` (over members), ``linear_contribution``, ``attention`` and ``attention_sd`` (mean and
    sd over members), ``members_in_top_attention``, ``dispersion``, ``value`` and ``value_all`` (mean
    log-normalised value in the class and in all cells), ``cells`` of the class, ``overlap_contribution`` and
    ``overlap_attention`` (mean Jaccard index of the members' top 20). In the order of classes and ranks.
    """
    whole, dispersion = found.whole_contribution(), found.dispersion()
    overlaps = {name: found.overlap(name) for name in ("contribution", "attention")}
    parts = []
    for number, name in enumerate(model.classes):
        if not found.n_cells[number]:
            continue
        columns = _gene_columns(
            whole[number],
            found.contribution[:, number],
            found.linear_contribution[number],
            found.attention[:, number],
        )
        columns |= {"dispersion": dispersion[number]}
        columns |= {"value": found.value[number], "value_all": found.global_value}
        table = _ranked(columns, model)
        constant: dict[str, float | int] = {"cells": int(found.n_cells[number])}
        constant |= {f"overlap_{reading}": float(found_in[number]) for reading, found_in in overlaps.items()}
        parts.append(_with_constants(table, {"class": name}, constant))
    return pa.concat_tables(parts)


def global_table(found: "Explanation", model: "SimsModel") -> pa.Table:
    """Return one row for each gene, over all cells and each for its predicted class; columns as above."""
    from learners.sims.explain import mean_overlap

    share = found.n_cells / max(found.n_cells.sum(), 1)
    members = found.global_contribution()
    columns = _gene_columns(
        share @ found.whole_contribution(), members, share @ found.linear_contribution, found.global_attention
    )
    columns |= {"value_all": found.global_value}
    constant: dict[str, float | int] = {"cells": int(found.n_cells.sum())}
    constant |= {"overlap_contribution": mean_overlap(members)}
    constant |= {"overlap_attention": mean_overlap(found.global_attention)}
    return _with_constants(_ranked(columns, model), {}, constant)


def cell_tables(
    model: "SimsModel", ids: np.ndarray, values: "sp.csr_matrix", weighting: str, top: int
) -> list[pa.Table]:
    """Return the top genes of single cells, for the class that each is predicted as.

    Parameters
    ----------
    ids : array of str, shape (cells,)
    values : csr_matrix, shape (cells, genes)
        Log-normalised.
    """
    from learners.sims.explain import cell_explanations, linear_contribution, mean_overlap

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
        "contribution_sd": contribution.std(0),
        "linear_contribution": linear,
        "attention": attention.mean(0),
        "attention_sd": attention.std(0),
        "members_in_top_attention": _in_top(attention),
    }


def _in_top(by_member: np.ndarray) -> np.ndarray:
    """Return for each gene how many members have it among their top genes."""
    from learners.sims.explain import top_genes

    chosen = [gene for weights in by_member for gene in top_genes(weights)]
    return np.bincount(np.asarray(chosen, dtype=np.int64), minlength=by_member.shape[1])


def _ranked(columns: dict[str, np.ndarray], model: "SimsModel") -> pa.Table:
    """Return the genes by contribution, without those that nothing looks at."""
    seen = (columns["contribution"] != 0) | (columns["attention"] != 0)
    genes = np.flatnonzero(seen)
    order = genes[np.argsort(-columns["contribution"][genes], kind="stable")]
    content: dict[str, Any] = {
        "rank": pa.array(np.arange(1, len(order) + 1), pa.int32()),
        "gene": pa.array([model.genes[gene] for gene in order], pa.string()),
    }
    for name, values in columns.items():
        kind = pa.int32() if values.dtype.kind == "i" else pa.float32()
        content[name] = pa.array(values[order], kind)
    return pa.table(content)


def _with_constants(table: pa.Table, first: dict[str, str], last: dict[str, float | int]) -> pa.Table:
    """Return the table with columns of one value: words before its own, figures after them."""
    for place, (name, word) in enumerate(first.items()):
        table = table.add_column(place, name, pa.array([word] * len(table), pa.string()))
    for name, figure in last.items():
        kind = pa.int32() if isinstance(figure, int) else pa.float32()
        table = table.append_column(name, pa.array([figure] * len(table), kind))
    return table

"""Which genes and e-features go with a conductance, and whether their differences agree (Figures 3, 4)."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import pandas as pd


@dataclass(frozen=True)
class Link:
    """A conductance with what it is expected to rise and fall with.

    Attributes
    ----------
    mechanisms : tuple of str
        Suffixes of the channel; each of its `gbar_<mechanism>.<section>` is compared.
    genes : tuple of str
    features : tuple of str
        E-features that rise with it.
    """

    mechanisms: tuple[str, ...]
    genes: tuple[str, ...] = ()
    features: tuple[str, ...] = ()

    def has_parameter(self, name: str) -> bool:
        """Whether a parameter is the maximal conductance of one of the mechanisms."""
        base = name.partition(".")[0]
        return base in {f"gbar_{mechanism}" for mechanism in self.mechanisms}


LINKS: Mapping[str, Link] = {
    "Kv3.1": Link(("Kv3_1",), ("Kcnc1",)),
    "Ih": Link(("Ih",), ("Hcn1", "Hcn2", "Hcn3")),
    "NaTa_t": Link(("NaTa_t",), ("Scn8a",)),
    "K_P": Link(("K_Pst", "K_P"), ("Kcna1", "Kcna2", "Kcna3", "Kcna6")),
    "K_T": Link(("K_Tst", "K_T"), ("Kcnd1", "Kcnd2", "Kcnd3")),
}
"""The pairs of the paper."""

KEPT = ("higher", "lower", "n_higher", "n_lower", "cliffs_delta", "p_adjusted", "p_adjusted_two_sided")


def side_by_side(tests: pd.DataFrame, links: Mapping[str, Link]) -> pd.DataFrame:
    """Return the tests of linked quantities, conductances first, a pair of classes after the other.

    Parameters
    ----------
    tests : DataFrame
        Of :func:`neurosim.populations.comparisons.compare`, with columns `grouping`, `family`
        (``parameters``, ``genes`` or ``features``) and `table` before them.
    links : mapping
        Name -> link.

    Returns
    -------
    DataFrame
        One row a linked quantity and pair: `grouping`, `pair`, `link`, `family`, `table`, `quantity` and the
        columns `KEPT`. `agrees`: for genes and features, whether the same class is higher as in any
        conductance of the link that differs significantly; missing where there is none, where conductances
        contradict each other, and for conductances.
    """
    rows = []
    for (grouping, pair), group in tests.assign(pair=_pairs(tests)).groupby(["grouping", "pair"], sort=True):
        for name, link in links.items():
            both = zip(group["family"], group["quantity"], strict=True)
            mine = group[[_belongs(link, family, quantity) for family, quantity in both]]
            conductances = mine[mine["family"] == "parameters"]
            highest = set(conductances.loc[conductances["significant"], "higher"])
            for row in pd.concat([conductances, mine[mine["family"] != "parameters"]]).itertuples(
                index=False
            ):
                is_other = row.family != "parameters" and len(highest) == 1
                rows.append(
                    {"grouping": grouping, "pair": pair, "link": name, "family": row.family}
                    | {"table": row.table, "quantity": row.quantity}
                    | {key: getattr(row, key) for key in KEPT}
                    | {"agrees": row.higher in highest if is_other else None}
                )
    columns = ["grouping", "pair", "link", "family", "table", "quantity", *KEPT, "agrees"]
    return pd.DataFrame(rows, columns=columns).astype({"agrees": "boolean"})


def missing_genes(links: Mapping[str, Link], there: Iterable[str]) -> list[str]:
    """Return the linked genes that no expression table has."""
    wanted = {gene for link in links.values() for gene in link.genes}
    return sorted(wanted - set(there))


def _pairs(tests: pd.DataFrame) -> list[str]:
    return [
        " / ".join(sorted((one, other))) for one, other in zip(tests["higher"], tests["lower"], strict=True)
    ]


def _belongs(link: Link, family: str, quantity: str) -> bool:
    if family == "parameters":
        return link.has_parameter(quantity)
    return quantity in (link.genes if family == "genes" else link.features)

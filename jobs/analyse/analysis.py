"""All steps of an analysis, each a table or several."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from jobs.analyse.inputs import Inputs, Measured, links_of, map_columns
from jobs.analyse.spec import PARAMETER_MAP, AnalyseSpec, MapSpec

if TYPE_CHECKING:
    import pandas as pd

Tables = dict[str, "pd.DataFrame"]


def analyse(
    spec: AnalyseSpec, inputs: Inputs, jobs: int, say: Callable[[str], None] = lambda step: None
) -> Tables:
    """Return the tables of an analysis by name.

    Parameters
    ----------
    jobs : int
        Threads for the forests; tables do not depend on it.
    say : callable
        Told each step as it begins.
    """
    steps: list[tuple[str, Callable[[], Tables]]] = [
        ("classes", lambda: {"classes": _classes(inputs)}),
        ("dispersion", lambda: _dispersions(spec, inputs)),
        ("tests", lambda: _tests(spec, inputs)),
        ("forests", lambda: _forests(spec, inputs, jobs)),
        ("maps", lambda: _maps(spec, inputs)),
    ]
    found: Tables = {}
    for name, step in steps:
        say(name)
        found |= step()
    return found


def _classes(inputs: Inputs) -> "pd.DataFrame":
    import pandas as pd

    frames = [
        pd.DataFrame({"grouping": name, "cell": one.classes.index, "class": one.classes.to_numpy()})
        for name, one in inputs.groupings.items()
    ]
    return pd.concat(frames, ignore_index=True)


def _dispersions(spec: AnalyseSpec, inputs: Inputs) -> Tables:
    from neurosim.populations.dispersion import dispersion

    found: dict[str, list[pd.DataFrame]] = {}
    for name, one in inputs.groupings.items():
        if one.disperses:
            parts = dispersion(one.models.columns(one.shared), one.classes, spec.seed)
            for part, table in vars(parts).items():
                found.setdefault(f"dispersion_{part}", []).append(_under(name, table))
    return _joined(found)


def _tests(spec: AnalyseSpec, inputs: Inputs) -> Tables:
    import pandas as pd

    from neurosim.populations.comparisons import compare
    from neurosim.populations.links import side_by_side
    from neurosim.populations.models import of_cells, repeated_parameters

    tables = []
    for name, one in inputs.groupings.items():
        repeated = repeated_parameters(one.models)
        own = one.models.columns([key for key in one.models.parameters if key not in repeated])
        values = of_cells(own, spec.unit)
        found = compare(values, one.classes.loc[values.index])
        tables.append(_labelled(found, name, "parameters", "models"))
        for family, sources in (("genes", inputs.expression), ("features", inputs.features)):
            for source, measured in sources.items():
                if name in measured.classes:
                    rows, classes = _one_row_a_cell(measured, measured.classes[name], spec.unit)
                    tables.append(_labelled(compare(rows, classes), name, family, source))
    tests = pd.concat(tables, ignore_index=True)
    return {"tests": tests, "links": side_by_side(tests, links_of(spec))}


def _one_row_a_cell(
    measured: Measured, classes: "pd.Series[str]", unit: str
) -> "tuple[pd.DataFrame, pd.Series[str]]":
    if measured.ranks is None:
        return measured.values, classes
    if unit == "best":
        best = measured.ranks == measured.values.assign(rank=measured.ranks).groupby(level=0)[
            "rank"
        ].transform("min")
        return measured.values[best.to_numpy()], classes[best.to_numpy()]
    values = measured.values.groupby(level=0, sort=True).median()
    return values, classes.groupby(level=0, sort=True).first()


def _forests(spec: AnalyseSpec, inputs: Inputs, jobs: int) -> Tables:
    from neurosim.populations.forest import classify

    found: dict[str, list[pd.DataFrame]] = {}
    for name, one in inputs.groupings.items():
        if one.forest is not None:
            parts = classify(one.models.columns(one.shared), one.forest, spec.seed, jobs)
            for part, table in vars(parts).items():
                found.setdefault(f"forest_{part}", []).append(_under(name, table))
    return _joined(found)


def _maps(spec: AnalyseSpec, inputs: Inputs) -> Tables:
    found: dict[str, list[pd.DataFrame]] = {}
    for parts in (_parameter_map(spec, inputs), *(_feature_map(spec, inputs, key) for key in spec.maps)):
        for part, table in parts.items():
            found.setdefault(part, []).append(table)
    return _joined(found)


def _parameter_map(spec: AnalyseSpec, inputs: Inputs) -> Tables:
    """Map the best models of all cells, and place their others on it.

    Made of all models, a map of ten neighbours would know nothing of other cells: a model's nearest
    neighbours are the other models of its own cell.
    """
    import numpy as np

    from neurosim.populations.maps import LEAST_CELLS
    from neurosim.populations.models import shared_parameters

    grouped = [np.isin(inputs.models.cells, one.classes.index) for one in inputs.groupings.values()]
    models = inputs.models.rows(np.logical_or.reduce(grouped))
    models = models.columns(shared_parameters(models)[0])
    best = models.best()
    if len(best) < LEAST_CELLS:
        return {}
    others = models.rows(models.ranks > 0)
    labels = [("fitted", "models", best.cells, best.ranks)]
    if not len(others):
        return _mapped(PARAMETER_MAP, best.values, [], labels, spec.seed)
    labels.append(("placed", "models", others.cells, others.ranks))
    return _mapped(PARAMETER_MAP, best.values, [others.values], labels, spec.seed)


def _feature_map(spec: AnalyseSpec, inputs: Inputs, name: str) -> Tables:
    import numpy as np

    wanted: MapSpec = spec.maps[name]
    tables = [inputs.features[one] for one in (wanted.fit, *wanted.place)]
    columns = map_columns(tables[0], tables[1:])
    values, labels = [], []
    for number, (source, one) in enumerate(zip((wanted.fit, *wanted.place), tables, strict=True)):
        there = one.values[columns].notna().all(axis=1).to_numpy()
        values.append(one.values.loc[there, columns].to_numpy())
        ranks = np.full(len(one.values), -1) if one.ranks is None else one.ranks
        cells = one.values.index.to_numpy(dtype=str)[there]
        labels.append(("placed" if number else "fitted", source, cells, ranks[there]))
    return _mapped(name, values[0], values[1:], labels, spec.seed)


def _mapped(name: str, fitted: Any, placed: list[Any], labels: list[Any], seed: int) -> Tables:
    import pandas as pd

    from neurosim.populations.maps import decision_regions, gap_clusters, umap_map

    drawn = umap_map(fitted, placed, seed)
    clusters = gap_clusters(drawn.fitted, seed)
    flats = [drawn.fitted, *drawn.placed]
    points = [
        pd.DataFrame(
            {
                "map": name,
                "part": part,
                "table": source,
                "cell": cells,
                "rank": ranks.astype("int64"),
                "x": flat[:, 0],
                "y": flat[:, 1],
                "cluster": clusters.model.predict(flat),
            }
        )
        for (part, source, cells, ranks), flat in zip(labels, flats, strict=True)
    ]
    grid, regions = decision_regions(clusters, flats)
    gap = pd.DataFrame({"map": name, "clusters": clusters.numbers, "gap": clusters.gap})
    gap["gap_sd"], gap["chosen"] = clusters.gap_sd, clusters.numbers == clusters.number
    return {
        "map_points": pd.concat(points, ignore_index=True),
        "map_regions": pd.DataFrame({"map": name, "x": grid[:, 0], "y": grid[:, 1], "cluster": regions}),
        "map_gaps": gap,
    }


def _labelled(table: "pd.DataFrame", grouping: str, family: str, source: str) -> "pd.DataFrame":
    table.insert(0, "grouping", grouping)
    table.insert(1, "family", family)
    table.insert(2, "table", source)
    return table


def _under(grouping: str, table: "pd.DataFrame") -> "pd.DataFrame":
    table.insert(0, "grouping", grouping)
    return table


def _joined(parts: "dict[str, list[pd.DataFrame]]") -> Tables:
    import pandas as pd

    return {name: pd.concat(tables, ignore_index=True) for name, tables in parts.items()}

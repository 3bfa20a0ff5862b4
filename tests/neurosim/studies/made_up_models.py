"""A made population: cells of classes whose means differ, and models scattered about their cell."""

from pathlib import Path

import numpy as np
import pandas as pd

PARAMETERS = ("Ra", "gbar_Kv3_1.soma", "gbar_Ih.soma", "gbar_Ih.dend")


def made_population(
    classes: dict[str, int], models: int = 5, apart: float = 4.0, seed: int = 0
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return a published population and its table of cells; classes differ in Kv3.1 and Ih alone."""
    rng = np.random.default_rng(seed)
    rows, cells = [], []
    for number, (name, size) in enumerate(classes.items()):
        for index in range(size):
            cell = 100_000 * (number + 1) + index
            centre = rng.normal(0.0, 1.0, len(PARAMETERS)) + apart * number * np.array([0, 1, 1, 0])
            cells.append({"cell_id": cell, "line": f"{name}-Cre", "layer": str(1 + index % 2)})
            for rank in range(models):
                values = centre + rng.normal(0.0, 0.2, len(PARAMETERS))
                rows.append({"cell_id": cell, "hof_index": rank, **dict(zip(PARAMETERS, values, strict=True))})
    population = pd.DataFrame(rows)
    population["celsius"], population["Ra.dend"] = 34.0, population["Ra"]
    return population, pd.DataFrame(cells)


def write_population(folder: Path, classes: dict[str, int], **changes) -> None:
    """Write ``models.parquet`` and ``cells.csv``."""
    population, cells = made_population(classes, **changes)
    population.to_parquet(folder / "models.parquet")
    cells.to_csv(folder / "cells.csv", index=False)

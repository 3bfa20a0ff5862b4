"""The model that a command is given."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from learners.sims.model import SimsModel


def load_model(folder: Path) -> "tuple[SimsModel, dict[str, Any]]":
    """Return a model, on a GPU where there is one, and what tells it from others.

    Raises
    ------
    ModelRefused
        If the folder holds no SIMS model, or a damaged one.
    """
    import torch

    from learners.model_folder import DESCRIPTION
    from learners.sims.model import SimsModel

    model = SimsModel.load(folder, "cuda" if torch.cuda.is_available() else "cpu")
    head = json.loads((folder / DESCRIPTION).read_bytes())
    return model, {"folder": str(folder), "run": head["run"], "sha256": head["sha256"]}

"""The dynamics that settings ask for."""

from __future__ import annotations

from learners.neuprint.dynamics.filters import Filter, NonlinearFilter
from learners.neuprint.dynamics.gru import Recurrent
from learners.neuprint.dynamics.prediction import DynamicsModel
from learners.neuprint.dynamics.transformer import BandedTransformer
from learners.neuprint.settings import Settings

MODELS: dict[str, type[DynamicsModel]] = {
    "linear": Filter,
    "bilinear": Filter,
    "nonlinear": NonlinearFilter,
    "gru": Recurrent,
    "transformer": BandedTransformer,
}


def dynamics_for(settings: Settings, n_covariates: int) -> DynamicsModel:
    """Return the untrained dynamics that the settings ask for."""
    return MODELS[settings.dynamics](settings, n_covariates)

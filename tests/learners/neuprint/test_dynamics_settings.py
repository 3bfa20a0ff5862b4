"""Settings of NeuPRINT."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from neurofleet.learners.neuprint.dynamics_settings import PRESETS, NeuprintSettings, settings_of


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_survive_json(preset: str) -> None:
    settings = settings_of(preset, {"phi": 7})
    assert NeuprintSettings.model_validate_json(settings.model_dump_json()) == settings


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"lag": 3}, "lag"),
        ({"lags": 20}, "warm_up is 16; lags and context need at least 20"),
        ({"context": 18}, "need at least 17"),
        ({"window": 16}, "no target"),
        ({"hidden": 33}, "not a multiple of heads"),
        ({"parts": ("centre",)}, "delta_um"),
        ({"parts": (), "behaviour": ("running",)}, "behaviour is not among the parts"),
        ({"phi_penalty": 0.0}, "phi_penalty above 0"),
        ({"dynamics": "gru", "mean_form": True}, "mean_form is a form of linear"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes: dict, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        settings_of("default", changes)

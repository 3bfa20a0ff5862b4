"""Fine-tune HIPPIE networks on labelled units."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch

from neurofleet.learners.hippie.autoencoder import Sizes
from neurofleet.learners.hippie.autoencoder_settings import HippieSettings
from neurofleet.learners.hippie.autoencoder_training import AutoencoderFineTuning, HippieTask
from neurofleet.learners.hippie.hippie_model import FineTunedNetworks
from neurofleet.learners.hippie.network_inputs import Scaling, inputs_of, modalities_of
from neurofleet.learners.hippie.unit_pretraining import Pretrained, first_member, technologies_of
from neurofleet.learners.local_training import Train
from neurofleet.learners.units.units import Units

NO_ROWS = np.array([], dtype=np.int64)


def fine_tune(
    units: Units,
    labels: np.ndarray,
    n_classes: int,
    train_rows: np.ndarray,
    settings: HippieSettings,
    train: Train,
    seed: int = 1,
    *,
    pretrained: Pretrained | None = None,
    validation_rows: np.ndarray = NO_ROWS,
    name: str = "fine-tuning",
) -> FineTunedNetworks:
    """Fine-tune networks on labelled units; everything is fitted on these.

    Parameters
    ----------
    labels : array of int, shape (units,)
    validation_rows : array of int
        Scored after each epoch, and used for nothing else.

    Raises
    ------
    LearnerError
        If the units have none of the modalities.
    """
    shown = units.take(train_rows)
    if pretrained is not None:
        modalities, technologies = pretrained.modalities, pretrained.technologies
    else:
        modalities = modalities_of(shown, settings.modalities)
        technologies = technologies_of(shown)
    scaling = Scaling.of(shown.hand)
    used = np.concatenate([train_rows, validation_rows]).astype(np.int64)
    task = HippieTask(
        inputs_of(units.take(used), modalities, technologies, scaling, settings.signals),
        labels[used],
        n_classes,
        np.arange(len(train_rows)),
        np.arange(len(train_rows), len(used)),
        settings,
        start=pretrained.state if pretrained is not None else None,
    )
    if settings.adapt_epochs and pretrained is not None:
        adaptation = replace(task, n_classes=0, stage="adaptation", validation_rows=NO_ROWS)
        task = replace(task, start=first_member(train(adaptation, f"{name}-adaptation", seed)))
    return networks_of(task, train(task, name, seed), technologies, scaling)


def networks_of(
    task: HippieTask, state: Mapping[str, torch.Tensor], technologies: tuple[str, ...], scaling: Scaling
) -> FineTunedNetworks:
    """Return the networks of a finished training."""
    module = task.module()
    assert isinstance(module, AutoencoderFineTuning)
    module.load_state_dict(dict(state))
    return FineTunedNetworks(module.members.eval(), task.sizes, technologies, scaling, task.settings)


def untrained(
    units: Units,
    settings: HippieSettings,
    n_classes: int,
    seed: int = 1,
    *,
    pretrained: Pretrained | None = None,
) -> FineTunedNetworks:
    """Return networks that have seen no label: as they are before any training, or pretrained.

    Parameters
    ----------
    units : Units
        The training units; hand features are scaled by them.
    """
    torch.manual_seed(seed)
    modalities = pretrained.modalities if pretrained else modalities_of(units, settings.modalities)
    technologies = pretrained.technologies if pretrained else ()
    n_hand = units.hand.shape[1] if settings.hand_features else 0
    sizes = Sizes(modalities, len(technologies), n_classes, n_hand)
    members = AutoencoderFineTuning(sizes, settings, pretrained.state if pretrained else None).members
    return FineTunedNetworks(members.eval(), sizes, technologies, Scaling.of(units.hand), settings)

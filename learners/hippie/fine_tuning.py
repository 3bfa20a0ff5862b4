"""HIPPIE networks fine-tuned on labelled units: embeddings and class probabilities of any units."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from neurofleet.learners.hippie.autoencoder import Sizes, UnitBatch
from neurofleet.learners.hippie.autoencoder_settings import HippieSettings
from neurofleet.learners.hippie.autoencoder_training import AutoencoderFineTuning, HippieTask, mean_log_probabilities
from neurofleet.learners.hippie.network_inputs import Scaling, inputs_of, modalities_of
from neurofleet.learners.hippie.unit_pretraining import Pretrained, TrainHippie, first_member, technologies_of
from neurofleet.learners.units.units import Units

_UNITS_AT_ONCE = 4096
NO_ROWS = np.array([], dtype=np.int64)


@dataclass(frozen=True)
class FineTunedNetworks:
    """Fine-tuned networks and what they take.

    No method has a label argument.

    Attributes
    ----------
    members : ModuleList of Network
    sizes : Sizes
    technologies : tuple of str
    scaling : Scaling
        Of hand features, from the training units.
    settings : HippieSettings
    """

    members: nn.ModuleList
    sizes: Sizes
    technologies: tuple[str, ...]
    scaling: Scaling
    settings: HippieSettings

    def first(self) -> FineTunedNetworks:
        """Return the first network alone."""
        return replace(self, members=nn.ModuleList(list(self.members)[:1]))

    def embed(self, units: Units) -> tuple[np.ndarray, np.ndarray]:
        """Return fusion vectors (units, members x fusion) and latent means (units, members x latent)."""
        found = []
        for batch in self._batches(units):
            each = [member.encode(batch) for member in self.members]
            found.append([torch.cat([one[part] for one in each], 1).numpy() for part in (0, 1)])
        return np.concatenate([one[0] for one in found]), np.concatenate([one[1] for one in found])

    def log_probabilities(self, units: Units) -> np.ndarray:
        """Return the logarithm of the class head's probabilities, (units, classes)."""
        return np.concatenate([mean_log_probabilities(self.members, batch).numpy() for batch in self._batches(units)])

    def _batches(self, units: Units) -> Iterator[UnitBatch]:
        inputs = inputs_of(units, self.sizes.modalities, self.technologies, self.scaling, self.settings.signals)
        self.members.eval()
        with torch.no_grad():
            for start in range(0, len(units), _UNITS_AT_ONCE):
                yield inputs.batch(slice(start, start + _UNITS_AT_ONCE))


def fine_tune(
    units: Units,
    labels: np.ndarray,
    n_classes: int,
    train_rows: np.ndarray,
    settings: HippieSettings,
    train: TrainHippie,
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

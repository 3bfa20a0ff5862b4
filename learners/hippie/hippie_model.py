"""A fitted HIPPIE model: embeddings and class probabilities of any units, and its folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from neurofleet.learners.hippie.autoencoder import Network, Sizes, UnitBatch, mean_log_probabilities
from neurofleet.learners.hippie.autoencoder_settings import HippieSettings
from neurofleet.learners.hippie.network_inputs import Scaling, inputs_of
from neurofleet.learners.hippie.unit_classifiers import Blend, feature_sets, restore_blend
from neurofleet.learners.model_folder import read_model, write_model
from neurofleet.learners.units.units import Units

LEARNER = "hippie"


_UNITS_AT_ONCE = 4096


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


@dataclass(frozen=True)
class HippieModel:
    """FineTunedNetworks, and the blend of them with classical classifiers that names units best.

    Neither `embed` nor `probabilities` has a label argument.

    Attributes
    ----------
    networks : FineTunedNetworks
    blend : Blend
    classes : tuple of str
    facts : dict
        Scores, data and versions, as the job that trained it wrote them: plain JSON.
    """

    networks: FineTunedNetworks
    blend: Blend
    classes: tuple[str, ...]
    facts: dict[str, Any] = field(default_factory=dict)

    def embed(self, units: Units) -> tuple[np.ndarray, np.ndarray]:
        """Return the first network's fusion vectors and latent means, (units, fusion) and (units, latent)."""
        return self.networks.first().embed(units)

    def probabilities(self, units: Units) -> np.ndarray:
        """Return the class probabilities of the blend, (units, classes)."""
        head = np.exp(self.networks.log_probabilities(units)) if self.blend.head_weight else None
        return self.blend.probabilities(feature_sets(units), head)

    def save(self, folder: Path, run: str) -> None:
        """Write the model into a folder.

        Parameters
        ----------
        run : str
            Fingerprint of the training; another run's model is not overwritten.

        Raises
        ------
        ModelRefused
            The folder holds the model of another run.
        """
        networks = self.networks
        tensors: dict[str, Any] = {f"networks.{name}": tensor for name, tensor in networks.members.state_dict().items()}
        tensors |= {f"blend.{name}": array for name, array in self.blend.classical.arrays().items()}
        tensors |= {"scaling.mean": networks.scaling.mean, "scaling.sd": networks.scaling.sd}
        description = {
            "classes": list(self.classes),
            "settings": networks.settings.model_dump(mode="json"),
            "modalities": list(networks.sizes.modalities),
            "technologies": list(networks.technologies),
            "n_technologies": networks.sizes.n_technologies,
            "n_hand": networks.sizes.n_hand,
            "blend": self.blend.description(),
            "facts": self.facts,
        }
        write_model(folder, learner=LEARNER, run=run, description=description, tensors=tensors)

    @classmethod
    def load(cls, folder: Path) -> HippieModel:
        """Read a model folder; no code in it is run.

        Raises
        ------
        ModelRefused
            It holds no model of HIPPIE, or a damaged one.
        """
        stored = read_model(folder, learner=LEARNER)
        told = stored.description
        settings = HippieSettings(**told["settings"])
        classes = tuple(told["classes"])
        sizes = Sizes(tuple(told["modalities"]), told["n_technologies"], len(classes), told["n_hand"])
        members = nn.ModuleList(Network(sizes, settings) for _ in range(settings.members))
        members.load_state_dict(
            {name: torch.from_numpy(array) for name, array in _under("networks.", stored.tensors).items()}
        )
        scaling = Scaling(stored.tensors["scaling.mean"], stored.tensors["scaling.sd"])
        networks = FineTunedNetworks(members.eval(), sizes, tuple(told["technologies"]), scaling, settings)
        blend = restore_blend(told["blend"], _under("blend.", stored.tensors))
        return cls(networks, blend, classes, told["facts"])


def _under(start: str, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name.removeprefix(start): array for name, array in tensors.items() if name.startswith(start)}

"""Pretrain HIPPIE networks on units of other recordings, never on the units that are to be named."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from neurofleet.errors import LearnerError
from neurofleet.learners.hippie.autoencoder_settings import HippieSettings
from neurofleet.learners.hippie.autoencoder_training import HippieTask
from neurofleet.learners.hippie.network_inputs import TECHNOLOGY, Scaling, inputs_of, modalities_of
from neurofleet.learners.local_training import Train
from neurofleet.learners.units.signal_scaling import also_in
from neurofleet.learners.units.units import Units

VALIDATION_SHARE = 0.2
_FIRST_MEMBER = "members.0."
_TENSORS, _DESCRIPTION = "pretrained.safetensors", "pretrained.json"


@dataclass(frozen=True)
class Pretrained:
    """A network that has seen units without labels.

    Attributes
    ----------
    state : mapping of tensors
        Of one network.
    modalities, technologies : tuple of str
        What it knows.
    n_units : int
        How many it has seen.
    """

    state: Mapping[str, torch.Tensor]
    modalities: tuple[str, ...]
    technologies: tuple[str, ...]
    n_units: int

    def write(self, folder: Path) -> None:
        """Write the network into a folder of its own."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.contiguous() for name, tensor in self.state.items()}, folder / _TENSORS)
        known = {"modalities": self.modalities, "technologies": self.technologies, "n_units": self.n_units}
        (folder / _DESCRIPTION).write_text(json.dumps(known))

    @classmethod
    def read(cls, folder: Path) -> Pretrained:
        """Return the network of a folder."""
        known = json.loads((folder / _DESCRIPTION).read_text())
        return cls(
            load_file(folder / _TENSORS),
            tuple(known["modalities"]),
            tuple(known["technologies"]),
            known["n_units"],
        )


def pretrain(
    pool: Units,
    settings: HippieSettings,
    train: Train,
    seed: int = 1,
    *,
    modalities: Sequence[str] | None = None,
    target: Units | None = None,
) -> Pretrained:
    """Pretrain on a pool of units.

    Parameters
    ----------
    modalities : sequence of str, optional
        Those of the units to be named later, whether or not the pool has them; by default those that most
        units of the pool have.
    target : Units, optional
        Units that are to be named later; none of them may be in the pool.

    Raises
    ------
    LearnerError
        If a unit of the target is in the pool, under whatever name.
    """
    if target is not None:
        refuse_shared(pool, target)
    chosen = tuple(modalities) if modalities else modalities_of(pool, settings.modalities)
    technologies = technologies_of(pool)
    inputs = inputs_of(pool, chosen, technologies, Scaling.of(pool.hand), settings.signals)
    order = np.random.default_rng(seed).permutation(np.flatnonzero(inputs.present.any(1)))
    n_validation = round(len(order) * VALIDATION_SHARE)
    task = HippieTask(
        inputs,
        np.full(len(inputs), -1, dtype=np.int64),
        0,
        np.sort(order[n_validation:]),
        np.sort(order[:n_validation]),
        settings,
        stage="pretraining",
    )
    return Pretrained(first_member(train(task, "pretraining", seed)), chosen, technologies, len(order))


def technologies_of(units: Units) -> tuple[str, ...]:
    """Return the recording technologies that the units name, in alphabetical order."""
    if TECHNOLOGY not in units.obs:
        return ()
    return tuple(sorted(set(units.column(TECHNOLOGY)) - {""}))


def refuse_shared(pool: Units, target: Units) -> None:
    """Raise where a unit of the target has the same signals as one of the pool.

    Raises
    ------
    LearnerError
        Naming some of them. A copy of a recording under another name is found too.
    """
    shared = also_in(target, pool)
    if shared.any():
        names = ", ".join(map(str, target.unit_ids[shared][:3]))
        raise LearnerError(
            f"{int(shared.sum())} of {len(target)} units are also in the pretraining pool, such as {names}."
            " A network that was pretrained on them would be tested on what it has seen. Take the recording"
            " group that they belong to out of the pool."
        )


def first_member(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the state of the first network of a module's state."""
    return {
        name.removeprefix(_FIRST_MEMBER): tensor for name, tensor in state.items() if name.startswith(_FIRST_MEMBER)
    }

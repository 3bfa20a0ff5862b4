"""A trained HIPPIE model: it names and embeds spike-sorted units; and its networks and its folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import nn

from neurofleet.learners.embedding_tables import (
    columns_beside,
    embedding,
    probability_columns,
    vector_columns,
    warn_of,
    with_labels,
)
from neurofleet.learners.hippie.autoencoder import Network, Sizes, UnitBatch, mean_log_probabilities
from neurofleet.learners.hippie.autoencoder_settings import HippieSettings
from neurofleet.learners.hippie.network_inputs import Scaling, inputs_of
from neurofleet.learners.hippie.trained_units import TrainedUnits
from neurofleet.learners.hippie.unit_classifiers import Blend, feature_sets, restore_blend
from neurofleet.learners.model_folder import (
    StoredModel,
    model_summary,
    read_model,
    refuse_damaged,
    tensors_under,
    write_model,
)
from neurofleet.learners.reference_distance import NO_DISTANCES
from neurofleet.learners.reference_map import MAP, ReferenceMap
from neurofleet.learners.units.unit_files import as_units
from neurofleet.learners.units.unit_labels import CLASS
from neurofleet.learners.units.units import MODALITIES, Units
from neurofleet.threads import one_thread

if TYPE_CHECKING:
    import anndata

LEARNER = "hippie"
TRAINED = "trained_units."


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
        fusion, means = [], []
        for batch in self._batches(units):
            encoded = [member.encode(batch) for member in self.members]
            fusion.append(torch.cat([vectors[0] for vectors in encoded], 1).numpy())
            means.append(torch.cat([vectors[1] for vectors in encoded], 1).numpy())
        return np.concatenate(fusion), np.concatenate(means)

    def log_probabilities(self, units: Units) -> np.ndarray:
        """Return the logarithm of the class head's probabilities, (units, classes)."""
        return np.concatenate([mean_log_probabilities(self.members, batch).numpy() for batch in self._batches(units)])

    def _batches(self, units: Units) -> Iterator[UnitBatch]:
        inputs = inputs_of(units, self.sizes.modalities, self.technologies, self.scaling, self.settings.signals)
        self.members.eval()
        with torch.no_grad():
            for start in range(0, len(units), _UNITS_AT_ONCE):
                yield inputs.batch(slice(start, start + _UNITS_AT_ONCE))


@dataclass(frozen=True, repr=False)
class HippieModel:
    """A trained HIPPIE model: networks, and the blend of them with classical classifiers that names units best.

    Made by `neurofleet.learners.hippie.train`, or read by `neurofleet.load_model`. No method has a label argument.

    Attributes
    ----------
    networks : FineTunedNetworks
    blend : Blend
    classes : tuple of str
    facts : dict
        Scores, data and versions, as the training wrote them: plain JSON.
    written : datetime or None
        When the folder was written that the model was loaded from.
    trained : TrainedUnits or None
        How far others are from the units that it was trained on; None for models that earlier versions wrote.
    map : ReferenceMap or None
        Of their fusion vectors; None for models that earlier versions wrote.

    Examples
    --------
    >>> model = nf.load_model("model")
    >>> model.predict("units.npz")["class"].value_counts()
    """

    networks: FineTunedNetworks
    blend: Blend
    classes: tuple[str, ...]
    facts: dict[str, Any] = field(default_factory=dict)
    written: datetime | None = field(default=None, compare=False)
    trained: TrainedUnits | None = field(default=None, compare=False)
    map: ReferenceMap | None = field(default=None, compare=False)

    def predict(
        self,
        units: Units | str | Path | Sequence[str | Path],
        *,
        layout: Mapping[str, Any] | None = None,
        unknown_below: float | None = None,
    ) -> pd.DataFrame:
        """Name units.

        Parameters
        ----------
        units : Units, path or sequence of paths
            Units in memory, or files and folders as `neurofleet.learners.units.open_units` takes.
        layout : mapping, optional
            How the arrays of the files are called: see `neurofleet.learners.units.unit_layout.UnitLayout`.
        unknown_below : float, optional
            Units whose likeliest class has a smaller probability are unknown, in the further columns ``label`` and
            ``unknown``.

        Returns
        -------
        DataFrame
            A row for each unit, by unit id: ``class`` (the likeliest), ``probability``, and ``p.CLASS`` for each class;
            empty and NaN for units of which nothing was measured. ``distance`` from the units that the model was
            trained on, and ``outside`` (farther than 95 % of these, held out; not of models that earlier versions
            trained). What was found out about files and units comes as warnings.

        Raises
        ------
        LearnerError
            If the units cannot be used.

        Examples
        --------
        >>> model.predict("units.npz", layout={"waveform_rate_hz": 30_000})
        """
        opened = as_units(units, layout)
        warn_of([*(() if isinstance(units, Units) else opened.notes), *self.notes(opened, always=False)])
        return self._named(opened, unknown_below)

    def embed(
        self,
        units: Units | str | Path | Sequence[str | Path],
        *,
        layout: Mapping[str, Any] | None = None,
        unknown_below: float | None = None,
        to: Literal["pandas", "anndata"] = "pandas",
    ) -> pd.DataFrame | anndata.AnnData:
        """Embed and name units.

        Parameters
        ----------
        units, layout, unknown_below
            See `predict`.
        to : {'pandas', 'anndata'}
            A table, or an AnnData for scanpy with the vectors in ``obsm`` (``X_fusion``, ``X_mean``), and the map
            (``X_map``).

        Returns
        -------
        DataFrame or AnnData
            A row for each unit, by unit id: the columns of `predict`, every other column of the units, and the first
            network's fusion vector (``fusion_0`` …) and latent mean (``mean_0`` …). ``map_0`` and ``map_1``: the place
            on a map (t-SNE) of the units that the model was trained on (not of models that earlier versions trained).

        Raises
        ------
        LearnerError
            If the units cannot be used.

        Examples
        --------
        >>> adata = model.embed("units.npz", to="anndata")
        """
        opened = as_units(units, layout)
        warn_of([*(() if isinstance(units, Units) else opened.notes), *self.notes(opened, always=False)])
        vectors = self.vectors(opened)
        vectors |= self.placed(vectors)
        return embedding(self.table_of(opened, vectors, unknown_below), vectors, to)

    def table_of(
        self, units: Units, vectors: Mapping[str, np.ndarray], unknown_below: float | None = None
    ) -> pd.DataFrame:
        """Return the table of `embed` from what `vectors` returned for the same units."""
        named = self._named(units, unknown_below)
        others = {name: units.column(name) for name in units.obs.columns if isinstance(name, str)}
        columns = pd.DataFrame(columns_beside(named, others) | vector_columns(vectors), index=named.index)
        return pd.concat([named, columns], axis=1)

    def notes(self, units: Units, *, always: bool) -> list[str]:
        """Return what must be known of units: what none has, how far they are, and which were trained on.

        Parameters
        ----------
        always : bool
            Whether it is also told that few units are outside, or that the model cannot know.
        """
        far = [NO_DISTANCES] if always else []
        return [*self.lacking(units), *(far if self.trained is None else self.trained.notes(units, always=always))]

    def lacking(self, units: Units) -> list[str]:
        """Return a note on what the model was trained with and none of the units has."""
        used = self.networks.sizes.modalities
        absent = [name for name in used if not units.present[:, MODALITIES.index(name)].any()]
        if not absent:
            return []
        there = [name for name in used if name not in absent]
        return [
            f"No unit has {' and '.join(absent)}, which the model was trained with: classes rest on"
            f" {' and '.join(there) or 'nothing'} alone, and how good they are then was not measured."
        ]

    @one_thread(fits=False)
    def vectors(self, units: Units) -> dict[str, np.ndarray]:
        """Return the first network's vectors: ``fusion`` (units, fusion) and latent ``mean`` (units, latent)."""
        fusion, mean = self.networks.first().embed(units)
        return {"fusion": fusion, "mean": mean}

    def placed(self, vectors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the ``map`` (units, 2) of what `vectors` returned; nothing where the model holds none."""
        return {} if self.map is None else {MAP: self.map.placed(vectors["fusion"])}

    def _named(self, units: Units, unknown_below: float | None = None) -> pd.DataFrame:
        columns = probability_columns(self.classes, self.probabilities(units), CLASS)
        measured = units.present.any(axis=1)
        columns = {name: np.where(measured, x, "" if name == CLASS else np.nan) for name, x in columns.items()}
        if self.trained is not None:
            columns |= self.trained.columns(units)
        return pd.DataFrame(with_labels(columns, CLASS, unknown_below), index=pd.Index(units.unit_ids, name="unit_id"))

    @one_thread(fits=False)
    def probabilities(self, units: Units) -> np.ndarray:
        """Return the class probabilities of the blend, (units, classes)."""
        head = np.exp(self.networks.log_probabilities(units)) if self.blend.head_weight else None
        return self.blend.probabilities(feature_sets(units), head)

    def save(self, folder: str | Path, run: str) -> None:
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
        if self.trained is not None:
            tensors |= {f"{TRAINED}{name}": array for name, array in self.trained.arrays().items()}
        if self.map is not None:
            tensors |= {f"{MAP}.{name}": array for name, array in self.map.arrays().items()}
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
    def load(cls, folder: str | Path) -> HippieModel:
        """Read a model folder; no code in it is run.

        Raises
        ------
        ModelRefused
            It holds no model of HIPPIE, or a damaged one.
        """
        stored = read_model(folder, learner=LEARNER)
        with refuse_damaged(folder):
            return cls._from(stored)

    @classmethod
    def _from(cls, stored: StoredModel) -> HippieModel:
        description, tensors = stored.description, stored.tensors
        settings = HippieSettings(**description["settings"])
        classes = tuple(description["classes"])
        sizes = Sizes(
            tuple(description["modalities"]), description["n_technologies"], len(classes), description["n_hand"]
        )
        members = nn.ModuleList(Network(sizes, settings) for _ in range(settings.members))
        members.load_state_dict(
            {name: torch.from_numpy(array) for name, array in tensors_under("networks.", tensors).items()}
        )
        scaling = Scaling(tensors["scaling.mean"], tensors["scaling.sd"])
        networks = FineTunedNetworks(members.eval(), sizes, tuple(description["technologies"]), scaling, settings)
        blend = restore_blend(description["blend"], tensors_under("blend.", tensors))
        kept = tensors_under(TRAINED, tensors)
        trained = TrainedUnits.from_arrays(kept, sizes.modalities) if kept else None
        known_map = ReferenceMap.from_arrays(tensors_under(f"{MAP}.", tensors))
        return cls(networks, blend, classes, description["facts"], stored.written, trained, known_map)

    def __repr__(self) -> str:
        networks, data = self.networks, self.facts.get("data", {})
        lines = [
            f"{len(self.classes)} classes: {', '.join(self.classes)}",
            f"{', '.join(networks.sizes.modalities)}; {len(networks.members)} network"
            f"{'s' if len(networks.members) > 1 else ''} (weight {self.blend.head_weight:.2g}) with"
            f" {len(self.blend.classical.members)} classical classifiers",
        ]
        if data:
            lines.append(f"trained on {data['n_units']:,} units of {', '.join(data['files'])}, label {data['label']!r}")
        return model_summary("HIPPIE", lines, self.facts, self.written)

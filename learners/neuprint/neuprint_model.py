"""A trained NeuPRINT model: it infers the Phi of neurons and names them; and its probe and its folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import torch

from neurofleet.errors import LearnerError
from neurofleet.learners.embedding_tables import (
    columns_beside,
    embedding,
    probability_columns,
    vector_columns,
    warn_of,
    with_labels,
)
from neurofleet.learners.model_folder import (
    StoredModel,
    model_summary,
    read_model,
    refuse_damaged,
    tensors_under,
    write_model,
)
from neurofleet.learners.neuprint.dynamics import DynamicsModel, dynamics_for
from neurofleet.learners.neuprint.dynamics_settings import NeuprintSettings
from neurofleet.learners.neuprint.phi_inference import Inferred, infer_phi
from neurofleet.learners.neuprint.population_recordings import Recordings, RecordingsRefused
from neurofleet.learners.neuprint.recording_files import as_recordings
from neurofleet.learners.neuprint.recording_layout import NAMES, RecordingLayout
from neurofleet.learners.neuprint.session_tensors import PARTS, STATISTICS, sessions_of
from neurofleet.learners.probes import Probe, fit_probe, restore_probe
from neurofleet.learners.reference_distance import NO_DISTANCES, TrainingSpace, distance_columns, far_notes
from neurofleet.learners.reference_map import MAP, ReferenceMap
from neurofleet.threads import one_thread

if TYPE_CHECKING:
    import anndata

PROBES = ("knn", "linear", "mlp")


@dataclass(frozen=True)
class Naming:
    """A probe of Phi, and what its classes are called.

    Attributes
    ----------
    classes : (n_classes,) str
    probe : Probe
    tried : mapping
        The balanced accuracy of each kind of probe, by cross-validation inside the neurons that it is fitted
        on; that of the kept one is the best of them, and so a little too good.
    """

    classes: np.ndarray
    probe: Probe
    tried: Mapping[str, float]

    def probabilities(self, phi: np.ndarray) -> np.ndarray:
        """Return class probabilities (neurons, n_classes) from Phi (neurons, phi)."""
        return self.probe.probabilities(phi)

    def description(self) -> dict[str, Any]:
        """Return what a model folder keeps as JSON, beside ``probe.arrays()``."""
        return {
            "classes": self.classes.tolist(),
            "tried": dict(self.tried),
            "probe": self.probe.description(),
        }


def fit_naming(phi: np.ndarray, names: np.ndarray, animals: np.ndarray | None, seed: int) -> Naming:
    """Fit each kind of probe to the named neurons, and return the one that inner validation finds best.

    Parameters
    ----------
    phi : (neurons, phi) array
    names : (neurons,) str
        "" where there is none.
    animals : (neurons,) str or None
        Kept whole in the inner folds, where at least two can be held out; None lets folds mix animals.

    Raises
    ------
    LearnerError
        There are too few neurons to choose by.
    """
    rows = np.flatnonzero(names != "")
    classes, codes = np.unique(names[rows].astype(str), return_inverse=True)
    groups = None if animals is None else animals_to_hold_out(animals[rows], codes)
    probes = [fit_probe(kind, phi[rows], codes, len(classes), groups=groups, seed=seed) for kind in PROBES]
    best = max(probes, key=lambda probe: probe.inner_balanced_accuracy)
    return Naming(classes, best, {probe.kind: probe.inner_balanced_accuracy for probe in probes})


def animals_to_hold_out(animals: np.ndarray, codes: np.ndarray) -> np.ndarray | None:
    """Return the animals, or None where holding out animals would leave fewer than two to choose between.

    Parameters
    ----------
    animals, codes : (n,) arrays
        Animal and class of each training neuron.
    """
    animals_by_class = [np.unique(animals[codes == code]) for code in np.unique(codes)]
    lonely = [str(animals_of_class[0]) for animals_of_class in animals_by_class if len(animals_of_class) == 1]
    free = ~np.isin(animals, lonely)
    enough = len(np.unique(animals[free])) >= 2 and len(np.unique(codes[free])) >= 2
    return animals if enough else None


def restore_naming(description: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Naming:
    """Return what gave `description`, with the `arrays` of its probe."""
    probe = restore_probe(description["probe"], arrays)
    return Naming(np.array(description["classes"], dtype=str), probe, description["tried"])


LEARNER = "neuprint"
SPACE = "training_space."
SAME_RATE = 1.2
"""Frame rates that differ by a smaller factor count as the same."""

SAME_PHI = 1e-3


@dataclass(frozen=True, repr=False)
class NeuprintModel:
    """A trained NeuPRINT model: frozen dynamics, and the Phi of the neurons that it was fitted with.

    Made by `neurofleet.learners.neuprint.train`, or read by `neurofleet.load_model`.

    Attributes
    ----------
    dynamics : DynamicsModel
    settings : NeuprintSettings
    covariates : tuple of str
        Names, in the order in which the dynamics sees them.
    neuron_ids : (n,) str
    phi : (n, phi) float32
        Inferred with frozen dynamics, as `infer` does it.
    facts : mapping
        What else is known of the training. Plain JSON.
    naming : Naming or None
        What tells a neuron's class by its Phi; None where the model was fitted without classes.
    written : datetime or None
        When the folder was written that the model was loaded from.
    space : TrainingSpace or None
        Where its neurons lie, by Phi and the logarithm of their loss; None for models that earlier versions wrote.
    map : ReferenceMap or None
        Of their Phi; None for models that earlier versions wrote.

    Examples
    --------
    >>> model = nf.load_model("model")
    >>> model.predict("session.nwb")["predicted"].value_counts()
    """

    dynamics: DynamicsModel
    settings: NeuprintSettings
    covariates: tuple[str, ...]
    neuron_ids: np.ndarray
    phi: np.ndarray
    facts: Mapping[str, Any] = field(default_factory=dict)
    naming: Naming | None = None

    written: datetime | None = field(default=None, compare=False)
    space: TrainingSpace | None = field(default=None, compare=False)
    map: ReferenceMap | None = field(default=None, compare=False)

    def predict(
        self,
        recordings: Recordings | str | Path | Sequence[Recordings | str | Path],
        *,
        layout: Mapping[str, Any] | None = None,
        unknown_below: float | None = None,
        seed: int | None = None,
    ) -> pd.DataFrame:
        """Name the neurons of recordings by their Phi.

        Parameters
        ----------
        recordings : Recordings, path or sequence of either
            Recordings in memory, or npz files, NWB files with optical physiology, or folders of the Bugeon release.
        layout : mapping, optional
            What the files' arrays are called: see `neurofleet.learners.neuprint.recording_layout.RecordingLayout`.
            What it does not say is called as in the files of the training, see `opened`.
        unknown_below : float, optional
            Neurons whose likeliest class has a smaller probability are unknown, in the further columns ``label`` and
            ``unknown``.
        seed : int, optional
            Decides the order of windows while Phi is inferred; by default that of the training, so that neurons that
            the model was fitted with have their Phi again.

        Returns
        -------
        DataFrame
            A row for each neuron, by neuron id: ``predicted`` (the likeliest class), ``probability``, and ``p.CLASS``
            for each class; ``distance`` from the neurons that the model was fitted with, and ``outside`` (farther than
            95 % of these, of animals held out; not of models that earlier versions trained). What was found out about
            files and neurons comes as warnings.

        Raises
        ------
        RecordingsRefused
            If the recordings lack covariates of the model, or are shorter than its window.
        LearnerError
            If the model was fitted without classes.

        Examples
        --------
        >>> model.predict("session.npz")
        """
        if self.naming is None:
            raise LearnerError("This model was fitted without classes: it embeds neurons, and names none. Use `embed`.")
        opened = self.opened(recordings, layout)
        inferred = self.infer(opened, seed)
        notes = [] if isinstance(recordings, Recordings) else opened.notes
        warn_of([*notes, *self.notes(opened, inferred, always=False)])
        return pd.DataFrame(
            self._named(inferred, unknown_below),
            index=pd.Index(opened.neurons.index.to_numpy().astype(str), name="neuron_id"),
        )

    def embed(
        self,
        recordings: Recordings | str | Path | Sequence[Recordings | str | Path],
        *,
        layout: Mapping[str, Any] | None = None,
        unknown_below: float | None = None,
        seed: int | None = None,
        to: Literal["pandas", "anndata"] = "pandas",
    ) -> pd.DataFrame | anndata.AnnData:
        """Infer the Phi of all neurons of recordings, and name them where the model knows classes.

        Parameters
        ----------
        recordings, layout, unknown_below, seed
            See `predict`.
        to : {'pandas', 'anndata'}
            A table, or an AnnData for scanpy with Phi in ``obsm["X_phi"]``, and the map in ``obsm["X_map"]``.

        Returns
        -------
        DataFrame or AnnData
            A row for each neuron, by neuron id: the columns of `predict` where the model knows classes, ``animal``,
            each label of the recordings, and ``phi_0`` …. ``map_0`` and ``map_1``: the place on a map (t-SNE) of the
            neurons that the model was fitted with (not of models that earlier versions trained).

        Raises
        ------
        RecordingsRefused
            See `predict`.
        LearnerError
            If there is a limit for unknown neurons, and the model was fitted without classes.

        Examples
        --------
        >>> adata = model.embed(["first.npz", "second.npz"], to="anndata")
        """
        opened = self.opened(recordings, layout)
        inferred = self.infer(opened, seed)
        notes = [] if isinstance(recordings, Recordings) else opened.notes
        warn_of([*notes, *self.notes(opened, inferred, always=False)])
        return embedding(self.table_of(opened, inferred, unknown_below), self.vectors(inferred), to)

    def opened(
        self,
        recordings: Recordings | str | Path | Sequence[Recordings | str | Path],
        layout: Mapping[str, Any] | None = None,
    ) -> Recordings:
        """Return recordings in memory as they are, and open files by the names of the training.

        Parameters
        ----------
        recordings, layout
            See `predict`. Names of arrays that the layout does not give are those of the training's files, without
            their labels; of behaviour, the channels that the model takes. Numbers of the training's files, such as
            ``rate_hz: 30``, are not taken over.

        Raises
        ------
        RecordingsRefused
            If the files cannot be used.
        """
        trained = self.facts.get("layout") or {}
        usual = {key: trained[key] for key in NAMES if isinstance(trained.get(key), str | dict)}
        computed = {f"{part}_{of}" for part in PARTS for of in STATISTICS}
        channels = [name for name in self.covariates if name not in computed]
        if channels:
            names = RecordingLayout.model_validate({"behaviour": trained.get("behaviour")}).behaviour or {}
            usual["behaviour"] = {channel: names.get(channel, channel) for channel in channels}
        return as_recordings(recordings, layout, usual)

    def notes(self, recordings: Recordings, inferred: Inferred, *, always: bool) -> list[str]:
        """Return what must be known of neurons: another frame rate, how far they are, and which were fitted with.

        Parameters
        ----------
        always : bool
            Whether it is also told that few neurons are outside, or that the model cannot know.
        """
        notes = []
        known, rates = self.facts.get("data", {}).get("rate_hz"), recordings.rates_hz
        if known and not (min(known) / SAME_RATE < min(rates) and max(rates) < max(known) * SAME_RATE):
            notes.append(
                f"The model was trained on {_in_hz(known)}, and these recordings have {_in_hz(rates)}: its lags count"
                " frames, so Phi is not the same. Resample the recordings to the rate of the training."
            )
        if self.space is None:
            notes += [NO_DISTANCES] if always else []
        else:
            notes += far_notes(self.space.of_samples(_placed(inferred)), "neurons", always=always)
        place = pd.Index(self.neuron_ids).get_indexer(recordings.neurons.index.astype(str))
        named = np.flatnonzero(place >= 0)  # none by a published model, which holds no neurons
        phi = inferred.phi[named]
        if n_known := int(((np.abs(phi - self.phi[place[named]]) < SAME_PHI).all(1) & phi.any(1)).sum()):
            notes.append(
                f"{n_known:,} of {len(place):,} neurons are among those that the model was fitted with (the same id and"
                " Phi): their classes say nothing of how well it does on new neurons."
            )
        return notes

    def with_space(self, inferred: Inferred, animals: np.ndarray, seed: int) -> NeuprintModel:
        """Return the model with where its neurons lie, animals held out where there are several, and their map."""
        groups = animals if len(np.unique(animals)) > 1 else None
        space = TrainingSpace.of(_placed(inferred), groups, seed=seed)
        return replace(self, space=space, map=ReferenceMap.of(inferred.phi, seed))

    def table_of(self, recordings: Recordings, inferred: Inferred, unknown_below: float | None = None) -> pd.DataFrame:
        """Return the table of `embed` of what `infer` returned for the same recordings; raises as `embed` does."""
        if self.naming is None and unknown_below is not None:
            raise LearnerError("This model was fitted without classes: nothing can be unknown. Leave out the limit.")
        named = self._distances(inferred) if self.naming is None else self._named(inferred, unknown_below)
        return neuron_table(recordings, named, self.vectors(inferred))

    def vectors(self, inferred: Inferred) -> dict[str, np.ndarray]:
        """Return ``phi`` (neurons, phi), and ``map`` (neurons, 2) where the model holds one."""
        placed = {} if self.map is None else {MAP: self.map.placed(inferred.phi)}
        return {"phi": inferred.phi, **placed}

    def _named(self, inferred: Inferred, unknown_below: float | None = None) -> dict[str, Any]:
        assert self.naming is not None
        columns = probability_columns(self.naming.classes, self.naming.probabilities(inferred.phi), "predicted")
        return with_labels(columns | self._distances(inferred), "predicted", unknown_below)

    def _distances(self, inferred: Inferred) -> dict[str, Any]:
        return {} if self.space is None else distance_columns(self.space.of_samples(_placed(inferred)))

    @one_thread(fits=False)
    def infer(self, recordings: Recordings, seed: int | None = None) -> Inferred:
        """Return the Phi (n, phi) of all neurons, rows as in ``recordings.neurons``, and the loss of each.

        Raises
        ------
        RecordingsRefused
            If the recordings lack covariates of the model, or are shorter than its window.
        """
        sessions = sessions_of(recordings, self.settings)
        if sessions[0].names != self.covariates:
            raise RecordingsRefused(
                f"The model was trained with the covariates {', '.join(self.covariates) or 'none'}; these"
                f" recordings have {', '.join(sessions[0].names) or 'none'}. Give the same channels the same"
                " names, in the same order."
            )
        seed = self.facts.get("seed", 0) if seed is None else seed
        return infer_phi(self.dynamics, sessions, np.arange(len(recordings.neurons)), self.settings, seed)

    def save(self, folder: str | Path, run: str) -> None:
        """Write ``model.safetensors`` and ``model.json``.

        Raises
        ------
        ModelRefused
            If the folder holds the model of another run.
        """
        tensors: dict[str, Any] = {f"dynamics.{n}": t for n, t in self.dynamics.state_dict().items()}
        tensors["phi"] = self.phi
        if self.space is not None:
            tensors |= {f"{SPACE}{name}": array for name, array in self.space.arrays().items()}
        if self.map is not None:
            tensors |= {f"{MAP}.{name}": array for name, array in self.map.arrays().items()}
        description = {
            "settings": self.settings.model_dump(mode="json"),
            "covariates": list(self.covariates),
            "neuron_ids": [str(name) for name in self.neuron_ids],
            "facts": dict(self.facts),
        }
        if self.naming is not None:
            description["naming"] = self.naming.description()
            tensors |= {f"probe.{n}": array for n, array in self.naming.probe.arrays().items()}
        write_model(folder, learner=LEARNER, run=run, description=description, tensors=tensors)

    @classmethod
    def load(cls, folder: str | Path) -> NeuprintModel:
        """Read a model folder; nothing in it is run.

        Raises
        ------
        ModelRefused
            If it is no NeuPRINT model, or is damaged.
        """
        stored = read_model(folder, learner=LEARNER)
        with refuse_damaged(folder):
            return cls._from(stored)

    @classmethod
    def _from(cls, stored: StoredModel) -> NeuprintModel:
        description, tensors = stored.description, stored.tensors
        settings = NeuprintSettings(**description["settings"])
        dynamics = dynamics_for(settings, len(description["covariates"]))
        state = {name: torch.from_numpy(array) for name, array in tensors_under("dynamics.", tensors).items()}
        dynamics.load_state_dict(state)
        described = description.get("naming")
        naming = restore_naming(described, tensors_under("probe.", tensors)) if described else None
        ids, phi = np.array(description["neuron_ids"], dtype=str), tensors["phi"]
        if phi.shape != (len(ids), settings.phi):
            raise ValueError(f"phi of shape {phi.shape} for {len(ids)} neurons of {settings.phi} numbers")
        names = tuple(description["covariates"])
        space = tensors_under(SPACE, tensors)
        return cls(
            dynamics.eval(),
            settings,
            names,
            ids,
            phi,
            description["facts"],
            naming,
            stored.written,
            TrainingSpace.from_arrays(space) if space else None,
            ReferenceMap.from_arrays(tensors_under(f"{MAP}.", tensors)),
        )

    def __repr__(self) -> str:
        data = self.facts.get("data", {})
        lines = ["no classes: it embeds neurons, and names none"]
        if self.naming is not None:
            classes = self.naming.classes.tolist()
            lines = [f"{len(classes)} classes: {', '.join(classes)}, by a {self.naming.probe.kind} probe of Phi"]
        lines.append(
            f"{self.settings.dynamics} dynamics with a Phi of {self.settings.phi} numbers; covariates:"
            f" {', '.join(self.covariates) or 'none'}"
        )
        trained = f"fitted with {data.get('n_neurons', len(self.neuron_ids)):,} neurons"
        if data:
            trained += f" of {', '.join(data['files'])}, label {self.facts['label']!r}"
        return model_summary("NeuPRINT", [*lines, trained], self.facts, self.written)


def _in_hz(rates: Sequence[float]) -> str:
    low, high = f"{min(rates):.3g}", f"{max(rates):.3g}"
    return f"{low} frames/s" if low == high else f"{low} to {high} frames/s"


def _placed(inferred: Inferred) -> np.ndarray:
    """Return what neurons are placed by, (n, phi + 1); NaN for neurons without entries."""
    loss = np.log(np.maximum(inferred.loss, 1e-12))[:, None]
    return np.where(np.isfinite(loss), np.hstack([inferred.phi, loss]), np.nan)


def neuron_table(recordings: Recordings, named: Mapping[str, Any], vectors: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """Return a row for each neuron: the columns of `named`, ``animal``, each label, and the vectors, numbered.

    Labels that are called as a column of `named` is are left out.
    """
    neurons = recordings.neurons
    others = columns_beside(named, {name: neurons[name].to_numpy().astype(str) for name in neurons.columns})
    index = pd.Index(neurons.index.to_numpy().astype(str), name="neuron_id")
    return pd.DataFrame({**named, **others, **vector_columns(vectors)}, index=index)

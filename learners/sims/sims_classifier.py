"""The numbers of a trained SIMS model: probabilities from log-normalised values, and the folder that it is kept in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from neurofleet.learners.calibration import UNCALIBRATED, Calibration, calibrated_probabilities
from neurofleet.learners.cells.cell_copies import KnownCells, Profiles
from neurofleet.learners.cells.normalisation import Normalisation
from neurofleet.learners.model_folder import StoredModel, read_model, refuse_damaged, tensors_under, write_model
from neurofleet.learners.sims.linear_share import HALF, mixed
from neurofleet.learners.sims.logistic_regression import Z_SCORE, LogisticModel
from neurofleet.learners.sims.reference_space import HiddenGenes, ReferenceSpace
from neurofleet.learners.sims.tabnet import GeneInputs, TabNetEnsemble, mean_log_probabilities
from neurofleet.learners.sims.tabnet_settings import SimsSettings

LEARNER = "sims"
SPACE = "reference_space."
_LINEAR_ARRAYS = ("weights", "bias", "mean", "sd")
_LINEAR_FACTS = ("clip", "C", "scaling", "inner_accuracy", "inner_macro_f1", "inner_log_loss")


@dataclass(frozen=True, repr=False)
class SimsClassifier:
    """Networks, the linear model averaged with them, and how cells are brought to both.

    `SimsModel` is this with cells in place of matrices: what is opened, aligned and normalised is there.

    Attributes
    ----------
    networks : TabNetEnsemble
    linear : LogisticModel or None
        On all genes; its probabilities have the weight `linear_share`.
    inputs : GeneInputs
    genes, classes : tuple of str
    normalisation : Normalisation
        Of the reference's values; a query's are brought to the same.
    settings : SimsSettings
    calibration : Calibration
        Its temperature is 1 until calibrated.
    facts : mapping
        What else is known of the training: scores, baselines, data, versions. Plain JSON.
    known_cells : array of uint32 or None
        Profiles of the reference's cells, see `neurofleet.learners.cells.cell_copies.Profiles.to_array`.
    written : datetime or None
        When the folder was written that the model was loaded from.
    space : ReferenceSpace or None
        Where the reference's cells lie; None for models that earlier versions wrote.
    hidden : HiddenGenes or None
        How to calibrate where genes are missing; None where it was not measured.
    origin : mapping
        ``folder``, ``run`` and ``sha256`` of what the model was loaded from; empty without.
    """

    networks: TabNetEnsemble
    linear: LogisticModel | None
    inputs: GeneInputs
    genes: tuple[str, ...]
    classes: tuple[str, ...]
    normalisation: Normalisation
    settings: SimsSettings
    calibration: Calibration = UNCALIBRATED
    facts: Mapping[str, Any] = field(default_factory=dict)
    known_cells: np.ndarray | None = field(default=None, compare=False)
    written: datetime | None = field(default=None, compare=False)
    space: ReferenceSpace | None = field(default=None, compare=False)
    origin: Mapping[str, str] = field(default_factory=dict, compare=False)
    hidden: HiddenGenes | None = field(default=None, compare=False)

    @property
    def n_coordinates(self) -> int:
        """In how many dimensions cells are placed: the reference's components, or the embedding without these."""
        return self.embedding_size if self.space is None else self.space.cells.shape[1]

    @property
    def embedding_size(self) -> int:
        """Length of the vector of a cell: the settings' `n_d`, and with a skip the classes."""
        return self.settings.n_d + (len(self.classes) if self.settings.skip else 0)

    @cached_property
    def linear_share(self) -> float:
        """The weight of the linear model's probabilities in the average: that of the settings, else one half."""
        if self.linear is None:
            return 0.0
        return HALF if self.settings.linear_share is None else self.settings.linear_share

    def log_probabilities(self, values: sp.csr_matrix, closed: np.ndarray | None = None) -> np.ndarray:
        """Return uncalibrated log-probabilities (cells, classes).

        Parameters
        ----------
        values : csr_matrix, shape (cells, genes)
            Log-normalised, in the order of the model's genes.
        closed : array of bool, shape (genes,), optional
            Genes that no mask may choose.
        """
        parts = self.parts(values, closed)
        return mixed(parts["networks"], parts.get("linear"), self.linear_share)

    def parts(self, values: sp.csr_matrix, closed: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Return the log-probabilities of the networks and of the linear model, each for itself."""
        parts = {"networks": self._network_log_probabilities(values, closed)}
        if self.linear is not None:
            logits = self.linear.logits(values.toarray()).astype(np.float64)
            parts["linear"] = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
        return parts

    def probabilities(
        self, values: sp.csr_matrix, closed: np.ndarray | None = None, temperature: float | None = None
    ) -> np.ndarray:
        """Return calibrated probabilities (cells, classes) over all classes; by default by the model's temperature."""
        if temperature is None:
            temperature = self.calibration.temperature
        return calibrated_probabilities(self.log_probabilities(values, closed), temperature)

    def temperature_without(self, absent: np.ndarray | None) -> float:
        """Return the temperature where some genes, (genes,) bool, are missing; None for none."""
        if absent is None or self.hidden is None or self.space is None:
            return self.calibration.temperature
        return self.hidden.temperature_at(self.space.distances.uncertainty(absent))

    def network_input(self, values: sp.csr_matrix) -> Tensor:
        """Return log-normalised values of the genes that the networks see, on their device."""
        device = self.networks.mean.device
        return torch.from_numpy(values[:, self.inputs.columns].toarray()).to(device)

    def vectors(self, values: sp.csr_matrix, closed: np.ndarray | None = None) -> np.ndarray:
        """Return the embedding of cells, (cells, `embedding_size`) float32.

        It is what the first network's logits are made of: what its steps decided, summed (Arik and Pfister, AAAI 2021,
        section 3), and beside it what its skip adds to the logit of each class. Without the skip, which carries most
        of a prediction, cells of one type do not lie together.
        """
        self.networks.eval()
        with torch.inference_mode():
            seen, network = self.networks.look(self.network_input(values)), self.networks.members[0]
            logits, steps = network(seen, self._closed_inputs(closed))
            decided = torch.stack([step.decision for step in steps]).sum(0)
            parts = [decided] if network.skip is None else [decided, logits - network.head(decided)]
            return torch.cat(parts, 1).float().cpu().numpy()

    def _network_log_probabilities(self, values: sp.csr_matrix, closed: np.ndarray | None) -> np.ndarray:
        self.networks.eval()
        with torch.inference_mode():
            logits, _ = self.networks(self.network_input(values), self._closed_inputs(closed))
            return mean_log_probabilities(logits).cpu().numpy().astype(np.float64)

    def _closed_inputs(self, closed: np.ndarray | None) -> Tensor | None:
        if closed is None:
            return None
        return torch.from_numpy(closed[self.inputs.columns]).to(self.networks.mean.device)

    @property
    def identity(self) -> dict[str, str]:
        """What tells the model from others: ``name``, ``version`` of neurofleet; ``folder``, ``run``, ``sha256``."""
        folder = self.origin.get("folder", "")
        name = self.facts.get("name") or Path(folder).name
        return {"name": name, "version": self.facts.get("versions", {}).get("neurofleet", ""), **self.origin}

    @cached_property
    def gene_means(self) -> np.ndarray | None:
        """Mean log-normalised value of each gene in training, (genes,); None for a model that does not hold it."""
        if self.space is not None:
            return self.space.estimates.mean
        if self.linear is not None and self.linear.scaling == Z_SCORE:
            return self.linear.mean
        if self.settings.scaling != "z-score":
            return None
        means = np.zeros(len(self.genes), np.float32)
        means[self.inputs.columns] = self.inputs.mean
        return means

    @cached_property
    def known(self) -> KnownCells | None:
        """Finds the reference's cells in a query; None for a model that did not keep them."""
        return None if self.known_cells is None else KnownCells(Profiles.from_array(self.known_cells))

    def save(self, folder: str | Path, run: str) -> None:
        """Write ``model.safetensors`` and ``model.json``.

        Raises
        ------
        ModelRefused
            If the folder holds the model of another run.
        """
        tensors: dict[str, Any] = {f"networks.{n}": t for n, t in state_of(self.networks).items()}
        tensors["columns"] = self.inputs.columns
        if self.known_cells is not None:
            tensors["known_cells"] = self.known_cells
        if self.space is not None:
            tensors |= {f"{SPACE}{name}": array for name, array in self.space.arrays().items()}
        description: dict[str, Any] = {
            "genes": list(self.genes),
            "classes": list(self.classes),
            "settings": self.settings.model_dump(),
            "normalisation": asdict(self.normalisation),
            "calibration": self.calibration.to_dict(),
            "hidden_genes": None if self.hidden is None else self.hidden.to_dict(),
            "linear": None,
            "facts": dict(self.facts),
        }
        if self.linear is not None:
            tensors |= {f"linear.{name}": getattr(self.linear, name) for name in _LINEAR_ARRAYS}
            facts = {name: getattr(self.linear, name) for name in _LINEAR_FACTS}
            description["linear"] = facts | {"clip": facts["clip"] if np.isfinite(facts["clip"]) else None}
        write_model(folder, learner=LEARNER, run=run, description=description, tensors=tensors)

    @classmethod
    def load(cls, folder: str | Path, device: str = "cpu") -> Self:
        """Read a model folder; nothing in it is run.

        Raises
        ------
        ModelRefused
            If it is no SIMS model, or is damaged.
        """
        stored = read_model(folder, learner=LEARNER)
        with refuse_damaged(folder):
            model = cls._from(stored, device)
        return replace(model, origin={"folder": str(folder), "run": stored.run, "sha256": stored.sha256})

    @classmethod
    def _from(cls, stored: StoredModel, device: str) -> Self:
        description, tensors = stored.description, stored.tensors
        settings = SimsSettings(**description["settings"])
        state = tensors_under("networks.", tensors)
        inputs = GeneInputs(tensors["columns"], state["mean"], state["sd"])
        networks = TabNetEnsemble(inputs, len(description["classes"]), settings)
        load_state(networks, {name: torch.from_numpy(array) for name, array in state.items()})
        linear = None
        if description["linear"] is not None:
            facts = dict(description["linear"])
            facts["clip"] = np.inf if facts["clip"] is None else facts["clip"]
            arrays: dict[str, Any] = {name: tensors[f"linear.{name}"] for name in _LINEAR_ARRAYS}
            linear = LogisticModel(**arrays, **facts, held_out_probabilities=np.empty((0, 0), np.float32))
        space = tensors_under(SPACE, tensors)
        return cls(
            networks.to(device).eval(),
            linear,
            inputs,
            tuple(description["genes"]),
            tuple(description["classes"]),
            Normalisation(**description["normalisation"]),
            settings,
            Calibration.from_dict(description["calibration"]),
            description["facts"],
            tensors.get("known_cells"),
            stored.written,
            ReferenceSpace.from_arrays(space) if space else None,
            hidden=HiddenGenes.from_dict(hidden) if (hidden := description.get("hidden_genes")) else None,
        )


def state_of(networks: TabNetEnsemble) -> dict[str, Tensor]:
    """Return every weight and statistic once, though layers share weights, by name."""
    return {**dict(networks.named_parameters()), **dict(networks.named_buffers())}


def load_state(networks: TabNetEnsemble, state: Mapping[str, Tensor]) -> None:
    """Set what `state_of` returned.

    Raises
    ------
    KeyError
        If a tensor is missing, or there is one too many.
    """
    tensors = state_of(networks)
    if tensors.keys() != state.keys():
        raise KeyError(f"tensors that do not fit: {sorted(tensors.keys() ^ state.keys())[:5]}")
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.copy_(state[name])


def blocks_of(n_cells: int, n_genes: int) -> Iterator[slice]:
    """Yield slices of cells that take about 200 MB as a dense matrix."""
    size = max(min(50_000_000 // max(n_genes, 1), 8192), 64)
    for start in range(0, n_cells, size):
        yield slice(start, min(start + size, n_cells))

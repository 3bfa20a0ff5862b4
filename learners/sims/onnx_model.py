"""A SIMS model as one ONNX file: counts of its genes go in, calibrated probabilities come out, in any runtime."""

from __future__ import annotations

import copy
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import anndata
import numpy as np
import onnx
import onnxruntime
import pandas as pd
import scipy.sparse as sp
import torch
from torch import Tensor, nn

from neurofleet.errors import LearnerError
from neurofleet.learners.model_folder import QUICK
from neurofleet.learners.reference_distance import CLIP, NEIGHBOURS, Components
from neurofleet.learners.sims.cell_prediction import IMPORTANCE, open_query, predict
from neurofleet.learners.sims.reference_space import ReferenceSpace
from neurofleet.learners.sims.tabnet import AttentiveTransformer, mean_log_probabilities
from neurofleet.learners.unknown_labels import VALIDATION

if TYPE_CHECKING:
    from neurofleet.learners.sims.sims_model import SimsModel

FORMAT_VERSION = 1
LARGEST_DIFFERENCE = 1e-5
"""A file whose probabilities differ by more from the model's is not kept."""

CHECKED_CELLS = 64
_OPSET = 18
_NEWTON_STEPS = 35  # enough where the largest eigenvalue is 1e8 times the smallest
_COUNTS, _TOTALS, _PROBABILITIES, _DISTANCE, _MAP = "counts", "totals", "probabilities", "distance", "map"


@dataclass(frozen=True)
class OnnxModel:
    """What was written, and how far it is from the model.

    Attributes
    ----------
    content : bytes
        The file.
    difference : float
        The largest between its probabilities and the model's, of made cells.
    """

    content: bytes
    difference: float


def to_onnx(model: SimsModel) -> OnnxModel:
    """Return a model as an ONNX file, compared with the model.

    The file takes ``counts``, (cells, genes) float32 in the order of its genes, and NaN in the columns of genes that
    the cells' file lacks: these are estimated as the model does. A model that was trained on log values of some genes
    of its file takes ``totals``, too, (cells,) float32: of the counts of all genes of the cells' file.

    It gives ``probabilities``, (cells, classes) float32; and of a model that knows where its reference's cells lie
    ``distance``, (cells,), from these (above 1: farther than 95 % of the reference's held-out cells), and ``map``,
    (cells, 2), the place on their map. Normalisation, all networks, the linear model and the temperature are in it.
    Masks and the mixture are computed in double precision.

    Its metadata are text, where needed JSON: ``genes``, ``classes``, ``gene_importance``,
    ``validation_top_probability`` and ``reference`` (``map``, ``labels``); ``name``, ``version``, ``sha256`` (of the
    model's tensors), ``format``.

    Raises
    ------
    LearnerError
        If the model takes no counts, or the file gives other probabilities than the model.

    Examples
    --------
    >>> Path("model.onnx").write_bytes(to_onnx(nf.load_model("model")).content)
    """
    _refuse_other_values(model)
    graph = _Graph(model).eval()
    inputs = {_COUNTS: torch.ones(2, len(model.genes))}
    if needs_totals(model):
        inputs[_TOTALS] = torch.ones(2)
    cells = torch.export.Dim("cells", min=1)
    names = [_PROBABILITIES] if model.space is None else [_PROBABILITIES, _DISTANCE, _MAP]
    with torch.inference_mode(), _quiet():
        program = torch.onnx.export(
            graph,
            tuple(inputs.values()),
            input_names=list(inputs),
            output_names=names,
            opset_version=_OPSET,
            dynamic_shapes=tuple({0: cells} for _ in inputs),
            dynamo=True,
            optimize=False,  # runtimes do it themselves when they read the file
            verbose=False,
        )
    written = cast(Any, program).model_proto
    for part in (written, written.graph, *written.graph.node, *(node for f in written.functions for node in f.node)):
        part.doc_string = ""  # where in these sources it comes from
        del part.metadata_props[:]
    del written.graph.value_info[:]
    onnx.helper.set_model_props(written, metadata(model))
    content = written.SerializeToString()
    difference = compared(model, content)
    if not difference <= LARGEST_DIFFERENCE:
        raise LearnerError(
            f"The ONNX file gives probabilities that differ by up to {difference:.2g} from the model's, and at most"
            f" {LARGEST_DIFFERENCE:g} is accepted. Nothing was written; please report this with the model's settings."
        )
    return OnnxModel(content, difference)


def metadata(model: SimsModel) -> dict[str, str]:
    """Return what the file says of the model, as text."""
    told: dict[str, Any] = {
        **model.identity,
        "format": f"neurofleet sims {FORMAT_VERSION}",
        "genes": list(model.genes),
        "classes": list(model.classes),
        "gene_importance": [float(f"{share:.4g}") for share in model.facts.get(IMPORTANCE, ())],
        "validation_top_probability": list(model.facts.get(VALIDATION, ())),
        "remark": model.facts.get(QUICK, ""),
    }
    told.pop("folder", None)  # says nothing elsewhere
    if model.space is not None:
        told["reference"] = {
            "map": [[round(float(number), 3) for number in place] for place in model.space.plane],
            "labels": model.space.labels.tolist(),
        }
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in told.items()}


def compared(model: SimsModel, content: bytes) -> float:
    """Return the largest difference of probabilities between a model and its ONNX file, of made cells.

    Some cells have all genes; the others lack a tenth of them.
    """
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    generator = np.random.default_rng(0)
    counts = _made_counts(model, generator)
    absent = generator.random(len(model.genes)) < 0.1
    differences = []
    for known in (np.ones(len(model.genes), bool), ~absent):
        seen = {_COUNTS: np.where(known, counts, np.nan).astype(np.float32)}
        others = generator.poisson(50.0, len(counts))  # of a gene that the model does not know
        if needs_totals(model):
            seen[_TOTALS] = (counts[:, known].sum(1) + others).astype(np.float32)
        cells = anndata.AnnData(
            sp.csr_matrix(np.column_stack([counts[:, known], others]).astype(np.float32)),
            pd.DataFrame(index=[f"made{number}" for number in range(len(counts))]),
            pd.DataFrame(index=[*np.asarray(model.genes, dtype=object)[known], "of none of the model's names"]),
        )
        query = open_query(model, cells, values="counts", most_missing=1.0)
        expected = predict(model, query, np.arange(len(query)), top=1).probabilities
        (found,) = session.run([_PROBABILITIES], seen)
        differences.append(float(np.abs(found - expected).max()))
    return max(differences)


def needs_totals(model: SimsModel) -> bool:
    """Tell whether a cell's counts are scaled by their sum over all genes of its file, not the model's only."""
    return model.normalisation.totals == "all genes"


def _made_counts(model: SimsModel, generator: np.random.Generator) -> np.ndarray:
    """Return counts like the reference's, (cells, genes) float32."""
    n_genes = len(model.genes)
    if model.space is None:
        rates = generator.gamma(0.3, 1.0, (CHECKED_CELLS, n_genes))
    else:
        part = model.space.distances
        some = generator.choice(len(model.space.cells), CHECKED_CELLS)
        values = part.mean + part.scale * (model.space.cells[some] @ part.loadings.T)
        rates = np.expm1(np.clip(values, 0, CLIP)) + 1e-3
    depth = generator.uniform(1000, 5000, (CHECKED_CELLS, 1)) + 5 * n_genes**0.5
    counts = generator.poisson(rates / rates.sum(1, keepdims=True) * depth)
    counts[:, : min(3, n_genes)] += 1
    return counts.astype(np.float32)


def _refuse_other_values(model: SimsModel) -> None:
    normalisation = model.normalisation
    if normalisation.kind == "scaled" or normalisation.target_sum is None:
        raise LearnerError(
            f"An ONNX file takes counts, and this model was trained on {normalisation.kind} values of which nobody"
            " knows how they follow from counts. Train it from counts."
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter from telling of packages that it would know, too."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


class _Graph(nn.Module):
    """What `SimsModel.predict` computes, of counts whose absent genes are NaN."""

    def __init__(self, model: SimsModel) -> None:
        super().__init__()
        assert model.normalisation.target_sum is not None
        self.target_sum = float(model.normalisation.target_sum)
        self.networks = copy.deepcopy(model.networks).cpu()
        for part in self.networks.modules():
            if isinstance(part, AttentiveTransformer):
                part.project = _MASKS[model.settings.mask]
        self.columns: Tensor
        self.register_buffer("columns", torch.from_numpy(np.asarray(model.inputs.columns, np.int64)))
        self.linear = None if model.linear is None else _Linear(model.linear)
        self.share = model.linear_share
        self.temperature = model.calibration.temperature
        self.hidden = model.hidden
        self.space = None if model.space is None else _Space(model.space)
        self.means: Tensor | None
        means = None if model.gene_means is None else torch.from_numpy(np.asarray(model.gene_means, np.float32))
        self.register_buffer("means", means)

    def forward(self, counts: Tensor, totals_of_all: Tensor | None = None) -> tuple[Tensor, ...]:
        absent = torch.isnan(counts[:1])
        known = torch.where(absent, 0.0, counts)
        totals = known.sum(1, keepdim=True) if totals_of_all is None else totals_of_all.unsqueeze(1)
        target = torch.full((1, 1), self.target_sum)
        if self.space is not None and totals_of_all is None:
            share = torch.where(absent, 0.0, self.space.share).sum(1, keepdim=True)
            scaled = absent.any(1, keepdim=True) & (share > 0) & (share < 1)
            target = torch.where(scaled, share * target, target)
        values = torch.log(1.0 + known * torch.where(totals > 0, target / torch.where(totals > 0, totals, 1.0), 0.0))
        filled = values
        if self.space is not None:
            filled = torch.where(absent, self.space.estimates.estimated(values, absent).clamp(min=0.0), values)
        elif self.means is not None:
            filled = torch.where(absent, self.means, values)
        probabilities = self._probabilities(filled, self._temperature(absent))
        return (probabilities,) if self.space is None else (probabilities, *self.space(values, absent))

    def _temperature(self, absent: Tensor) -> Tensor | float:
        """`HiddenGenes.temperature_at` of what is not known without the absent genes."""
        if self.hidden is None or self.space is None:
            return self.temperature
        x, y = np.array(self.hidden.uncertainty), np.log(self.hidden.temperature)
        uncertainty = self.space.distances.uncertainty(absent)
        logarithm = torch.full_like(uncertainty, float(y[0]))
        for at, width, rise in zip(x[:-1], np.diff(x), np.diff(y), strict=True):
            if width > 0:
                logarithm = logarithm + (uncertainty - float(at)).clamp(0.0, float(width)) * float(rise / width)
        return torch.where(absent.any(), logarithm.exp(), self.temperature)

    def _probabilities(self, values: Tensor, temperature: Tensor | float) -> Tensor:
        parts = []
        if self.share < 1.0:
            logits, _ = self.networks(values[:, self.columns])
            parts.append(mean_log_probabilities(logits).double() + float(np.log(1.0 - self.share)))
        if self.linear is not None and self.share > 0.0:
            parts.append(torch.log_softmax(self.linear(values).double(), 1) + float(np.log(self.share)))
        mixed = parts[0] if len(parts) == 1 else torch.logsumexp(torch.stack(parts), 0)
        return torch.softmax(mixed / temperature, 1).float()


class _Linear(nn.Module):
    weights: Tensor
    bias: Tensor
    mean: Tensor
    sd: Tensor

    def __init__(self, linear: Any) -> None:
        super().__init__()
        for name in ("weights", "bias", "mean", "sd"):
            self.register_buffer(name, torch.from_numpy(np.asarray(getattr(linear, name), np.float32)))
        self.clip = float(linear.clip)

    def forward(self, values: Tensor) -> Tensor:
        if np.isfinite(self.clip):
            values = ((values - self.mean) / self.sd).clamp(-self.clip, self.clip)
        return values @ self.weights + self.bias


class _Components(nn.Module):
    """`neurofleet.learners.reference_distance.Components`, of genes that are known in the call only."""

    mean: Tensor
    scale: Tensor
    loadings: Tensor
    ridge: Tensor

    def __init__(self, components: Components) -> None:
        super().__init__()
        for name in ("mean", "scale", "loadings"):
            self.register_buffer(name, torch.from_numpy(np.asarray(getattr(components, name), np.float32)))
        ridge = np.asarray(components.noise / components.variance, np.float64)
        self.register_buffer("ridge", torch.from_numpy(np.diag(ridge)))

    def uncertainty(self, absent: Tensor) -> Tensor:
        loadings = torch.where(absent.T, 0.0, self.loadings).double()
        return (_inverse(loadings.T @ loadings + self.ridge).diagonal() * self.ridge.diagonal()).mean()

    def coordinates(self, values: Tensor, absent: Tensor) -> Tensor:
        seen = torch.where(absent, 0.0, ((values - self.mean) / self.scale).clamp(-CLIP, CLIP))
        loadings = torch.where(absent.T, 0.0, self.loadings)
        plain = seen @ loadings
        products = loadings.double().T @ loadings.double() + self.ridge
        return torch.where(absent.any(), (plain.double() @ _inverse(products)).float(), plain)

    def estimated(self, values: Tensor, absent: Tensor) -> Tensor:
        return self.mean + self.scale * (self.coordinates(values, absent) @ self.loadings.T)


class _Space(nn.Module):
    share: Tensor
    cells: Tensor
    plane: Tensor

    def __init__(self, space: ReferenceSpace) -> None:
        super().__init__()
        self.distances, self.estimates = _Components(space.distances), _Components(space.estimates)
        self.limit = max(space.limit, 1e-9)
        for name, dtype in (("share", np.float32), ("cells", np.float64), ("plane", np.float64)):
            self.register_buffer(name, torch.from_numpy(np.asarray(getattr(space, name), dtype)))

    def forward(self, values: Tensor, absent: Tensor) -> tuple[Tensor, Tensor]:
        places = self.distances.coordinates(values, absent).double()
        squares = (places**2).sum(1, keepdim=True) + (self.cells**2).sum(1) - 2 * places @ self.cells.T
        nearest, indices = torch.topk(squares, min(NEIGHBOURS, len(self.cells)), 1, largest=False)
        distances = nearest.clamp(min=0.0).sqrt()
        weights = 1.0 / distances.clamp(min=1e-6)
        weights = weights / weights.sum(1, keepdim=True)
        plane = (weights.unsqueeze(2) * self.plane[indices]).sum(1)
        return (distances.mean(1) / self.limit).float(), plane.float()


def _inverse(matrix: Tensor) -> Tensor:
    """Return the inverse of a positive definite matrix by Newton's steps (Schulz 1933): ONNX has no operator for it."""
    twice = 2 * torch.eye(matrix.shape[0], dtype=matrix.dtype)
    found = twice / (2 * matrix.diagonal().sum())
    for _ in range(_NEWTON_STEPS):
        found = found @ (twice - matrix @ found)
    return found


def _sparsemax(scores: Tensor) -> Tensor:
    """Return `neurofleet.learners.sims.tabnet.sparsemax` in double precision by a sort, without a loop."""
    scores = scores.double()
    scores = scores - scores.amax(-1, keepdim=True)
    ordered, _ = torch.sort(scores, dim=-1, descending=True)
    size = torch.arange(1, scores.shape[-1] + 1, dtype=scores.dtype)
    inside = (1.0 + size * ordered > ordered.cumsum(-1)).double()
    threshold = ((ordered * inside).sum(-1, keepdim=True) - 1.0) / inside.sum(-1, keepdim=True)
    return (scores - threshold).clamp(min=0.0).float()


def _entmax15(scores: Tensor) -> Tensor:
    """Return ``entmax.entmax15`` in double precision (Peters, Niculae and Martins, ACL 2019, algorithm 2)."""
    scores = scores.double()
    scores = (scores - scores.amax(-1, keepdim=True)) / 2
    ordered, _ = torch.sort(scores, dim=-1, descending=True)
    size = torch.arange(1, scores.shape[-1] + 1, dtype=scores.dtype)
    mean = ordered.cumsum(-1) / size
    spread = (ordered**2).cumsum(-1) - size * mean**2
    thresholds = mean - ((1.0 - spread) / size).clamp(min=0.0).sqrt()
    inside = (thresholds <= ordered).sum(-1, keepdim=True)
    return (scores - thresholds.gather(-1, inside - 1)).clamp(min=0.0).float() ** 2


_MASKS = {"sparsemax": _sparsemax, "entmax15": _entmax15}

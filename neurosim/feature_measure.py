"""The e-features of models at step protocols, as one array a model."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from neurosim.fit_model import SOMA, FitModel

if TYPE_CHECKING:
    from neurosim.protocols import StepProtocol


@dataclass(frozen=True)
class FeatureMeasure:
    """Which e-features of a cell's models are wanted.

    Attributes
    ----------
    model : FitModel
        Its protocols and targets do not matter here.
    protocols : tuple of StepProtocol
    features : tuple of (str, str)
        Name of a protocol, and eFEL's name of a feature of the voltage at the soma.
    max_steps : int or None
        Integration steps that a model may take.
    """

    model: FitModel
    protocols: "tuple[StepProtocol, ...]"
    features: tuple[tuple[str, str], ...]
    max_steps: int | None = None

    def build(self) -> Callable[[np.ndarray], np.ndarray]:
        """Build the cell in NEURON and return what measures a model on it.

        Returns
        -------
        callable
            Parameter values, shape (P,) in the order of ``model.free`` -> values of the features, shape (F,),
            each the mean where eFEL gives several, NaN where it gives none. Raises
            `neurosim.budget.BudgetExceeded` and `neurosim.warm.IncompleteRun`.
        """
        from neurosim.targets import FeatureTarget, TargetSet
        from neurosim.warm import WarmEvaluator

        targets = TargetSet(
            protocols={protocol.name: protocol for protocol in self.protocols},
            targets=tuple(FeatureTarget(p, SOMA, feature, 0.0, 1.0, 0) for p, feature in self.features),
            spike_threshold_mV=self.model.targets.spike_threshold_mV,
        )
        warm = WarmEvaluator(replace(self.model, targets=targets).build_evaluator(), self.max_steps)
        warm.build()
        objectives = [target.objective for target in targets.targets]

        def measure(values: np.ndarray) -> np.ndarray:
            found = warm.feature_values(values)
            return np.array([np.nan if found[o] is None else found[o] for o in objectives], np.float64)

        return measure

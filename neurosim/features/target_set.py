"""What a stage is scored on: protocols and e-feature targets, extracted from sweeps or published."""

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from neurofleet.neurosim.features.step_protocols import StepProtocol

SPIKE_THRESHOLD_MV = -20.0
AIS_FEATURE = "check_AISInitiation"
BLOCK_CHECK = "DB_check_DC"


@dataclass(frozen=True)
class FeatureTarget:
    """Mean and standard deviation that a model's e-feature is compared with.

    Attributes
    ----------
    protocol, location, feature : str
        `feature` is eFEL's name, or `check_AISInitiation`.
    mean, std : float
    n : int
        Number of values behind the mean; 0 for a target that is set, not measured.
    """

    protocol: str
    location: str
    feature: str
    mean: float
    std: float
    n: int

    @property
    def objective(self) -> str:
        """Name of the objective, such as `LongDC_46.soma.mean_frequency`."""
        return f"{self.protocol}.{self.location}.{self.feature}"


@dataclass(frozen=True)
class TargetSet:
    """Protocols and targets of one stage.

    Attributes
    ----------
    protocols : dict of str to StepProtocol
        Those that have targets, by name.
    targets : tuple of FeatureTarget
    spike_threshold_mV : float
        eFEL's spike threshold at the soma; all other settings of eFEL are its defaults.
    warnings : tuple of str
        What was left out, and why.
    sampling_rate_Hz : float or None
        Lowest rate of the sweeps behind the targets; None where it is not known.
    """

    protocols: dict[str, StepProtocol]
    targets: tuple[FeatureTarget, ...]
    spike_threshold_mV: float = SPIKE_THRESHOLD_MV
    warnings: tuple[str, ...] = field(default=())
    sampling_rate_Hz: float | None = None

    def to_json(self) -> str:
        """Write as JSON; `from_json` gives back an equal object."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> "TargetSet":
        """Read what `to_json` wrote."""
        content: dict[str, Any] = json.loads(text)
        return cls(
            protocols={
                name: StepProtocol(**{**protocol, "sweeps": tuple(protocol["sweeps"])})
                for name, protocol in content["protocols"].items()
            },
            targets=tuple(FeatureTarget(**target) for target in content["targets"]),
            spike_threshold_mV=content["spike_threshold_mV"],
            warnings=tuple(content["warnings"]),
            sampling_rate_Hz=content["sampling_rate_Hz"],
        )

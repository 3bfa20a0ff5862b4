"""One stage of one cell as a BluePyOpt evaluator: the cell, its free parameters, protocols and objectives."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from neurofleet.neurosim.cells.cell_model import Accuracy, CellParameter, Conditions, build_cell_model
from neurofleet.neurosim.cells.morphology import MorphologyFile
from neurofleet.neurosim.features.perisomatic_features import MINIMUM_STD
from neurofleet.neurosim.features.step_protocols import AIS_FEATURE, StepProtocol, TargetSet
from neurofleet.neurosim.mechanisms import UserMechanisms

MAX_SCORE = 250.0  # force_max_score of the released workflow
INSIDE_ONLY = {"strict_stiminterval": 1}  # eFEL's setting by which spikes outside of the step do not count
SOMA = "soma"
AIS = "axon"


@dataclass(frozen=True)
class FitModel:
    """Everything that the evaluation of one stage of one cell depends on; can be pickled.

    Parameters
    ----------
    cell : str
        Identifier of the cell.
    morphology : MorphologyFile
    axon : str
        Axon mode, one of `neurofleet.neurosim.cells.morphology_check.AXON_MODES`.
    conditions : Conditions
    mechanisms : mapping
        Section -> names of mechanisms.
    free : tuple of CellParameter
        Parameters that are searched, in the order of the individuals.
    fixed : mapping
        Full parameter name -> value.
    distributions : mapping
        Full parameter name -> distance-dependent distribution, where it is not uniform.
    targets : TargetSet
        Protocols and e-feature targets.
    accuracy : Accuracy
    user_mechanisms : UserMechanisms
        Mechanisms that the user brought.
    """

    cell: str
    morphology: MorphologyFile
    axon: str
    conditions: "Conditions"
    mechanisms: Mapping[str, tuple[str, ...]]
    free: tuple["CellParameter", ...]
    fixed: Mapping[str, float]
    distributions: Mapping[str, str]
    targets: "TargetSet"
    accuracy: "Accuracy"
    user_mechanisms: UserMechanisms = field(default_factory=UserMechanisms)

    def build_cell(self) -> Any:
        """Return the BluePyOpt ``CellModel``."""
        from neurofleet.neurosim.cells.cell_morphology import CellMorphology

        morphology = CellMorphology(str(self.morphology.unpacked()), axon=self.axon)
        return build_cell_model(
            self.cell,
            morphology,
            self.mechanisms,
            self.free,
            self.fixed,
            self.conditions,
            known=self.user_mechanisms.known,
            distributions=self.distributions,
        )

    def build_evaluator(self) -> Any:
        """Return the BluePyOpt ``CellEvaluator`` of this stage (cold: BluePyOpt builds the cell anew for each run)."""
        from bluepyopt import ephys

        from neurofleet.neurosim.cells.simulator import AccurateSimulator

        self.user_mechanisms.load()
        simulator = AccurateSimulator(self.accuracy, cvode_active=True)
        cell = self.build_cell()
        calculator = ephys.objectivescalculators.ObjectivesCalculator(self.objectives())
        return ephys.evaluators.CellEvaluator(
            cell_model=cell,
            param_names=[parameter.full_name for parameter in self.free],
            fitness_protocols={name: self.protocol(p) for name, p in self.targets.protocols.items()},
            fitness_calculator=calculator,
            isolate_protocols=False,
            sim=simulator,
        )

    @property
    def mechanism_names(self) -> set[str]:
        """The mechanisms of all sections."""
        return {name for names in self.mechanisms.values() for name in names}

    @property
    def mechanisms_told(self) -> str:
        """The mechanisms in words, for messages: where each is, and which of them the user brought."""
        sections: dict[str, list[str]] = {}
        for section, names in self.mechanisms.items():
            for name in names:
                sections.setdefault(name, []).append(section)
        files = self.user_mechanisms.files
        told = [
            f"{name} ({', '.join([*where, f'your {files.get(name, name)}'] if name in files else where)})"
            for name, where in sections.items()
        ]
        return f"The mechanisms in the cell are {', '.join(told)}"

    @property
    def user_mechanisms_used(self) -> UserMechanisms:
        """Those of the user's mechanisms that the model has."""
        return self.user_mechanisms.only(self.mechanism_names)

    def protocol(self, step: "StepProtocol") -> Any:
        """Return `step` as a BluePyOpt protocol that records the soma, and the axon where it is scored."""
        from bluepyopt import ephys

        soma = location(SOMA)
        stimuli = [
            ephys.stimuli.NrnSquarePulse(
                step_amplitude=step.amplitude_nA,
                step_delay=step.start_ms,
                step_duration=step.stop_ms - step.start_ms,
                total_duration=step.duration_ms,
                location=soma,
            )
        ]
        if step.holding_nA:
            stimuli.append(
                ephys.stimuli.NrnSquarePulse(
                    step_amplitude=step.holding_nA,
                    step_delay=0.0,
                    step_duration=step.duration_ms,
                    total_duration=step.duration_ms,
                    location=soma,
                )
            )
        places = [SOMA] + [AIS] * self._scores_ais(step.name)
        recordings = [self._recording(step, place) for place in places]
        return ephys.protocols.SweepProtocol(step.name, stimuli, recordings, cvode_active=True)

    def objectives(self) -> list[Any]:
        """Return the BluePyOpt objectives, one for each target."""
        from bluepyopt import ephys

        from neurofleet.neurosim.features.bluepyopt_efeatures import AISInitiation, PerisomaticFeature, step_scoring

        objectives = []
        scorings: dict[str, Any] = {}
        for target in self.targets.targets:
            step = self.targets.protocols[target.protocol]
            soma = recording_name(step.name, SOMA)
            if target.feature == AISInitiation.feature:
                feature = AISInitiation(
                    target.objective,
                    soma_recording=soma,
                    axon_recording=recording_name(step.name, AIS),
                    stim_start=step.start_ms,
                    stim_end=step.stop_ms,
                    exp_mean=target.mean,
                    exp_std=target.std,
                    max_score=MAX_SCORE,
                    threshold=self.targets.spike_threshold_mV,
                    axon_threshold=self.targets.spike_threshold_mV,
                    inside_only=step.inside_only,
                )
            elif target.feature in MINIMUM_STD:
                if step.name not in scorings:
                    scorings[step.name] = step_scoring(step, soma, self.targets)
                feature = PerisomaticFeature(
                    target.objective,
                    feature=target.feature,
                    scoring=scorings[step.name],
                    max_score=MAX_SCORE,
                )
            else:
                feature = ephys.efeatures.eFELFeature(
                    target.objective,
                    efel_feature_name=target.feature,
                    recording_names={"": soma},
                    stim_start=step.start_ms,
                    stim_end=step.stop_ms,
                    exp_mean=target.mean,
                    exp_std=target.std,
                    threshold=self.targets.spike_threshold_mV,
                    int_settings=INSIDE_ONLY if step.inside_only else None,
                    force_max_score=True,
                    max_score=MAX_SCORE,
                )
            objectives.append(ephys.objectives.SingletonObjective(target.objective, feature))
        return objectives

    def _scores_ais(self, protocol: str) -> bool:
        return any(t.protocol == protocol and t.feature == AIS_FEATURE for t in self.targets.targets)

    def _recording(self, step: "StepProtocol", place: str) -> Any:
        from bluepyopt import ephys

        from neurofleet.neurosim.cells.simulator import SampledRecording

        name = recording_name(step.name, place)
        if not self.accuracy.dense:
            return ephys.recordings.CompRecording(name=name, location=location(place), variable="v")
        return SampledRecording(name, location(place), step.dense_times_ms())


def recording_name(protocol: str, place: str = SOMA) -> str:
    """Return the name of the voltage recorded at `place` during `protocol`."""
    return f"{protocol}.{place}.v"


def location(place: str) -> Any:
    """Return the middle of the first section of a place, `SOMA` or `AIS`."""
    from bluepyopt import ephys

    section_list = {SOMA: "somatic", AIS: "axonal"}[place]
    return ephys.locations.NrnSeclistCompLocation(name=place, seclist_name=section_list, sec_index=0, comp_x=0.5)

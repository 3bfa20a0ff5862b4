"""eFEL set up once for all features of a recording instead of twice for each."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np


def _key(feature: Any) -> tuple:
    """Return what must be equal for two features to share a trace and settings."""
    return (
        tuple(sorted(feature.recording_names.items())),
        feature.stim_start,
        feature.stim_end,
        *_settings_key(feature),
    )


def _settings_key(feature: Any) -> tuple:
    """Return the settings of eFEL that `feature` is calculated under."""

    def frozen(settings: Mapping | None) -> tuple:
        return tuple(sorted((settings or {}).items()))

    return (
        feature.threshold,
        feature.stimulus_current if not callable(feature.stimulus_current) else id(feature.stimulus_current),
        feature.interp_step,
        frozen(feature.double_settings),
        frozen(feature.int_settings),
        frozen(feature.string_settings),
    )


class _Settings:
    """eFEL's global settings as they were last set; eFEL reads its files anew each time they are."""

    def __init__(self) -> None:
        self._current: tuple | None = None

    def apply(self, feature: Any) -> None:
        """Set eFEL up as `feature` wants it."""
        wanted = _settings_key(feature)
        if wanted != self._current:
            feature._setup_efel()
            self._current = wanted

    def reset(self) -> None:
        """Leave eFEL with its defaults."""
        if self._current is not None:
            import efel

            efel.reset()
            self._current = None


class _Group:
    """Features of one trace, window and settings; remembers the values of the responses seen last."""

    def __init__(self, settings: _Settings) -> None:
        self._settings = settings
        self.features: list[Any] = []
        self._responses: Any = None
        self._values: dict[str, Any] | None = None

    def values(self, responses: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return feature name -> values for `responses`; None when the trace is missing."""
        if responses is not self._responses:
            self._values = self._calculate(responses)
            self._responses = responses
        return self._values

    def forget(self) -> None:
        self._responses = self._values = None

    def _calculate(self, responses: Mapping[str, Any]) -> dict[str, Any] | None:
        import efel

        first = self.features[0]
        trace = first._construct_efel_trace(responses)
        if trace is None:
            return None
        trace = {name: [float(x) for x in values] for name, values in trace.items()}
        self._settings.apply(first)
        names = dict.fromkeys(feature.efel_feature_name for feature in self.features)
        return {name: efel.get_feature_values([trace], [name], raise_warnings=False)[0][name] for name in names}


class GroupedFeature:
    """Stand-in for a BluePyOpt ``eFELFeature`` that takes its values from its group."""

    def __init__(self, feature: Any, group: _Group) -> None:
        self._feature = feature
        self._group = group
        group.features.append(feature)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._feature, name)

    def calculate_feature(self, responses: Mapping[str, Any], raise_warnings: bool = False) -> float | None:
        """Return the mean of the feature's values; None when it has none."""
        values = self._group.values(responses)
        found = None if values is None else values[self._feature.efel_feature_name]
        return None if found is None or len(found) == 0 else np.mean(found)

    def calculate_score(self, responses: Mapping[str, Any], trace_check: bool = False) -> float:
        """Return the mean distance from the target in standard deviations, as eFEL's ``get_distance``."""
        feature = self._feature
        if trace_check:
            return feature.calculate_score(responses, trace_check=True)
        values = self._group.values(responses)
        found = None if values is None else values[feature.efel_feature_name]
        if found is None or len(found) < 1:
            score = feature.max_score
        else:
            score = 0.0
            for value in found:
                score += abs(value - feature.exp_mean)
            score = score / feature.exp_std / len(found)
            if score != score:
                score = feature.max_score
        return min(score, feature.max_score) if feature.force_max_score else score


class FeatureGroups:
    """All groups of one set of objectives."""

    def __init__(self) -> None:
        self._settings = _Settings()
        self._groups: dict[tuple, _Group] = {}

    def wrap(self, features: Iterable[Any]) -> list[Any]:
        """Return `features` with every plain eFEL feature replaced by its grouped stand-in.

        Subclasses may calculate anything, so they are left as they are.
        """
        from bluepyopt.ephys.efeatures import eFELFeature

        wrapped = []
        for feature in features:
            if type(feature) is eFELFeature:
                group = self._groups.setdefault(_key(feature), _Group(self._settings))
                feature = GroupedFeature(feature, group)
            wrapped.append(feature)
        return wrapped

    def calculate(self, responses: Mapping[str, Any]) -> None:
        """Calculate all groups for `responses`, and give eFEL its defaults back.

        Done before anything else is scored, because other features may set eFEL up for themselves.
        """
        for group in self._groups.values():
            group.values(responses)
        self._settings.reset()

    def forget(self) -> None:
        """Drop the values of the last responses."""
        for group in self._groups.values():
            group.forget()

"""HIPPIE's own methods and those that it is compared with, on one fold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from neurofleet.learners.folds import inner_repeated_folds
from neurofleet.learners.hippie.autoencoder_settings import HippieSettings
from neurofleet.learners.hippie.fine_tuning import fine_tune, untrained
from neurofleet.learners.hippie.hippie_model import FineTunedNetworks
from neurofleet.learners.hippie.network_inputs import modalities_of
from neurofleet.learners.hippie.physmap import physmap
from neurofleet.learners.hippie.unit_classifiers import FOLDS, Blend, Classical, feature_sets, fit_blend, fit_classical
from neurofleet.learners.hippie.unit_pretraining import Pretrained
from neurofleet.learners.local_training import Train
from neurofleet.learners.probes import PROBES, fit_probe
from neurofleet.learners.units.signal_scaling import scaled
from neurofleet.learners.units.units import MODALITIES, Units

COMPONENTS = 10


@dataclass(frozen=True)
class UnitFoldCase:
    """Units to learn from, and units to be named.

    Attributes
    ----------
    units : Units
    labels : array of int, shape (units,)
        Those of the training rows are read, and no others.
    n_classes : int
    groups : array of str or None
        Animal or recording; keeps inner folds apart as the outer ones are.
    train, test : array of int
        Rows.
    settings : HippieSettings
    pretrained : Pretrained or None
        By units that are none of these.
    train_task : Train
    seed : int
    """

    units: Units
    labels: np.ndarray
    n_classes: int
    groups: np.ndarray | None
    train: np.ndarray
    test: np.ndarray
    settings: HippieSettings
    pretrained: Pretrained | None
    train_task: Train
    seed: int = 1

    @property
    def y(self) -> np.ndarray:
        """Class numbers of the training units."""
        return self.labels[self.train]

    @property
    def inner_groups(self) -> np.ndarray | None:
        """Groups of the training units."""
        return None if self.groups is None else self.groups[self.train]

    @cached_property
    def features(self) -> dict[str, np.ndarray]:
        """Feature sets of all units."""
        return feature_sets(self.units)

    @cached_property
    def networks(self) -> FineTunedNetworks:
        """FineTunedNetworks fine-tuned on the training units."""
        return self.fine_tuned(self.train)

    @cached_property
    def head_held_out(self) -> np.ndarray:
        """Probabilities of each training unit by networks of an inner fold that had not seen it; else NaN."""
        held_out_probabilities = np.full((len(self.train), self.n_classes), np.nan)
        for fold in inner_repeated_folds(self.y, self.inner_groups, FOLDS, self.seed):
            rows, held_out = self.train[fold.train], self.train[fold.test]
            held_out_probabilities[fold.test] = np.exp(
                self.fine_tuned(rows).log_probabilities(self.units.take(held_out))
            )
        return held_out_probabilities

    def fine_tuned(self, rows: np.ndarray) -> FineTunedNetworks:
        """Return networks fine-tuned on some of the training units."""
        return fine_tune(
            self.units,
            self.labels,
            self.n_classes,
            rows,
            self.settings,
            self.train_task,
            self.seed,
            pretrained=self.pretrained,
        )

    def probed(self, kind: str, x: np.ndarray) -> np.ndarray:
        """Return the test units' probabilities by a probe on vectors of all units."""
        probe = fit_probe(kind, x[self.train], self.y, self.n_classes, groups=self.inner_groups, seed=self.seed)
        return probe.probabilities(x[self.test])

    @cached_property
    def classical(self) -> Classical:
        """Classical classifiers fitted and chosen on the training units."""
        return fit_classical(
            {name: x[self.train] for name, x in self.features.items()},
            self.y,
            self.n_classes,
            groups=self.inner_groups,
            seed=self.seed,
        )

    @cached_property
    def blend(self) -> Blend:
        """Both of these, weighed on the training units."""
        return fit_blend(self.classical, self.head_held_out, self.y)

    @cached_property
    def head_answer(self) -> np.ndarray:
        """The networks' probabilities of the test units."""
        return np.exp(self.networks.log_probabilities(self.units.take(self.test)))

    def tested(self) -> dict[str, np.ndarray]:
        """Return the feature sets of the test units."""
        return {name: x[self.test] for name, x in self.features.items()}


MethodAnswer = tuple[np.ndarray, dict[str, Any]]


def answers(case: UnitFoldCase, methods: Sequence[str]) -> dict[str, MethodAnswer]:
    """Return each method's class probabilities (test units, classes), and what it has chosen.

    Parameters
    ----------
    methods : sequence of str
        Of `METHODS`.
    """
    return {name: METHODS[name](case) for name in methods}


def _signals(units: Units) -> np.ndarray:
    whole = scaled(units)
    return np.concatenate([whole[name] for name in modalities_of(units)], 1)


def _raw_knn(case: UnitFoldCase) -> MethodAnswer:
    return case.probed("knn", _signals(case.units)), {}


def _pca_knn(case: UnitFoldCase) -> MethodAnswer:
    from sklearn.decomposition import PCA

    x = _signals(case.units)
    n = min(COMPONENTS, len(case.train) - 1)
    components = PCA(n, random_state=case.seed).fit(x[case.train])
    return case.probed("knn", components.transform(x)), {"components": n}


def _physmap(case: UnitFoldCase) -> MethodAnswer:
    whole = scaled(case.units)
    used = modalities_of(case.units)
    present = {name: case.units.present[:, MODALITIES.index(name)] for name in used}
    mapped = physmap({name: whole[name] for name in used}, present=present, seed=case.seed)
    return case.probed("knn", mapped.embedding), {}


def _classical(case: UnitFoldCase) -> MethodAnswer:
    return case.classical.probabilities(case.tested()), {}


def _untrained(case: UnitFoldCase) -> MethodAnswer:
    networks = untrained(case.units.take(case.train), case.settings, case.n_classes, case.seed)
    return case.probed("svm", networks.embed(case.units)[0]), {}


def _frozen(case: UnitFoldCase) -> MethodAnswer:
    networks = untrained(
        case.units.take(case.train), case.settings, case.n_classes, case.seed, pretrained=case.pretrained
    )
    return case.probed("linear", networks.embed(case.units)[0]), {}


def _probe(case: UnitFoldCase) -> MethodAnswer:
    fusion = case.networks.first().embed(case.units)[0]
    tried = {
        kind: fit_probe(kind, fusion[case.train], case.y, case.n_classes, groups=case.inner_groups, seed=case.seed)
        for kind in PROBES
    }
    kind = max(tried, key=lambda name: tried[name].inner_balanced_accuracy)
    return tried[kind].probabilities(fusion[case.test]), {"probe": kind}


def _mean_knn(case: UnitFoldCase) -> MethodAnswer:
    return case.probed("knn", case.networks.first().embed(case.units)[1]), {}


def _head(case: UnitFoldCase) -> MethodAnswer:
    return case.head_answer, {}


def _best(case: UnitFoldCase) -> MethodAnswer:
    head = case.head_answer if case.blend.head_weight else None
    return case.blend.probabilities(case.tested(), head), case.blend.choice.to_dict()


METHODS: dict[str, Callable[[UnitFoldCase], MethodAnswer]] = {
    "raw_knn": _raw_knn,
    "pca_knn": _pca_knn,
    "physmap": _physmap,
    "classical": _classical,
    "untrained": _untrained,
    "frozen": _frozen,
    "mean_knn": _mean_knn,
    "probe": _probe,
    "head": _head,
    "best": _best,
}
"""Name -> method. ``frozen`` needs a pretrained network; ``physmap`` sees the test units' signals.

``mean_knn`` is the paper's probe: nearest neighbours of the latent mean. ``probe`` is the best of all kinds
of probes, by inner validation, on the fusion vector.
"""

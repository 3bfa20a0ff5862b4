"""Train a HIPPIE model on labelled units: networks, and their blend with classical classifiers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from neurofleet.learners.folds import check_inner_folds
from neurofleet.learners.hippie.autoencoder_settings import DEFAULT, PRESETS, HippieSettings, settings_of
from neurofleet.learners.hippie.compared_methods import UnitFoldCase
from neurofleet.learners.hippie.fine_tuning import fine_tune
from neurofleet.learners.hippie.hippie_model import HippieModel
from neurofleet.learners.hippie.network_inputs import modalities_of
from neurofleet.learners.hippie.trained_units import TrainedUnits
from neurofleet.learners.hippie.unit_classifiers import FOLDS
from neurofleet.learners.hippie.unit_pretraining import Pretrained, pretrain
from neurofleet.learners.local_training import Train, TrainHere, train_here
from neurofleet.learners.model_folder import (
    checked_settings,
    model_fingerprint,
    now_in_words,
    package_versions,
    refuse_other_model,
    source_names,
)
from neurofleet.learners.progress import logger, told
from neurofleet.learners.reference_map import ReferenceMap
from neurofleet.learners.units.unit_files import as_units
from neurofleet.learners.units.unit_labels import LabelledUnits, labelled_units
from neurofleet.learners.units.units import Units
from neurofleet.threads import one_thread


@told
@one_thread()
def train(
    units: Units | str | Path | Sequence[Units | str | Path],
    label: str,
    *,
    group: str | None = None,
    classes: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
    pool: Units | str | Path | Sequence[Units | str | Path] | None = None,
    layout: Mapping[str, Any] | None = None,
    preset: str = DEFAULT,
    settings: Mapping[str, Any] | None = None,
    seed: int = 1,
    out: str | Path | None = None,
    quiet: bool = False,
) -> HippieModel:
    """Train a HIPPIE model on all units that have a class.

    The model is the one that ``neurofleet run`` of a job (``kind: train``, ``learner: hippie``) keeps; weights of
    networks and classifiers are chosen by cross-validation inside the units. How well units of other animals are
    named is what that job and ``kind: evaluate`` measure.

    Parameters
    ----------
    units : Units, path or sequence of either
        Units in memory, or files and folders as `neurofleet.learners.units.open_units` takes.
    label : str
        The column that holds the classes.
    group : str, optional
        The column that tells animals or recordings apart; inner folds keep groups whole.
    classes : sequence of str, or mapping of str to sequence of str, optional
        The labels to learn, or new names for several labels each; all labels by default.
    pool : Units, path or sequence of either, optional
        Units of other recordings, without labels, on which networks are pretrained. A unit that is in both is refused.
    layout : mapping, optional
        What the files' arrays are called: see `neurofleet.learners.units.unit_layout.UnitLayout`.
    preset : str
        A name of `neurofleet.learners.hippie.PRESETS`.
    settings : mapping, optional
        What differs from the preset: keys of `HippieSettings`.
    seed : int
        Decides first weights, the order of units, and inner folds.
    out : path, optional
        A folder for the model. The same training may write there again; the model of another one is never replaced.
    quiet : bool
        Whether no progress is printed on standard error.

    Returns
    -------
    HippieModel

    Raises
    ------
    LearnerError
        If units, classes or pool cannot be used.
    UsageError
        If there is no such preset or setting.
    Interrupted
        Ctrl-C (the notebook's stop button); no model was written.

    Examples
    --------
    >>> model = nf.hippie.train("units.npz", label="cell_type", group="animal", out="model")
    >>> model.predict("other.npz")
    """
    chosen = checked_settings(settings_of, PRESETS, preset, settings)
    labelled = labelled_units(as_units(units, layout), label, classes, group)
    check_all_units(labelled)
    others = None if pool is None else as_units(pool, layout)
    n_pool = 0 if others is None else len(others)
    run = model_fingerprint(
        {
            "learner": "hippie",
            "label": label,
            "settings": chosen.model_dump(mode="json"),
            "seed": seed,
            "units": labelled.units.unit_ids.tolist(),
            "names": labelled.names.tolist(),
            "groups": None if labelled.groups is None else labelled.groups.tolist(),
            "pool": [] if others is None else others.unit_ids.tolist(),
        }
    )
    if out is not None:
        refuse_other_model(out, run)
    for note in labelled.notes:
        logger.info(note)
    pretrained = None
    if others is not None and chosen.pretrain_epochs:
        modalities = modalities_of(labelled.units, chosen.modalities)
        pretrained = pretrain(others, chosen, TrainHere(), seed, modalities=modalities, target=labelled.units)
    is_pretrained = pretrained is not None
    here = TrainHere(_epochs_each(chosen, is_pretrained) + inner_epochs(labelled, chosen, is_pretrained))
    model = fit_all_units(labelled, chosen, pretrained, here, seed, inner_train=here)
    counts = np.bincount(labelled.labels[labelled.rows], minlength=len(labelled.classes))
    facts = {
        "preset": preset,
        "seed": seed,
        "data": {
            "files": source_names(units),
            "n_units": len(labelled.units),
            "label": label,
            "units_of_class": dict(zip(labelled.classes, counts.tolist(), strict=True)),
            "n_pool": n_pool,
        },
        "notes": list(labelled.notes),
        "versions": package_versions(),
        "trained_at": now_in_words(),
    }
    model = replace(model, facts=facts)
    if out is not None:
        model.save(out, run)
    return model


def _epochs_each(settings: HippieSettings, is_pretrained: bool) -> int:
    return settings.epochs + (settings.adapt_epochs if is_pretrained else 0)


def inner_epochs(labelled: LabelledUnits, settings: HippieSettings, is_pretrained: bool) -> int:
    """Return the epochs of all trainings of the inner folds of `fit_all_units` together."""
    rows = labelled.rows
    groups = None if labelled.groups is None else labelled.groups[rows]
    _, folds = check_inner_folds(labelled.labels[rows], groups, FOLDS, labelled.classes)
    return folds * _epochs_each(settings, is_pretrained)


def check_all_units(labelled: LabelledUnits) -> None:
    """Refuse units of which `fit_all_units` could not choose by inner cross-validation."""
    rows = labelled.rows
    groups = None if labelled.groups is None else labelled.groups[rows]
    check_inner_folds(labelled.labels[rows], groups, FOLDS, labelled.classes)


def fit_all_units(
    labelled: LabelledUnits,
    settings: HippieSettings,
    pretrained: Pretrained | None,
    train: Train,
    seed: int,
    *,
    inner_train: Train = train_here,
) -> HippieModel:
    """Return a model of all labelled units: networks, and the blend that inner cross-validation chooses.

    Parameters
    ----------
    train : Train
        Trains the networks that are kept.
    inner_train : Train
        Trains those of inner folds, of which only held-out probabilities are used.
    """
    rows = labelled.rows
    units, labels = labelled.units.take(rows), labelled.labels[rows]
    everything = np.arange(len(rows))
    groups = None if labelled.groups is None else labelled.groups[rows]
    n_classes = len(labelled.classes)
    case = UnitFoldCase(
        units, labels, n_classes, groups, everything, everything, settings, pretrained, inner_train, seed
    )
    networks = fine_tune(units, labels, n_classes, everything, settings, train, seed, pretrained=pretrained)
    trained = TrainedUnits.of(units, networks.sizes.modalities, groups, seed)
    known_map = ReferenceMap.of(networks.first().embed(units)[0], seed)
    return HippieModel(networks, case.blend, labelled.classes, trained=trained, map=known_map)

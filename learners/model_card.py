"""The card of a model: what it was trained on, how good it is, and where it ends; as Hugging Face reads cards."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import yaml
from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

from neurofleet.errors import did_you_mean
from neurofleet.input_paths import name_of
from neurofleet.learners.model_folder import QUICK

THINGS = {"sims": "cells", "hippie": "units", "neuprint": "neurons"}
"""Learner -> what its models name."""

TITLES = {"sims": "SIMS", "hippie": "HIPPIE", "neuprint": "NeuPRINT"}
MODALITIES = {"sims": "single-cell RNA", "hippie": "spike-sorted units", "neuprint": "population recordings"}
TAGS = {
    "sims": ["single-cell", "rna-seq", "cell-type-annotation"],
    "hippie": ["electrophysiology", "spike-sorting", "cell-type-classification"],
    "neuprint": ["calcium-imaging", "cell-type-classification"],
}
_SAME_NAME = (
    "Apache-2.0 MIT BSD-2-Clause BSD-3-Clause CC0-1.0 CC-BY-4.0 CC-BY-SA-4.0 CC-BY-NC-4.0 CC-BY-NC-SA-4.0"
    " CC-BY-NC-ND-4.0 MPL-2.0 Unlicense"
).split()
LICENCES = {identifier.lower(): identifier for identifier in _SAME_NAME} | {
    "gpl-3.0": "GPL-3.0-only",
    "lgpl-3.0": "LGPL-3.0-only",
    "agpl-3.0": "AGPL-3.0-only",
    "odbl": "ODbL-1.0",
    "pddl": "PDDL-1.0",
}
"""Hugging Face's name of a licence -> its SPDX identifier."""

OTHER_LICENCE = "other:"
"""With which a licence begins that has no SPDX identifier."""

STATED = ("species", "technology", "licence", "authors", "description")
"""What nobody can read from a model: whoever publishes it says so, or the card says that it is not known."""

_ENSEMBL = {
    "ENSG": "human",
    "ENSMUSG": "mouse",
    "ENSRNOG": "rat",
    "ENSDARG": "zebrafish",
    "ENSMMUG": "macaque",
    "WBGene": "Caenorhabditis elegans",
    "FBgn": "Drosophila melanogaster",
}
_FIGURES = ("accuracy", "balanced_accuracy", "macro_f1")
_BASELINES = ("raw_knn", "pca_knn", "physmap", "classical", "hand_forest", "pca", "random")
"""Of units and neurons, the methods that are no part of the learner itself."""

_NEIGHBOURS = ("knn", "svm")
"""Methods that keep training samples to compare with."""


def about_model(head: Mapping[str, Any], stated: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return what a card says of a model, as plain JSON.

    Parameters
    ----------
    head : mapping
        The content of model.json.
    stated : mapping, optional
        Of `STATED`, what is known.

    Returns
    -------
    dict
        ``classes`` with the number of samples of each (None where it is not noted), ``inputs``, ``data``, ``scores``
        (rows of method, figures, and which one is the model), ``control``, ``calibration``, ``kept`` (what of the
        training data is in it), ``versions``, ``trained_at``, ``quick``, and what was stated.
    """
    description, learner = head["description"], head["learner"]
    facts = description.get("facts") or {}
    data = facts.get("data") or {}
    counts = data.get(f"{THINGS[learner]}_of_class") or {}
    classes = (description.get("naming") or {}) if learner == "neuprint" else description
    known = {name: value for name, value in (stated or {}).items() if value}
    inputs = _inputs(learner, description)
    species = inputs.pop("species", "")
    return {
        "classes": {name: counts.get(name) for name in classes.get("classes", ())},
        "inputs": inputs,
        "data": {
            "files": [name_of(name) for name in data.get("files") or facts.get("files") or ()],
            "sha256": by_name(data.get("sha256") or {}),
            "label": data.get("label") or facts.get("label"),
            "n": data.get(f"n_{THINGS[learner]}"),
            "n_animals": len(data["animals"]) if data.get("animals") else data.get("n_animals"),
        },
        "scores": _scores(learner, facts, description),
        "control": _control(facts),
        "calibration": _calibration(description, facts),
        "kept": _kept(learner, head),
        "versions": {name: facts.get("versions", {}).get(name, "") for name in ("neurofleet", "torch")},
        "trained_at": facts.get("trained_at", ""),
        "quick": facts.get(QUICK, ""),
        "species": known.get("species", species),
        **{name: known.get(name, [] if name == "authors" else "") for name in STATED if name != "species"},
    }


def checked_licence(text: str) -> str:
    """Return the SPDX identifier or expression of a licence as SPDX writes it, or ``other: TEXT``.

    Parameters
    ----------
    text : str
        One of these, or Hugging Face's name.

    Raises
    ------
    ValueError
        It is none of them.
    """
    start, colon, words = text.partition(":")
    if colon and start.strip().lower() == OTHER_LICENCE[:-1] and words.strip():
        return f"{OTHER_LICENCE} {words.strip()}"
    hyphenated = re.sub(r"[\s_]+", "-", text.strip())
    if known := LICENCES.get(hyphenated.lower()):
        return known
    for written in (text, hyphenated):
        with suppress(InvalidLicenseExpression):
            return str(canonicalize_license_expression(written))
    near = did_you_mean(hyphenated.lower(), LICENCES)
    raise ValueError(f"expected an SPDX identifier such as CC-BY-4.0, or 'other: TEXT', found {text!r}{near}")


def by_name(digests: Mapping[str, str]) -> dict[str, str]:
    """Return checksums by the names of files, without their folders; of several of one name, with numbers."""
    named: dict[str, str] = {}
    for path, digest in digests.items():
        name, number = name_of(path), 1
        while name in named:
            number += 1
            name = f"{name_of(path)} ({number})"
        named[name] = digest
    return named


def _inputs(learner: str, description: Mapping[str, Any]) -> dict[str, Any]:
    if learner == "sims":
        genes = [str(gene) for gene in description["genes"]]
        kinds = {species for start, species in _ENSEMBL.items() if _share(genes, start) > 0.9}
        normalisation = description.get("normalisation") or {}
        return {
            "genes": len(genes),
            "first_genes": genes[:5],
            "values": normalisation.get("kind", ""),
            "species": kinds.pop() if len(kinds) == 1 else "",
        }
    if learner == "hippie":
        return {"modalities": description.get("modalities", []), "technologies": description.get("technologies", [])}
    return {"covariates": description.get("covariates", [])}


def _share(genes: Sequence[str], start: str) -> float:
    return sum(re.match(rf"{start}\d", gene) is not None for gene in genes) / max(len(genes), 1)


def _scores(learner: str, facts: Mapping[str, Any], description: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures of the model and of the methods beside it, on the same held-out samples."""
    rows: list[dict[str, Any]] = []

    def add(method: str, figures: Mapping[str, Any], *, is_model: bool = False, is_baseline: bool = False) -> None:
        told = {name: figures[name] for name in _FIGURES if figures.get(name) is not None}
        if told:
            rows.append({"method": method, "is_model": is_model, "is_baseline": is_baseline, **told})

    if learner == "sims":
        scores = facts.get("scores") or {}
        parts = {"sims": "this model", "linear": "its linear model alone", "networks": "its networks alone"}
        for name, each in scores.items():
            add(parts.get(name, name.replace("_", " ")), each, is_model=name == "sims")
        for name, each in (facts.get("baselines") or {}).items():
            add(name.replace("_", " "), each, is_baseline=True)
        role, n = facts.get("role", ""), (scores.get("sims") or {}).get("n")
        return {"on": f"{role} cells" if role else "", "n": n, "rows": rows}
    if learner == "hippie":
        comparison = facts.get("comparison") or {}
        for each in comparison.get("methods") or ():
            name, is_model = each["method"], each["method"] == "best"
            title = "this model" if is_model else name.replace("_", " ")
            add(title, each, is_model=is_model, is_baseline=name in _BASELINES)
        on = f"units of {comparison['folds']} folds, {comparison.get('split', '')}" if comparison else ""
        return {"on": on, "n": comparison.get("n"), "rows": rows}
    own = ((description.get("naming") or {}).get("probe") or {}).get("kind")
    for each in facts.get("methods") or ():
        method, probe = each["method"], each.get("probe")
        name = f"{method}, {probe} probe" if probe else method.replace("_", " ")
        is_model = method == "phi" and probe == own
        add(f"this model ({name})" if is_model else name, each, is_model=is_model, is_baseline=method in _BASELINES)
    split = facts.get("split") or {}
    on = f"neurons, split {split['how']}" if isinstance(split.get("how"), str) else ""
    return {"on": on, "n": next((each.get("n") for each in facts.get("methods") or ()), None), "rows": rows}


def _control(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return what training on shuffled labels gave."""
    shuffled = facts.get("shuffled") or {}
    control = facts.get("control") or next(iter(shuffled.values()), {})
    names = ("valid", "accuracy", "balanced_accuracy", "chance")
    return {name: control[name] for name in names if control.get(name) is not None}


def _calibration(description: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    calibration = description.get("calibration") or {}
    names = ("temperature", "n", "determined", "ece_before", "ece_after")
    told = {name: calibration[name] for name in names if calibration.get(name) is not None}
    if (held_out := ((facts.get("reliability") or {}).get("after") or {}).get("ece")) is not None:
        told["ece_held_out"] = held_out
    return told


def _kept(learner: str, head: Mapping[str, Any]) -> list[str]:
    """Return what of single training samples a model holds."""
    description, tensors, things = head["description"], head["tensors"], THINGS[learner]
    kept = []
    for name in ("known_cells", "trained_units.hashes"):
        if name in tensors and tensors[name]["shape"][0]:
            kept.append(f"fingerprints of {tensors[name]['shape'][0]:,} {things}, which find them again among others")
    placed = [tensor["shape"] for name, tensor in tensors.items() if name.endswith((".cells", ".points"))]
    if placed:
        n, size = max(shape[0] for shape in placed), sum(shape[1] for shape in placed)
        kept.append(f"{n:,} {things} as {size} coordinates each, without names, from which distances are measured")
    members = ((description.get("blend") or {}).get("classical") or {}).get("members") or ()
    if learner == "hippie" and any(member.get("kind") in _NEIGHBOURS for member in members):
        kept.append("feature vectors of training units, without names, of a method that compares with them")
    if learner == "neuprint":
        if description.get("neuron_ids"):
            kept.append(f"names and Phi of the {len(description['neuron_ids']):,} neurons that it was fitted with")
        if ((description.get("naming") or {}).get("probe") or {}).get("kind") in _NEIGHBOURS:
            kept.append("Phi of training neurons, without names, of the probe that compares with them")
    return kept


def card_text(learner: str, title: str, about: Mapping[str, Any], name: str = "", version: str = "") -> str:
    """Return a card as Markdown, with the front matter that Hugging Face knows.

    Parameters
    ----------
    learner : str
    title : str
        How commands name the model: ``NAME@VERSION``, or its folder.
    about : mapping
        Of `about_model`.
    name, version : str
        Of a published model.
    """
    front = yaml.safe_dump(_front_matter(learner, name or title, about), sort_keys=False, allow_unicode=True, width=100)
    n_classes, things = len(about["classes"]), THINGS[learner]
    parts = [f"---\n{front}---", f"# {_plain(title)}"]
    names = f"names {things} as one of {n_classes} classes" if n_classes else f"embeds {things}, and names none"
    parts.append(f"A {TITLES[learner]} model of neurofleet for {MODALITIES[learner]}: it {names}.")
    if about["description"]:
        parts.append(_plain(about["description"]))
    if about["quick"]:
        parts.append(f"**{_plain(about['quick'])}**")
    parts += ["## Use", _use(learner, title)]
    parts += ["## Training data", _list(_data_lines(learner, about))]
    parts += ["## Classes", _table(("class", f"{things} of training"), _class_rows(about))] if n_classes else []
    parts += ["## Scores", _scores_text(about, things)]
    parts += ["## Calibration", _calibration_text(learner, about)]
    parts += ["## Limits", _list(_limit_lines(learner, about))]
    parts += ["## What is in the files", _list(_content_lines(about))]
    parts += ["## Licence and authors", _list(_origin_lines(about))]
    return "\n\n".join(parts) + "\n"


def _front_matter(learner: str, name: str, about: Mapping[str, Any]) -> dict[str, Any]:
    front: dict[str, Any] = {"library_name": "neurofleet", "pipeline_tag": "tabular-classification"}
    if licence := about["licence"]:
        identifier = re.sub(r"[\s_]+", "-", licence.removeprefix(OTHER_LICENCE).strip().lower())
        identifiers = {identifier, identifier.replace("-or-later", "-only")}
        known = next((name for name, spdx in LICENCES.items() if identifiers & {name, spdx.lower()}), None)
        front |= {"license": known} if known else {"license": "other", "license_name": identifier}
    front["tags"] = ["neurofleet", learner, *TAGS[learner]]
    scored = next((row for row in about["scores"]["rows"] if row["is_model"]), None)
    if scored:
        metrics = [{"type": "f1" if key == "macro_f1" else "accuracy", "name": key, "value": round(scored[key], 4)}
                   for key in _FIGURES if key in scored]  # fmt: skip
        dataset = {"type": "private", "name": ", ".join(about["data"]["files"]) or "not noted"}
        task = {"type": "tabular-classification", "name": f"types of {THINGS[learner]}"}
        front["model-index"] = [{"name": name, "results": [{"task": task, "dataset": dataset, "metrics": metrics}]}]
    return front


def _use(learner: str, title: str) -> str:
    command = f"neurofleet predict {title} QUERY.h5ad" if learner == "sims" else f"neurofleet embed {title} FILE"
    call = "model.predict(adata)" if learner == "sims" else 'model.predict("FILE")'
    python = f"import neurofleet as nf\n\nmodel = nf.load_model({title!r})\n{call}"
    return (
        f"```\n{command}\n```\n\n```python\n{python}\n```\n\n"
        "Names are looked up in the places of `NEUROFLEET_MODELS`; the path of a folder will do too. Loading"
        " runs no code: tensors are safetensors, all else is JSON."
    )


def _data_lines(learner: str, about: Mapping[str, Any]) -> list[str]:
    data, inputs = about["data"], about["inputs"]
    count = f"{data['n']:,} {THINGS[learner]}" if data["n"] else f"The number of {THINGS[learner]} is not noted"
    lines = [f"{count}{_of(data['files'])}." + (f" Label: `{data['label']}`." if data["label"] else "")]
    if data["n_animals"]:
        lines.append(f"Animals: {data['n_animals']}.")
    if learner == "sims":
        first = ", ".join(inputs["first_genes"])
        lines.append(f"{inputs['genes']:,} genes ({first} …); values: {inputs['values'] or 'not noted'}.")
    elif learner == "hippie":
        lines.append(f"What is read of a unit: {', '.join(inputs['modalities'])}.")
    else:
        lines.append(f"Covariates: {', '.join(inputs['covariates']) or 'none'}.")
    lines += [f"SHA-256 of {_plain(name)}: `{digest}`" for name, digest in data["sha256"].items()]
    if not data["sha256"]:
        lines.append("Checksums of the training data are not noted: it was trained in Python.")
    return lines


def _class_rows(about: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        (name, "not noted" if count is None else f"{count:,}") for name, count in about["classes"].items()
    ]  # fmt: skip


def _scores_text(about: Mapping[str, Any], things: str) -> str:
    scores, control = about["scores"], about["control"]
    if not scores["rows"]:
        return f"No held-out scores are noted. Score it on labelled {things} of your own before you use it."
    keys = [key for key in _FIGURES if any(key in row for row in scores["rows"])]
    rows = [
        (f"**{row['method']}**" if row["is_model"] else row["method"], *(_figure(row.get(key)) for key in keys))
        for row in scores["rows"]
    ]
    heads = ("method", *(key.replace("_", " ").replace("f1", "F1") for key in keys))
    count = f"{scores['n']:,} " if scores["n"] else ""
    text = f"On {count}{scores['on'] or f'held-out {things}'}, all methods on the same.\n\n{_table(heads, rows)}"
    if control:
        figure = control.get("accuracy", control.get("balanced_accuracy"))
        verdict = "as it should be" if control.get("valid") else "**above chance: the scores cannot be trusted**"
        chance = f", chance {_figure(control['chance'])}" if "chance" in control else ""
        text += f"\n\nThe same training on shuffled labels: {_figure(figure)}{chance}, {verdict}."
    return text


def _calibration_text(learner: str, about: Mapping[str, Any]) -> str:
    told, things = about["calibration"], THINGS[learner]
    if "temperature" not in told:
        return "Probabilities are not calibrated by a temperature of the whole model."
    text = f"Temperature {told['temperature']:.3g}, of {told.get('n', 0):,} validation {things}"
    text += "." if told.get("determined") else ", which do not determine it: probabilities are as trained."
    if "ece_held_out" in told:
        text += f" Expected calibration error on held-out {things}: {told['ece_held_out']:.3f}."
    return f"{text} It holds for {things} like these; for another technology or species it was not measured."


def _limit_lines(learner: str, about: Mapping[str, Any]) -> list[str]:
    technologies = ", ".join(name for name in about["inputs"].get("technologies", ()) if name != "other")
    technology = about["technology"] or technologies
    lines = [
        f"Technology: {_plain(technology) if technology else 'not stated'}.",
        f"Species: {_plain(about['species']) if about['species'] else 'not stated'}.",
        "What belongs to no class of the table gets one of them, unless a limit is set: `--unknown-below`.",
    ]
    if learner == "sims":
        lines.append(
            "Genes that a query lacks are filled in, and one that lacks too many is refused; `predict` says so."
        )
    rare = [name for name, count in about["classes"].items() if count is not None and count < 20]
    if rare:
        lines.append(f"Fewer than 20 {THINGS[learner]} of: {', '.join(map(_plain, rare))}.")
    return lines


def _content_lines(about: Mapping[str, Any]) -> list[str]:
    kept = [f"Of the training data: {each}." for each in about["kept"]]
    version = about["versions"]["neurofleet"]
    lines = ["`model.safetensors`: weights; `model.json`: settings, classes, scores.", *kept]
    when = f", trained {about['trained_at']}" if about["trained_at"] else ""
    return [*lines, f"neurofleet {version or 'of an unknown version'}{when}."]


def _origin_lines(about: Mapping[str, Any]) -> list[str]:
    licence = about["licence"]
    return [
        f"Licence: {_plain(licence) if licence else 'not stated; ask whoever published it'}.",
        f"Authors: {', '.join(map(_plain, about['authors'])) or 'not stated'}.",
    ]


def _of(files: Sequence[str]) -> str:
    return f" of {', '.join(map(_plain, files))}" if files else ""


def _figure(value: Any) -> str:
    return "" if value is None else f"{value:.3f}"


def _list(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    body = ["| " + " | ".join(_cell(cell) for cell in row) + " |" for row in rows]
    return "\n".join([f"| {' | '.join(head)} |", "|---" * len(head) + "|", *body])


def _cell(text: str) -> str:
    return _plain(text).replace("|", "\\|")


def _plain(text: str) -> str:
    """Return words of others as words: on one line, and no HTML."""
    return " ".join(str(text).split()).replace("<", "&lt;")

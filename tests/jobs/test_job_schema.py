"""The keys of job files: each is described, and the JSON Schema accepts what a job file may have."""

import json
import re

import pytest
from jsonschema import Draft202012Validator
from typer.testing import CliRunner

from neurofleet.errors import UsageError
from neurofleet.jobs.cli import app
from neurofleet.jobs.job_file import KINDS
from neurofleet.jobs.job_schema import job_models, job_schema


def keys_in(schema, place=""):
    """Yield each key that a schema describes, with its place and description."""
    for part, inside in schema.items() if isinstance(schema, dict) else enumerate(schema):
        if part == "properties":
            yield from ((f"{place}.{key}", key, about.get("description", "")) for key, about in inside.items())
        if isinstance(inside, dict | list):
            yield from keys_in(inside, f"{place}.{part}")


def test_every_key_of_every_kind_has_a_description():
    keys = list(keys_in(job_schema()["$defs"]))
    assert len(keys) > 400
    assert [place for place, _, text in keys if not re.fullmatch(r"\S.*\.", text)] == []
    assert [place for place, key, text in keys if re.sub(r"\W", "", text).lower() == key.replace("_", "").lower()] == []


def test_all_kinds_and_learners_have_a_schema():
    assert {which.split()[0] for which in job_models()} == set(KINDS)
    assert {"train sims", "evaluate neuprint"} <= set(job_models())
    with pytest.raises(UsageError, match="found trian"):
        job_schema("trian")


@pytest.mark.parametrize(
    ("kind", "job", "place"),
    [
        ("fit", {"kind": "fit", "celss": []}, []),
        ("fit", {"cells": {"glob": "*.nwb", "dendryte": "spiny"}}, ["cells"]),
        ("fit", {"cells": [{"id": "a", "morphology": "a.swc", "stimuli": 3}]}, ["cells"]),
        ("validate", {"models": {"run": "rat"}}, []),
        ("train", {"kind": "train", "learner": "sims", "reference": "a.h5ad", "label": "t", "n_d": "wide"}, []),
        ("train", {"kind": "sweep", "learner": "sims", "reference": "a.h5ad", "label": "t"}, []),
    ],
)
def test_faults_of_a_key_are_faults_of_the_schema(kind, job, place):
    found = list(Draft202012Validator(job_schema(kind)).iter_errors(job))
    assert [list(error.path) for error in found] == [place]


def test_short_forms_are_accepted():
    fit = {"cells": {"from": "cells.csv", "stimuli": "IDrest, IV", "exclude_sweeps": 3}, "evolution": {"seeds": 4}}
    units = {"kind": "train", "learner": "hippie", "units": "a.npz", "label": 1, "members": 5, "preset": "paper"}
    assert Draft202012Validator(job_schema()).is_valid(fit)
    assert Draft202012Validator(job_schema("train")).is_valid(units)


def test_the_command_prints_it():
    printed = CliRunner().invoke(app, ["schema", "fit"])
    assert printed.exit_code == 0
    assert json.loads(printed.stdout) == job_schema("fit")

"""The Grafana dashboard asks for what is exported, and for nothing else."""

import json
import re
import tomllib
from importlib.resources import files
from itertools import combinations
from pathlib import Path

import pytest

from neurofleet.cluster.metrics import DECLARED

REPOSITORY = Path(__file__).resolve().parents[2]
FILE = "grafana-dashboard.json"
TAGS = {name: {"run", *metric.tags} for metric in DECLARED for name in metric.series}


@pytest.fixture(scope="module")
def dashboard():
    return json.loads((files("neurofleet.cluster.deploy") / FILE).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def expressions(dashboard):
    return [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]


def metrics_in(expression):
    return re.findall(r"\b(?:ray|neurofleet)_\w+", expression)


def test_every_expression_asks_for_exported_metrics(expressions):
    assert expressions
    for expression in expressions:
        (metric,) = metrics_in(expression)
        assert metric in TAGS, expression
        (selected,) = re.findall(metric + r"\{(.*?)\}", expression)
        matched = dict(re.findall(r'(\w+)=~?"([^"]*)"', selected))
        assert matched["run"] == "$run"
        kept = {tag.strip() for tags in re.findall(r"by \((.*?)\)", expression) for tag in tags.split(",")}
        assert set(matched) | kept <= TAGS[metric] | {"le"}, expression
        is_counted = metric.endswith(("_total", "_bucket"))
        assert is_counted == ("[$__rate_interval]" in expression), expression
        for opening, closing in ("()", "{}", "[]"):
            assert expression.count(opening) == expression.count(closing)


def test_every_metric_is_shown(expressions):
    shown = {metric for expression in expressions for metric in metrics_in(expression)}
    assert [metric.name for metric in DECLARED if not shown & set(metric.series)] == []


def test_every_state_of_a_cell_is_shown(expressions):
    states = {state for expression in expressions for state in re.findall(r'state="(\w+)"', expression)}
    assert states == {"done", "failed", "left"}


def test_the_run_is_chosen_from_an_exported_metric(dashboard):
    source, run = dashboard["templating"]["list"]
    assert (source["name"], source["type"], source["query"]) == ("datasource", "datasource", "prometheus")
    assert (run["name"], run["type"]) == ("run", "query")
    assert run["query"]["query"] == run["definition"]
    metric, tag = re.fullmatch(r"label_values\((\w+), (\w+)\)", run["definition"]).groups()
    assert metric in TAGS
    assert tag in TAGS[metric]


def test_grafana_finds_what_it_needs(dashboard):
    assert {"uid", "title", "schemaVersion", "version", "time", "templating", "panels"} <= set(dashboard)
    assert "id" not in dashboard, "the number is Grafana's to give"
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert {panel["type"] for panel in panels} <= {"stat", "timeseries"}
    for panel in panels:
        assert {"id", "type", "title", "gridPos", "datasource", "targets", "fieldConfig", "options"} <= set(panel)
        sources = [panel["datasource"], *(target["datasource"] for target in panel["targets"])]
        assert all(source == {"type": "prometheus", "uid": "${datasource}"} for source in sources)
        references = [target["refId"] for target in panel["targets"]]
        assert len(set(references)) == len(references)


def test_no_panel_lies_on_another(dashboard):
    places = [panel["gridPos"] for panel in dashboard["panels"]]
    assert all(place["x"] + place["w"] <= 24 for place in places)
    for a, b in combinations(places, 2):
        beside = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        above = a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
        assert beside or above


def test_it_is_installed_with_the_package():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    assert FILE in project["tool"]["setuptools"]["package-data"]["neurofleet.cluster.deploy"]

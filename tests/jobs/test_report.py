import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from neurofleet.cluster.store.schemas import Evaluations
from neurofleet.errors import UsageError
from neurofleet.jobs.demo import compared
from neurofleet.jobs.job_kinds import write_report
from neurofleet.jobs.reports.drawing import picture, thinned
from neurofleet.jobs.reports.fit_contents import first_peak_ms, spread
from neurofleet.jobs.reports.model_figures import (
    bounds_sentences,
    changes,
    scores_sentence,
)
from neurofleet.jobs.reports.simulation import Request, simulate
from neurofleet.jobs.reports.units import feature_unit, parameter_unit, split_objective
from neurofleet.jobs.results.parameters_at_bounds import OnBound
from neurofleet.neurosim.cells.user_model import UserModel
from neurofleet.neurosim.features.step_protocols import StepProtocol
from tests.jobs.made_run import ACTIVE, write_run


class Page(HTMLParser):
    """Text of a page, what it would load, and whether its elements close."""

    VOID = ("meta", "br", "hr", "img", "path", "use", "rect", "circle")

    def __init__(self, content: str) -> None:
        super().__init__()
        self.open, self.pictures, self.loads, self.words = [], [], [], []
        self.feed(content)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attributes):
        named = dict(attributes)
        self.loads += [named[key] for key in ("src", "href", "xlink:href", "data") if key in named]
        if tag == "svg":
            self.pictures.append(named["aria-label"])
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.loads += [value for key, value in attributes if key in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "pre"):
            self.words.append(data)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    root = tmp_path_factory.mktemp("finished") / "run"
    write_run(root, cells=("a", "b"))
    content = Path(write_report(root)).read_text()
    return content, Page(content)


def test_report_shows_every_cell_and_is_well_formed(finished):
    content, page = finished
    assert page.open == []
    for cell in ("a", "b"):
        assert f'id="cell-{cell}"' in content
        assert f"scores over generations of {cell}" in page.pictures
        assert f"outcomes and evaluation times of {cell}" in page.pictures
    assert page.pictures.count("parameter values inside their bounds") == 2
    assert page.pictures.count("scores by objective") == 4
    assert "Of 166 evaluations 15 crash and 15 timeout" in page.text
    assert "no result within 300 s" in page.text
    assert "This run is not finished" not in page.text


def test_report_tells_how_far_the_searchs_scores_are_from_those_that_count(tmp_path):
    store = write_run(tmp_path / "run")
    hall = store.read_hall_of_fame("a")
    moved = np.zeros_like(hall.scores)
    moved[:, 1], moved[:, 3] = 0.25, np.linspace(-3.0, 4.0, len(hall))
    searched = replace(hall, search_scores=hall.scores - moved, search_totals=hall.totals - moved.sum(axis=1))
    found = changes(searched)
    assert [change.objective for change in found[:2]] == [hall.objective_names[3], hall.objective_names[1]]
    assert (found[0].largest, found[1].median) == (pytest.approx(4.0), pytest.approx(0.25))
    with store.locked():
        store.write_hall_of_fame(searched, "pooled")
        store.append_event(
            "stage started", cell="a", stage="active", seeds=[1, 2], bounds=ACTIVE, engine="vector",
            engine_reason="16 at a time",
        )  # fmt: skip
    page = Page(Path(write_report(tmp_path / "run")).read_text())
    assert "Stage active was searched with engine vector (16 at a time)." in page.text
    assert "scores of the search and scores of NEURON" in page.pictures
    assert "(from -2.8 to +4.2); 2 of 4 objectives moved by less than 0.1" in page.text
    assert "LongDC_40 Spikecount" in page.text


def test_a_population_of_near_copies_is_said_to_be_one(finished, tmp_path):
    _, page = finished
    assert page.pictures.count("the models of the hall of fame beside each other, and their distances") == 2
    assert "near-copies of a few" not in page.text
    store = write_run(tmp_path / "run")
    hall = store.read_hall_of_fame("a")
    parameters = hall.parameters.copy()
    parameters[1:-1] = parameters[0]
    with store.locked():
        store.write_hall_of_fame(replace(hall, parameters=parameters), "pooled")
    page = Page(Path(write_report(tmp_path / "run")).read_text())
    assert f"{len(hall)} models, near-copies of 2; parameters of two models differ by 0" in page.text
    assert "Most of these models are near-copies of a few" in page.text


def test_report_of_an_older_run_has_nothing_to_tell_of_engines(finished):
    _, page = finished
    assert "searched with" not in page.text
    assert "scores of the search and scores of NEURON" not in page.pictures


def test_report_asks_for_nothing_from_outside(finished):
    content, page = finished
    assert page.loads
    assert all(target.startswith("#") for target in page.loads)
    assert not re.search(r"<script|@import|url\(\s*[\"']?(?!#)", content)
    assert "default-src 'none'" in content
    assert len(content) < 1_000_000


def test_report_escapes_what_comes_from_files(tmp_path):
    store = write_run(tmp_path / "run", finished=False)
    store.append_event("cell failed", cell="a", reason="<script>alert(1)</script> & more")
    content = Path(write_report(tmp_path / "run")).read_text()
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; more" in content
    assert "<script" not in content
    assert "&lt;cell&gt;.swc" in content


def test_report_without_inputs_says_why_there_are_no_traces(finished):
    _, page = finished
    assert page.text.count("Without traces and firing rates:") == 2
    assert "gone/a.swc" in page.text


def test_report_of_an_unfinished_run_says_so(tmp_path):
    write_run(tmp_path / "run", finished=False)
    page = Page(Path(write_report(tmp_path / "run")).read_text())
    assert "This run is not finished: 0 of 1 cell is." in page.text
    assert "stage active is under way" in page.text
    assert "Best model of stage active so far" in page.text
    assert "Parameters of the best individuals so far" in page.text


def test_report_of_a_run_without_evaluations(tmp_path):
    write_run(tmp_path / "run", generations=0, finished=False)
    page = Page(Path(write_report(tmp_path / "run")).read_text())
    assert "Nothing has been evaluated yet" in page.text
    assert page.pictures == []


def test_report_of_something_else_is_refused(tmp_path):
    with pytest.raises(UsageError, match="expected the folder of a run"):
        write_report(tmp_path)
    assert not list(tmp_path.iterdir())


# -- a user's own BluePyOpt model

MODEL = """
import bluepyopt.ephys as ephys

def make():
    soma = ephys.locations.NrnSeclistCompLocation("soma", seclist_name="somatic", sec_index=0, comp_x=0.5)
    somatic = ephys.locations.NrnSeclistLocation("somatic", seclist_name="somatic")
    cell = ephys.models.CellModel(
        "ball",
        morph=ephys.morphologies.NrnFileMorphology("ball.swc"),
        mechs=[ephys.mechanisms.NrnMODMechanism(name="hh", suffix="hh", locations=[somatic])],
        params=[
            ephys.parameters.NrnSectionParameter(
                name=name, param_name=name, locations=[somatic], bounds=bounds, frozen=False
            )
            for name, bounds in (("gnabar_hh", [0.05, 0.2]), ("gkbar_hh", [0.01, 0.08]))
        ],
    )
    pulse = ephys.stimuli.NrnSquarePulse(0.2, 20, 50, location=soma, total_duration=100)
    recording = ephys.recordings.CompRecording(name="Step.soma.v", location=soma, variable="v")
    step = ephys.protocols.SweepProtocol("Step", [pulse], [recording])
    feature = ephys.efeatures.eFELFeature(
        "Step.Spikecount", efel_feature_name="Spikecount", recording_names={"": "Step.soma.v"},
        stim_start=20, stim_end=70, exp_mean=4.0, exp_std=0.5,
    )
    objectives = [ephys.objectives.SingletonObjective("Step.soma.Spikecount", feature)]
    return ephys.evaluators.CellEvaluator(
        cell_model=cell, param_names=["gnabar_hh", "gkbar_hh"], fitness_protocols={"Step": step},
        fitness_calculator=ephys.objectivescalculators.ObjectivesCalculator(objectives),
        sim=ephys.simulators.NrnSimulator(),
    )

def crash():
    import os
    os.abort()

def hang():
    import time
    time.sleep(600)

def refuse():
    raise ValueError("no such luck")
"""
NAMES, OBJECTIVES = ("gnabar_hh", "gkbar_hh"), ("Step.soma.Spikecount",)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    (folder / "ball.py").write_text(MODEL)
    (folder / "ball.swc").write_text("1 1 0 0 0 10 -1\n2 1 0 -10 0 10 1\n3 1 0 10 0 10 1\n")
    return folder


def _write_user_run(root, folder, names):
    job = {"kind": "fit", "name": "ball", "evaluator": "ball:make"}
    store = write_run(root, cells=(), job=job, job_folder=folder)
    draw = np.random.default_rng(0)
    for number in range(2):
        parameters = draw.uniform([0.05, 0.01], [0.2, 0.08], (4, 2))
        scores = draw.random((4, 1))
        rows = Evaluations(
            number, names, OBJECTIVES, parameters, scores, scores[:, 0], ["ok"] * 4, [""] * 4, np.ones(4)
        )
        store.write_generation("ball", "fit", 1, rows)


def test_report_of_a_users_own_model_shows_its_traces_and_features(model_folder, tmp_path):
    _write_user_run(tmp_path / "run", model_folder, NAMES)
    page = Page(Path(write_report(tmp_path / "run")).read_text())
    assert "recorded and fitted voltage" in page.pictures
    assert "There are no recorded traces of this cell" in page.text
    assert re.search(r"Step Spikecount (\w+ )?4 ± 0.5", page.text)
    assert "parameter values inside their bounds" in page.pictures  # the bounds are the evaluator's own


def test_report_notices_a_model_that_has_changed_since(model_folder, tmp_path):
    _write_user_run(tmp_path / "run", model_folder, ("gnabar_hh", "gl_hh"))
    page = Page(Path(write_report(tmp_path / "run")).read_text())
    assert "the job's inputs have changed since" in page.text
    assert "recorded and fitted voltage" not in page.pictures
    assert "scores over generations of ball" in page.pictures


@pytest.mark.parametrize(
    ("function", "limit_s", "fault"),
    [
        ("crash", 60.0, "ended with signal 6"),
        ("hang", 2.0, "stopped after 2 s"),
        ("refuse", 60.0, "ValueError: no such luck"),
    ],
)
def test_simulation_that_fails_is_told_and_does_no_harm(model_folder, function, limit_s, fault):
    request = Request(UserModel(f"ball:{function}", str(model_folder)), ((0.1, 0.03),))
    done = simulate(request, limit_s)
    assert fault in done.fault
    assert done.traces == {}


# -- words and lines


def test_sentences_tell_bounds_of_different_origin_apart():
    full = {"cm.soma": (0.1, 10), "gbar_SK.axon": (1e-7, 0.1), "gbar_Ih.soma": (1e-7, 1e-4)}
    bounds = {**full, "cm.soma": (0.5, 1.5)}
    hits = [
        OnBound("cm.soma", "upper", 3, 4),
        OnBound("gbar_SK.axon", "lower", 2, 4),
        OnBound("gbar_Ih.soma", "upper", 1, 4),
    ]
    said = bounds_sentences(hits, bounds, full)
    assert said[0].startswith("On a bound: gbar_Ih.soma (upper, 1 of 4).")
    assert "stage before: cm.soma (upper, 3 of 4)." in said[1]
    assert said[2].endswith("switched off: gbar_SK.axon (lower, 2 of 4).")
    assert bounds_sentences([OnBound("cm.soma", "lower", 1, 40)], bounds, full) == [
        "No parameter sits on a bound.",
        "In single models only: cm.soma.",
    ]
    assert bounds_sentences([], bounds, full) == ["No parameter sits on a bound."]


def test_score_sentence_counts():
    said = scores_sentence({"a.soma.x": 0.5, "a.soma.y": 2.0, "a.soma.z": 6.5})
    assert "3 standard deviations from its 3 targets" in said
    assert "1 within 1, 2 within 3" in said
    assert "a.soma.z (6.5)" in said
    assert "1 is as far off as a score can be" in scores_sentence({"a": 0.5, "b": 250.0})


def test_units_and_names():
    assert {parameter_unit(n) for n in ("e_pas.all", "ehcn_Ih.soma", "v_init")} == {"mV"}
    assert compared(-80.0, -84.0, parameter_unit("e_pas.all")) == "-80 (+4.0 mV)"
    assert compared(1.1, 2.2, parameter_unit("cm.all")) == "1.1 (-50 %)"
    assert parameter_unit("gbar_NaTa_t.axon") == parameter_unit("g_pas.all") == "S/cm²"
    assert [parameter_unit(n) for n in ("cm.soma", "decay_CaDynamics.axon", "gamma_CaDynamics.axon")] == [
        "µF/cm²",
        "ms",
        "",
    ]
    assert (feature_unit("voltage_base"), feature_unit("ISI_CV"), feature_unit("my_own")) == ("mV", "", "")
    assert split_objective("LongDC_46.soma.AP_width") == ("LongDC_46", "AP_width")
    assert split_objective("bAP.dend1.AP_amplitude") == ("bAP.dend1", "AP_amplitude")
    assert split_objective("total") == ("", "total")


def test_thinned_trace_keeps_peaks_and_troughs():
    time_ms = np.linspace(0, 1000, 100_001)
    voltage = np.full(time_ms.size, -80.0)
    voltage[[31_234, 70_001]] = 40.0, -110.0
    t, v = thinned(time_ms, voltage, points=200)
    assert t.size <= 200
    assert np.all(np.diff(t) > 0)
    assert t[v.argmax()] == time_ms[31_234]
    assert t[v.argmin()] == time_ms[70_001]
    short = (np.array([0.0, 1.0]), np.array([-80.0, -70.0]))
    assert thinned(*short)[0].size == 2


def test_first_peak_is_the_first_spikes():
    time_ms = np.arange(0.0, 100.0, 0.1)
    voltage = -70 + 100 * np.exp(-((time_ms - 30) ** 2)) + 110 * np.exp(-((time_ms - 60) ** 2))
    assert first_peak_ms(time_ms, voltage) == pytest.approx(30.0)
    assert first_peak_ms(time_ms, voltage - 60) is None


def test_steps_are_spread_over_the_range():
    steps = [StepProtocol(f"s{i}", i / 100, 0.0, 1.0, 2.0) for i in (30, 1, 2, 3, 4, 5, 20, 21)]
    amplitudes = [round(step.amplitude_nA * 100) for step in spread(steps, 4)]
    assert (amplitudes[0], amplitudes[-1]) == (1, 30)
    assert len(amplitudes) <= 4
    assert 20 in amplitudes or 21 in amplitudes
    assert spread(steps[:2], 4) == [steps[1], steps[0]]


def test_pictures_take_the_pages_colours_and_leave_settings_alone():
    import matplotlib

    before = dict(matplotlib.rcParams)
    svg = picture(1.0, lambda figure: figure.subplots().plot([0.123456, 1.0]), 'a "quoted" line')
    assert dict(matplotlib.rcParams) == before
    assert svg.startswith("<svg ")
    assert "currentColor" in svg
    assert "#0a0b0c" not in svg
    assert 'aria-label="a &quot;quoted&quot; line"' in svg
    assert svg == picture(1.0, lambda figure: figure.subplots().plot([0.123456, 1.0]), 'a "quoted" line')

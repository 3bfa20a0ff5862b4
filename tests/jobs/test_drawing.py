"""Pictures with names of any kind in them."""

import warnings

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from neurofleet.jobs.learners.learner_figures import class_styles, confusion_figure, embedding_map_figure
from neurofleet.jobs.reports import model_figures
from neurofleet.jobs.reports.drawing import picture, plain_log_ticks, png
from neurofleet.jobs.reports.fit_contents import ShownTrace

NAMES = ("$", r"$\frac{$", "Gad$1$", "a_$b^", "{\\bf", "%s", "<b>&", "L2/3\nIT", "x" * 300, "神経", "_Sst")


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_drawn_as_it_is(name):
    def draw(figure):
        axes = figure.subplots()
        axes.set_title(name)
        axes.set_yticks([0], [name])
        axes.plot([0, 1], [1, 10], label=f"n {name}")
        axes.set_yscale("log")
        plain_log_ticks(axes.yaxis)
        axes.legend()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a name may be wider than the page, or in letters that the font has not
        svg = picture(2.0, draw, name)
        assert png(2.0, draw).startswith(b"\x89PNG")
    first = name.splitlines()[0].replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    assert svg.count(first) >= 2


def test_every_class_of_a_map_is_in_its_legend():
    names = np.array(["_Sst", "$Pvalb$", "", "$"] * 3)
    svg = embedding_map_figure(np.random.default_rng(0).normal(size=(12, 2)), {"": names}, "a map")
    for name in ("\u200b_Sst", "$Pvalb$", "no class"):
        assert name in svg


def test_many_classes_differ_and_none_is_grey_as_points_without_a_class_are():
    styles = class_styles([f"class {number}" for number in range(20)])
    assert len(set(styles.values())) == 20
    assert min(np.ptp(to_rgb(style.colour)) for style in styles.values()) > 0.1


def test_a_confusion_matrix_has_names_of_any_kind():
    assert "&lt;b&gt;" in confusion_figure(["<b>", "$"], [[1, 2], [0, 3]])


def test_steps_of_different_stimuli_are_drawn_from_their_onsets(monkeypatch):
    def shown(onset_ms, length_ms):
        time_ms = np.arange(0.0, onset_ms + 2 * length_ms)
        trace = time_ms, np.where(time_ms < onset_ms, -70.0, -80.0)
        window_ms = (onset_ms - 100.0, onset_ms + 1.5 * length_ms)
        current = np.array([window_ms[0], onset_ms, onset_ms, window_ms[1]]), np.array([0.0, 0.0, -9.0, -9.0])
        return ShownTrace("step", -9.0, trace, (trace,), window_ms, onset_ms, current)

    figures = []
    monkeypatch.setattr(
        model_figures, "picture", lambda height, draw, label: figures.append(Figure()) or draw(figures[0])
    )
    model_figures.traces_figure([[shown(250.0, 400.0), shown(700.0, 1000.0)]])
    voltage, current = figures[0].axes
    assert voltage.get_xlim() == (-100.0, 1500.0)
    assert [line.get_xdata()[line.get_ydata() < -75].min() for line in voltage.lines] == [0.0] * 4
    assert [line.get_xdata()[1] for line in current.lines] == [0.0] * 2
    assert current.get_xlabel() == "time from the onset of the step (ms)"

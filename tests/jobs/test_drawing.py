"""Pictures with names of any kind in them."""

import warnings

import numpy as np
import pytest

from neurofleet.jobs.learners.learner_figures import confusion_figure, embedding_map_figure
from neurofleet.jobs.reports.drawing import picture, plain_log_ticks, png

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


def test_a_confusion_matrix_has_names_of_any_kind():
    assert "&lt;b&gt;" in confusion_figure(["<b>", "$"], [[1, 2], [0, 3]])

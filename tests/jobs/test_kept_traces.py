"""What finalists did is kept outside of memory until it is asked for."""

import subprocess
import sys

import numpy as np

from neurofleet.jobs.fit.engines import ModelTraces
from neurofleet.jobs.fit.kept_traces import KeptTraces
from neurofleet.neurosim.cells.model_responses import FeatureValue

A, B = np.array([1.0, 2.0]), np.array([1.0, np.nextafter(2.0, 3.0)])


def did(value: float, points: int = 4) -> ModelTraces:
    trace = np.arange(points, dtype=np.float32), np.full(points, value, np.float32)
    return ModelTraces(np.full((2, 1), value), {"step.soma.v": trace}, {"width": FeatureValue(value, 1.0, None)}, {})


def test_a_model_is_found_by_its_cell_and_its_exact_parameters():
    kept = KeptTraces()
    for cell, parameters, value in (("a", A, 1.0), ("a", B, 2.0), ("b", A, 3.0), ("a", B, 4.0)):
        kept.put(cell, parameters, did(value))
    found = kept.get("a", A)
    assert found.features == did(1.0).features
    np.testing.assert_array_equal(found.traces["step.soma.v"], did(1.0).traces["step.soma.v"])
    assert [kept.get(*key).scores[0, 0] for key in (("a", B), ("b", A))] == [4.0, 3.0]
    assert kept.get("b", B) is None
    kept.drop("a")
    assert kept.get("a", A) is None
    assert kept.get("b", A).scores[0, 0] == 3.0


FULL_DISK = """
import resource, signal
from tests.jobs.test_kept_traces import A, B, KeptTraces, did
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
kept = KeptTraces()
kept.put("a", A, did(1.0))
for i in range(8):
    kept.put(f"b{i}", B, did(2.0, 100_000))
print([kept.get(*key) for key in (("a", A), ("b0", B), ("b7", B))])
kept.put("a", A, did(1.0))
kept.drop("a")
"""


def test_where_the_disk_is_full_nothing_is_kept_and_nothing_fails():
    done = subprocess.run([sys.executable, "-c", FULL_DISK], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.split("\n")[-2] == "[None, None, None]"
    assert (done.stdout + done.stderr).count("traces of finalists are not kept any more") == 1

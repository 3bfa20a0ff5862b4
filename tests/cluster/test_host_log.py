"""What a host's log file holds."""

import json
import logging
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from neurofleet.cluster.pool.host_worker import PRINTED_EVERY_S, HostLog
from neurofleet.cluster.pool.outcome import Outcome

REPOSITORY = Path(__file__).resolve().parents[2]

# Its standard error, as Ray keeps it for an actor's process.
HOST = """
import logging, warnings
from neurofleet.cluster.pool.host_worker import HostLog, log_to_standard_error
from neurofleet.cluster.pool.outcome import Outcome

log_to_standard_error("rat")
log, about = HostLog(), {"cell": "C1", "stage": "passive", "seed": 1, "generation": 7}
log.built("C1-passive", 1.23456, "compiled\\n2 files")
log.not_built("C2-passive", "no soma")
log.ended(about, "C1-passive", Outcome("ok", "", 0.5, 1.0), "")
log.ended(about, "C1-passive", Outcome("crash", "was ended by SIGABRT", 0.5), "first\\nlast")
logging.getLogger("some.library").warning("careful")
logging.getLogger("some.library").info("nobody wants to know")
warnings.warn("old")
"""


def test_a_host_says_which_fit_it_was_at():
    done = subprocess.run([sys.executable, "-c", HOST], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout == ""
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert all(line.pop("at") and line.pop("run") == "rat" for line in lines)
    nothing = dict.fromkeys(("cell", "stage", "seed", "generation"))
    built, not_built, crashed, careful, old = lines
    assert built == {
        "level": "info",
        **nothing,
        "logger": "neurofleet.cluster.pool.hosts",
        "message": "engine built",
        "engine": "C1-passive",
        "seconds": 1.235,
        "printed": "compiled\n2 files",
    }
    assert (not_built["level"], not_built["engine"], not_built["reason"]) == (
        "warning",
        "C2-passive",
        "no soma",
    )
    assert crashed == {
        "level": "warning",
        "cell": "C1",
        "stage": "passive",
        "seed": 1,
        "generation": 7,
        "logger": "neurofleet.cluster.pool.hosts",
        "message": "evaluation ended as crash",
        "engine": "C1-passive",
        "reason": "was ended by SIGABRT",
        "seconds": 0.5,
        "printed": "first\nlast",
    }
    assert (careful["logger"], careful["message"], careful["cell"]) == ("some.library", "careful", None)
    assert old["logger"] == "py.warnings"


def test_engines_that_print_at_every_evaluation_are_quoted_now_and_then(caplog, monkeypatch):
    now = 1000.0
    monkeypatch.setattr("neurofleet.cluster.pool.host_worker.time", SimpleNamespace(monotonic=lambda: now))
    log = HostLog()
    with caplog.at_level(logging.INFO, "neurofleet.cluster.pool.hosts"):
        for number in range(1000):
            log.ended({}, "plain", Outcome("ok"), f"x = {number}")
        now += PRINTED_EVERY_S
        log.ended({}, "plain", Outcome("ok"), "x = 1000")
    assert [record.fields["printed"] for record in caplog.records] == ["x = 0", "x = 1000"]


@pytest.mark.parametrize("status", ["timeout", "crash", "error", "lost"])
def test_every_evaluation_that_went_wrong_is_told(status, caplog):
    log = HostLog()
    for _ in range(3):
        log.ended({"cell": "C1"}, "plain", Outcome(status, "why"), "")
    assert [record.message for record in caplog.records] == 3 * [f"evaluation ended as {status}"]

"""The server with many runs and many browsers: ``python -m tests.benchmarks.serve [RUNS] [CLIENTS]``.

Prints a line of JSON. A process serves a root of made runs; threads ask for pages at the same time, as browsers that
watch them do.
"""

import json
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import requests

from neurofleet.jobs.fit.campaign_state import STATUS, CampaignState, CellState
from tests.jobs.made_run import write_run

PORT = 8797
CELLS = 1000
PAGES_EACH = 10


def make_root(root: Path, runs: int) -> None:
    """Write one run with files, links of its content for the others, and the status of a campaign of many cells."""
    for number in range(runs):
        store = write_run(root / f"group-{number % 10}" / f"run-{number:04d}", generations=2)
        cells = CELLS if number == 0 else 1
        states = [CellState(f"cell-{i}", "finished", "", 10.0, 100, 100, ()) for i in range(cells)]
        state = CampaignState(
            f"run-{number}", "2030-01-01T00:00:00+00:00", 2, 0, 0.9, 100 * cells, 100 * cells, 5.0, 1.0, None, None,
            None, None, "", states,
        )  # fmt: skip
        store.write_text(STATUS, state.to_json())


def main(runs: int = 1000, clients: int = 100) -> None:
    """Print the seconds of pages, and the memory of the process."""
    with tempfile.TemporaryDirectory() as folder:
        make_root(Path(folder), runs)
        command = [sys.executable, "-P", "-m", "neurofleet", "serve", folder, "--port", str(PORT)]
        server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        try:
            assert server.stderr is not None
            token = next(found[1] for line in server.stderr if (found := re.search(r"Bearer (\S+)", line)))
            print(json.dumps(measured(server.pid, token, runs, clients)))
        finally:
            server.terminate()
            server.wait()


def measured(pid: int, token: str, runs: int, clients: int) -> dict[str, float]:
    """Return what a running server takes."""
    address, headers = f"http://127.0.0.1:{PORT}", {"Authorization": f"Bearer {token}"}

    def page(session: requests.Session, path: str) -> float:
        began = time.perf_counter()
        answer = session.get(address + path, headers=headers)
        assert answer.status_code == 200, answer.text
        return time.perf_counter() - began

    while True:
        try:
            first = page(requests.Session(), "/")
            break
        except requests.ConnectionError:
            time.sleep(0.1)
    second = page(requests.Session(), "/?q=run-09")
    time.sleep(3)
    third = page(requests.Session(), "/")

    def visitor(number: int) -> list[float]:
        session = requests.Session()
        return [page(session, f"/?q=run-{number % 10}") for _ in range(PAGES_EACH)]

    began = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        seconds = [s for each in pool.map(visitor, range(clients)) for s in each]
    return {
        "runs": runs,
        "clients": clients,
        "first_page_s": round(first, 3),
        "next_page_s": round(second, 4),
        "page_after_3_s": round(third, 4),
        "p95_page_s": round(float(np.quantile(seconds, 0.95)), 3),
        "pages_per_s": round(len(seconds) / (time.perf_counter() - began), 1),
        "memory_MB": round(psutil.Process(pid).memory_info().rss / 1e6),
    }


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

"""Campaigns: how busy hosts are kept, what the driver costs, how far it scales, and what others do.

``python -m tests.benchmarks.campaign`` prints one JSON line; ``--parts utilisation,driver`` does less,
``--hosts 256`` limits the virtual clusters. All of it takes about an hour on 2 cores.

``utilisation``
    Busy part of 2 hosts' time over 4 fits of unlike speed (0.15 to 1.2 s an evaluation), from the opening of
    the first to the end of the last; builds of engines count as idle. ``ipyparallel_utilisation`` and
    ``ray_tasks_utilisation``: the same fits and the same campaign, evaluated by an ipyparallel client (what
    the all-active fits were published with) and as bare Ray tasks.
``hung_costs_s``
    The same with one evaluation that hangs in C for ever, under a deadline of 3 s: seconds that it costs over
    one without. ipyparallel and bare Ray tasks have no deadline: null when the campaign was given up after
    20 s without an outcome.
``driver``
    Real fits (search, store, log) with evaluations of 1 ms, for 10, 100 and 920 fits: the driver's CPU time
    for an evaluation, and its memory at the end.
``virtual``
    See `tests.benchmarks.virtual_campaign`.
``results``
    The driver with thousands of emulated hosts: outcomes a second on this machine, which it shares with their
    emulation, and by second of the driver's own CPU time. ``relayed``: through relays, as above 500 hosts.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
from collections.abc import Callable
from typing import Any

from tests.benchmarks import driver_cost, emulated_hosts, unlike_fits, virtual_campaign

DRIVER_FITS = (10, 100, 920)
PARTS = ("utilisation", "driver", "results", "virtual")


def in_fresh_process(function: Callable, *arguments: Any) -> Any:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--hosts", default="256,2048,10000", help="sizes of the virtual clusters")
    arguments = parser.parse_args()
    measured: dict[str, Any] = {"benchmark": "campaign"}
    for part in arguments.parts.split(","):
        if part == "utilisation":
            measured |= in_fresh_process(unlike_fits.measure_utilisation)
        elif part == "driver":
            measured["driver"] = [in_fresh_process(driver_cost.driver_cost, fits) for fits in DRIVER_FITS]
        elif part == "results":
            measured |= in_fresh_process(emulated_hosts.results_per_s, False)
            measured["relayed"] = in_fresh_process(emulated_hosts.results_per_s, True)
        elif part == "virtual":
            sizes = [int(size) for size in arguments.hosts.split(",")]
            measured["virtual"] = {hosts: virtual_campaign.measure(hosts) for hosts in sizes}
        else:
            parser.error(f"--parts: expected some of {', '.join(PARTS)}, found {part!r}")
    print(json.dumps(_rounded(measured)))


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return round(value, 4) if isinstance(value, float) else value


if __name__ == "__main__":
    main()

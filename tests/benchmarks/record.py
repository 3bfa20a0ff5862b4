"""Run a benchmark and keep what it prints, with date and machine, for the page of benchmarks.

``python -m tests.benchmarks.record NAME [OPTION …]`` runs ``python -m tests.benchmarks.NAME OPTION …`` and appends one
line to ``docs/benchmarks.jsonl``, in place of an earlier one of the same command.
"""

import json
import os
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

RECORDED = Path(__file__).parents[2] / "docs" / "benchmarks.jsonl"


def machine() -> dict[str, object]:
    """Return processor, widest vector instructions, processors in use, and the load of the last minute."""
    told = Path("/proc/cpuinfo").read_text()
    name = re.search(r"model name\s*: (.*)", told)
    flags = told.split()
    widest = next((known for known in ("avx512f", "avx2", "asimd") if known in flags), "")
    return {
        "processor": name[1] if name else "",
        "instructions": widest,
        "processors": len(os.sched_getaffinity(0)),
        "load_before": round(os.getloadavg()[0], 1),
    }


def main() -> None:
    """Run what the command line names, and write the line."""
    name, *options = sys.argv[1:]
    about = {"command": " ".join([name, *options]), "date": f"{datetime.now(UTC):%Y-%m-%d}", **machine()}
    command = [sys.executable, "-P", "-m", f"tests.benchmarks.{name}", *options]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    line = about | {"found": json.loads(printed.strip().splitlines()[-1])}
    earlier = RECORDED.read_text().splitlines() if RECORDED.exists() else []
    kept = [text for text in earlier if json.loads(text)["command"] != about["command"]]
    RECORDED.write_text("\n".join(sorted([*kept, json.dumps(line, ensure_ascii=False)])) + "\n")


if __name__ == "__main__":
    main()

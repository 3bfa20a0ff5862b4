"""``neurofleet doctor --bundle``: one file for a bug report, without data and without secrets."""

import json
import platform
import zipfile
from pathlib import Path

from neurofleet.cluster.ray import checkup
from neurofleet.cluster.ray.session import available_cpus
from neurofleet.cluster.store.run_store import RunStore
from neurofleet.errors import UsageError
from neurofleet.jobs.redaction import redaction
from neurofleet.jobs.results.run_tables import existing_run
from neurofleet.jobs.run_folder import PACKAGES

OF_A_RUN = ("job.yaml", "provenance.json", "status.json", "events.jsonl", "log.jsonl")
LAST_LINES = 1000


def write_bundle(file: Path, out: str | None) -> None:
    """Write versions, what is known of the machine and, of a run, its job and the end of its log, into a ZIP file.

    Parameters
    ----------
    file : Path
        A new ``.zip`` file.
    out : str, optional
        The folder of a run.

    Raises
    ------
    UsageError
        The file exists or is called otherwise, or `out` holds no run.
    """
    if file.suffix != ".zip":
        raise UsageError(f"--bundle {file}: expected a name that ends in .zip.")
    if file.exists():
        raise UsageError(f"--bundle {file}: expected a new file, found one that exists. Give another name.")
    texts = {"versions.json": json.dumps(_versions(), indent=1, default=str)}
    if out is not None:
        texts |= _texts_of_run(existing_run(out))
    redact = redaction()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name, text in texts.items():
            bundle.writestr(name, redact(text))
    print(f"Written: {file} with {', '.join(texts)}.")
    print("Look through it before you send it: names of cells and files stay in it.")


def _versions() -> dict[str, object]:
    facts = checkup.machine_facts(PACKAGES)
    kept = ("python", "packages", "compiler", "memory_bytes", "shared_memory_bytes", "open_files")
    return {"platform": platform.platform(), "cpus": available_cpus(), **{name: facts[name] for name in kept}}


def _texts_of_run(store: RunStore) -> dict[str, str]:
    texts = {name: "".join(store.read_texts(name)) for name in OF_A_RUN}
    last = {name: text.splitlines(keepends=True)[-LAST_LINES:] for name, text in texts.items() if text}
    return {name: "".join(lines) if name.endswith(".jsonl") else texts[name] for name, lines in last.items()}

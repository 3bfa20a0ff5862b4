"""Where the paths in the job of a run start."""

import json
import os
from pathlib import Path

from neurofleet.cluster.store.run_store import RunStore


def job_folder_of(store: RunStore) -> Path:
    """Return where the relative paths of a run's job start; of a run that was sent to a cluster, seen from itself."""
    provenance = json.loads(store.read_text("provenance.json") or "{}")
    return Path(os.path.normpath(Path(store.root) / provenance.get("job_folder", ".")))

"""Ray, and nothing of biology: evaluations under deadlines, training, sweeps, stored results.

========================  =============================================================================
`log_records`             log records that say which run, cell, stage, seed and generation they are about
`metrics`                 what a campaign tells Prometheus
`metric_loggers`          TensorBoard, CSV, MLflow, Weights & Biases
`pool`                    evaluations on many hosts under deadlines
`training`                Lightning modules trained in this process or on the workers of a cluster
`sweeps`                  parameter sweeps under Ray Tune
`store`                   the stored results of a run, and who else may read them
`ray`                     connections to Ray; shards, submitted jobs, checks
`deploy`                  the files with which a lab starts a cluster
========================  =============================================================================

`hall_of_fame`, `published_table` and `published_runs` read what the runs on a Ray cluster have published; see
`neurofleet.cluster.store.published_tables`.
"""

import importlib
import sys
from typing import Any

__all__ = ["hall_of_fame", "published_runs", "published_table"]

# In a worker, Ray puts the driver's folder before all else. Nothing of this package may be imported from there, so this
# comes first: what a user keeps in a random.py or numpy.py is not what the imports after this one mean.
if "ray._private.worker" in sys.modules:
    from neurofleet.cluster.ray.internals import driver_folders_last

    driver_folders_last()


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module("neurofleet.cluster.store.published_tables"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

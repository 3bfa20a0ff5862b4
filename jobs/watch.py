"""What is told of a running campaign, and when: to the terminal, to Prometheus, to the run's folder."""

import time
from typing import TYPE_CHECKING

from jobs.fit.fits import Fits
from jobs.progress import Progress
from jobs.state import STATUS, CampaignState, Observer

if TYPE_CHECKING:
    from cluster.metrics import CampaignMetrics
    from cluster.pool import Pool
    from cluster.store import RunStore

SNAPSHOT_S = 15.0


class Watch:
    """Called a few times a second; tells each as often as it should hear."""

    def __init__(
        self,
        fits: Fits,
        pool: "Pool",
        observer: Observer,
        progress: Progress,
        metrics: "CampaignMetrics",
        store: "RunStore",
    ) -> None:
        self._fits = fits
        self._pool = pool
        self._observer = observer
        self._progress = progress
        self._metrics = metrics
        self._store = store
        self._snapshot_at = 0.0

    def __call__(self) -> None:
        self._progress.update(self._observer.state)
        if self._metrics.due:
            self._measure(self._observer.state())
        if time.monotonic() >= self._snapshot_at:
            self._store.write_text(STATUS, self._observer.state().to_json())
            self._snapshot_at = time.monotonic() + SNAPSHOT_S

    def close(self) -> CampaignState:
        """Tell all a last time, and return the state."""
        state = self._observer.state()
        self._store.write_text(STATUS, state.to_json())
        self._measure(state)
        return state

    def _measure(self, state: CampaignState) -> None:
        done, failed = state.count("finished"), state.count("failed")
        cells = {"done": done, "failed": failed, "left": len(state.cells) - done - failed}
        self._metrics.update(self._pool.statistics(), self._fits.active, cells)

"""Server-sent events: browsers are told which runs have changed, and ask for what they show of them."""

import asyncio
import json
from collections.abc import AsyncIterator

from neurofleet.errors import NeurofleetError
from neurofleet.jobs.serve.catalogue import RunCatalogue

LOOK_S = 2.0
ALIVE_S = 15.0
NAMED = 100
"""Of more runs that changed at once, no names are sent."""


class Live:
    """Looks for changes while somebody listens: once for all who do.

    Parameters
    ----------
    catalogue : RunCatalogue
    """

    def __init__(self, catalogue: RunCatalogue) -> None:
        self._catalogue = catalogue
        self._listeners: set[asyncio.Queue[str | None]] = set()
        self._looking: asyncio.Task[None] | None = None

    def stop(self) -> None:
        """End all streams."""
        for queue in self._listeners:
            queue.put_nowait(None)

    async def stream(self) -> AsyncIterator[str]:
        """Yield events for one browser: ``changed``, with the runs that did, or null for many."""
        queue: asyncio.Queue[str | None] = asyncio.Queue()
        self._listeners.add(queue)
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())
        try:
            yield "retry: 3000\n\n"
            while True:
                try:
                    message = await asyncio.wait_for(queue.get(), ALIVE_S)
                except TimeoutError:
                    message = ": alive\n\n"
                if message is None:
                    return
                yield message
        finally:
            self._listeners.discard(queue)

    async def _look(self) -> None:
        version = self._catalogue.version
        while self._listeners:
            try:
                changed = await asyncio.to_thread(self._catalogue.refresh)
            except NeurofleetError:
                changed = set()  # an object store that does not answer now may do so later
            if self._catalogue.version != version:
                version = self._catalogue.version
                named = sorted(changed) if 0 < len(changed) <= NAMED else None
                for queue in self._listeners:
                    queue.put_nowait(f"event: changed\ndata: {json.dumps(named)}\n\n")
            await asyncio.sleep(LOOK_S)

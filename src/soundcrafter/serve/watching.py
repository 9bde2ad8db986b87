"""Looking at the jobs of many waiting clients with one query."""

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.concurrency import run_in_threadpool

from soundcrafter.serve.jobs import Job, JobStore

AGE = 0.2  # seconds for which what was seen counts


class Watch:
    """The jobs that clients wait for, as they were at most AGE seconds ago."""

    def __init__(self, store: JobStore) -> None:
        self.store = store
        self._clients: Counter[str] = Counter()  # of each job
        self._seen: dict[str, Job] = {}
        self._at = 0.0
        self._lock = asyncio.Lock()

    @contextmanager
    def on(self, job: str) -> Iterator[None]:
        """Look at a job, too."""
        self._clients[job] += 1
        try:
            yield
        finally:
            self._clients[job] -= 1
            if not self._clients[job]:
                del self._clients[job]

    async def look(self, job: str) -> Job | None:
        """A job that is watched; None if it is gone."""
        asked = time.monotonic()
        async with self._lock:
            if asked - self._at > AGE:
                found = await run_in_threadpool(self.store.get_all, list(self._clients))
                self._seen, self._at = {each.id: each for each in found}, time.monotonic()
            # one that came while the query ran is not in its answer
            elif job not in self._seen:
                there = await run_in_threadpool(self.store.get, job)
                if there is not None:
                    self._seen[job] = there
        return self._seen.get(job)

"""A worker: takes jobs from the queue and makes their sounds, with one model on one device."""

import logging
import shutil
import threading
import time
from collections.abc import Callable, Sequence

import sqlalchemy as sa

from soundcrafter.files import is_disk_full, one_line
from soundcrafter.pipeline import SoundCrafter
from soundcrafter.serve import making
from soundcrafter.serve.jobs import INTERNAL, Job, JobStore
from soundcrafter.serve.settings import ServeSettings

IDLE = 0.1  # seconds between two looks at an empty queue
REPORT = 0.2  # seconds between two reports of progress
BEAT = 5.0  # seconds between two signs of life
LATER = 5.0  # seconds between two looks at a disk that is full, or a database that is gone
_log = logging.getLogger(__name__)


class Cancelled(Exception):
    """Nobody wants the jobs any more."""


class Unstored(Exception):
    """The jobs can be made, but not stored now."""


class Worker:
    """Makes the jobs of a queue."""

    def __init__(
        self, store: JobStore, model: SoundCrafter, name: str, settings: ServeSettings
    ) -> None:
        self.store, self.model, self.name = store, model, name
        self.batch_size = settings.batch_size
        self.uploads = settings.uploads
        self.least_free = settings.min_free_mib * 2**20

    def run(self, stop: threading.Event) -> None:
        """Make jobs until `stop` is set; those in progress are finished."""
        beat = threading.Thread(target=self._beat, args=(stop,), daemon=True)
        beat.start()
        while not stop.is_set():
            try:
                if not self.run_once():
                    stop.wait(IDLE)
            except (Unstored, sa.exc.OperationalError) as error:
                _log.error("the jobs wait: %s", one_line(error))
                self._wait_until_stored(stop)

    def _wait_until_stored(self, stop: threading.Event) -> None:
        """Put the jobs back into the queue, when there is room for them again."""
        while not stop.wait(LATER):
            try:
                if shutil.disk_usage(self.store.folder).free >= self.least_free:
                    self.store.hand_back(self.name)
                    return
            except (OSError, sa.exc.OperationalError):
                continue

    def run_once(self) -> bool:
        """Make the jobs of one batch; returns False if none waits."""
        jobs = self.store.claim(self.name, self.batch_size)
        if jobs:
            self._make(jobs)
        return bool(jobs)

    def _make(self, jobs: Sequence[Job]) -> None:
        ids = [job.id for job in jobs]
        try:
            made = making.make(
                self.model,
                jobs,
                self.uploads,
                batch_size=self.batch_size,
                progress=self._progress(ids),
            )
            wanted = self.store.progress(self.name, ids, 1.0)
            results = {
                job: making.write(made[job], self.store.sounds_folder(job)) for job in wanted
            }
            self.store.finish(self.name, results)
        except Cancelled:
            _log.info("cancelled: %s", ", ".join(ids))
        except sa.exc.OperationalError:
            raise
        except Exception as error:  # whatever it is, the next jobs must be made
            if is_disk_full(error):
                raise Unstored("the disk is full") from error
            is_refused = isinstance(error, ValueError)
            if not is_refused:
                _log.exception("jobs %s", ", ".join(ids))
            if len(ids) > 1:  # which of them it was shows when each is made alone
                self.store.split(self.name, ids)
            else:
                message = self._public(error) if is_refused else INTERNAL
                self.store.fail(self.name, ids, message)

    def _public(self, error: Exception) -> str:
        """A message without the folders of this machine."""
        folder = self.store.folder
        text = str(error)
        for place in (folder.absolute(), folder):
            text = text.replace(f"{place}/", "")
        return one_line(text)

    def _progress(self, jobs: Sequence[str]) -> Callable[[int, int], None]:
        """A callback that reports progress, and raises Cancelled if no job is wanted any more."""
        last = time.monotonic()

        def report(done: int, total: int) -> None:
            nonlocal last
            now = time.monotonic()
            if now - last < REPORT:
                return
            last = now
            # what follows the last step takes time, too
            if not self.store.progress(self.name, jobs, 0.95 * done / total):
                raise Cancelled

        return report

    def _beat(self, stop: threading.Event) -> None:
        while not stop.wait(BEAT):
            try:
                self.store.beat(self.name)
            except sa.exc.OperationalError as error:  # the next one may be heard
                _log.warning("database: %s", one_line(error))

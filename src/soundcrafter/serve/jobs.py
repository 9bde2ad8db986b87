"""The job queue, in a database: what was asked for, how far it is, what came of it."""

import json
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import sqlalchemy as sa

from soundcrafter.files import make_folder

State = Literal["queued", "running", "done", "failed", "cancelled"]
ENDED = ("done", "failed", "cancelled")
MAX_DEATHS = 2  # workers that a job may kill
INTERNAL = "internal error; see the server's log"  # of a job that failed without a reason to tell
_BUSY_SECONDS = 30  # that a writer waits for another
_TURN = 0x50F7C4AF  # PostgreSQL's lock for what two servers must not do at once

_metadata = sa.MetaData()
_jobs = sa.Table(
    "jobs",
    _metadata,
    sa.Column("number", sa.Integer, primary_key=True),  # in the order of submission
    sa.Column("id", sa.String(32), nullable=False, unique=True),
    sa.Column("state", sa.String(16), nullable=False, index=True),
    sa.Column("request", sa.Text, nullable=False),  # JSON
    sa.Column("prompt", sa.Text, nullable=False),  # in words, to search and show
    sa.Column("shape", sa.Text),  # jobs of equal shape share a batch; NULL: made alone
    sa.Column("sounds", sa.Integer, nullable=False),
    sa.Column("progress", sa.Float, nullable=False),
    sa.Column("created", sa.Float, nullable=False),  # seconds since 1970, as all times
    sa.Column("started", sa.Float),
    sa.Column("finished", sa.Float),
    sa.Column("error", sa.Text),
    sa.Column("result", sa.Text),  # JSON
    sa.Column("cancel", sa.Boolean, nullable=False),  # asked for while it is running
    sa.Column("claimed_by", sa.String(64)),
    sa.Column("heartbeat", sa.Float),
    sa.Column("batch", sa.String(32)),  # made together, and after a kill again together
    sa.Column("deaths", sa.Integer, nullable=False),  # of workers that made it
    sa.Column("favourite", sa.Boolean, nullable=False),
    sa.Column("origin", sa.String(32), nullable=False),  # what sent it: api, studio, ...
    sqlite_autoincrement=True,  # a number is never used again, so that pages stay in order
)


class QueueFull(Exception):
    """Too many jobs wait."""


@dataclass(frozen=True, kw_only=True)
class NewJob:
    """A job to submit."""

    request: Mapping[str, Any]  # complete: the same request gives the same sounds
    prompt: str = ""  # in words
    shape: str | None = None
    sounds: int = 1
    origin: str = "api"


@dataclass(frozen=True, kw_only=True)
class Job:
    """A job as the database has it."""

    number: int
    id: str
    state: State
    request: dict[str, Any]
    prompt: str
    shape: str | None
    sounds: int
    progress: float
    created: float
    started: float | None
    finished: float | None
    error: str | None
    result: dict[str, Any] | None
    cancel: bool
    claimed_by: str | None
    heartbeat: float | None
    batch: str | None
    deaths: int
    favourite: bool
    origin: str

    @property
    def is_ended(self) -> bool:
        """Whether nothing will change any more."""
        return self.state in ENDED


def is_database_full(error: BaseException) -> bool:
    """Whether an error of the database says that no space is left."""
    cause = getattr(error, "orig", None)
    code = getattr(cause, "sqlite_errorcode", 0) & 0xFF  # its low byte is the kind
    return code == sqlite3.SQLITE_FULL or getattr(cause, "sqlstate", None) == "53100"


class JobStore:
    """Jobs in SQLite or PostgreSQL, and their sounds in a folder. Safe in threads and processes."""

    def __init__(self, url: str, folder: Path, *, max_queue: int = 256) -> None:
        self.folder, self.max_queue = make_folder(folder), max_queue
        self._turn = threading.Lock()
        engine = _engine(url)
        # SQLite must lock at the start of a transaction: one that reads first may fail later
        self._writes = engine.execution_options(writes=True)
        self._reads = engine.execution_options(isolation_level="AUTOCOMMIT")
        try:
            with self._write(alone=True) as connection:
                _metadata.create_all(connection)
        except sa.exc.SQLAlchemyError as error:
            shown = engine.url.render_as_string(hide_password=True)
            cause = getattr(error, "orig", None) or error
            raise ValueError(f"database: cannot use {shown}: {cause}") from None

    @contextmanager
    def _write(self, *, alone: bool = False) -> Iterator[sa.Connection]:
        """A transaction that writes. Threads take turns here: SQLite would make them sleep.

        `alone`: so do servers that share a PostgreSQL, whose transactions overlap.
        """
        with self._turn, self._writes.begin() as connection:
            if alone and connection.dialect.name == "postgresql":
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_TURN)))
            yield connection

    def close(self) -> None:
        """Close all connections."""
        self._writes.dispose()

    def sound_file(self, job: str, index: int) -> Path:
        """The master of a sound: a 24-bit wav file at the model's rate."""
        return self.sounds_folder(job) / f"{index}.wav"

    def sounds_folder(self, job: str) -> Path:
        """The folder of a job's sounds; `stems` in it has those of a scene."""
        return self.folder / "sounds" / job

    # --- what clients do ---

    def submit(self, new: NewJob) -> Job:
        """Add a job to the queue. Raises QueueFull."""
        row: dict[str, Any] = {
            "id": uuid.uuid4().hex,
            "state": "queued",
            "request": json.dumps(new.request),
            "prompt": new.prompt,
            "shape": new.shape,
            "sounds": new.sounds,
            "progress": 0.0,
            "created": time.time(),
            "cancel": False,
            "deaths": 0,
            "favourite": False,
            "origin": new.origin,
        }
        queued = sa.select(sa.func.count()).where(_jobs.c.state == "queued")
        with self._write(alone=True) as connection:
            if (connection.scalar(queued) or 0) >= self.max_queue:
                raise QueueFull(f"the queue is full ({self.max_queue} jobs); try again later")
            added = connection.execute(_jobs.insert().values(**row)).inserted_primary_key
        assert added is not None
        return _job(dict.fromkeys(_jobs.c.keys()) | row | {"number": added[0]})

    def get(self, job: str) -> Job | None:
        """A job by its id, or None."""
        found = self._find(_jobs.c.id == job)
        return found[0] if found else None

    def get_all(self, jobs: Iterable[str]) -> Sequence[Job]:
        """Those of these jobs that exist, in the order of submission."""
        return self._find(_jobs.c.id.in_([*jobs]))

    def list(
        self,
        search: str = "",
        before: str | None = None,
        limit: int = 50,
        favourite: bool | None = None,
    ) -> Sequence[Job]:
        """The newest jobs first: those whose prompts contain `search`, submitted before a job."""
        wanted = [_jobs.c.prompt.icontains(search, autoescape=True)] if search else []
        if favourite is not None:
            wanted.append(_jobs.c.favourite == favourite)
        if before is not None:
            number = sa.select(_jobs.c.number).where(_jobs.c.id == before).scalar_subquery()
            wanted.append(_jobs.c.number < number)
        return self._find(*wanted, order=_jobs.c.number.desc(), limit=limit)

    def set_favourite(self, job: str, favourite: bool) -> bool:
        """Mark a job; returns False if there is none."""
        return self._update(_jobs.c.id == job, favourite=favourite) == 1

    def cancel(self, job: str) -> bool:
        """End a job that waits, or ask its worker to; returns False if it has ended."""
        mine = _jobs.c.id == job
        ended = {"state": "cancelled", "finished": time.time()}
        if self._update(mine, _jobs.c.state == "queued", **ended):
            return True
        return self._update(mine, _jobs.c.state == "running", cancel=True) == 1

    def delete(self, job: str) -> bool:
        """Remove an ended job; returns False if it has not ended. Its files are the caller's."""
        with self._write() as connection:
            gone = _jobs.delete().where(_jobs.c.id == job, _jobs.c.state.in_(ENDED))
            return connection.execute(gone).rowcount == 1

    def counts(self) -> dict[str, int]:
        """The number of jobs in each state."""
        query = sa.select(_jobs.c.state, sa.func.count()).group_by(_jobs.c.state)
        with self._reads.connect() as connection:
            found = {state: int(count) for state, count in connection.execute(query)}
        return {state: found.get(state, 0) for state in ("queued", "running", *ENDED)}

    def wait(
        self, job: str, timeout: float, *, until: Callable[[Job], bool] | None = None
    ) -> Job | None:
        """Wait until a job has ended, or `until` of it; returns it as it then is, or None."""
        deadline, pause = time.monotonic() + timeout, 0.02
        while True:
            found = self.get(job)
            is_over = found is None or found.is_ended or (until is not None and until(found))
            if is_over or time.monotonic() >= deadline:
                return found
            time.sleep(min(pause, max(0.0, deadline - time.monotonic())))
            pause = min(2 * pause, 0.5)

    # --- what workers do ---

    def claim(self, worker: str, limit: int) -> Sequence[Job]:
        """Take the oldest job that waits, and those of its shape, up to `limit` sounds in all.

        Jobs of a batch that was interrupted are taken together again, because the batch changes
        the rounding of each sound. One whose batch killed workers is taken alone.
        """
        waiting = _jobs.c.state == "queued"
        columns = (_jobs.c.id, _jobs.c.shape, _jobs.c.sounds, _jobs.c.batch, _jobs.c.deaths)
        query = sa.select(*columns).where(waiting).order_by(_jobs.c.number)
        query = query.with_for_update(skip_locked=True)
        with self._write() as connection:
            first = connection.execute(query.limit(1)).first()
            if first is None:
                return []
            chosen, batch = [first.id], first.batch or uuid.uuid4().hex
            if first.batch is not None:
                others = connection.execute(query.where(_jobs.c.batch == first.batch))
                chosen = [row.id for row in others]
            elif first.shape is not None and first.deaths == 0:
                same = query.where(_jobs.c.shape == first.shape, _jobs.c.batch.is_(None))
                room = limit - first.sounds
                for row in connection.execute(same.where(_jobs.c.deaths == 0).limit(limit)):
                    if row.id != first.id and row.sounds <= room:
                        chosen.append(row.id)
                        room -= row.sounds
            now = time.time()
            values = {"state": "running", "claimed_by": worker, "batch": batch, "heartbeat": now}
            values |= {"started": now, "progress": 0.0}
            connection.execute(_jobs.update().where(_jobs.c.id.in_(chosen)).values(**values))
        return self._find(_jobs.c.id.in_(chosen))

    def progress(self, worker: str, jobs: Iterable[str], share: float) -> set[str]:
        """Say how far jobs are, 0 to 1; returns those that are still wanted from this worker."""
        mine = (_jobs.c.id.in_([*jobs]), _jobs.c.claimed_by == worker, _jobs.c.state == "running")
        with self._write() as connection:
            values = {"progress": share, "heartbeat": time.time()}
            connection.execute(_jobs.update().where(*mine).values(**values))
            ended = {"state": "cancelled", "finished": time.time(), "cancel": False}
            asked = _jobs.update().where(*mine, _jobs.c.cancel).values(**ended)
            connection.execute(asked)
            return set(connection.scalars(sa.select(_jobs.c.id).where(*mine)))

    def beat(self, worker: str) -> None:
        """Say that a worker is alive."""
        mine = (_jobs.c.claimed_by == worker, _jobs.c.state == "running")
        self._update(*mine, heartbeat=time.time())

    def finish(self, worker: str, results: Mapping[str, Mapping[str, Any]]) -> set[str]:
        """Say that jobs are done, all at once; returns those that were still this worker's."""
        done = set()
        with self._write() as connection:
            for job, result in results.items():
                values = {"state": "done", "progress": 1.0, "result": json.dumps(result)}
                mine = (_jobs.c.id == job, _jobs.c.claimed_by == worker)
                update = _jobs.update().where(*mine, _jobs.c.state == "running")
                values |= {"finished": time.time(), "cancel": False}
                if connection.execute(update.values(**values)).rowcount:
                    done.add(job)
        return done

    def fail(self, worker: str, jobs: Iterable[str], error: str) -> None:
        """Say that jobs cannot be made, and why, in one line."""
        mine = (_jobs.c.id.in_([*jobs]), _jobs.c.claimed_by == worker, _jobs.c.state == "running")
        self._update(*mine, state="failed", error=error, finished=time.time())

    def hand_back(self, worker: str) -> int:
        """Put the jobs of a worker that was stopped back into the queue."""
        return self._requeue(_jobs.c.claimed_by == worker)

    def split(self, worker: str, jobs: Iterable[str]) -> None:
        """Put the jobs of a batch back into the queue, each to be made alone."""
        mine = (_jobs.c.claimed_by == worker, _jobs.c.id.in_([*jobs]))
        self._requeue(*mine, shape=None, batch=None)

    def requeue_lost(self, timeout: float) -> int:
        """Put jobs back whose worker has not been heard of for `timeout` seconds."""
        return self._requeue(_jobs.c.heartbeat <= time.time() - timeout)

    def bury(self, worker: str) -> int:
        """Put the jobs of a worker that died back into the queue; returns their number.

        Jobs that have killed MAX_DEATHS workers are tried once more, each alone, or have failed if
        they were alone.
        """
        mine = (_jobs.c.claimed_by == worker, _jobs.c.state == "running")
        with self._write() as connection:
            found = connection.execute(sa.select(_jobs.c.id, _jobs.c.deaths).where(*mine)).all()
            failed = [row.id for row in found if row.deaths + 1 >= MAX_DEATHS and len(found) == 1]
            error = f"this sound ended the worker {MAX_DEATHS} times: too large for this machine?"
            ended = {"state": "failed", "error": error, "finished": time.time()}
            connection.execute(_jobs.update().where(_jobs.c.id.in_(failed)).values(**ended))
            alone = [row.id for row in found if row.deaths + 1 >= MAX_DEATHS and len(found) > 1]
            values = {"shape": None, "batch": None}
            connection.execute(_jobs.update().where(_jobs.c.id.in_(alone)).values(**values))
            connection.execute(_jobs.update().where(*mine).values(deaths=_jobs.c.deaths + 1))
        return self._requeue(_jobs.c.claimed_by == worker)

    def _requeue(self, *where: Any, **values: Any) -> int:
        """Put running jobs back into the queue; those to be cancelled are."""
        running = _jobs.c.state == "running"
        ended = {"state": "cancelled", "finished": time.time(), "cancel": False}
        self._update(running, _jobs.c.cancel, *where, **ended)
        fresh = {"state": "queued", "claimed_by": None, "heartbeat": None, "progress": 0.0}
        return self._update(running, *where, **fresh, **values)

    def _update(self, *where: Any, **values: Any) -> int:
        with self._write() as connection:
            return connection.execute(_jobs.update().where(*where).values(**values)).rowcount

    def _find(self, *where: Any, order: Any = None, limit: int | None = None) -> Sequence[Job]:
        query = sa.select(_jobs).where(*where).limit(limit)
        query = query.order_by(_jobs.c.number if order is None else order)
        with self._reads.connect() as connection:
            return [_job(row._mapping) for row in connection.execute(query)]


def _job(row: Mapping[Any, Any]) -> Job:
    data = dict(row)
    data["request"] = json.loads(data["request"])
    data["result"] = None if data["result"] is None else json.loads(data["result"])
    return Job(**cast(Any, data))


def _engine(url: str) -> sa.Engine:
    try:
        parsed = sa.make_url(url)
        if parsed.get_backend_name() not in ("sqlite", "postgresql"):
            raise ValueError(f"database: got {parsed.drivername!r}; allowed: sqlite, postgresql")
        if parsed.drivername == "postgresql":  # a bare name means another driver by version
            parsed = parsed.set(drivername="postgresql+psycopg")
        engine = sa.create_engine(parsed, pool_pre_ping=True)
    except (sa.exc.ArgumentError, ImportError) as error:
        raise ValueError(f"database: {error}") from None
    if engine.dialect.name == "sqlite":
        sa.event.listen(engine, "connect", _set_up_sqlite)
        sa.event.listen(engine, "begin", _begin_sqlite)
    return engine


def _set_up_sqlite(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # transactions begin where `_begin_sqlite` says
    settings: Sequence[str] = ("journal_mode=WAL", "synchronous=NORMAL")
    connection.execute(f"PRAGMA busy_timeout={1000 * _BUSY_SECONDS}")
    for setting in settings:
        connection.execute(f"PRAGMA {setting}")


def _begin_sqlite(connection: sa.Connection) -> None:
    if connection.get_execution_options().get("writes"):
        connection.exec_driver_sql("BEGIN IMMEDIATE")

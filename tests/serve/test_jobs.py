"""The queue: order, batches, limits, cancelled jobs, lost workers."""

import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="needs the server: pip install .[serve]")

import sqlalchemy as sa

from soundcrafter.serve.jobs import MAX_DEATHS, Job, JobStore, NewJob, QueueFull
from soundcrafter.serve.settings import ServeSettings, read_tokens


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/jobs.sqlite"
    found: str = request.getfixturevalue("postgres")
    engine = sa.create_engine(found)
    with engine.begin() as connection:
        connection.execute(sa.text("DROP TABLE IF EXISTS jobs"))
    engine.dispose()
    return found


@pytest.fixture
def store(url: str, tmp_path: Path) -> Iterator[JobStore]:
    """An empty queue."""
    store = JobStore(url, tmp_path, max_queue=50)
    yield store
    store.close()


def submit(store: JobStore, prompt: str, shape: str | None = "a", sounds: int = 1) -> str:
    new = NewJob(request={"seed": 1, "count": sounds}, prompt=prompt, shape=shape, sounds=sounds)
    return store.submit(new).id


def found(store: JobStore, job: str) -> Job:
    there = store.get(job)
    assert there is not None
    return there


def states(store: JobStore) -> dict[str, int]:
    return {state: count for state, count in store.counts().items() if count}


def test_a_claim_takes_the_oldest_and_those_of_its_shape(store):
    first, _, third, alone = (submit(store, "x", shape) for shape in ("a", "b", "a", None))
    assert [job.id for job in store.claim("w", 4)] == [first, third]
    (second,) = store.claim("w", 4)
    assert second.shape == "b"
    assert [job.id for job in store.claim("w", 4)] == [alone]
    assert store.claim("w", 4) == []


def test_a_claim_counts_sounds(store):
    first, second, third = (submit(store, "x", sounds=n) for n in (2, 4, 2))
    assert [job.id for job in store.claim("w", 4)] == [first, third]
    assert [job.id for job in store.claim("w", 1)] == [second]  # one too large is made alone


def test_a_full_queue_refuses_and_later_accepts(tmp_path):
    store = JobStore(f"sqlite:///{tmp_path}/jobs.sqlite", tmp_path, max_queue=2)
    submit(store, "x")
    submit(store, "x")
    with pytest.raises(QueueFull, match=r"full \(2 jobs\)"):
        submit(store, "x")
    store.claim("w", 1)
    submit(store, "x")


def test_servers_that_share_a_database_start_at_once_and_fill_the_queue_together(url, tmp_path):
    begin, faults = threading.Barrier(4), []

    def serve() -> None:
        begin.wait()
        try:
            store = JobStore(url, tmp_path, max_queue=20)
            for _ in range(10):
                with suppress(QueueFull):
                    submit(store, "x")
            store.close()
        except Exception as error:
            faults.append(error)

    threads = [threading.Thread(target=serve) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store = JobStore(url, tmp_path)
    assert (faults, states(store)) == ([], {"queued": 20})
    store.close()


def test_many_threads_claim_each_job_once(store):
    ids = {submit(store, str(n)) for n in range(40)}
    claimed: list[str] = []

    def work(name: str) -> None:
        while jobs := store.claim(name, 3):
            claimed.extend(job.id for job in jobs)

    threads = [threading.Thread(target=work, args=(f"w{n}",)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(claimed) == sorted(ids)


def test_a_done_job_has_its_result_and_only_its_worker_ends_it(store):
    job = submit(store, "x")
    store.claim("w", 1)
    assert store.finish("other", {job: {}}) == set()
    assert store.finish("w", {job: {"sounds": []}}) == {job}
    assert (found(store, job).state, found(store, job).result) == ("done", {"sounds": []})
    store.fail("w", [job], "too late")
    assert found(store, job).error is None


def test_a_cancelled_job_ends_at_the_next_report(store):
    waiting, running = submit(store, "x", None), submit(store, "y", None)
    store.claim("w", 1)
    assert store.cancel(running)
    assert store.cancel(waiting)
    assert found(store, waiting).state == "running"  # claimed first, so its worker must hear of it
    assert store.progress("w", [waiting], 0.5) == set()
    assert states(store) == {"cancelled": 2}
    assert not store.cancel(running)


def test_the_others_of_a_batch_go_on(store):
    one, two = submit(store, "x"), submit(store, "y")
    store.claim("w", 4)
    store.cancel(one)
    assert store.progress("w", [one, two], 0.5) == {two}


def test_an_interrupted_batch_is_made_again_together(store):
    first = [submit(store, "x") for _ in range(3)]
    store.claim("w", 4)
    submit(store, "later, of the same shape")
    assert store.hand_back("w") == 3
    assert [job.id for job in store.claim("v", 4)] == first


def test_jobs_of_a_silent_worker_come_back(store):
    job = submit(store, "x")
    store.claim("w", 1)
    assert store.requeue_lost(60) == 0
    assert store.requeue_lost(0) == 1
    assert found(store, job).state == "queued"
    assert store.finish("w", {job: {}}) == set()  # should it speak again, it is not heard


def test_what_kills_workers_fails_and_what_was_beside_it_is_made(store):
    jobs = [submit(store, "x"), submit(store, "y")]
    for _ in range(MAX_DEATHS):
        assert [job.id for job in store.claim("w", 4)] == jobs
        assert store.bury("w") == 2
    assert [job.id for job in store.claim("w", 4)] == jobs[:1]
    assert store.bury("w") == 0
    assert "ended the worker" in (found(store, jobs[0]).error or "")
    assert [job.id for job in store.claim("w", 4)] == jobs[1:]
    assert store.finish("w", {jobs[1]: {}}) == {jobs[1]}


def test_pages_are_newest_first_and_searched(store):
    ids = [submit(store, prompt) for prompt in ("Rain", "100% wind", "rain again", "dog")]
    assert [job.id for job in store.list()] == ids[::-1]
    assert [job.id for job in store.list(limit=2)] == ids[:1:-1]
    assert [job.id for job in store.list(before=ids[2])] == ids[1::-1]
    assert [job.id for job in store.list(search="rain")] == [ids[2], ids[0]]
    assert [job.id for job in store.list(search="%")] == [ids[1]]
    assert store.set_favourite(ids[3], True)
    assert [job.id for job in store.list(favourite=True)] == [ids[3]]
    assert not store.set_favourite("nothing", True)


def test_only_an_ended_job_is_deleted(store):
    job = submit(store, "x")
    assert not store.delete(job)
    store.cancel(job)
    assert store.delete(job)
    assert store.get(job) is None


def test_a_wait_ends_with_the_job(store):
    job = submit(store, "x")
    assert store.wait(job, 0.05).state == "queued"
    threading.Timer(0.1, store.cancel, [job]).start()
    assert store.wait(job, 10).state == "cancelled"


def test_another_database_is_refused(tmp_path):
    for url, message in (
        ("mysql://x", "allowed: sqlite, postgresql"),
        ("no url", "database"),
        (f"sqlite:///{tmp_path}/missing/jobs.sqlite", "cannot use"),
    ):
        with pytest.raises(ValueError, match=message):
            JobStore(url, tmp_path)


# --- settings ---


@pytest.mark.parametrize(
    ("name", "value"),
    [("port", 70_000), ("max_seconds", 601), ("max_count", 0), ("device", ","), ("batch_size", 0)],
)
def test_settings_out_of_range_are_refused(name, value):
    with pytest.raises(ValueError, match=name):
        ServeSettings(**{name: value})


def test_other_machines_need_a_token(tmp_path):
    for host in ("127.0.0.1", "::1", "localhost"):
        ServeSettings(host=host).check_access()
    for host in ("0.0.0.0", "::", "10.0.0.1", "example.org"):
        with pytest.raises(ValueError, match="--token-file"):
            ServeSettings(host=host).check_access()
        ServeSettings(host=host, open=True).check_access()
        ServeSettings(host=host, token_file=tmp_path / "tokens").check_access()


def test_tokens_are_lines_of_a_file(tmp_path):
    file = tmp_path / "tokens"
    file.write_text("# mine\nabc\n\n  def  \n")
    assert read_tokens(file) == ("abc", "def")
    for text, message in (("# none\n", "no token"), ("a b\n", "printable"), ("é\n", "printable")):
        file.write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match=message):
            read_tokens(file)
    with pytest.raises(ValueError, match="cannot read"):
        read_tokens(tmp_path / "missing")

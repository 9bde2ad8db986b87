"""Waiting for a job in a request, without holding a thread."""

import asyncio
import time
from collections.abc import AsyncIterator

from fastapi import Request
from starlette.concurrency import run_in_threadpool

from soundcrafter.serve.errors import refused
from soundcrafter.serve.jobs import INTERNAL, Job
from soundcrafter.serve.requests import view
from soundcrafter.serve.service import Gone, Service

_PAUSES = (0.03, 0.5)  # seconds between two looks, growing
_EVENT_PAUSE = 0.25  # seconds
_KEEP_ALIVE = 15.0  # seconds of silence that proxies allow


async def ended(
    service: Service,
    request: Request,
    job: Job,
    seconds: float | None = None,
    *,
    cancel: bool = True,
) -> Job:
    """The job when it has ended, or when it has to be answered as it is: after so many seconds
    (by default the server's `wait_seconds`), or because the server stops. If the client is gone,
    the job is cancelled unless `cancel` is False.
    """
    longest = service.settings.wait_seconds if seconds is None else seconds
    deadline, pause = time.monotonic() + longest, _PAUSES[0]
    with service.watch.on(job.id):
        while not job.is_ended and time.monotonic() < deadline:
            if service.is_stopping and job.state == "queued":
                break
            await asyncio.sleep(pause)
            pause = min(1.5 * pause, _PAUSES[1])
            if await request.is_disconnected():
                if not cancel:
                    break
                await run_in_threadpool(service.store.cancel, job.id)
            found = await service.watch.look(job.id)
            if found is None:
                raise Gone("the sound was removed")
            job = found
    return job


async def done(service: Service, request: Request, job: Job) -> Job:
    """The job when it is done. Raises HTTPException if it failed, was cancelled, or takes longer
    than `wait_seconds`: then it is cancelled."""
    job = await ended(service, request, job)
    check_ended(job)
    if not job.is_ended:
        await run_in_threadpool(service.store.cancel, job.id)
        status = 503 if service.is_stopping else 504
        raise refused(status, "the sound took too long; try again later")
    return job


def check_ended(job: Job) -> None:
    """Raise HTTPException if a job failed or was cancelled."""
    if job.state == "failed":
        raise refused(500 if job.error == INTERNAL else 422, job.error or INTERNAL)
    if job.state == "cancelled":
        raise refused(409, "the job was cancelled")


async def events(service: Service, job: Job) -> AsyncIterator[str]:
    """Server-sent events: the job whenever it has changed, until it has ended."""
    last, spoke = "", time.monotonic()
    with service.watch.on(job.id):
        while True:
            text = view(job).model_dump_json()
            if text != last:
                yield f"event: {'end' if job.is_ended else 'progress'}\ndata: {text}\n\n"
                last, spoke = text, time.monotonic()
            elif time.monotonic() - spoke > _KEEP_ALIVE:
                yield ": \n\n"
                spoke = time.monotonic()
            if job.is_ended or service.is_stopping:
                return
            await asyncio.sleep(_EVENT_PAUSE)
            found = await service.watch.look(job.id)
            if found is None:
                return
            job = found

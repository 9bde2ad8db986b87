"""Waiting for a job in a request, without holding a thread."""

import asyncio
import time
from collections.abc import AsyncIterator

from fastapi import Request
from starlette.concurrency import run_in_threadpool

from soundcrafter.serve.errors import refused
from soundcrafter.serve.jobs import INTERNAL, Job
from soundcrafter.serve.requests import view
from soundcrafter.serve.service import Service

_PAUSES = (0.03, 0.5)  # seconds between two looks, growing
_KEEP_ALIVE = 15.0  # seconds of silence that proxies allow


async def ended(service: Service, request: Request, job: Job) -> Job:
    """The job when it has ended, or when it has to be answered as it is: after `wait_seconds`, or
    because the server stops. If the client is gone, the job is cancelled.
    """
    deadline, pause = time.monotonic() + service.settings.wait_seconds, _PAUSES[0]
    while not job.is_ended and time.monotonic() < deadline:
        if service.is_stopping and job.state == "queued":
            break
        await asyncio.sleep(pause)
        pause = min(1.5 * pause, _PAUSES[1])
        if await request.is_disconnected():
            await run_in_threadpool(service.store.cancel, job.id)
        job = await run_in_threadpool(service.job, job.id)
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
    last, quiet = None, 0.0
    while True:
        text = view(job).model_dump_json()
        if text != last:
            name = "end" if job.is_ended else "progress"
            yield f"event: {name}\ndata: {text}\n\n"
            last, quiet = text, 0.0
        elif quiet > _KEEP_ALIVE:
            yield ": \n\n"
            quiet = 0.0
        if job.is_ended or service.is_stopping:
            return
        await asyncio.sleep(0.25)
        quiet += 0.25
        found = await run_in_threadpool(service.store.get, job.id)
        if found is None:
            return
        job = found

"""The API of this server."""

from pathlib import Path as FilePath
from typing import Annotated, Any, Literal

import anyio
from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from starlette.concurrency import run_in_threadpool

from soundcrafter.serve import uploads
from soundcrafter.serve.errors import answers
from soundcrafter.serve.formats import MEDIA_TYPES
from soundcrafter.serve.requests import Favourite, JobPage, JobView, SoundRequest, Upload, view
from soundcrafter.serve.service import Service
from soundcrafter.serve.waiting import check_ended, ended, events

JobId = Annotated[str, Path(pattern=r"^[0-9a-f]{32}$", description="`id` of the job.")]
Index = Annotated[int, Query(ge=0, le=10_000, description="Number of the sound in its job.")]
Format = Literal["wav", "flac", "ogg", "mp3"]
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_AUDIO: dict[str, Any] = {MEDIA_TYPES[name]: _BINARY for name in ("wav", "flac", "ogg", "mp3")}
_NOT_MODIFIED: dict[int | str, dict[str, Any]] = {304: {"description": "You have it already."}}


def file_answer(request: Request, file: FilePath, media_type: str, name: str) -> Response:
    """A file that never changes, or 304 for a client that has it; ranges are supported."""
    etag = f'"{file.parent.parent.name}-{file.parent.name}-{file.name}"'
    headers = {"ETag": etag, "Cache-Control": "private, max-age=31536000, immutable"}
    known = [tag.strip() for tag in request.headers.get("if-none-match", "").split(",")]
    if etag in known or "*" in known:
        return Response(status_code=304, headers=headers)
    return FileResponse(file, media_type=media_type, filename=name, headers=headers)


def routes(service: Service) -> APIRouter:
    """All paths below /v1 that are our own."""
    router = APIRouter(prefix="/v1", tags=["sounds"])
    _add_jobs(router, service)
    _add_files(router, service)
    decoders = anyio.CapacityLimiter(uploads.DECODERS)

    @router.post(
        "/uploads",
        status_code=201,
        response_model=Upload,
        responses=answers(400, 413, 415, 422, 507),
        openapi_extra={"requestBody": _upload_body()},
    )
    async def upload(request: Request) -> Upload:
        """Upload a sound to edit (`init`), to resemble (`like`) or for a scene: as a form with a
        file, or as the body itself. wav, flac, ogg, mp3, aiff, au and caf, 0.2 to 600 s."""
        await run_in_threadpool(service.check_disk)
        return await uploads.receive(request, service.uploads, decoders)

    return router


def _upload_body() -> dict[str, Any]:
    form = {"type": "object", "properties": {"file": _BINARY["schema"]}, "required": ["file"]}
    content = {"multipart/form-data": {"schema": form}, "application/octet-stream": _BINARY}
    return {"required": True, "content": content}


def _add_jobs(router: APIRouter, service: Service) -> None:
    """Paths that answer with jobs."""

    @router.post(
        "/sounds",
        status_code=202,
        response_model=JobView,
        responses={
            200: {"description": "With `wait`: the sound.", "content": {"audio/wav": _BINARY}},
            **answers(400, 409, 413, 422, 429, 503, 507),
        },
    )
    async def make(body: SoundRequest, request: Request) -> Response:
        """Make sounds. Answers at once with a job; with `wait` when it is done."""
        job = await run_in_threadpool(service.submit, body)
        if body.wait:
            job = await ended(service, request, job)
            check_ended(job)
        if job.state == "done" and job.sounds == 1:
            file = await run_in_threadpool(service.audio_file, job)
            headers = {"X-Job-Id": job.id, "X-Seed": str(job.request["seed"])}
            return FileResponse(file, media_type="audio/wav", headers=headers)
        status = 200 if job.is_ended else 202
        headers = {"Location": f"/v1/sounds/{job.id}"}
        return JSONResponse(view(job).model_dump(), status, headers=headers)

    @router.get("/sounds", responses=answers(422))
    def page(
        search: Annotated[str, Query(max_length=200, description="Part of the prompt.")] = "",
        before: Annotated[
            str | None, Query(pattern=r"^[0-9a-f]{32}$", description="`next` of a page.")
        ] = None,
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
        favourite: bool | None = None,
    ) -> JobPage:
        """Jobs, newest first."""
        found = service.store.list(search, before, limit + 1, favourite)
        following = found[limit - 1].id if len(found) > limit else None
        return JobPage(jobs=[view(job) for job in found[:limit]], next=following)

    @router.get("/sounds/{job}", responses=answers(404, 422))
    async def read(
        request: Request,
        job: JobId,
        wait: Annotated[
            float, Query(ge=0, le=60, description="Answer when it has ended, or after so many s.")
        ] = 0.0,
    ) -> JobView:
        """A job and how far it is."""
        found = await run_in_threadpool(service.job, job)
        if wait:
            found = await ended(service, request, found, wait, cancel=False)
        return view(found)

    @router.patch("/sounds/{job}", responses=answers(400, 404, 413, 422))
    def change(job: JobId, body: Favourite) -> JobView:
        """Mark a job as a favourite, or not."""
        service.store.set_favourite(job, body.favourite)
        return view(service.job(job))

    @router.delete(
        "/sounds/{job}",
        response_model=JobView,
        responses={204: {"description": "It had ended, and is removed."}, **answers(404, 422)},
    )
    def remove(job: JobId) -> Response:
        """Cancel a job that waits or runs; remove one that has ended, with its sounds."""
        cancelled = service.remove(job)
        if cancelled is None:
            return Response(status_code=204)
        return JSONResponse(view(cancelled).model_dump())

    @router.get(
        "/sounds/{job}/events",
        response_class=StreamingResponse,
        responses={
            200: {"description": "Server-sent events.", "content": {"text/event-stream": {}}},
            **answers(404, 422),
        },
    )
    async def follow(job: JobId) -> StreamingResponse:
        """The job whenever it changes, as server-sent events `progress`, and at last `end`."""
        found = await run_in_threadpool(service.job, job)
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        stream = events(service, found)
        return StreamingResponse(stream, media_type="text/event-stream", headers=headers)


def _add_files(router: APIRouter, service: Service) -> None:
    """Paths that answer with files."""

    def binary(content: dict[str, Any]) -> dict[int | str, dict[str, Any]]:
        part = {"description": "A part.", "content": content}
        return {200: {"content": content}, 206: part, **_NOT_MODIFIED, **answers(404, 416, 422)}

    @router.get("/sounds/{job}/audio", response_class=FileResponse, responses=binary(_AUDIO))
    def audio(
        request: Request,
        job: JobId,
        index: Index = 0,
        format: Format = "wav",
        rate: Annotated[int | None, Query(ge=8000, le=192_000, description="Hz.")] = None,
        depth: Annotated[
            Literal["16", "24", "float"] | None, Query(description="Of wav and flac.")
        ] = None,
        stereo: Annotated[bool, Query(description="Widen a mono sound.")] = False,
        lufs: Annotated[float | None, Query(ge=-70, le=0, description="Loudness.")] = None,
    ) -> Response:
        """A sound. Without options it is wav, 24 bits at the model's rate."""
        found = service.job(job)
        file = service.audio_file(
            found, index, format, rate=rate, depth=depth, stereo=stereo, lufs=lufs
        )
        name = f"{job[:8]}-{index}.{format}"
        return file_answer(request, file, MEDIA_TYPES[format], name)

    @router.get(
        "/sounds/{job}/spectrogram.png",
        response_class=FileResponse,
        responses=binary({"image/png": _BINARY}),
    )
    def spectrogram(request: Request, job: JobId, index: Index = 0) -> Response:
        """The mel spectrogram of a sound."""
        file = service.spectrogram_file(service.job(job), index)
        return file_answer(request, file, "image/png", f"{job[:8]}-{index}.png")

    @router.get(
        "/sounds/{job}/stems.zip",
        response_class=FileResponse,
        responses=binary({"application/zip": _BINARY}),
    )
    def stems(request: Request, job: JobId, index: Index = 0) -> Response:
        """The stems of a composed sound, which add up to it: a wav file of each track."""
        file = service.stems_file(service.job(job), index)
        return file_answer(request, file, "application/zip", f"{job[:8]}-{index}-stems.zip")

"""The API shapes of other servers, for the clients that exist for them."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import FileResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.concurrency import run_in_threadpool

from soundcrafter.diffusion.config import MAX_SEED
from soundcrafter.request import RANDOM_SEED
from soundcrafter.serve.errors import ELEVENLABS, VLLM_OMNI, answers
from soundcrafter.serve.formats import MEDIA_TYPES, Codec
from soundcrafter.serve.requests import MAX_TEXT, SoundRequest
from soundcrafter.serve.service import Service
from soundcrafter.serve.waiting import done

OUTPUT_FORMATS = (
    *(f"mp3_44100_{kbps}" for kbps in (128, 32, 64, 96, 192)),
    "mp3_22050_32",
    "mp3_24000_48",
    *(f"pcm_{rate}" for rate in (8000, 16000, 22050, 24000, 32000, 44100, 48000)),
    *(f"opus_48000_{kbps}" for kbps in (32, 64, 96, 128, 192)),
    "ulaw_8000",
    "alaw_8000",
)
INFLUENCE = 0.3  # ElevenLabs' default, for which the model's own guidance is used
_GUIDANCE = (1.0, 6.0)  # of an influence of 0 and of 1
_BINARY = {"schema": {"type": "string", "format": "binary"}}
ResponseFormat = Literal["wav", "flac", "mp3", "opus", "pcm"]


class SoundGeneration(BaseModel):
    """A request as ElevenLabs takes it."""

    model_config = ConfigDict(
        allow_inf_nan=False,
        json_schema_extra={"examples": [{"text": "a dog barks twice", "duration_seconds": 3}]},
    )
    text: Annotated[str, Field(min_length=1, max_length=MAX_TEXT)]
    loop: bool = False
    duration_seconds: float | None = Field(None, ge=0.5, le=30)
    prompt_influence: float | None = Field(INFLUENCE, ge=0, le=1)
    model_id: str | None = Field(None, description="Accepted; the server has one model.")


class AudioGenerate(BaseModel):
    """A request as vLLM-Omni takes it."""

    model_config = ConfigDict(
        allow_inf_nan=False,
        json_schema_extra={"examples": [{"input": "rain on a tin roof", "audio_length": 5}]},
    )
    input: Annotated[str, Field(min_length=1, max_length=MAX_TEXT)]
    model: str | None = Field(None, description="Accepted; the server has one model.")
    audio_length: float | None = Field(None, ge=0.2, le=600, description="Seconds.")
    audio_start: float | None = Field(None, ge=0, le=0, description="Only 0 is supported.")
    negative_prompt: Annotated[str, Field(max_length=MAX_TEXT)] | None = None
    guidance_scale: float | None = Field(None, ge=0, le=100)
    num_inference_steps: int | None = Field(None, ge=1, le=10_000)
    seed: int | None = Field(None, ge=RANDOM_SEED, le=MAX_SEED)
    response_format: ResponseFormat = "wav"


class Detail(BaseModel):
    """What ElevenLabs says of an error."""

    status: str
    message: str


class DetailError(BaseModel):
    """An error as ElevenLabs answers it."""

    detail: Detail


class ApiError(BaseModel):
    """What vLLM says of an error."""

    message: str
    type: str
    param: str | None
    code: int


class WrappedError(BaseModel):
    """An error as vLLM answers it."""

    error: ApiError


def foreign_routes(service: Service) -> APIRouter:
    """The paths of other servers."""
    router = APIRouter(tags=["compatible"])
    refusals = (400, 409, 413, 422, 429, 503, 504, 507)

    @router.post(
        ELEVENLABS,
        response_class=FileResponse,
        responses={
            200: {"content": {"audio/*": _BINARY}},
            **answers(*refusals, model=DetailError),
        },
    )
    async def sound_generation(
        body: SoundGeneration,
        request: Request,
        output_format: Annotated[
            str, Query(json_schema_extra={"enum": [*OUTPUT_FORMATS]})
        ] = "mp3_44100_128",
    ) -> FileResponse:
        """Make a sound and wait for it, as ElevenLabs' API does."""
        codec, rate, kbps = _output_format(output_format)
        low, high = _GUIDANCE
        influence = body.prompt_influence
        given = None if influence in (None, INFLUENCE) else low + (high - low) * (influence or 0)
        wanted = _request(
            prompt=body.text, seconds=body.duration_seconds, loop=body.loop, guidance=given
        )
        return await _made(service, request, wanted, "elevenlabs", codec, rate, kbps)

    @router.post(
        VLLM_OMNI,
        response_class=FileResponse,
        responses={
            200: {"content": {"audio/*": _BINARY}},
            **answers(*refusals, model=WrappedError),
        },
    )
    async def audio_generate(body: AudioGenerate, request: Request) -> FileResponse:
        """Make a sound and wait for it, as vLLM-Omni's API does."""
        wanted = _request(
            prompt=body.input,
            seconds=body.audio_length,
            negative=body.negative_prompt,
            guidance=body.guidance_scale,
            steps=body.num_inference_steps,
            seed=RANDOM_SEED if body.seed is None else body.seed,
        )
        return await _made(service, request, wanted, "vllm-omni", body.response_format)

    return router


def _request(**options: Any) -> SoundRequest:
    try:
        return SoundRequest(**options)
    except ValidationError as error:
        raise ValueError(error.errors()[0]["msg"]) from None


def _output_format(name: str) -> tuple[Codec, int, int | None]:
    """CODEC_RATE_KBPS. Raises ValueError for one that is not supported."""
    if name not in OUTPUT_FORMATS:
        raise ValueError(f"output_format: got {name!r}; allowed: {', '.join(OUTPUT_FORMATS)}")
    codec, rate, *kbps = name.split("_")
    return codec, int(rate), int(kbps[0]) if kbps else None  # type: ignore[return-value]  # a Codec


async def _made(
    service: Service,
    request: Request,
    wanted: SoundRequest,
    origin: str,
    codec: Codec,
    rate: int | None = None,
    kbps: int | None = None,
) -> FileResponse:
    """The sound of a request, when it is done."""
    job = await run_in_threadpool(service.submit, wanted, origin=origin)
    job = await done(service, request, job)
    depth: Any = "16" if codec in ("wav", "flac") else None
    file = await run_in_threadpool(
        service.audio_file, job, 0, codec, rate=rate, depth=depth, kbps=kbps
    )
    headers = {"request-id": job.id, "X-Seed": str(job.request["seed"])}
    return FileResponse(file, media_type=MEDIA_TYPES[codec], headers=headers)

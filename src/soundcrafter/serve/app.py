"""The application: routes, and what stands before them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from fastapi import Depends, FastAPI, Response
from fastapi.security import HTTPBearer
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from soundcrafter.serve import uploads
from soundcrafter.serve.errors import add_handlers, answers, refused
from soundcrafter.serve.foreign import foreign_routes
from soundcrafter.serve.jobs import JobStore
from soundcrafter.serve.metrics import Measure, Metrics
from soundcrafter.serve.refusals import LogRefusals
from soundcrafter.serve.routes import routes
from soundcrafter.serve.security import Authenticate, LimitBody, SameOrigin, SecurityHeaders
from soundcrafter.serve.service import Service
from soundcrafter.serve.settings import ServeSettings, read_tokens
from soundcrafter.serve.supervisor import Supervisor
from soundcrafter.version import __version__

LARGEST_BODY = 2**20  # bytes, of all but uploads
_bearer = HTTPBearer(auto_error=False)  # documents the token; `Authenticate` checks it
_STUDIO = "soundcrafter.serve.studio.page"
STUDIO_UPLOADS = "/gradio_api/upload"


def create_app(
    settings: ServeSettings, store: JobStore, supervisor: Supervisor | None = None
) -> FastAPI:
    """The server's application. Its workers are started and stopped with it, if there is a
    `supervisor`. Raises ValueError for a token file that cannot be used."""
    service = Service(settings, store, supervisor)
    metrics, tokens = Metrics(service), read_tokens(settings.token_file)
    app = FastAPI(
        title="SoundCrafter",
        version=__version__,
        summary="Text in, sound effect out.",
        lifespan=_lifespan(supervisor),
        middleware=_middleware(settings, metrics, tokens),
        dependencies=[Depends(_bearer)] if tokens else [],
        docs_url=None,  # its page would load scripts from elsewhere
        redoc_url=None,
    )
    app.state.service = service
    add_handlers(app)
    _add_probes(app, service, metrics)
    app.include_router(routes(service))
    app.include_router(foreign_routes(service))
    if settings.studio and find_spec("gradio") is not None:
        import_module(_STUDIO).mount(app, service)
    return app


def _lifespan(supervisor: Supervisor | None) -> Any:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        if supervisor is not None:
            supervisor.start()
        yield
        if supervisor is not None:
            await run_in_threadpool(supervisor.stop)

    return lifespan


def _middleware(
    settings: ServeSettings, metrics: Metrics, tokens: tuple[str, ...]
) -> list[Middleware]:
    """The outermost first."""
    largest_upload = settings.max_upload_mib * 2**20 + uploads.FORM_BYTES
    cors = Middleware(
        CORSMiddleware,
        allow_origins=settings.origins,
        allow_methods=["GET", "POST", "PATCH", "DELETE"],
        allow_headers=["Authorization", "Content-Type", "Range", "xi-api-key"],
        expose_headers=["ETag", "Location", "Retry-After", "X-Job-Id", "X-Seed"],
    )
    return [
        Middleware(Measure, metrics=metrics),
        Middleware(LogRefusals),
        Middleware(SecurityHeaders),
        *([cors] if settings.origins else []),
        Middleware(Authenticate, tokens=tokens),
        Middleware(SameOrigin, origins=settings.origins),
        Middleware(
            LimitBody,
            largest=LARGEST_BODY,
            uploads=(uploads.PATH, STUDIO_UPLOADS),
            largest_upload=largest_upload,
        ),
    ]


def _add_probes(app: FastAPI, service: Service, metrics: Metrics) -> None:
    """Paths for those who watch the server."""

    @app.get("/healthz", tags=["server"])
    def healthz() -> dict[str, str]:
        """Whether the server answers; needs no token."""
        return {"status": "ok", "version": __version__}

    @app.get("/readyz", tags=["server"], responses=answers(503))
    def readyz() -> dict[str, str]:
        """Whether a worker has loaded the model."""
        if service.is_stopping:
            raise refused(503, "the server is stopping")
        if not service.is_ready:
            raise refused(503, "the model is being loaded")
        return {"status": "ready"}

    text = {"text/plain": {"schema": {"type": "string"}}}

    @app.get("/metrics", tags=["server"], responses={200: {"content": text}, **answers()})
    def prometheus() -> Response:
        """Requests, latencies and jobs, for Prometheus."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")

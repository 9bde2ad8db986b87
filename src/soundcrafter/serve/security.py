"""Who may use the server, how much they may send, and what browsers may do with its answers."""

import base64
import binascii
import hmac
from collections.abc import Sequence
from urllib.parse import urlsplit

from fastapi import HTTPException
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from soundcrafter.serve.errors import error_response

OPEN_PATHS = ("/healthz",)
_SAFE = ("GET", "HEAD", "OPTIONS")
_API_POLICY = "default-src 'none'; frame-ancestors 'none'"
_STUDIO_POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; frame-ancestors 'self'"
)


class Authenticate:
    """Lets in who has a token: as Bearer, as xi-api-key, or in browsers as the password."""

    def __init__(self, app: ASGIApp, tokens: Sequence[str]) -> None:
        self.app, self.tokens = app, [token.encode() for token in tokens]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_open = scope["type"] == "lifespan" or scope.get("path") in OPEN_PATHS
        if is_open or not self.tokens or self._is_known(Headers(scope=scope)):
            await self.app(scope, receive, send)
            return
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        message = "the token is missing or wrong: send it as Authorization: Bearer TOKEN"
        answer = error_response(scope["path"], 401, message)
        # in headers of their own: Chromium understands no list, and would not ask for a password
        for way in ('Basic realm="SoundCrafter"', "Bearer"):
            answer.headers.append("WWW-Authenticate", way)
        await answer(scope, receive, send)

    def _is_known(self, headers: Headers) -> bool:
        given = _token(headers).encode()
        # every token is compared, so that the time says nothing
        return sum(hmac.compare_digest(given, token) for token in self.tokens) > 0


def _token(headers: Headers) -> str:
    kind, _, value = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return value.strip()
    if kind.lower() == "basic":
        try:
            return base64.b64decode(value).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return ""
    return headers.get("xi-api-key", "")


class SameOrigin:
    """Refuses what pages of other origins send, unless they are allowed: browsers send it unasked
    to every server that they can reach, this machine's own too."""

    def __init__(self, app: ASGIApp, origins: Sequence[str]) -> None:
        self.app, self.origins = app, origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] not in _SAFE:
            headers = Headers(scope=scope)
            origin = headers.get("origin")
            allowed = origin is None or origin in self.origins or "*" in self.origins
            if not allowed and urlsplit(origin or "").netloc != headers.get("host"):
                message = "the page that sent this is of another origin"
                await error_response(scope["path"], 403, message)(scope, receive, send)
                return
        await self.app(scope, receive, send)


class LimitBody:
    """Ends requests whose body is too large, while it arrives."""

    def __init__(
        self, app: ASGIApp, largest: int, uploads: Sequence[str], largest_upload: int
    ) -> None:
        self.app, self.largest = app, largest
        self.uploads, self.largest_upload = uploads, largest_upload

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        most = self.largest_upload if scope["path"] in self.uploads else self.largest
        too_large = f"the body is too large; allowed: {most / 2**20:.0f} MiB"
        length = Headers(scope=scope).get("content-length", "0")
        if not length.isdecimal() or int(length) > most:
            await error_response(scope["path"], 413, too_large)(scope, receive, send)
            return
        size = 0

        async def counted() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > most:
                raise HTTPException(413, too_large)
            return message

        await self.app(scope, counted, send)


class SecurityHeaders:
    """Tells browsers to run and to tell others as little as possible."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"]
        is_api = path.startswith("/v1/") or path in ("/healthz", "/readyz", "/metrics")

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["X-Content-Type-Options"] = "nosniff"
                headers["Referrer-Policy"] = "no-referrer"
                policy = _API_POLICY if is_api else _STUDIO_POLICY
                headers.setdefault("Content-Security-Policy", policy)
            await send(message)

        await self.app(scope, receive, guarded)

"""The log of what was refused: who asked, for what, and why, in one line."""

import logging
import time
from collections import Counter

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from soundcrafter.files import one_line

MOST_LINES = 60  # a minute; the rest is counted
_MOST_CLIENTS = 1000  # that are counted apart
_MINUTE = 60.0  # seconds
_log = logging.getLogger(__name__)


class LogRefusals:
    """Logs answers that refuse a request, but never so many that they fill the disk."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._minute, self._lines = time.monotonic(), 0
        self._left_out: Counter[str] = Counter()  # by client

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status = 0

        async def logged(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            elif 400 <= status < 500 or status == 507:
                self._tell(scope, status, message.get("body", b""))
                status = 0  # once
            await send(message)

        await self.app(scope, receive, logged)

    def _tell(self, scope: Scope, status: int, body: bytes) -> None:
        client = (scope.get("client") or ("unknown",))[0]
        if time.monotonic() - self._minute > _MINUTE:
            self._count()
        if self._lines >= MOST_LINES:
            known = client in self._left_out or len(self._left_out) < _MOST_CLIENTS
            self._left_out[client if known else "others"] += 1
            return
        self._lines += 1
        why = body[:1000].decode("utf-8", "replace")
        _log.warning("%s", _plain(f"{client} {scope['method']} {scope['path']}: {status} {why}"))

    def _count(self) -> None:
        """Begin a new minute, and say what the last one left out."""
        if self._left_out:
            client, most = self._left_out.most_common(1)[0]
            total = self._left_out.total()
            _log.warning("%d more refusals, %d of them for %s", total, most, _plain(client))
        self._minute, self._lines = time.monotonic(), 0
        self._left_out.clear()


def _plain(text: str) -> str:
    """Text in one line without what could steer a terminal: paths are the client's."""
    return "".join(c if c.isprintable() else "?" for c in one_line(text))

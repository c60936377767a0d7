# SPDX-License-Identifier: Apache-2.0
"""What a request may be before anybody looks at it: its size, its content type, and the host that it was meant for.

An ASGI middleware of mizar.api.app. The check of the Host header keeps web pages from reaching a server on loopback
through a name of their own (DNS rebinding); the content type keeps them from posting without the browser's preflight.
"""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mizar.api.refusal import Refusal
from mizar.model.errors import Problem

BODY_BYTES = 32 * 2**20
_TOO_LARGE = f"the body is larger than {BODY_BYTES} bytes"


class Limits:
    """Refuses what is too large, not JSON, or meant for another host."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        length = headers.get(b"content-length", b"0")
        allowed = scope.get("state", {}).get("hosts")
        if allowed is not None and _host(headers.get(b"host", b"")) not in allowed:
            await Refusal([Problem("this server is not that host")], 421)(scope, receive, send)
        elif not length.isdigit() or int(length) > BODY_BYTES:
            await Refusal([Problem(_TOO_LARGE)], 413)(scope, receive, send)
        elif scope["method"] == "POST" and not _is_json(headers.get(b"content-type", b"")):
            await Refusal([Problem("expected content type application/json")], 415)(scope, receive, send)
        else:
            await self._counted(scope, receive, send)

    async def _counted(self, scope: Scope, receive: Receive, send: Send) -> None:
        received = 0

        async def counting() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > BODY_BYTES:
                raise HTTPException(413, _TOO_LARGE)
            return message

        await self._app(scope, counting, send)


def _is_json(content_type: bytes) -> bool:
    return content_type.split(b";")[0].strip().lower() == b"application/json"


def _host(header: bytes) -> str:
    text = header.decode("latin-1").lower()
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0]

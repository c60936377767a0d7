# SPDX-License-Identifier: Apache-2.0
"""The opening handshake of WebSocket (RFC 6455), of which both ends check the other's. For tests: what follows it is
bytes as they are."""

from __future__ import annotations

import base64
import hashlib

_KEY = base64.b64encode(bytes(16)).decode()
_MADE = hashlib.sha1(f"{_KEY}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode(), usedforsecurity=False).digest()


def request(path: str, host: str) -> bytes:
    """What a client sends."""
    return (
        f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {_KEY}\r\n\r\n"
    ).encode()


ANSWER = (
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    f"Sec-WebSocket-Accept: {base64.b64encode(_MADE).decode()}\r\n\r\n"
).encode()
"""What the server of such a client sends."""

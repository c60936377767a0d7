# SPDX-License-Identifier: Apache-2.0
"""How commands speak with a gateway's process: a line of JSON each way over a unix socket that its user alone may open.

Called by the process (`serving`) and by the command line (`ask`). An answer is a value, or an error by its kind and
words, which is raised again on the other side.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from mizar.gateway.options import place
from mizar.model import errors
from mizar.model.errors import ConflictError, MizarError, NotFoundError, TemporaryError

_LIMIT_BYTES = 1 << 26
Answer = Callable[[dict[str, Any]], Awaitable[Any]]


def path(name: str) -> Path:
    """The socket of a gateway's process."""
    return place(name) / "control.sock"


def ask(name: str, command: str, limit_s: float = 60.0, **arguments: Any) -> Any:
    """The process's answer to a command. Raises what the process raised, NotFoundError when there is none."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(limit_s)
        try:
            sock.connect(str(path(name)))
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise NotFoundError(f"no process of a gateway {name} runs on this host") from error
        try:
            sock.sendall(json.dumps({"command": command, **arguments}).encode() + b"\n")
            with sock.makefile("rb") as stream:
                said = stream.readline()
        except OSError as error:
            raise TemporaryError(f"the process of gateway {name} did not answer {command}: {error}") from error
    if not said:
        raise TemporaryError(f"the process of gateway {name} ended before it answered {command}")
    found = json.loads(said)
    if "error" in found:
        raise getattr(errors, found["kind"], MizarError)(found["error"])
    return found["answer"]


def gone(name: str, limit_s: float = 30.0) -> None:
    """Waits until a process that was told to stop has ended. Raises TemporaryError when it has not."""
    deadline = time.monotonic() + limit_s
    while path(name).exists():
        if time.monotonic() > deadline:
            raise TemporaryError(f"the process of gateway {name} does not end")
        time.sleep(0.02)


@contextlib.asynccontextmanager
async def serving(name: str, answer: Answer) -> AsyncIterator[None]:
    """Answers for the length of the block. Raises ConflictError when another process of this name runs."""
    own = path(name)
    own.parent.mkdir(parents=True, exist_ok=True)
    if await asyncio.to_thread(_runs, name):
        raise ConflictError(f"a gateway {name} runs on this host already")
    own.unlink(missing_ok=True)

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, ValueError):
            line = await reader.readline()
            writer.write(json.dumps(await _answered(answer, line)).encode() + b"\n")
            await writer.drain()
        writer.close()

    before = os.umask(0o177)
    try:
        server = await asyncio.start_unix_server(client, str(own), limit=_LIMIT_BYTES)
    finally:
        os.umask(before)
    try:
        yield
    finally:
        server.close()
        own.unlink(missing_ok=True)


def _runs(name: str) -> bool:
    try:
        ask(name, "who", limit_s=2.0)
    except NotFoundError:
        return False
    except MizarError:
        return True
    return True


async def _answered(answer: Answer, line: bytes) -> dict[str, Any]:
    try:
        return {"answer": await answer(json.loads(line))}
    except MizarError as error:
        return {"error": str(error), "kind": type(error).__name__}

# SPDX-License-Identifier: Apache-2.0
"""Asks a member of a scaled endpoint whether it serves: a TCP connection, or an HTTP request, to its own address.

Called by `member_health`. The socket is made in the workload's namespace and used without ever blocking. The other end
is a tenant's: no more than its first bytes are read, and of those the status alone is understood.
"""

import asyncio
import os
import re
import socket

from mizar.kernel.namespaces import Namespace
from mizar.model.addresses import text_of
from mizar.model.errors import MizarError
from mizar.transit.service_values import HealthCheck
from mizar.transit.workloads import InNamespace

_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5]\d\d)")
_STATUS_BYTES = len("HTTP/1.1 200")


async def failure_of(workload: InNamespace, address: bytes, check: HealthCheck) -> str:
    """What is wrong with a member; empty when it answers as it should."""
    where = f"{text_of(address)} port {check.port}"
    try:
        made = await asyncio.to_thread(_open, workload.spec, len(address))
    except (MizarError, OSError) as error:
        return f"its namespace cannot be entered: {error}"
    with made:
        try:
            async with asyncio.timeout(check.timeout_s):
                found = await _talk(made, text_of(address), check)
        except TimeoutError:
            found = f"no answer within {round(check.timeout_s * 1000)} ms"
        except OSError as error:
            found = os.strerror(error.errno).lower() if error.errno else "the connection failed"
    return f"{where}: {found}" if found else ""


def _open(spec: str, size: int) -> socket.socket:
    family = socket.AF_INET if size == 4 else socket.AF_INET6
    with Namespace.open_spec(spec) as namespace:
        made = namespace.run(lambda: socket.socket(family, socket.SOCK_STREAM))
    made.setblocking(False)
    return made


async def _talk(made: socket.socket, address: str, check: HealthCheck) -> str:
    loop = asyncio.get_running_loop()
    await loop.sock_connect(made, (address, check.port))
    if not check.http:
        return ""
    host = f"[{address}]" if ":" in address else address
    lines = (f"GET {check.path} HTTP/1.1", f"Host: {host}:{check.port}", "User-Agent: mizar", "Connection: close")
    await loop.sock_sendall(made, "\r\n".join((*lines, "", "")).encode("ascii"))
    answer = b""
    while len(answer) < _STATUS_BYTES:
        more = await loop.sock_recv(made, _STATUS_BYTES - len(answer))
        if not more:
            return "it closed the connection without an answer"
        answer += more
    status = _STATUS.match(answer)
    if status is None:
        return "its answer is not HTTP"
    return "" if status[1][:1] in (b"2", b"3") else f"HTTP status {status[1].decode()}"

# SPDX-License-Identifier: Apache-2.0
"""Listeners of a namespace are prepared for cookies; what its tenant fills it with costs the daemon nothing."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path
from typing import IO, Any

import pytest

from mizar.kernel import syn_primer
from mizar.kernel.interfaces import RTM_SETLINK, set_link
from mizar.kernel.namespaces import Namespace
from mizar.kernel.netlink import Netlink

pytestmark = pytest.mark.root
HERE = "127.0.0.1"


def listening(port: int) -> socket.socket:
    made = socket.socket()
    made.bind((HERE, port))
    made.listen()
    return made


def raise_loopback(namespace: Namespace) -> None:
    with Netlink(namespace) as netlink:
        netlink.tell([(set_link("lo", up=True), RTM_SETLINK, 0, "raise it")])


def test_connections_are_not_read(workload: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenant has a million of them if it likes."""
    raise_loopback(workload)
    read: list[str] = []
    opened = Path.open

    def counted(path: Path, *args: Any, **rest: Any) -> Any:
        file: IO[str] = opened(path, *args, **rest)
        if path.name not in ("tcp", "tcp6"):
            return file

        @contextlib.contextmanager
        def lines() -> Any:
            with file:
                yield (read.append(line) or line for line in file)  # type: ignore[func-returns-value]

        return lines()

    with contextlib.ExitStack() as stack:
        one = stack.enter_context(workload.run(lambda: listening(80)))
        for _ in range(50):
            client = stack.enter_context(workload.run(socket.socket))
            client.connect(one.getsockname())
        monkeypatch.setattr(Path, "open", counted)
        assert syn_primer.prime(workload, [HERE], ()) == {(4, 80)}
    assert len(read) < 10


def test_more_listeners_than_anybody_needs_are_not_prepared(workload: Namespace) -> None:
    """Each costs a packet, over and over."""
    raise_loopback(workload)
    with contextlib.ExitStack() as stack:
        for port in range(1000, 1000 + syn_primer.MOST + 20):
            stack.enter_context(workload.run(lambda port=port: listening(port)))  # type: ignore[misc]
        assert len(syn_primer.prime(workload, [HERE], ())) == syn_primer.MOST

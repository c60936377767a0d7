# SPDX-License-Identifier: Apache-2.0
"""Tenants trace, too, and read logs of what is theirs: that a droplet cannot be asked tells them nothing of where its
daemon is reached."""

from __future__ import annotations

from typing import Any, NoReturn

import grpc
import pytest

from mizar._built import transit_pb2 as pb
from mizar.manager import nat_trace
from mizar.manager.live_trace import Listeners
from mizar.model.errors import TemporaryError
from mizar.model.resources import Ref
from mizar.oracle.fleet import End, Way
from mizar.trace.packet import Asked
from mizar.trace.question import Question
from tests.unit.manager.world import World, endpoint

REACHED = "failed to connect to all addresses; last error: UNKNOWN: ipv4:172.31.0.12:7443: Connection refused (111)"


class Gone:
    """A link to a daemon that is not there any more, of which the manager has not noticed it."""

    connected = True

    def stub(self) -> Gone:
        """Itself."""
        return self

    def TraceEngine(self, _request: object, timeout: float) -> NoReturn:  # noqa: N802
        """As a channel fails."""
        none = grpc.aio.Metadata()
        raise grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, none, none, f"{REACHED}, {timeout}")

    def ReadLog(self, _request: object, timeout: float) -> NoReturn:  # noqa: N802
        """The same."""
        self.TraceEngine(_request, timeout)

    def SendTraced(self, _request: object, timeout: float) -> NoReturn:  # noqa: N802
        """The same."""
        self.TraceEngine(_request, timeout)

    def ReadTables(self, request: pb.ReadTablesRequest, timeout: float) -> NoReturn:  # noqa: N802
        """The same."""
        self.TraceEngine(request, timeout)


async def test_where_a_daemon_is_reached_is_not_told(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither of the sender's droplet, nor of one that carries a NAT gateway; which one it is, is."""
    world.apply(*world.base("red"), endpoint("red", "e", "d1"), endpoint("red", "f", "d2"))
    await world.settled()
    gone: Any = Gone()
    with pytest.raises(TemporaryError, match="droplet d2") as asked:
        await nat_trace.ask(lambda _: gone, "d2", "uid", b"", outside=True)
    tracing = world.manager.tracing
    monkeypatch.setattr(tracing, "_link", lambda _: gone)
    question = Question(Ref("Endpoint", "red", "e"), Ref("Endpoint", "red", "f"), Asked("tcp"))
    with pytest.raises(TemporaryError, match="droplet d1") as traced:
        await tracing.trace(question, lambda ref: ref.tenant == "red")
    listeners = Listeners({b"d1": gone}, {})
    with pytest.raises(TemporaryError, match="could not be sent") as sent:
        await listeners.send(b"d1", "uid", b"", Way((), End.DELIVERED), option=False)
    owner = world.manager._registry.find(Ref("Endpoint", "red", "e"))
    assert owner is not None
    monkeypatch.setattr(world.manager, "_stub", lambda _: gone)
    logged = (await world.manager._log(owner, "", 10))["reason"]
    assert logged.startswith("droplet d1 did not tell")
    for text in (*(str(error.value) for error in (asked, traced, sent)), logged):
        assert "172.31" not in text

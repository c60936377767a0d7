# SPDX-License-Identifier: Apache-2.0
"""What a gateway at work tells Prometheus and its log, of a pool of four ports and a quota of three."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from mizar.kernel.namespaces import Namespace
from mizar.pipeline import builder as b
from mizar.pipeline.nat import NatRules
from tests.gateway.rig import BLUE, GREEN, OUTSIDE, POOL4, PORT, WORLD4, UdpEcho, heard_from, rig
from tests.gateway.running import description, running
from tests.gateway.scrape import Samples, scrape
from tests.gateway.waiting import wait_for

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]
_ROOM = 4
_RULES = NatRules(
    masquerade=(
        b.masquerade(BLUE, OUTSIDE, POOL4, ports=f"40000-{40000 + _ROOM - 1}"),
        b.masquerade(GREEN, OUTSIDE, "203.0.113.12"),
    ),
    quotas=(b.quota(GREEN, 3),),
)


@dataclass(frozen=True)
class _Refused:
    """A tenant that gets no more, and what is told of it."""

    tenant: int
    reason: str
    name: str
    room: int
    forecast: str


_EACH = (
    _Refused(BLUE, "exhausted", "PORTS_EXHAUSTED", _ROOM, f"ports of {POOL4} in {OUTSIDE:#x}, udp"),
    _Refused(GREEN, "quota", "QUOTA_EXCEEDED", 3, f"tenant {GREEN:#x}"),
)


def test_what_is_used_up_is_logged_counted_and_foretold(tmp_path: Path) -> None:
    """A pool and a quota: what fits is answered; what does not is an event, a counter and a forecast."""
    place = tmp_path / "metrics"
    with rig() as made:
        text = description("in line", made.prefix, _RULES)
        with (
            running(made, text, tmp_path, "--metrics", f"unix://{place}") as found,
            UdpEcho(made.ends["world"], WORLD4),
        ):
            for one, end in zip(_EACH, (made.ends["blue"], made.ends["green"]), strict=True):
                for number in range(one.room):
                    heard_from(end, WORLD4, source_port=4000 + number)
                meta = {"tenant": f"{one.tenant:#x}"}

                def refused(one: _Refused = one, meta: dict[str, str] = meta) -> bool:
                    now = scrape(place)
                    assert now["mizar_gateway_connections", meta] == one.room
                    assert now["mizar_gateway_begun_connections_total", meta] == one.room
                    return (
                        now["mizar_gateway_refused_packets_total", {**meta, "reason": one.reason}] > 0
                        and now["mizar_gateway_events_total", {"kind": one.reason}] > 0
                    )

                _sending(end, refused)
                said = f"event={one.reason} tenant={one.tenant:#x} reason={one.name} "
                assert said in (tmp_path / "gateway.log").read_text()
            _counters(scrape(place))
            for one in _EACH:

                def foretold(one: _Refused = one) -> bool:
                    return scrape(place).get("mizar_gateway_exhausted_in_seconds", {"what": one.forecast}) == 0

                wait_for(foretold)
                assert scrape(place)["mizar_gateway_used_ratio", {"what": one.forecast}] == 1
            shown = {one["what"]: one["secondsLeft"] for one in found.show()["forecast"]}
            assert [shown[one.forecast] for one in _EACH] == [0, 0]


def _sending(end: Namespace, condition: Callable[[], bool]) -> None:
    """A datagram that would begin one more connection, again and again until a call says yes."""
    with end.run(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as one:
        one.bind(("", 4999))

        def sent() -> bool:
            one.sendto(b"who", (WORLD4, PORT))
            return condition()

        wait_for(sent)


def _counters(now: Samples) -> None:
    """Those of the description have both units, by their metadata."""
    for counter, meta in (("new", BLUE), ("new", GREEN), ("hot", OUTSIDE)):
        labels = {"counter": counter, "meta": f"{meta:#x}"}
        packets = now["mizar_gateway_packets_total", labels]
        assert packets > 0
        assert now["mizar_gateway_bytes_total", labels] >= 42 * packets
    assert now["mizar_build_info", {"component": "gateway"}] == 1
    assert now.get("mizar_gateway_followers", {}) is None  # it is none of a pair

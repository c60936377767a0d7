# SPDX-License-Identifier: Apache-2.0
"""Limits and classes in a lab with real daemons and real traffic. Tight figures are bench/qos.py's; here a limit may be
missed by a fifth, because others use the machine too."""

from __future__ import annotations

import contextlib
import itertools
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mizar.api.client import Client
from mizar.cli.function_files import function_read
from mizar.kernel.namespaces import Namespace
from mizar.lab import lab as labs
from mizar.lab.names import LabName
from mizar.model.function import Function
from mizar.model.manifest import parse_resource
from tests.lab.conftest import manifests, wait_until
from tests.lab.limited import BURST_BYTES, HEADERS, MANIFESTS, PORT, RATE, WINDOW_S, Bench, Stream, near, rates
from tests.lab.test_monitor import watching
from tests.lab.transfer import Transfer

pytestmark = pytest.mark.root

FIVE = """
{apiVersion: mizar/v1, kind: Lab, metadata: {name: NAME}, spec: {droplets: 5}}
---
{apiVersion: mizar/v1, kind: Tenant, metadata: {name: blue}}
---
apiVersion: mizar/v1
kind: VPC
metadata: {name: main, tenant: blue}
spec: {cidrs: [10.0.0.0/16, "fd00:10::/48"], dividers: 1}
---
apiVersion: mizar/v1
kind: Network
metadata: {name: front, tenant: blue}
spec: {vpc: main, cidrs: [10.0.1.0/24, "fd00:10:0:1::/64"], bouncers: 1, throughDivider: true}
---
apiVersion: mizar/v1
kind: Network
metadata: {name: back, tenant: blue}
spec: {vpc: main, cidrs: [10.0.2.0/24, "fd00:10:0:2::/64"], bouncers: 1, throughDivider: true}
"""
TO_FAR = {
    "source": {"tenant": "blue", "name": "a"},
    "destination": {"tenant": "blue", "name": "far"},
    "protocol": "udp",
    "destinationPort": PORT,
    "live": True,
}
TUNNELS = ("geneve", "vxlan")
EXAMPLES = Path(__file__).parents[2] / "examples" / "functions"


@pytest.fixture
def bench(lab: LabName) -> Iterator[Bench]:
    labs.up(manifests(lab, MANIFESTS.replace("TUNNEL", "geneve")))
    with Client(lab.server_url) as client:
        yield Bench(lab, client)


def test_what_an_endpoint_sends_and_is_sent_is_limited(bench: Bench) -> None:
    """TCP and UDP, to another droplet and to a neighbour. A limit that goes holds no more."""
    bench.limit("Endpoint", "a", egress={"bitsPerSecond": RATE}, ingress={"bitsPerSecond": RATE})
    assert near(bench.bits("a", "far", "tcp"))
    assert near(bench.bits("near", "a", "udp"))
    bench.limit("Endpoint", "a")
    assert bench.bits("a", "far", "tcp", 2 * RATE) > 2 * RATE
    assert bench.client.get("Droplet", "d1")["status"]["limitsMode"] == "shaped"


@pytest.mark.long
@pytest.mark.parametrize("direction", ["egress", "ingress"])
def test_limits_hold_whatever_the_way(bench: Bench, direction: str) -> None:
    """Of endpoint, network and VPC; each way and each protocol."""
    limited = {direction: {"bitsPerSecond": RATE}}
    for kind, name in (("Endpoint", "a"), ("Network", "front"), ("VPC", "main")):
        bench.limit(kind, name, **limited)
        for other, protocol in itertools.product(("near", "far"), ("tcp", "udp")):
            ends = ("a", other) if direction == "egress" else (other, "a")
            assert near(bench.bits(*ends, protocol)), (kind, *ends, protocol)
        bench.limit(kind, name)


@pytest.mark.long
def test_a_networks_limit_is_shared_and_an_endpoints_own_holds_inside_of_it(bench: Bench) -> None:
    """Two endpoints of one droplet send at once: together they have what their network may, and the limited one what
    it may."""
    bench.limit("Network", "front", egress={"bitsPerSecond": RATE})
    assert near(sum(bench.together([("a", "far", "tcp"), ("near", "far", "tcp")])))
    bench.limit("Endpoint", "a", egress={"bitsPerSecond": RATE // 4})
    own, other = bench.together([("a", "far", "tcp"), ("near", "far", "tcp")])
    assert own < 1.2 * RATE / 4
    assert near(own + other)


@pytest.mark.long
def test_functions_and_limits_work_together(bench: Bench) -> None:
    """Of another endpoint, and of the limited one: its TCP waits before functions see it, and so comes to its limit. A
    policer would leave it less than two thirds, and the assertion on the rate would fail."""
    bench.limit("Endpoint", "a", egress={"bitsPerSecond": RATE})
    bench.limit("Endpoint", "far", egress={"bitsPerSecond": RATE})
    for endpoint in ("near", "a"):
        attach = [{"endpoint": {"tenant": "blue", "name": endpoint}}]
        spec = {"source": "metadata-inject.c", "stages": ["ENDPOINT_EGRESS"], "attach": attach}
        manifest = {"apiVersion": "mizar/v1", "kind": "Function", "metadata": {"name": "metadata-inject"}, "spec": spec}
        found = parse_resource(manifest)
        assert isinstance(found, Function)
        bench.client.apply([function_read(found, EXAMPLES / "metadata-inject")])
        bench.client.wait([found.ref], 30)
        got = bench.bits("a", "far", "tcp", 0.85 * RATE)
        assert 0.85 * RATE < got < 1.1 * RATE, (endpoint, got)


@pytest.mark.long
def test_a_limit_changes_and_goes_under_traffic(bench: Bench) -> None:
    """What is under way follows, and no connection notices. Behind the last limit nothing of the shaper is left."""
    bench.limit("Endpoint", "a", egress={"bitsPerSecond": RATE})
    with contextlib.closing(Stream(bench, "a", "far", "tcp")) as stream:
        wait_until(lambda: stream.received > 3 * BURST_BYTES)
        assert near(rates(stream)[0])
        bench.limit("Endpoint", "a", egress={"bitsPerSecond": RATE // 4})
        wait_until(lambda: near(rates(stream)[0], RATE / 4))
        bench.limit("Network", "front", egress={"bitsPerSecond": RATE // 8})
        wait_until(lambda: near(rates(stream)[0], RATE / 8))
        bench.limit("Network", "front")
        bench.limit("Endpoint", "a", egress={"bitsPerSecond": RATE})
        wait_until(lambda: near(rates(stream)[0]))
        assert shapers(bench)
        bench.limit("Endpoint", "a")
        wait_until(lambda: rates(stream)[0] > 2 * RATE)
        wait_until(lambda: not shapers(bench))


@pytest.mark.long
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_daemon_that_starts_anew_finds_its_limits(bench: Bench, how: signal.Signals) -> None:
    """Under traffic: the limit holds while there is no daemon and behind it, every byte arrives,
    and what is changed then is changed. Without the pinned tables and the pair, the first rate would be far higher."""
    bench.limit("Endpoint", "a", egress={"bitsPerSecond": RATE})
    transfer = Transfer(bench.namespace("a"), bench.namespace("far"), bench.address("far"))
    with contextlib.closing(Stream(bench, "a", "far", "tcp")) as stream:
        wait_until(lambda: stream.received > 3 * BURST_BYTES)
        before = shapers(bench)
        began, was = time.monotonic(), stream.received + transfer.received
        bench.restart(how=how)
        time.sleep(WINDOW_S)  # part of what is measured
        got = (stream.received + transfer.received - was) * 8 * (1 + HEADERS["tcp"]) / (time.monotonic() - began)
        assert near(got)
        assert shapers(bench) == before
        bench.limit("Endpoint", "a", egress={"bitsPerSecond": RATE // 4})
        wait_until(lambda: rates(stream)[0] < RATE / 3)
    assert transfer.end()


@pytest.mark.long
def test_a_guarantee_holds_however_much_the_others_send(bench: Bench) -> None:
    """The interface carries RATE, and two endpoints want more than that each: without the guarantee both get about
    half of it, and with it one gets what is guaranteed, and the other the rest."""
    bench.restart("--uplink-rate", str(RATE))
    ways = [("a", "far", "udp"), ("near", "far", "udp")]
    plain = bench.together(ways)
    assert near(sum(plain))
    assert plain[0] < 0.75 * RATE
    bench.limit("Endpoint", "a", guarantee={"bitsPerSecond": RATE * 9 // 10})
    assert bench.client.get("Endpoint", "a", "blue")["spec"]["qos"]["guarantee"]
    guaranteed = bench.together(ways)
    assert guaranteed[0] > 0.8 * RATE
    assert near(sum(guaranteed))


@pytest.mark.long
def test_what_a_limit_drops_is_told_with_the_limit(bench: Bench) -> None:
    """By monitor and by a live trace: whose it is, and what it is. The status says how bits are limited, and why."""
    bench.limit("Network", "front", egress={"packetsPerSecond": 1, "burstPackets": 1})
    with watching(bench.lab, "--reason", "LIMIT_EGRESS") as watcher, flooding(bench):
        event = next(one for one in watcher.until(lambda seen: seen and seen[-1]["type"] == "drop") if "limit" in one)
        assert (event["limited"], event["limit"]) == ("blue/a", "network blue/front, egress: 1 packets/s")
        wait_until(lambda: "by the limit of the endpoint's network" in str(bench.client.trace(TO_FAR)))
    for other in ("far", "near"):
        bench.limit("Network", "front", egress={"bitsPerSecond": RATE}, ingress={"bitsPerSecond": RATE})
        question = TO_FAR | {"destination": {"tenant": "blue", "name": other}}
        wait_until(lambda question=question: bench.client.trace(question)["ok"])  # type: ignore[misc]
    status = bench.client.get("Droplet", "d1")["status"]
    assert (status["limitsMode"], "htb" in status["limitsReason"]) == ("shaped", True)


@contextlib.contextmanager
def flooding(bench: Bench) -> Iterator[None]:
    """More packets than may pass, from a to far."""
    with contextlib.closing(Stream(bench, "a", "far", "udp")):
        yield


def shapers(bench: Bench) -> list[str]:
    """The pair of the shaper on d1, if there is one."""
    with Namespace.by_name(bench.lab.droplet_namespace("d1")) as inside:
        return inside.run(lambda: sorted(name for _, name in socket.if_nameindex() if name.startswith("mzqos")))


def classes_seen(
    bench: Bench, source: str, target: str, tos: int, *, at: str = "d1", family: int = 4
) -> tuple[int, int, bytes]:
    """Service bytes, outer and inner, of a datagram that claims `tos`, as a droplet sends or gets it; its sender."""
    with Namespace.by_name(bench.lab.droplet_namespace(at)) as inside:
        capture = inside.run(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)))
    sockets = socket.AF_INET if family == 4 else socket.AF_INET6
    level, option = (0, socket.IP_TOS) if family == 4 else (socket.IPPROTO_IPV6, socket.IPV6_TCLASS)
    with Namespace.by_name(bench.namespace(source)) as inside:
        sender = inside.run(lambda: socket.socket(sockets, socket.SOCK_DGRAM))
    with capture, sender:
        capture.settimeout(0.2)
        sender.setsockopt(level, option, tos)
        addresses = bench.client.get("Endpoint", target, "blue")["status"]["addresses"]
        address = next(one for one in addresses if (":" in one) == (family == 6))
        word, end = f"class {tos} {next(bench.ports)}".encode(), time.monotonic() + 30
        while time.monotonic() < end:
            sender.sendto(word, (address, 9))
            with contextlib.suppress(TimeoutError):
                for _ in range(50):
                    frame = capture.recv(65536)
                    inner = frame.find(word) - 8 - (20 if family == 4 else 40)
                    if inner >= 50 + 14:
                        inside_class = (
                            frame[inner + 1] if family == 4 else (frame[inner] & 15) << 4 | frame[inner + 1] >> 4
                        )
                        return frame[15], inside_class, frame[26:30]
    raise AssertionError("no such packet came by")


@pytest.mark.long
def test_a_class_is_kept_through_the_tunnel(bench: Bench) -> None:
    """Outside and inside; who has none claims nothing outside."""
    assert classes_seen(bench, "a", "far", 0xB8)[:2] == (0, 0xB8)
    bench.limit("Endpoint", "a", dscp="af21")
    assert classes_seen(bench, "a", "far", 0xB8)[:2] == (18 << 2, 18 << 2)
    bench.limit("VPC", "main", dscp="default")
    assert classes_seen(bench, "near", "far", 0xB8)[:2] == (0, 0)


@pytest.mark.long
def test_a_class_is_kept_over_all_hops(lab: LabName) -> None:
    """Bouncer, divider and bouncer on droplets of their own; both tunnels and both families. Whoever captures at the
    receiver's droplet sees the mark that the sender's has written, from another droplet than the sender's."""
    labs.up(manifests(lab, FIVE))
    with Client(lab.server_url) as client:
        bench = Bench(lab, client)
        networks = [client.get("Network", name, "blue")["status"]["bouncers"] for name in ("front", "back")]
        busy = {*client.get("VPC", "main", "blue")["status"]["dividers"], *networks[0], *networks[1]}
        source, target = [name for name in (f"d{number}" for number in range(1, 6)) if name not in busy][:2]
        more = "".join(
            f"\n---\n{{apiVersion: mizar/v1, kind: Endpoint, metadata: {{name: {network}-{tunnel}, tenant: blue}}, "
            f"spec: {{network: {network}, droplet: {droplet}, tunnelProtocol: {tunnel}, qos: {{dscp: ef}}}}}}"
            for network, droplet in (("front", source), ("back", target))
            for tunnel in TUNNELS
        )
        labs.up(manifests(lab, FIVE + more))
        for tunnel in TUNNELS:
            for family in (4, 6):
                outer, inner, sender = classes_seen(
                    bench, f"front-{tunnel}", f"back-{tunnel}", 0, at=target, family=family
                )
                assert (outer, inner) == (46 << 2, 46 << 2)
                assert socket.inet_ntoa(sender) != client.get("Droplet", source)["spec"]["address"]

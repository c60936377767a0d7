# SPDX-License-Identifier: Apache-2.0
"""Where the data plane once did not do what the contracts say, each at its smallest."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mizar.oracle.outcome import Verdict
from mizar.oracle.tables import Droplet, Network, Vpc
from tests.oracle import build
from tests.oracle.differential import Arrival, observe, predict, visible
from tests.oracle.droplets import BLUE, BOUNCER, HOST, ME, MY_MAC, RED, address, even, mac_of, packed
from tests.oracle.golden_droplet import droplet
from tests.oracle.real import RealDroplet

pytestmark = pytest.mark.root
A, R = mac_of(1, 11), mac_of(1, 21)
GATEWAY = address(6, 1, 1)


def agree(real: RealDroplet, here: Droplet, door: str, frame: bytes) -> None:
    """Both, compared."""
    real.fill(here)
    arrival = Arrival(door, frame)
    assert visible(observe(real, arrival), door) == visible(predict(here, arrival), door)


def only_ipv6() -> Droplet:
    here = droplet()
    return replace(here, agents={1: replace(here.agents[1], ipv4=None)})


def echo_request(mac: bytes, source: bytes, destination: bytes) -> bytes:
    message = build.icmpv6(source, destination, build.echo(128, 0, b""))
    return build.ethernet(build.ROUTER, mac, 0x86DD, build.ipv6(source, destination, 58, message))


def solicitation(mac: bytes, source: bytes, destination: bytes, target: bytes, option: bool) -> bytes:
    message = bytes([135, 0, 0, 0]) + bytes(4) + target + (b"\x01\x01" + mac if option else b"")
    packet = build.ipv6(source, destination, 58, build.icmpv6(source, destination, message), ttl=255)
    return build.ethernet(b"\x33\x33" + destination[12:], mac, 0x86DD, packet)


def from_host(inner: bytes, **fields: object) -> bytes:
    known = {"src": HOST, "dst": ME, "src_mac": mac_of(2, 4), "dst_mac": MY_MAC, "vni": RED}
    return build.tunnel("geneve", inner, **(known | fields))  # type: ignore[arg-type]


def test_the_unspecified_address_is_no_gateway(real: RealDroplet) -> None:
    """An endpoint without IPv4 pings ::, and the router answers from ::. No network holds ::, so nobody ought to."""
    agree(real, only_ipv6(), "agent", echo_request(A, address(6, 1, 11), packed("::")))


def test_nobody_answers_for_a_mapped_address(real: RealDroplet) -> None:
    """IPv6's ::ffff:10.0.1.11 means IPv4 in the tables and belongs on no wire: no solicitation for it is answered."""
    target = packed("::ffff:10.0.1.11")
    frame = solicitation(R, address(6, 1, 21), packed("ff02::1:ff00:10b"), target, option=True)
    agree(real, droplet(), "transit", from_host(frame))


def test_a_mapped_source_is_nobodys(real: RealDroplet) -> None:
    """In the tables ::ffff:10.0.1.11 means IPv4: a packet of IPv6 from there crossed a peering as if a network of its
    VPC had sent it. Such a source is refused as such a destination is."""
    row = Network(0, bytes(16), peer=BLUE)
    here = droplet()
    prefix_, far = packed("fd00:99::"), packed("fd00:99::1")
    neighbour = replace(here.endpoints[RED, address(6, 1, 21)], host=ME, ifindex=12, uid="r")
    here = replace(
        here,
        vpcs={**here.vpcs, BLUE: Vpc(even(HOST))},
        networks={**here.networks, (RED, prefix_, 32): row},
        endpoints={**here.endpoints, (BLUE, far): neighbour},
    )
    for source, reason in ((address(6, 1, 21), ""), (packed("::ffff:10.0.1.21"), "INNER_IP_HEADER")):
        body = build.udp(1, 2, b"mizar!")
        inner = build.ethernet(build.ROUTER, R, 0x86DD, build.ipv6(source, far, 17, body))
        agree(real, here, "transit", from_host(inner))
        assert predict(here, Arrival("transit", from_host(inner))).reason == reason


@pytest.mark.parametrize(
    ("destination", "option"), [("ff02::1:ff00:b", True), ("ff02::1", False)], ids=["source MAC", "all nodes"]
)
@pytest.mark.parametrize("door", ["agent", "transit"])
def test_a_probe_is_checked_as_rfc_4861_7_1_1_says(
    real: RealDroplet, door: str, destination: str, option: bool
) -> None:
    """From :: a solicitation goes to the solicited-node group, without a source MAC. Any other is ND_MALFORMED."""
    frame = solicitation(A, bytes(16), packed(destination), address(6, 1, 11), option)
    agree(real, droplet(), door, frame if door == "agent" else from_host(frame))


@pytest.mark.parametrize("fragment", [0x0000, 0x8000])
def test_an_answer_bears_df(real: RealDroplet, fragment: int) -> None:
    """contracts/wire.md: DF set. A tunnel end that sends without it gets answers without it, or with a reserved bit."""
    request = echo_request(R, address(6, 1, 21), GATEWAY)
    agree(real, droplet(), "transit", from_host(request, fragment=fragment))


@pytest.mark.parametrize("fields", [{"ip_options": bytes(4)}, {"total": 20}], ids=["options", "short"])
def test_what_is_sent_to_others_is_not_counted(real: RealDroplet, fields: dict[str, object]) -> None:
    """A UDP packet for another host (broadcast, routed through) is none of ours, whatever its header looks like."""
    agree(real, droplet(), "transit", from_host(b"", dst=BOUNCER, **fields))


@pytest.mark.parametrize("kind", [134, 136, 137], ids=["router advertisement", "advertisement", "redirect"])
def test_discovery_behind_an_extension_header_is_not_carried(real: RealDroplet, kind: int) -> None:
    """contracts/wire.md: neighbour discovery is not carried. Behind empty destination options it is, with hop limit
    255, to an endpoint of the same droplet: one that changes what its neighbour takes for the gateway's MAC."""
    here = droplet()
    neighbour = replace(here.endpoints[RED, address(6, 1, 21)], host=ME, ifindex=12, uid="r")
    here = replace(here, endpoints={**here.endpoints, (RED, address(6, 1, 21)): neighbour})
    source, destination = address(6, 1, 11), address(6, 1, 21)
    message = bytes([kind, 0, 0, 0]) + bytes.fromhex("20000000") + GATEWAY + b"\x02\x01\x33\x33\x00\x00\x00\x01"
    hidden = b"\x3a\x00\x01\x04" + bytes(4) + build.icmpv6(source, destination, message)
    packet = build.ipv6(source, destination, 60, hidden, ttl=255)
    real.fill(here)
    assert real.agent(1, build.ethernet(build.ROUTER, A, 0x86DD, packet)).verdict is Verdict.DROP


def test_a_returned_frame_of_an_unknown_vpc_is_left_as_it_is(real: RealDroplet) -> None:
    """While a VPC goes, its endpoints may be known for longer. The frame is left to the host's stack, unchanged."""
    here = droplet()
    packet = build.ipv6(address(6, 1, 11), address(6, 1, 99), 17, build.udp(1, 2, b"returned"))
    came = from_host(build.ethernet(build.ROUTER, R, 0x86DD, packet), second=0x80)
    agree(real, replace(here, vpcs={}, networks={}, agents={}), "transit", came)

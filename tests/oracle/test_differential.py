# SPDX-License-Identifier: Apache-2.0
"""The short run of the differential tests. The long one: `./run fuzz --minutes N`."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mizar.oracle.outcome import Step
from mizar.oracle.tables import Droplet
from tests.oracle import build, golden
from tests.oracle.differential import Arrival, check, try_cases
from tests.oracle.droplets import BOUNCER, HOST, ME, MY_MAC, RED
from tests.oracle.golden import Golden
from tests.oracle.golden_droplet import in_every_role
from tests.oracle.havoc import BYTES
from tests.oracle.real import RealDroplet
from tests.oracle.seeds import octet_by_octet, seeds
from tests.oracle.substrates import SUBSTRATES, in_ipv6, move

pytestmark = pytest.mark.root
SWEPT: set[str] = {
    "ARP_MALFORMED", "ARP_UNANSWERED", "DUPLICATE_ADDRESS_PROBE", "ENDPOINT_UNKNOWN", "GENEVE_CONTROL",
    "GENEVE_CRITICAL_OPTION", "GENEVE_OPTIONS_TRUNCATED", "GENEVE_OPTION_LENGTH", "GENEVE_PROTOCOL", "GENEVE_VERSION",
    "INNER_ETHERTYPE", "INNER_IP_HEADER", "INNER_IP_LENGTH", "INNER_MULTICAST", "INNER_TRUNCATED", "ND_MALFORMED",
    "ND_UNANSWERED", "OUTER_IP_HEADER", "OUTER_TRUNCATED", "OUTER_UDP_LENGTH", "RETURNED_STRANGE", "SPOOFED_ADDRESS",
    "SPOOFED_ARP", "SPOOFED_MAC", "SPOOFED_ND", "TUNNEL_TRUNCATED", "UNKNOWN_SENDER", "UNKNOWN_VNI",
}  # fmt: skip
"""Why each droplet here refuses frames that differ a little from good ones. Other reasons: test_reached.py."""
SWEPT_STEPS = {Step.BOUNCE, Step.TO_BOUNCER, Step.DIVIDE, Step.TO_DIVIDER, Step.DELIVER, Step.ROUTER}
BESIDE: dict[str, set[object]] = {
    "droplet": {Step.BOUNCE, Step.TO_DIVIDER},
    "hosting": {Step.TO_BOUNCER, Step.TO_DIVIDER},
    "dividing": {Step.DIVIDE, "NETWORK_UNKNOWN"},
}
"""What one of them does beside that."""
OFTEN = {
    "ARP_MALFORMED", "ENDPOINT_UNKNOWN", "INNER_IP_HEADER", "INNER_IP_LENGTH", "INNER_MULTICAST",
    "INNER_TRUNCATED", "NETWORK_UNKNOWN", "OUTER_IP_HEADER", "SPOOFED_ADDRESS", "SPOOFED_MAC",
    "UNKNOWN_SENDER", "UNKNOWN_VNI", Step.BOUNCE, Step.DELIVER, Step.TO_DIVIDER,
}  # fmt: skip
"""What a hundred of any generated packets come to, whichever they are: their draws follow from more than this file, so
what is rare among them is asked for elsewhere."""


@in_every_role
@pytest.mark.parametrize("each", golden.ALL, ids=str)
def test_every_octet_and_every_length_of_a_golden_frame(
    real: RealDroplet, each: Golden, here: Callable[[], Droplet]
) -> None:
    """Whatever one octet of a good frame is changed to."""
    tables = here()
    real.fill(tables)
    assert len(check(real, tables, octet_by_octet(Arrival(each.door, each.comes), frozenset(BYTES)))) > 500


@in_every_role
def test_everything_that_a_droplet_does_or_refuses(real: RealDroplet, here: Callable[[], Droplet]) -> None:
    """Every octet a little different, and every length. All that SWEPT names is seen."""
    tables, seen = here(), set[object]()
    real.fill(tables)
    for each in seeds():
        for outcome in (*check(real, tables, [each]), *check(real, tables, octet_by_octet(each, frozenset()))):
            seen |= {outcome.reason, outcome.step}
    missed = (SWEPT | BESIDE[here.__name__] | {Step.DELIVER, Step.ROUTER}) - seen
    assert not missed, f"the frames miss {missed}"


@in_every_role
def test_every_octet_and_every_length_over_ipv6(real6: RealDroplet, here: Callable[[], Droplet]) -> None:
    """The golden frames of the substrate, with IPv6 around them."""
    tables = move(here(), "ipv6")
    real6.fill(tables)
    for each in golden.ALL:
        if each.door == "transit":
            arrival = Arrival("transit", over_ipv6(each.comes))
            assert len(check(real6, tables, octet_by_octet(arrival, frozenset(BYTES)))) > 500


def over_ipv6(frame: bytes) -> bytes:
    """A tunnel packet over IPv4, as HOST would have sent it over IPv6."""
    header = build.ipv6(in_ipv6(HOST), in_ipv6(ME), 17, frame[34:], first=frame[15] << 20)
    return build.ethernet(frame[:6], frame[6:12], 0x86DD, header)


@in_every_role
def test_sending_by_tc_changes_nothing_else(here: Callable[[], Droplet]) -> None:
    """As on a veth: what XDP sends or passes bears a note for `deliver`, and is the same otherwise."""
    real, tables = RealDroplet(ME, MY_MAC, send_by_tc=True), here()
    real.fill(tables)
    foreign = build.tunnel("geneve", b"", src=HOST, dst=BOUNCER, src_mac=MY_MAC, dst_mac=MY_MAC, vni=RED)
    assert len(check(real, tables, [*seeds(), Arrival("transit", foreign)])) > 100
    real.close()


@pytest.mark.parametrize(("substrate", "programs"), list(zip(SUBSTRATES, ("real", "real6", "real46"), strict=True)))
def test_the_programs_do_what_the_oracle_says(substrate: str, programs: str, request: pytest.FixtureRequest) -> None:
    """Any droplets and packets on a substrate. What they have to reach is little: test_reached.py has the rest."""
    seen = try_cases(request.getfixturevalue(programs), substrate, 100)
    assert not OFTEN - seen.keys(), f"the cases miss {OFTEN - seen.keys()}"

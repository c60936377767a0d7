# SPDX-License-Identifier: Apache-2.0
"""The function ddos-protection alone in the kernel: its lists as the oracle has them, its limits, and its answers."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mizar.model.errors import InvalidError
from mizar.model.prefix_list import listed, read_lines, unpacked
from mizar.oracle.functions import Seen
from mizar.oracle.protection import of_lists
from mizar.transit import ddos_values as values
from tests.dataplane.ddos_loaded import CONTINUE, DROP, ENDPOINT, Loaded, packet

pytestmark = pytest.mark.root


@pytest.fixture(scope="module", params=["xdp", "tc"])
def loaded(request: pytest.FixtureRequest) -> Iterator[Loaded]:
    made = Loaded(request.param)
    yield made
    made.trial.close()


def rows(bits: int) -> st.SearchStrategy[list[tuple[int, int]]]:
    """Prefixes that lie near one another, so that they meet and hold one another."""
    lengths = st.sampled_from([0, 1, 2, 3, 8, 16, 24, bits - 2, bits - 1, bits])
    address = st.sampled_from([0, (1 << bits) - 1, 1 << bits - 1]) | st.integers(0, (1 << bits) - 1)
    return st.lists(st.builds(lambda a, n: (a >> bits - n << bits - n, n), address, lengths), max_size=6)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(block4=rows(32), block6=rows(128), allow4=rows(32), allow6=rows(128), data=st.data())
def test_lists_are_the_oracles(
    loaded: Loaded, block4: Any, block6: Any, allow4: Any, allow6: Any, data: st.DataObject
) -> None:
    """Whatever is on them: the kernel's program drops what the twin drops, at the edges of all prefixes."""
    block, allow = unpacked(listed(block4, block6).packed), unpacked(listed(allow4, allow6).packed)
    loaded.rule(block, allow)
    twin = of_lists(block, allow)
    for bits, found in ((32, [*block4, *allow4]), (128, [*block6, *allow6])):
        edges = {0, (1 << bits) - 1}
        for first, length in found:
            edges |= {max(first - 1, 0), first, first + (1 << bits - length) - 1, min(first + (1 << bits - length), (1 << bits) - 1)}  # fmt: skip # noqa: E501
        for number in data.draw(st.permutations(sorted(edges)))[:4]:
            source = str(ip_address(number.to_bytes(bits // 8, "big")))
            if bits == 128 and number >> 32 == 0xFFFF:  # a mapped address is IPv4's
                continue
            drops = twin(Seen("ENDPOINT_INGRESS", b"", packet(source, 17, bytes(8)), 7))
            assert (loaded.run(source)[0] == DROP) == drops, source


def test_limits_of_sources_are_each_ones_own(loaded: Loaded) -> None:
    """One source is over, another one is not; without a limit nobody is."""
    loaded.rule(source_packets=5)
    found = [loaded.run("10.0.2.2")[0] for _ in range(20)]
    assert found[0] == CONTINUE
    assert found[-1] == DROP
    assert loaded.run("10.0.2.3") == (CONTINUE, 0)
    loaded.rule(target_packets=5)
    found = [loaded.run(f"10.0.3.{number}")[0] for number in range(1, 21)]
    assert found[0] == CONTINUE
    assert loaded.run("10.0.3.99") == (DROP, 3)
    loaded.rule()
    assert loaded.run("10.0.2.2") == (CONTINUE, 0)


def test_datagrams_from_listed_ports(loaded: Loaded) -> None:
    """From NTP's port and for no question of the endpoint: dropped, behind headers of IPv6 too; of another port not."""
    loaded.rule(flags=values.REFLECTED | values.REFLECTED_ALWAYS, ports=[123])
    ntp, other = struct.pack("!HHHH", 123, 9, 8, 0), struct.pack("!HHHH", 124, 9, 8, 0)
    for source in ("10.0.2.2", "fd00::2"):
        assert loaded.run(source, 17, ntp) == (DROP, 5)
        assert loaded.run(source, 17, other) == (CONTINUE, 0)
    behind = bytes((17, 0, 0, 0, 0, 0, 0, 0))
    assert loaded.run("fd00::2", 60, behind + ntp) == (DROP, 5)
    assert loaded.run("fd00::2", 60, behind + other) == (CONTINUE, 0)


def test_a_slot_of_another_endpoint_is_not_judged_by_its_kernel() -> None:
    """What is known of a kernel holds for the interface that it was learned of: a stray ACK to it is dropped.
    What is for whoever has the slot now is left to that endpoint."""
    found = Loaded("tc")
    try:
        found.rule(flags=values.COOKIES | values.COOKIES_ALWAYS)
        ack = struct.pack("!HHIIBBHHH", 4001, 80, 1, 1, 5 << 4, 0x10, 1024, 0, 0)
        for ifindex, verdict in ((1, (DROP, 4)), (2, (CONTINUE, 0)), (1, (DROP, 4))):
            found.put("kernels", ENDPOINT, values.kernel(4000, ifindex))
            assert found.run("10.0.2.2", 6, ack) == verdict
    finally:
        found.trial.close()


def test_limits_of_bytes(loaded: Loaded) -> None:
    """As those of packets: of a source, and of the endpoint, for each its own."""
    for field, kind in (("source_bytes", 2), ("target_bytes", 3)):
        limit: dict[str, Any] = {field: 2000}
        loaded.put("targets", ENDPOINT, bytes(16))  # what another test has left
        loaded.rule(**limit)
        found = [loaded.run("10.0.7.7", body=bytes(1000)) for _ in range(10)]
        assert found[0] == (CONTINUE, 0)
        assert found[-1] == (DROP, kind)
        loaded.rule()
        assert loaded.run("10.0.7.7", body=bytes(1000)) == (CONTINUE, 0)


def test_a_list_says_which_lines_are_wrong() -> None:
    """Each with its number, and nothing of the list is taken."""
    with pytest.raises(InvalidError) as caught:
        read_lines(["198.51.100.0/24", "198.51.100.1/24", "# all right", "nonsense", "::/129"], "list.txt")
    assert [one.line for one in caught.value.problems] == [2, 4, 5]
    assert len(read_lines(["10.0.0.0/8", "10.1.0.0/16  # inside", "", "10.0.0.0/8", "::1"])) == 2

# SPDX-License-Identifier: Apache-2.0
"""Rules around a NAT gateway, as the kernel has them: what somebody has altered is told, and mended."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address, ip_network

import pytest

from mizar.kernel import nat_guard, nftables
from mizar.kernel.namespaces import Namespace, anonymous
from mizar.kernel.nat_guard import Limits

from .altered_rules import Kept

pytestmark = pytest.mark.root
TABLE = "inet mizar_nat"
LIMITS = Limits(
    (ip_network("172.31.0.3"), ip_network("fd00:ac1f::3")),
    (ip_network("172.16.0.0/12"), ip_network("10.0.0.0/8"), ip_network("fc00::/7")),
    (ip_network("172.31.9.0/24"),),
)
RULES = nat_guard.rules("eth0", [ip_network("10.0.0.0/16")], LIMITS, (7799, ip_address("10.0.1.6")))
ALTERED = (
    (f"flush chain {TABLE} out4", ("chain out4", "@never4", 1)),
    (f"add element {TABLE} reach4 {{ 172.31.0.0/24 }}", ("set reach4", "172.31.0.0/24", 2)),
    (f"flush set {TABLE} never6", ("set never6", "fd00:ac1f::3", 1)),
    (f"delete table {TABLE}", ("chain through", "@inside4", 1)),
)
KEPT = Kept(nat_guard.altered, lambda namespace, rules, fresh: nat_guard.keep(namespace, rules, fresh=fresh))


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    """With the rules."""
    with anonymous() as made:
        nat_guard.keep(made, RULES)
        yield made


def test_rules_that_are_kept_again_differ_in_nothing(namespace: Namespace) -> None:
    """However often, and after others."""
    KEPT.take_turns(namespace, RULES, nat_guard.rules("eth0", [ip_network("10.1.0.0/16")], LIMITS))


def test_what_is_counted_is_no_difference(namespace: Namespace) -> None:
    """The counter of what is refused is as it should be, whatever it has counted."""
    counted = f"add table {TABLE}\nadd counter {TABLE} refused {{ packets 5 bytes 300 }}\n"
    nftables.apply(nftables.without("inet", "mizar_nat") + counted + RULES, namespace)
    assert nftables.packets("inet", "mizar_nat", namespace) == {"refused": 5}
    assert list(nat_guard.altered(namespace, RULES)) == []


@pytest.mark.parametrize(("command", "told"), ALTERED)
def test_what_is_altered_is_told_and_written_again(
    namespace: Namespace, command: str, told: tuple[str, str, int]
) -> None:
    """By its chain or set: what is missing there, or what is foreign."""
    KEPT.is_told_and_mended(namespace, RULES, command, told)


@pytest.mark.parametrize("command", [command for command, _ in ALTERED])
def test_the_daemon_sees_what_is_altered(namespace: Namespace, command: str) -> None:
    """At its next look."""
    assert nat_guard.is_kept(namespace, RULES)
    nftables.apply(command, namespace)
    assert not nat_guard.is_kept(namespace, RULES)


def test_what_keeps_gateways_from_the_host_is_compared_too(namespace: Namespace) -> None:
    """In the droplet's namespace."""
    namespace.run(nat_guard.keep_host)
    nftables.apply(nat_guard._HOST, namespace)  # of two gateways that begin at once
    assert namespace.run(nat_guard.host_altered) == []
    nftables.apply(f"flush chain {TABLE} host", namespace)
    (found,) = namespace.run(nat_guard.host_altered)
    assert (found[0], "drop" in found[1]) == ("chain host", True)
    namespace.run(nat_guard.keep_host)
    assert namespace.run(nat_guard.host_altered) == []

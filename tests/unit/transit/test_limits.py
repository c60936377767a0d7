# SPDX-License-Identifier: Apache-2.0
"""Limits of a droplet: which limiters there are, what their endpoints share, and the tree of the shaper."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mizar.kernel.shaper import REST, ShapedClass
from mizar.model.errors import InvalidError
from mizar.transit.limit_values import NO_QOS, UNLIMITED, Qos, Rate
from mizar.transit.limits import limit_text, shaped_classes
from mizar.transit.values import Wanted
from mizar.transit.workloads import InNamespace, NamespaceBy
from tests.unit.transit.test_audit import Bench, end
from tests.unit.transit.test_batch import OWN

NETWORK, OWN_RATE, VPC = Rate(10**7, 0, 10**5), Rate(2 * 10**6, 0, 10**5), Rate(10**8, 1000, 10**6, 100)


def wanted(number: int, qos: Qos) -> Wanted:
    return Wanted(f"uid-{number}", end(number, OWN), InNamespace(NamespaceBy.NAME, f"here{number}", "eth0"), 0, qos=qos)


async def test_what_endpoints_share_is_there_once_and_goes_with_the_last() -> None:
    """Own below network below VPC; whoever has no limit of its own waits in the network's leaf."""
    bench = Bench()
    await bench.fill()
    ledger = bench.ledger
    shared = Qos(egress=(UNLIMITED, NETWORK, VPC))
    ledger.put_local(wanted(12, replace(shared, egress=(OWN_RATE, NETWORK, VPC))), "veth2", 6)
    ledger.put_local(wanted(13, shared), "veth3", 7)
    slots = {limiter.rate: limiter.slot for limiter in ledger.state.limiters.values() if limiter.key[1] == 0}
    own, network, vpc = (slots[rate] for rate in (OWN_RATE, NETWORK, VPC))
    tree = shaped_classes(ledger.state)
    assert tree[own] == ShapedClass(2 * 10**6, 10**5, network, leaf=True)
    assert tree[network] == ShapedClass(10**7, 10**5, vpc)
    assert tree[REST | network] == ShapedClass(10**7, 10**5, network, leaf=True)
    assert tree[vpc] == ShapedClass(10**8, 10**6)
    assert limit_text(ledger.state, vpc) == "VPC, egress: 100000000 bit/s, 1000 packets/s"
    ledger.put_local(wanted(13, NO_QOS), "veth3", 7)
    assert network in {limiter.slot for limiter in ledger.state.limiters.values()}
    assert [one for one in await bench.found() if one.table != "substrate_endpoints"] == []
    ledger.delete_local("uid-12")
    held = {limiter.slot for limiter in ledger.state.limiters.values()}
    assert network in held  # uid-1 is of that network
    assert not {own, vpc} & held
    ledger.delete_local("uid-1")
    assert not ledger.state.limiters
    assert not [*bench.maps.limiters.used(), *bench.maps.endpoint_limits.used()]


@pytest.mark.parametrize("numbers", [(1, 0, 10**5, 0), (10**6, 0, 9, 0), (0, 5, 0, 0), (0, 0, 10**5, 0), (0, 0, 0, 5)])
def test_what_is_no_limit_is_refused(numbers: tuple[int, int, int, int]) -> None:
    with pytest.raises(InvalidError):
        Rate(*numbers)

# SPDX-License-Identifier: Apache-2.0
"""Limits of a droplet: which limiters there are, what their endpoints share, and the tree of the shaper."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mizar.kernel.shaper import REST, ShapedClass
from mizar.model.errors import InvalidError
from mizar.transit.ledger import Ledger
from mizar.transit.limit_values import NO_QOS, UNLIMITED, LimiterKey, Qos, Rate
from mizar.transit.limits import limit_text, shaped_classes
from mizar.transit.readback import Found
from mizar.transit.state import State
from mizar.transit.values import Wanted
from mizar.transit.workloads import InNamespace, NamespaceBy
from tests.unit.transit.batches import LIMITS, OWN
from tests.unit.transit.test_audit import Bench, end

NETWORK, OWN_RATE, VPC = Rate(10**7, 0, 10**5), Rate(2 * 10**6, 0, 10**5), Rate(10**8, 1000, 10**6, 100)


def wanted(number: int, qos: Qos) -> Wanted:
    return Wanted(f"uid-{number}", end(number, OWN), InNamespace(NamespaceBy.NAME, f"here{number}", "eth0"), 0, qos=qos)


def rated(state: State) -> dict[LimiterKey, Rate]:
    return {key: limiter.rate for key, limiter in state.limiters.items()}


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
    assert limit_text(ledger.state, vpc) == ("vpc", "egress: 100000000 bit/s, 1000 packets/s")
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


async def test_a_limit_has_one_clock() -> None:
    """An endpoint that bypasses decapsulation is policed on its way in, and so is who shares a limit with it, while it
    is there: waiting for one and policed by the other, together they would get twice the limit. Also where the daemon
    starts anew. What others share, and what they send, waits as ever."""
    bench = Bench()
    await bench.fill()
    ledger = bench.ledger
    ledger.delete_local("uid-1")
    both = Qos(egress=(OWN_RATE, NETWORK, UNLIMITED), ingress=(OWN_RATE, NETWORK, UNLIMITED))

    def classes(number: int) -> tuple[bool, bool]:
        record = bench.maps.endpoint_limits.get(ledger.state.locals[f"uid-{number}"].slot) or {}
        return bool(record["egress_class"]), bool(record["ingress_class"])

    ledger.put_local(wanted(12, both), "veth2", 6)
    assert classes(12) == (True, True)
    ledger.put_local(replace(wanted(13, both), bypass=True), "veth3", 7)
    assert (classes(12), classes(13)) == ((True, False), (True, False))
    assert not [one for one in await bench.found() if one.table != "substrate_endpoints"]
    interfaces = [Found(f"veth{n - 10}", n - 6, 1500, (1500,), f"uid-{n}", wanted(n, both).workload) for n in (12, 13)]
    again = Ledger(bench.maps, OWN, LIMITS, lambda: interfaces)
    again.reread()
    assert shaped_classes(again.state) == shaped_classes(ledger.state)
    ledger.put_local(wanted(13, both), "veth3", 7)
    assert (classes(12), classes(13)) == ((True, True), (True, True))
    ledger.put_local(replace(wanted(13, both), bypass=True), "veth3", 7)
    ledger.delete_local("uid-13")
    assert classes(12) == (True, True)
    assert not [key for key in ledger.state.uses if isinstance(key, tuple) and key[0] == "unshaped"]


@pytest.mark.parametrize("lost", [None, "endpoint_limits", "limiters"])
async def test_a_daemon_that_starts_anew_finds_its_limits(lost: str | None) -> None:
    """All of them, and the same tree of the shaper, from the maps alone. Where a record or a rate is missing, as after
    a death in the middle of a change, who has it told once more makes it whole."""
    bench = Bench()
    await bench.fill()
    told = wanted(
        12, Qos(egress=(OWN_RATE, NETWORK, VPC), ingress=(OWN_RATE, UNLIMITED, VPC), guarantee=NETWORK, dscp=3)
    )
    bench.ledger.delete_local("uid-1")
    bench.ledger.put_local(told, "veth2", 6)
    before = bench.ledger.state
    if lost == "endpoint_limits":
        bench.maps.endpoint_limits.put(before.locals["uid-12"].slot, {})
    if lost == "limiters":
        slot = next(one.slot for one in before.limiters.values() if one.rate == OWN_RATE)
        bench.maps.limiters.put(slot, {})
    interface = Found("veth2", 6, 1500, (1500,), told.uid, told.workload)
    again = Ledger(bench.maps, OWN, LIMITS, lambda: [interface])
    assert again.reread() == []
    if lost is None:
        assert again.state.limiters == before.limiters
        assert shaped_classes(again.state) == shaped_classes(before)
    again.put_local(told, "veth2", 6)
    assert rated(again.state) == rated(before)
    again.delete_local("uid-12")
    assert not [*bench.maps.limiters.used(), *bench.maps.endpoint_limits.used()]


@pytest.mark.parametrize("numbers", [(1, 0, 10**5, 0), (10**6, 0, 9, 0), (0, 5, 0, 0), (0, 0, 10**5, 0), (0, 0, 0, 5)])
def test_what_is_no_limit_is_refused(numbers: tuple[int, int, int, int]) -> None:
    with pytest.raises(InvalidError):
        Rate(*numbers)

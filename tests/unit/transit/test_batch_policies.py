# SPDX-License-Identifier: Apache-2.0
"""Rules through planning, execution and reading back: by which of them endpoints and networks are judged."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mizar.model.errors import MizarError
from mizar.model.policy_rows import PEER, VERDICT
from mizar.transit.policy_values import (
    Binding,
    DeleteNetworkAcl,
    DeletePolicySet,
    NetworkAcl,
    PolicySet,
    PutNetworkAcl,
    PutPolicySet,
)
from mizar.transit.values import Change
from tests.unit.transit.batches import LOCAL, START, Bench, attempt, changes, policy_sets

BINDINGS = st.builds(Binding, st.integers(0, 2), st.integers(0, 2), st.just(False), st.just(False)).flatmap(
    lambda found: st.sampled_from(
        [found, found._replace(audit_ingress=bool(found.ingress)), found._replace(beside_egress=2 * bool(found.egress))]
    )
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.one_of(changes, policy_sets().map(PutPolicySet), BINDINGS), max_size=12), st.integers(-1, 40))
def test_a_policed_endpoint_is_judged_by_the_newest_rules_or_by_those_before(
    steps: list[Change | Binding], fail_at: int
) -> None:
    """Bound to other sets, and sets that change: the maps are the state's image; what is refused changes nothing."""
    bench = Bench(START)
    for step in steps:
        bench.maps.fail_at = fail_at
        if isinstance(step, Binding):
            before = bench.maps.contents()
            try:
                bench.attach(replace(LOCAL, policy=step), 77)
            except MizarError:
                assert bench.maps.contents() == before
        else:
            attempt(bench, step)
        bench.maps.fail_at = -1
        bench.check()
        for uid, judged in bench.state.judged.items():
            assert judged.since <= judged.generation
            assert bench.state.locals[uid].wanted.policy != Binding()


def test_only_an_endpoint_that_was_there_before_its_first_policy_has_a_time_of_grace() -> None:
    """It ends at a fixed time, whatever changes of the rules follow, and begins anew with the next first policy."""
    bench, policed = Bench(START), replace(LOCAL, policy=Binding(1, 0))
    bench.do(PutPolicySet(PolicySet(1, 1, b"", b"", b"")))

    def grace() -> int:
        ((_, record),) = bench.maps.endpoint_policies.used()
        return int(record["grace_until"])

    bench.attach(policed, 77)
    assert grace() == 0
    bench.attach(LOCAL, 77)
    bench.attach(policed, 77)
    first = grace()
    assert first > 0
    bench.do(PutPolicySet(PolicySet(1, 1, b"", b"", VERDICT.pack(0, 0, 0, 0, 0, 1, 7))))
    assert grace() == first
    bench.check()


def test_a_set_that_changes_row_by_row_keeps_its_number_and_another_does_not() -> None:
    """One more peer of a rule is written beside the others; another order of rules takes the place of the old as a
    whole."""
    one = PEER.pack(b"\xfd" + bytes(15), 128, 5)
    two = one + PEER.pack(b"\xfe" + bytes(15), 128, 5)
    allow, deny = VERDICT.pack(5, 0, 0, 0, 0, 1, 7), VERDICT.pack(5, 0, 0, 0, 0, 0, 8)
    bench = Bench(START)
    bench.do(PutPolicySet(PolicySet(1, 1, one, b"", allow)))
    bench.attach(replace(LOCAL, policy=Binding(1, 0)), 77)
    ((_, first),) = bench.maps.endpoint_policies.used()
    bench.do(PutPolicySet(PolicySet(1, 1, two, b"", allow)))
    ((_, second),) = bench.maps.endpoint_policies.used()
    bench.do(PutPolicySet(PolicySet(1, 1, two, b"", deny)))
    ((_, third),) = bench.maps.endpoint_policies.used()
    assert first["ingress"] == second["ingress"] != third["ingress"]
    assert first["since"] == second["since"] == third["since"] == first["generation"]
    assert first["generation"] < second["generation"] < third["generation"]
    assert len(list(bench.maps.policy_peers.items())) == 2
    assert {agent["flags"] & 64 for _, agent in bench.maps.agents.items()} == {64}
    bench.check()
    with pytest.raises(MizarError, match="in use by local endpoint uid-1"):
        bench.do(DeletePolicySet(1, 1))
    bench.attach(LOCAL, 77)
    bench.do(DeletePolicySet(1, 1))
    assert not any(
        map(bench.maps.contents().get, ("endpoint_policies", "policy_sets", "policy_peers", "policy_verdicts"))
    )
    with pytest.raises(MizarError, match="not known; put it first"):
        bench.attach(replace(LOCAL, policy=Binding(1, 0)), 77)


def test_a_network_is_judged_by_its_newest_rules_and_lets_go_of_them() -> None:
    """Other rules have another number, which its entries name from then on; the VPC is marked as long as it has any."""
    one = PEER.pack(b"\xfd" + bytes(15), 128, 5)
    allow, deny = VERDICT.pack(5, 0, 0, 0, 0, 1, 7), VERDICT.pack(5, 0, 0, 0, 0, 0, 8)
    prefix = (bytes((10, 0, 1, 0)), 24)
    bench = Bench(START)
    with pytest.raises(MizarError, match="not known; put it first"):
        bench.do(PutNetworkAcl(NetworkAcl(1, 1, (prefix,), ingress=1)))
    bench.do(PutPolicySet(PolicySet(1, 1, one, b"", allow)), PutNetworkAcl(NetworkAcl(1, 1, (prefix,), ingress=1)))
    bench.check()
    ((_, first),) = bench.maps.network_acls.items()
    assert list(bench.maps.acl_vpcs.used()) == [(bench.state.vpcs[1].slot, 1)]
    bench.do(PutPolicySet(PolicySet(1, 1, one, b"", deny)))
    ((_, second),) = bench.maps.network_acls.items()
    assert first["ingress"] != second["ingress"]
    bench.check()
    with pytest.raises(MizarError, match="in use by the ACL of network 1"):
        bench.do(DeletePolicySet(1, 1))
    with pytest.raises(MizarError, match="belongs to ACL of network 1"):
        bench.do(PutNetworkAcl(NetworkAcl(1, 2, (prefix,))))
    bench.do(DeleteNetworkAcl(1, 1), DeletePolicySet(1, 1))
    assert not any(map(bench.maps.contents().get, ("network_acls", "acl_vpcs", "policy_sets", "policy_peers")))
    bench.check()

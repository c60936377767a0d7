# SPDX-License-Identifier: Apache-2.0
"""Every reason of contracts/drop_reasons.toml is provoked: the verdict, the frame, and every counter that moves."""

from __future__ import annotations

from typing import Any

import pytest

from mizar.kernel import test_run
from mizar.model import drop_reasons

from .frames import datagram, tunnel
from .plan import HOST, RED, A, R
from .refusals import Case
from .refused_by_agent import AGENT_CASES, FROM_A
from .refused_by_transit import TRANSIT_CASES
from .testbed import TC_SHOT, XDP_DROP, XDP_PASS, Testbed


@pytest.mark.parametrize("case", TRANSIT_CASES, ids=str)
def test_transit_refuses(droplet: Testbed, case: Case) -> None:
    """Refused for this reason and no other; passed frames are untouched, and nothing else is counted."""
    case.setup(droplet)
    result = droplet.transit(case.frame)
    passes = drop_reasons.by_name()[case.reason].verdict == "pass"
    assert droplet.counted() == {("drop", case.reason): {"packets": 1, "bytes": len(case.frame)}} | (
        {("vpc", RED.slot): {"dropped_packets": 1}} if case.vpc_known else {}
    )
    assert result.retval == (XDP_PASS if passes else XDP_DROP)
    if passes:
        assert (result.frame, result.metadata) == (case.frame, b"")


@pytest.mark.parametrize("case", AGENT_CASES, ids=str)
def test_agent_refuses(droplet: Testbed, case: Case) -> None:
    """Always dropped, whatever the verdict of the reason: nothing of an endpoint reaches the host's stack."""
    case.setup(droplet)
    result = droplet.send(case.frame)
    expected: dict[tuple[str, Any], dict[str, int]] = {("drop", case.reason): {"packets": 1, "bytes": len(case.frame)}}
    if case.vpc_known:
        expected |= {("vpc", RED.slot): {"dropped_packets": 1}, ("endpoint", A.slot): {"dropped_packets": 1}}
    assert droplet.counted() == expected
    assert result.retval == TC_SHOT


def test_agent_refuses_what_the_kernel_will_not_encapsulate(droplet: Testbed) -> None:
    """A GSO packet of no known type, which only a test run can make."""
    droplet.as_host()
    result = droplet.send(FROM_A[4], gso_size=20)
    assert result.retval == TC_SHOT
    assert droplet.counted()["drop", "REWRITE_FAILED"]["packets"] == 1


def test_a_frame_whose_note_finds_no_room_is_dropped() -> None:
    """XDP: what is in front of the frame is full already. It must not go on to the host's stack without its note."""
    droplet = Testbed(send_by_tc=1)
    try:
        droplet.as_bouncer()
        frame = tunnel("geneve", datagram(4, A, R.address(4)), src=HOST)
        result = test_run.run_xdp(droplet.programs.transit.fd, frame, metadata=bytes(208))
        assert result.retval == XDP_DROP
        assert droplet.counted() == {
            ("drop", "REWRITE_FAILED"): {"packets": 1, "bytes": len(frame)},
            ("vpc", RED.slot): {"dropped_packets": 1},
        }
    finally:
        droplet.close()


SEPARATE = {
    "REQUEST_LIMITED": "test_traps.py",
    "REWRITE_FAILED": "above",
    "DELIVERY_FAILED": "test_live.py",
    "BYPASS_SUBSTRATE": "test_bypass.py",
    "SUBSTRATE_SOURCE": "test_substrate.py",
    "SUBSTRATE_DESTINATION": "test_substrate.py",
    "OUTER_EXTENSION": "test_ipv6_substrate.py",
    "NO_COMMON_FAMILY": "test_ipv6_substrate.py",
} | {f"PROXY_{name}": "test_proxy.py" for name in ("NO_FLOW", "PROTOCOL", "FRAGMENT", "FULL", "GONE")}
SEPARATE |= {
    f"POLICY_{name}": "test_policy.py"
    for name in ("UNREADABLE", "INGRESS_DENIED", "INGRESS_DEFAULT", "EGRESS_DENIED", "EGRESS_DEFAULT")
}
SEPARATE |= {f"NETWORK_ACL_{name}": "test_network_acl.py" for name in ("DENIED", "DEFAULT")}
SEPARATE |= {
    "POLICY_FLOWS_FULL": "test_policy_flows.py",
    "POLICY_FLOW_ENDED": "test_policy_flows.py",
    "SERVICE_WITHOUT_MEMBER": "test_services.py",
    "MEMBER_UNKNOWN": "test_services.py",
    "SERVICE_PROTOCOL": "test_services.py",
    "FLOW_TABLE_FULL": "test_services.py",
    "NO_LISTENER": "test_load_balancer.py",
    "PUBLIC_SOURCE": "test_public.py",
    "VIP_OPTION": "test_public.py",
    "LIMIT_EGRESS": "test_limits.py",
    "LIMIT_INGRESS": "test_limits.py",
    "UPLINK_FULL": "test_limits.py",
    "FUNCTION_REFUSED": "test_functions.py",
    "FUNCTION_MISSING": "tests/transit/test_network_functions.py",
}


def test_every_reason_is_provoked() -> None:
    """The lists of cases and that one are complete."""
    provoked = {case.reason for case in (*TRANSIT_CASES, *AGENT_CASES)} | SEPARATE.keys()
    assert provoked == set(drop_reasons.by_name())

# SPDX-License-Identifier: Apache-2.0
"""What watchers are told of flows that policies judge: by rules that only audit, and by rules that log."""

from __future__ import annotations

from mizar.kernel.events import EventReader
from mizar.model import drop_reasons

from .every import every_family
from .frames import datagram
from .plan import RED, A, R
from .policed import ACK, SYN, closed, comes, goes, segment
from .policies import ALLOW, AUDIT, AUDIT_INGRESS, DENY, LOG, OF_TCP, OF_UDP, Row, flows, police, rules
from .testbed import Testbed


def told(droplet: Testbed) -> EventReader:
    droplet.tables.droplet_switches.put(0, {"events": 1})
    reader = EventReader(droplet.programs.maps["events"])
    reader.read()
    return reader


@every_family
def test_audit_mode_tells_and_lets_pass(droplet: Testbed, family: int) -> None:
    """Once for a flow: of rules that would deny, and of what none would allow."""
    closed(droplet, Row(DENY | AUDIT, OF_UDP, rule=11))
    police(droplet, A, ingress=1, flags=AUDIT_INGRESS)
    reader = told(droplet)
    for _ in range(2):
        assert comes(droplet, datagram(family, R, A.address(family)))
        assert comes(droplet, segment(family, R, A.address(family), ACK))
    numbers = {name: drop_reasons.by_name()[f"POLICY_INGRESS_{name}"].number for name in ("DENIED", "DEFAULT")}
    seen = [(one["outcome"], one["reason"], one["rule"], one["policed_slot"], one["hook"]) for one in reader.read()]
    reader.close()
    assert seen == [(2, numbers["DENIED"], 11, A.slot, 2), (2, numbers["DEFAULT"], 0, A.slot, 2)]
    assert droplet.counted()["vpc", RED.slot]["audited_packets"] == 2


@every_family
def test_an_audited_set_beside_the_rules_tells_and_changes_nothing(droplet: Testbed, family: int) -> None:
    """Once for each flow, of what the rules allow and it would not, with its own rule; the flow has the rule that
    allows. What the rules refuse is refused with theirs, whatever it says. The same for what the endpoint sends."""
    droplet.as_host()
    enforced = rules(droplet, 1, Row(ALLOW, OF_UDP, rule=3), Row(ALLOW, OF_TCP, 80, 16, rule=4))
    beside = rules(droplet, 2, Row(DENY | AUDIT, OF_UDP, rank=0, rule=11), Row(ALLOW, OF_TCP, rule=12))
    sets = {"ingress": enforced, "egress": enforced, "beside_ingress": beside, "beside_egress": beside}
    police(droplet, A, **sets)
    reader = told(droplet)
    for _ in range(2):
        assert comes(droplet, datagram(family, R, A.address(family), sport=7))
        assert comes(droplet, segment(family, R, A.address(family), SYN))
        assert goes(droplet, datagram(family, A, R.address(family), sport=8))
    assert not comes(droplet, segment(family, R, A.address(family), SYN, dport=81))
    seen = [(one["outcome"], one["reason"], one["rule"], one["policed_slot"], one["hook"]) for one in reader.read()]
    numbers = {name: drop_reasons.by_name()[f"POLICY_{name}"].number for name in (
        "INGRESS_DENIED", "EGRESS_DENIED", "INGRESS_DEFAULT",
    )}  # fmt: skip
    reader.close()
    assert seen == [
        (2, numbers["INGRESS_DENIED"], 11, A.slot, 2),
        (2, numbers["EGRESS_DENIED"], 11, A.slot, 1),
        (0, numbers["INGRESS_DEFAULT"], 0, A.slot, 2),
    ]
    assert droplet.counted()["vpc", RED.slot]["audited_packets"] == 2
    assert {flow["rule"] for flow in flows(droplet)} == {3, 4}
    police(droplet, A, generation=2, **sets)
    assert comes(droplet, datagram(family, R, A.address(family), sport=7))
    assert droplet.counted()["vpc", RED.slot]["audited_packets"] == 3, "judged anew, told anew"


@every_family
def test_rules_that_log_tell_of_each_flow_once(droplet: Testbed, family: int) -> None:
    """And of what is refused as ever, with the rule."""
    droplet.as_host()
    police(droplet, A, egress=rules(droplet, 1, Row(ALLOW | LOG, rule=3), Row(DENY, OF_TCP, rule=4)))
    reader = told(droplet)
    for _ in range(2):
        assert goes(droplet, datagram(family, A, R.address(family)))
    assert not goes(droplet, segment(family, A, R.address(family), SYN))
    seen = [(one["outcome"], one["reason"], one["rule"], one["policed_slot"], one["hook"]) for one in reader.read()]
    reader.close()
    denied = drop_reasons.by_name()["POLICY_EGRESS_DENIED"].number
    assert seen == [(1, 0, 3, A.slot, 1), (0, denied, 4, A.slot, 1)]

# SPDX-License-Identifier: Apache-2.0
"""What a policy lets begin, and a function before delivery stops or answers, holds no place in the policy's table."""

from __future__ import annotations

from .chained import CONTINUE, DROP, Chained, from_text, member, saying
from .every import every_family
from .frames import datagram
from .plan import RED, A, B, R
from .policed import ACK, SYN, SYN_ACK, answer, closed, comes, goes, segment, why
from .policies import ALLOW, INGRESS, OF_TCP, Row, flows, police, rules
from .testbed import TC_SHOT, Testbed

ANSWERING = from_text("return mizar_answerable(call) ? mizar_answer(call) : FUNCTION_CONTINUE;")
STAGE, ONE_ANSWER = "ENDPOINT_INGRESS", 4


def inserted(droplet: Testbed) -> int:
    return int((droplet.tables.policy_counts.get(RED.slot) or {"inserted": 0})["inserted"])


@every_family
def test_what_a_function_drops_takes_no_room(functions: Chained, droplet: Testbed, family: int) -> None:
    """With room for one flow many are begun and dropped; then one may begin, and goes on when a function drops of it.
    Were they kept, the second would be refused for want of room."""
    closed(droplet, Row(ALLOW))
    police(droplet, A, ingress=1, room=1)
    functions.put({STAGE: [saying(DROP)]})
    for port in range(1, 5):
        assert not comes(droplet, datagram(family, R, A.address(family), sport=port))
    assert why(droplet) == {"FUNCTION_REFUSED"}
    assert (flows(droplet), inserted(droplet)) == ([], 0)
    functions.put({STAGE: [saying(CONTINUE)]})
    assert comes(droplet, datagram(family, R, A.address(family), sport=9))
    functions.put({STAGE: [saying(DROP)]})
    assert not comes(droplet, datagram(family, R, A.address(family), sport=9))
    assert [flow["peer_port_be"] for flow in flows(droplet)] == [9 << 8]
    assert inserted(droplet) == 1


@every_family
def test_on_the_droplet_too(functions: Chained, droplet: Testbed, family: int) -> None:
    """From one endpoint of the droplet to another: what the sender's own policy knows of it stays."""
    droplet.as_host()
    police(droplet, A, egress=rules(droplet, 1, Row(ALLOW)))
    police(droplet, B, ingress=rules(droplet, 2, Row(ALLOW)))
    functions.put({STAGE: [saying(DROP)]})
    assert droplet.send(datagram(family, A, B.address(family))).retval == TC_SHOT
    assert [flow["slot"] for flow in flows(droplet)] == [A.slot]
    assert inserted(droplet) == 1


@every_family
def test_what_a_function_answers_is_known_until_then(functions: Chained, droplet: Testbed, family: int) -> None:
    """The endpoint may begin nothing itself, so that its policy must know what is answered; with the answer it is
    forgotten. A peer that comes back begins anew. Were the mark not there, the flow would stay."""
    droplet.as_host()
    police(droplet, A, ingress=rules(droplet, 1, Row(ALLOW, OF_TCP)), egress=rules(droplet, 2, Row(ALLOW, 17)), room=1)
    functions.put({STAGE: [member(ANSWERING)]})
    for _ in range(3):
        assert comes(droplet, segment(family, R, A.address(family), SYN))
        assert [(flow["begun"], flow["state"]) for flow in flows(droplet)] == [(INGRESS, ONE_ANSWER)]
        assert goes(droplet, answer(family, SYN_ACK))
        assert (flows(droplet), inserted(droplet)) == ([], 0)
    assert not goes(droplet, answer(family, SYN_ACK))
    functions.put({STAGE: [saying(CONTINUE)]})
    assert comes(droplet, segment(family, R, A.address(family), ACK))
    assert goes(droplet, answer(family, ACK))
    assert [flow["begun"] for flow in flows(droplet)] == [INGRESS]


def test_a_note_of_the_packet_before_takes_nothing_back(functions: Chained, droplet: Testbed) -> None:
    """A packet that begins a flow and is delivered; the next one, to another endpoint, is dropped: the flow stays."""
    closed(droplet, Row(ALLOW))
    functions.put({STAGE: [saying(CONTINUE)]})
    assert comes(droplet, datagram(4, R, A.address(4)))
    functions.put({STAGE: [saying(DROP)]})
    assert droplet.send(datagram(4, A, B.address(4))).retval == TC_SHOT
    assert not comes(droplet, datagram(4, R, A.address(4)))
    assert len(flows(droplet)) == 2

# SPDX-License-Identifier: Apache-2.0
"""What a trace tells, to whom, and as a picture."""

from __future__ import annotations

from dataclasses import replace
from xml.etree import ElementTree

from mizar.trace.drawing import draw
from mizar.trace.report import Ending, HopReport, Trace, for_tenant, without_substrate

OWN, OTHER = 7, 8
TRACE = Trace(
    "red/a",
    "10.9.0.2",
    "10.0.1.2 → 10.9.0.2 ICMP, 84 bytes",
    (
        HopReport("d1", "agent", "sent to another droplet", "red/main", OWN, OWN, table="t<1>", next="d2"),
        HopReport("d2", "proxy", "?", "red/main", OWN, OTHER, notes=("blue/db",), reason="PEER_UNKNOWN", seen="d9"),
        HopReport("d2", "transit", "sent", "red/main", OWN, OTHER, table="networks: blue/db", next="d3"),
        HopReport(
            "d3", "transit", "dropped", "blue/main", OTHER, OTHER, "", "secret", reason="TTL_EXPIRED", sentence="S"
        ),
    ),
    Ending(False, "dropped on d3: secret"),
)


def test_a_tenant_hears_nothing_of_what_happens_in_another_ones_vpc() -> None:
    """Neither names nor reasons nor tables: only that it is another's from there on, and how it ends."""
    told = for_tenant(TRACE, frozenset({OTHER}))
    text = str(told.as_json())
    for secret in ("d3", "blue", "secret", "TTL_EXPIRED", "PEER_UNKNOWN", "d9"):
        assert secret not in text
    assert told.ending.sentence == "lost in a VPC of another tenant"
    assert not told.ok
    assert told.hops[0] == TRACE.hops[0]
    assert for_tenant(TRACE, frozenset()) == TRACE


def test_a_tenant_hears_nothing_of_the_substrates_addresses() -> None:
    """What became of its packet it hears."""
    rewrite = ("into Geneve, VNI 7", "outer 172.30.9.1 → 172.30.9.2", "TTL 64 → 63")
    hop = HopReport("d1", "agent", "sent to another droplet", "red/main", OWN, OWN, rewrite=rewrite)
    told = without_substrate(replace(TRACE, hops=(hop,)))
    assert told.hops[0].rewrite == (rewrite[0], rewrite[2])


def test_a_picture_is_sound_xml_and_says_all() -> None:
    """Every droplet, reason and note; nothing that a table holds is taken for markup."""
    picture = ElementTree.fromstring(draw(TRACE.as_json()))
    texts = [node.text or "" for node in picture.iter() if node.tag.endswith("text")]
    for wanted in ("d1", "d2", "d3", "t<1>", "S", "dropped on d3: secret"):
        assert wanted in texts
    assert int(picture.attrib["height"]) > max(int(node.attrib["y"]) for node in picture.iter() if "y" in node.attrib)

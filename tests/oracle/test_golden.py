# SPDX-License-Identifier: Apache-2.0
"""Frames written by hand from the RFCs: sound to scapy, predicted by the oracle, and made by the programs.

The oracle and the programs could share a mistake of whoever wrote both; the frames are a third opinion, scapy a fourth.
"""

from __future__ import annotations

import pytest
from scapy.contrib.geneve import GENEVE
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6ND_NS, IPv6
from scapy.layers.l2 import ARP, Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet, bind_layers

from mizar.oracle.agent import agent
from mizar.oracle.outcome import Verdict
from mizar.oracle.transit import transit
from tests.oracle import golden
from tests.oracle.droplets import RED
from tests.oracle.golden import Golden
from tests.oracle.golden_droplet import droplet
from tests.oracle.real import RealDroplet

bind_layers(UDP, GENEVE, dport=6081)
bind_layers(UDP, VXLAN, dport=4789)
every_frame = pytest.mark.parametrize("each", golden.ALL, ids=str)


def without_free(each: Golden, frame: bytes) -> bytes:
    begin, end = each.free
    return frame[:begin] + bytes(end - begin) + frame[end:]


@every_frame
def test_the_oracle_says_the_same(each: Golden) -> None:
    said = transit(droplet(), each.comes) if each.door == "transit" else agent(droplet(), 1, each.comes)
    assert not said.reason
    assert without_free(each, said.frame).hex(" ") == each.goes.hex(" ")


@pytest.mark.root
@every_frame
def test_the_programs_do_the_same(real: RealDroplet, each: Golden) -> None:
    real.fill(droplet())
    seen = real.transit(each.comes) if each.door == "transit" else real.agent(1, each.comes)
    assert seen.verdict is (Verdict.DELIVER if each.goes == golden.octets(golden.TO_A) else Verdict.SEND)
    assert without_free(each, seen.frame).hex(" ") == each.goes.hex(" ")


def layers(frame: bytes) -> list[Packet]:
    """All layers that scapy sees."""
    found, layer = [], Ether(frame)
    while layer:
        found.append(layer)
        layer = layer.payload
    return found


@every_frame
@pytest.mark.parametrize("way", ["comes", "goes"])
def test_scapy_finds_every_length_and_checksum_right(each: Golden, way: str) -> None:
    """Each layer is built anew by scapy, with lengths and checksums of its own; Geneve's and UDP's zeros stay."""
    frame: bytes = getattr(each, way)
    for layer in layers(frame):
        if isinstance(layer, IP | ARP | ICMPv6ND_NS | ICMPv6ND_NA | IPv6):
            again = layer.copy()
            for field in ("len", "plen", "ihl"):
                if field in again.fields:
                    delattr(again, field)
            checksum = next((name for name in ("chksum", "cksum") if name in again.fields), "")
            if checksum:
                delattr(again, checksum)
            if isinstance(layer, ICMPv6ND_NS | ICMPv6ND_NA):
                again = layer.underlayer.copy()
                del again.payload.cksum
                assert bytes(again) == bytes(layer.underlayer)
            else:
                assert bytes(again) == bytes(layer)
        if isinstance(layer, UDP) and layer.dport in (6081, 4789):
            assert layer.len == len(bytes(layer))
            assert layer.chksum == 0


def test_scapy_reads_the_tunnels_as_the_comments_do() -> None:
    frame = Ether(golden.GENEVE_BOUNCED.goes)
    assert (frame[GENEVE].vni, frame[GENEVE].proto, frame[GENEVE].optionlen) == (RED, 0x6558, 4)
    assert bytes(frame[GENEVE])[24:] == golden.octets(golden.BOUNCED_TO_R)
    assert (frame[IP].tos, frame[UDP].sport) == (0xB8, 0xC123)
    frame = Ether(golden.GENEVE_TO_VXLAN.goes)
    assert (frame[VXLAN].vni, int(frame[VXLAN].flags)) == (RED, 8)
    assert frame[VXLAN].payload[IP].dst == "10.0.1.31"
    arp = Ether(golden.ARP.goes)[ARP]
    assert (arp.op, arp.psrc, arp.hwsrc, arp.pdst) == (2, "10.0.1.21", "02:4d:5a:00:00:01", "10.0.1.11")
    advertisement = Ether(golden.NEIGHBOUR_SOLICITATION.goes)[ICMPv6ND_NA]
    assert (advertisement.R, advertisement.S, advertisement.O, advertisement.tgt) == (1, 1, 1, "fd00:10:0:1::1")

# SPDX-License-Identifier: Apache-2.0
"""The golden frames as Wireshark reads them: a fifth opinion, of who knows neither us nor scapy."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from tests.oracle import golden
from tests.oracle.golden import Golden

pytestmark = pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")
GOOD, NOT_GIVEN = "1", "3"
"""Of Wireshark's checksum statuses; UDP around a tunnel bears none."""
ETHERNET = 1
FIELDS = (
    "frame.protocols", "_ws.malformed", "_ws.expert.severity", "ip.checksum.status", "udp.checksum.status",
    "icmp.checksum.status", "icmpv6.checksum.status", "geneve.vni", "vxlan.vni", "geneve.option.type", "ip.dst",
    "ip.ttl", "eth.dst",
)  # fmt: skip
WARNING = 0x00600000
"""Of Wireshark's expert severities: a warning. What is less is a note of interest."""


def frames() -> list[tuple[Golden, str, bytes]]:
    """What comes and what goes."""
    return [(each, way, getattr(each, way)) for each in golden.ALL for way in ("comes", "goes")]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], dict[str, list[str]]]:
    """Every frame, by name and way: the values of each field, outermost first."""
    path: Path = tmp_path_factory.mktemp("golden") / "golden.pcap"
    records = [struct.pack("=IIII", 0, 0, len(frame), len(frame)) + frame for _, _, frame in frames()]
    path.write_bytes(struct.pack("=IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, ETHERNET) + b"".join(records))
    checks = [f"-o{name}.check_checksum:TRUE" for name in ("ip", "udp")]
    shown = [part for name in FIELDS for part in ("-e", name)]
    command = ["tshark", "-n", "-r", str(path), *checks, "-T", "fields", "-E", "separator=/t", *shown]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    lines = done.stdout.rstrip("\n").split("\n")
    assert len(lines) == len(frames()), done.stderr
    return {
        (each.name, way): {
            name: value.split(",") if value else [] for name, value in zip(FIELDS, line.split("\t"), strict=True)
        }
        for (each, way, _), line in zip(frames(), lines, strict=True)
    }


@pytest.mark.parametrize("way", ["comes", "goes"])
@pytest.mark.parametrize("each", golden.ALL, ids=str)
def test_nothing_is_malformed_and_every_checksum_is_right(
    rows: dict[tuple[str, str], dict[str, list[str]]], each: Golden, way: str
) -> None:
    """Down to the innermost packet."""
    row = rows[each.name, way]
    assert not row["_ws.malformed"]
    assert all(int(severity) < WARNING for severity in row["_ws.expert.severity"]), row
    packets = row["frame.protocols"][0].split(":").count("ip")
    assert row["ip.checksum.status"] == [GOOD] * packets
    assert set(row["icmp.checksum.status"]) | set(row["icmpv6.checksum.status"]) <= {GOOD}
    outer = [NOT_GIVEN] if "geneve" in row["frame.protocols"][0] or "vxlan" in row["frame.protocols"][0] else []
    assert row["udp.checksum.status"][: len(outer)] == outer
    assert set(row["udp.checksum.status"][len(outer) :]) <= {GOOD}


def test_wireshark_reads_the_tunnels_as_the_comments_do(rows: dict[tuple[str, str], dict[str, list[str]]]) -> None:
    bounced, translated = rows["geneve-bounced", "goes"], rows["geneve-to-vxlan", "goes"]
    assert bounced["frame.protocols"] == ["eth:ethertype:ip:udp:geneve:eth:ethertype:ip:udp:data"]
    assert [int(vni, 0) for vni in bounced["geneve.vni"]] == [0x0A0B0C]
    assert [int(kind, 0) for kind in bounced["geneve.option.type"]] == [1, 1]  # its own, and where it set out
    assert bounced["ip.dst"] == ["192.0.2.4", "10.0.1.21"]
    assert bounced["ip.ttl"] == ["64", "63"]
    assert bounced["eth.dst"] == ["02:00:00:00:02:04", "02:00:00:00:01:15"]
    assert "vxlan" in translated["frame.protocols"][0]
    assert [int(vni, 0) for vni in translated["vxlan.vni"]] == [0x0A0B0C]
    assert translated["ip.dst"] == ["192.0.2.2", "10.0.1.31"]

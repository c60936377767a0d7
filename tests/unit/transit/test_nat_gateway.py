# SPDX-License-Identifier: Apache-2.0
"""What a droplet makes of a NAT gateway that it is told of, without a droplet: its pipeline, and its metrics."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from mizar._built import transit_pb2 as pb
from mizar.kernel.nat_guard import Limits
from mizar.model.errors import InvalidError
from mizar.pipeline.reader import read_pipeline
from mizar.trace.packet import Asked, build
from mizar.transit.engines import metrics, nat_foretold
from mizar.transit.engines.engine import Place
from mizar.transit.engines.nat_gateway import NatGateway
from mizar.transit.engines.nat_pipeline import INSIDE, OUTSIDE, checked, description

KEY = "0123456789abcdef" * 4


def gateway() -> pb.NatGateway:
    """With a forward, and another instance."""
    four, six = (ip_address(text).packed for text in ("203.0.113.1", "2001:db8:1::1"))
    here, there = (ip_address(text).packed for text in ("10.0.1.5", "10.0.1.6"))
    inside = [pb.Subnet(address=ip_address("10.0.0.0").packed, length=16)]
    forward = pb.NatForward(protocol=6, public=four, port=80, address=here, target_port=8080)
    return pb.NatGateway(
        tenant="red", name="out", instance="out-1", public=[four, six], inside=inside, forwards=[forward],
        connections=100, pair=pb.NatPair(own=here, other=there, key=KEY),
    )  # fmt: skip


def test_its_pipeline_is_one_that_a_gateway_takes() -> None:
    """And says nothing of the other instance."""
    text = description(checked(gateway()))
    assert read_pipeline(text, "nat.json").nat
    assert KEY not in text


@pytest.mark.parametrize(
    "wrong",
    [
        pb.NatPair(own=bytes(4), other=bytes(16), key=KEY),
        pb.NatPair(own=bytes(4), other=bytes(4), key=KEY),
        pb.NatPair(own=bytes(3), other=b"abc", key=KEY),
        pb.NatPair(own=bytes(4), other=b"abcd", key="short"),
    ],
)
def test_two_that_cannot_be_a_pair_are_refused(wrong: pb.NatPair) -> None:
    """Nor is the key repeated."""
    found = gateway()
    found.pair.CopyFrom(wrong)
    with pytest.raises(InvalidError, match="two instances") as refused:
        checked(found)
    assert KEY not in str(refused.value)


def test_what_it_has_counted_is_told_by_tenant_function_and_instance(tmp_path: Path) -> None:
    """As docs/metrics.md says; nothing is counted of one that has told nothing yet."""
    engine = NatGateway(Place("u1", tmp_path, tmp_path, "/none", lambda: None))
    found = metrics.families((pb.Engine(digest=b"1", nat=gateway()), sample) for sample in engine.samples())
    rows = {one.name: {tuple(sample.labels.items()) for sample in one.samples} for one in found}
    who = (("tenant", "red"), ("function", "out"), ("instance", "out-1"))
    assert rows == {
        "mizar_nat_gateway_begun": {who},
        "mizar_nat_gateway_connections": {who},
        "mizar_nat_gateway_quota": {who},
        "mizar_nat_gateway_refused": {(*who, ("reason", "exhausted")), (*who, ("reason", "refused"))},
        "mizar_nat_gateway_restarts": {who},
    }


def test_what_it_makes_of_a_frame_is_told() -> None:
    """First what the rules of its namespace refuse, then what the program does, and what is behind that."""
    inside = (ip_network("10.0.0.0/16"),)
    limits = Limits((ip_network("172.31.0.3"),), (ip_network("172.16.0.0/12"),), (ip_network("172.31.9.0/24"),))

    def sent(source: str, destination: str) -> bytes:
        return build(Asked("udp"), bytes(6), ip_address(source).packed, ip_address(destination).packed)

    told = pb.TraceEngineReply
    for source, destination, fate in (
        ("10.0.1.2", "198.51.100.9", None),
        ("10.0.1.2", "172.31.9.1", None),
        ("10.0.1.2", "172.31.0.3", told.PROHIBITED),
        ("10.0.1.2", "172.31.0.4", told.PROHIBITED),
        ("10.7.1.2", "198.51.100.9", told.DROPPED),
    ):
        found = nat_foretold.refused(sent(source, destination), inside, limits)
        assert (found.fate if found else None) == fate, (source, destination)
    for source, meta, outside, fate in (
        ("203.0.113.1", OUTSIDE, False, told.TRANSLATED),
        ("198.51.100.9", INSIDE, True, told.TRANSLATED),
        ("198.51.100.9", OUTSIDE, True, told.DROPPED),
        ("10.0.1.9", INSIDE, True, told.DROPPED),
    ):
        said = {"frame": sent(source, "10.0.1.2").hex(), "meta": meta, "known": True, "reason": "", "sentence": ""}
        found = nat_foretold.reply(said, inside, outside=outside)
        assert (found.fate, found.known, found.inside) == (fate, True, meta == INSIDE), (source, outside)
    none = {"frame": "", "meta": 0, "known": False, "reason": "NO_RULE", "sentence": "No rule."}
    assert nat_foretold.reply(none, inside, outside=True).fate == told.DROPPED

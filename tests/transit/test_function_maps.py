# SPDX-License-Identifier: Apache-2.0
"""What a daemon tells of the own maps of its functions."""

from __future__ import annotations

import json
import os
import struct

import grpc
import pytest

from mizar._built import transit_pb2 as pb
from tests.dataplane.chained import from_text
from tests.transit.rig import Droplet, Rig
from tests.transit.test_life import alone
from tests.transit.test_network_functions import EVERY, answered, function, put

MAPS = """
struct place { uint8_t address[16]; uint16_t port; uint16_t pad; };
MIZAR_MAP(BPF_MAP_TYPE_HASH, places, struct place, int64_t, 64, 0);
MIZAR_MAP(BPF_MAP_TYPE_ARRAY, marks, uint32_t, uint32_t, 70000, 0);
MIZAR_MAP(BPF_MAP_TYPE_PERCPU_ARRAY, busy, uint32_t, uint32_t, 4, 0);
MIZAR_TABLES(filled, uint64_t, 4);
MIZAR_SHARED(endpoints);"""
BODY = """
        uint32_t two = 2;
        uint32_t *count = bpf_map_lookup_elem(&busy, &two);
        if (count) *count += 1;
        return FUNCTION_CONTINUE;"""


def told(droplet: Droplet, name: str = "", most: int = 0, of: str = "trial") -> list[pb.FunctionMapState]:
    request = pb.GetFunctionMapsRequest(function=of, map=name, most=most)
    return list(droplet.client.GetFunctionMaps(request, timeout=30).maps)


def rows(droplet: Droplet, name: str, most: int = 0) -> tuple[dict[str, object], bool]:
    """Values by the JSON of their keys; whether there is more."""
    (one,) = told(droplet, name, most)
    return {row.key: json.loads(row.value) for row in one.rows}, one.more


def test_a_functions_maps_are_told_and_no_others(made: Rig) -> None:
    """Shapes; entries by their types and by the limit, of arrays what is not zero, of each CPU its own."""
    one, (first, _) = alone(made, "uid-1", "uid-2")
    wanted = function(from_text(BODY, MAPS), EVERY)
    key = struct.pack("=16sHH", bytes(10) + b"\xff\xff" + bytes([10, 0, 1, 2]), 53, 0)
    for name, entries in (
        ("places", {key: struct.pack("=q", -7)}),
        ("marks", {struct.pack("=I", place): struct.pack("=I", place + 1) for place in range(3, 8)}),
    ):
        wanted.maps.add(name=name, entries=[pb.FunctionEntry(key=at, value=value) for at, value in entries.items()])
    put(one, wanted)
    assert answered(first, "10.0.1.12")
    shapes = {each.name: (each.type, each.entries, each.key_size, each.value_size) for each in told(one)}
    assert shapes == {
        "places": ("HASH", 64, 20, 8),
        "marks": ("ARRAY", 70000, 4, 4),
        "busy": ("PERCPU_ARRAY", 4, 4, 4),
        "filled": ("ARRAY_OF_MAPS", 4, 4, 4),
    }
    assert not any(each.rows for each in told(one))
    found, more = rows(one, "places")
    assert not more
    assert found == {json.dumps({"address": "10.0.1.2", "port": 53, "pad": 0}): -7}
    found, more = rows(one, "marks")
    assert (found, more) == ({str(place): place + 1 for place in range(3, 8)}, True), "it has not looked at all of them"
    assert rows(one, "marks", 2) == ({"3": 4, "4": 5}, True)
    found, more = rows(one, "busy")
    assert (list(found), more) == (["2"], False)
    counts = found["2"]
    assert isinstance(counts, list)
    assert len(counts) >= (os.cpu_count() or 1)
    assert sum(counts) >= 1
    for name, most, of, words in (
        ("filled", 0, "trial", "a ARRAY_OF_MAPS.*cannot be told one by one"),
        ("endpoints", 0, "trial", "has no map endpoints of its own here; it has busy, filled, marks, places"),
        ("", 0, "strange", "there is no function strange on this droplet"),
        ("places", 1001, "trial", "at most 1000 entries"),
    ):
        with pytest.raises(grpc.RpcError, match=words):
            told(one, name, most, of)

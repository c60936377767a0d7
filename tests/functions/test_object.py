# SPDX-License-Identifier: Apache-2.0
"""What an object says of itself, and how values of its types are written; objects that are none are refused."""

from __future__ import annotations

import random
import struct
import tracemalloc

import pytest

from mizar.kernel.layout import constant, size
from mizar.model import btf, elf, function_object
from mizar.model.errors import InvalidError
from mizar.model.function import parameters_of
from mizar.model.function_object import read_object
from tests.functions.conftest import Compile

SOURCE = """
struct limits { uint32_t most; uint8_t address[16]; uint16_t ports[3]; uint8_t mac[6]; };
struct entry { uint64_t count; struct limits limits; };
enum colour { RED = 1, BLUE = 2 };
MIZAR_MAP(BPF_MAP_TYPE_HASH, seen, uint32_t, struct entry, 16, 0);
MIZAR_MAP(BPF_MAP_TYPE_ARRAY, colours, uint32_t, enum colour, 4, 0);
MIZAR_SHARED(endpoints);
MIZAR_REASONS({ 1, "TOO_MANY", "More than the operator allows." }, { 7, "OTHER", "Another." });
const volatile struct limits parameters SEC(".rodata.parameters") = { .most = 3 };
MIZAR_FUNCTION(two_words, MIZAR_STAGE(ON_XDP_TX) | MIZAR_STAGE(ENDPOINT_EGRESS_STAGE))
{
	uint32_t key = 0;
	struct endpoint_key other = {};

	if (bpf_map_lookup_elem(&endpoints, &other) || !bpf_map_lookup_elem(&colours, &key))
		return FUNCTION_PASS;
	return bpf_map_lookup_elem(&seen, &key) && parameters.most == 5 ? mizar_drop(call, 7) : FUNCTION_CONTINUE;
}
"""


def test_it_says_who_it_is(compiled: Compile) -> None:
    found = read_object(compiled(SOURCE))
    assert (found.name, found.stages) == ("two-words", ("ON_XDP_TX", "ENDPOINT_EGRESS"))
    assert [(one.number, one.name) for one in found.reasons] == [(1, "TOO_MANY"), (7, "OTHER")]
    assert found.reasons[0].sentence == "More than the operator allows."
    assert (set(found.maps), found.shared) == ({"seen", "colours"}, ("endpoints",))
    shape = found.maps["seen"]
    assert (shape.kind, shape.entries, shape.key_size, shape.value_size) == (1, 16, 4, 40)


def test_the_model_knows_the_contract() -> None:
    """It must not need a compiler or cffi: so it has these numbers once more."""
    assert constant("FUNCTION_ABI") == function_object.ABI
    assert size("function_frame") == function_object.FRAME_BYTES
    assert len(function_object.STAGES) == constant("FUNCTION_STAGES")
    for place, name in enumerate(function_object.STAGES):
        assert constant(name if name.startswith("ON_") else f"{name}_STAGE") == place


def test_values_by_their_fields(compiled: Compile) -> None:
    found = read_object(compiled(SOURCE))
    value = {"count": 2, "limits": {"most": 9, "address": "10.0.1.2", "ports": [1, 2], "mac": "02:00:00:00:00:09"}}
    packed = found.types.pack(found.maps["seen"].value, value, "value")
    mapped = bytes(10) + b"\xff\xff" + bytes([10, 0, 1, 2])
    assert packed == struct.pack("=QI16s3H6s", 2, 9, mapped, 1, 2, 0, bytes.fromhex("020000000009"))
    assert found.types.pack(found.maps["colours"].value, "BLUE", "value") == b"\2\0\0\0"
    assert parameters_of(found, {"most": 5})[:4] == b"\5\0\0\0"


@pytest.mark.parametrize(
    ("value", "field"),
    [
        ({"colour": 1}, "value.colour"),
        ({"count": -(2**63) - 1}, "value.count"),
        ({"limits": {"most": 2**32}}, "value.limits.most"),
        ({"limits": {"ports": [1, 2, 3, 4]}}, "value.limits.ports"),
        ({"limits": {"mac": "02:00"}}, "value.limits.mac"),
        (7, "value"),
    ],
)
def test_values_that_do_not_fit(compiled: Compile, value: object, field: str) -> None:
    found = read_object(compiled(SOURCE))
    with pytest.raises(InvalidError) as refused:
        found.types.pack(found.maps["seen"].value, value, "value")
    assert [problem.field for problem in refused.value.problems] == [field]


def test_values_are_told_as_they_are_given(compiled: Compile) -> None:
    """What pack() makes bytes from comes back; where the types know no better, digits."""
    found = read_object(compiled(SOURCE))
    seen, colours = (found.maps[name].value for name in ("seen", "colours"))
    value = {
        "count": 2**63,
        "limits": {"most": 9, "address": "10.0.1.2", "ports": [1, 2, 3], "mac": "02:00:00:00:00:09"},
    }
    packed = found.types.pack(seen, value, "value")
    assert found.types.unpack(seen, packed) == value
    assert found.types.unpack(seen, packed[1:]) == packed[1:].hex()
    assert [found.types.unpack(colours, struct.pack("=I", number)) for number in (1, 2, 7)] == ["RED", "BLUE", 7]
    assert found.types.unpack(found.maps["seen"].key, b"\1\2\0\0") == 0x201
    assert found.types.unpack(0, b"\1\2\0\0") == "01020000"


def test_values_of_odd_types_are_told(compiled: Compile) -> None:
    """Below zero, a union without a name, an address of IPv6, bits, letters."""
    odd = """
    struct bits { uint8_t low : 3; uint8_t high : 5; };
    struct odd { int32_t below; union { uint8_t address[16]; uint32_t number; }; struct bits bits; char word[3]; };
    MIZAR_MAP(BPF_MAP_TYPE_HASH, odds, int16_t, struct odd, 4, 0);
    MIZAR_FUNCTION(odd, MIZAR_STAGE(ON_XDP_TX)) { return FUNCTION_CONTINUE; }
    """
    found = read_object(compiled(odd))
    shape = found.maps["odds"]
    packed = struct.pack("=i16sB3s", -2, bytes.fromhex("20010db8") + bytes(11) + b"\1", 0x1F, b"ab\0")
    wanted = {"below": -2, "address": "2001:db8::1", "bits": "1f", "word": "616200"}
    assert found.types.unpack(shape.value, packed) == wanted
    assert found.types.unpack(shape.key, b"\xff\xff") == -1


def test_a_union_of_which_no_field_is_the_whole_is_told() -> None:
    """As of five letters and a number, which are eight bytes: nothing of what is there is left out."""
    number = btf.Type(btf.INT, "unsigned int", 4)
    union = btf.Type(btf.UNION, "padded", 8, members=(btf.Member("number", 1, 0),))
    assert btf.Btf([btf.Type(0, "void"), number, union]).unpack(2, b"letters\0") == b"letters\0".hex()


def test_hostile_types_cost_no_more_than_the_bytes() -> None:
    """A struct within itself, one whose fields lie over one another, one of nothing without number."""
    within = btf.Type(btf.STRUCT, "within", 8, members=(btf.Member("again", 1, 0),))
    over = btf.Type(btf.STRUCT, "over", 8, members=tuple(btf.Member(f"m{place}", 2, 0) for place in range(50)))
    empty = btf.Type(btf.STRUCT, "empty", 0)
    nothing = btf.Type(btf.STRUCT, "nothing", 8, members=tuple(btf.Member(f"m{place}", 3, 0) for place in range(50)))
    types = btf.Btf([btf.Type(0, "void"), within, over, empty, nothing])
    assert str(types.unpack(1, bytes(8))).count("again") == 17
    assert types.unpack(2, bytes(8)) == types.unpack(4, bytes(8)) == "00" * 8


def test_what_is_no_function(compiled: Compile) -> None:
    """Anything but InvalidError would be a defect: an object may come from anywhere."""
    good = compiled(SOURCE)
    for bad, words in (
        (b"", "no ELF object"),
        (b"#!/bin/sh\n" * 20, "no ELF object"),
        (good[:200], "no ELF object"),
        (good + bytes(1 << 20), "at most"),
        (
            compiled('SEC("xdp") int x(struct xdp_md *c) { return 2; } char l[] SEC("license") = "GPL";'),
            "MIZAR_FUNCTION",
        ),
        (compiled(SOURCE.replace('"TOO_MANY"', '"too many"')), "a reason is called"),
        (compiled(SOURCE.replace('{ 7, "OTHER"', '{ 1, "OTHER"')), "each once"),
        (compiled(SOURCE.replace("ON_XDP_TX", "9")), "no stage"),
    ):
        with pytest.raises(InvalidError, match=words):
            read_object(bad)
    chance = random.Random(6)
    for _ in range(300):
        broken = bytearray(good)
        for _ in range(chance.randrange(1, 9)):
            broken[chance.randrange(len(broken))] = chance.randrange(256)
        try:
            read_object(bytes(broken))
        except InvalidError:
            continue


def hostile_elf(*sections: bytes, names: bytes = b"\0.s\0") -> bytes:
    """An object of clang's, as far as its header goes; the last section has the names."""
    head = struct.pack("=4sBBB9xHHIQQQIHHHHHH", b"\x7fELF", 2, 1, 1, 1, 247, 1, 0, 0, 64, 0, 64, 0, 0, 64,
                       len(sections), len(sections) - 1)  # fmt: skip
    return head + b"".join(sections) + names


def test_an_object_costs_no_more_than_its_bytes() -> None:
    """Sections that lie in one another, names without end, maps and values without number: refused, not copied."""
    each = struct.pack("=IIQQQQIIQQ", 1, 1, 0, 0, 0, 64 * 4000, 0, 0, 0, 0)
    tracemalloc.start()
    with pytest.raises(InvalidError, match="no ELF object"):
        elf.sections(hostile_elf(*[each] * 4000))
    long = b"\0" + b"x" * (1 << 19) + b"\0"
    types = struct.pack("=III", 1, btf.FWD << 24, 0) * 20000
    header = struct.pack("=HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(long))
    with pytest.raises(InvalidError, match="cannot be read"):
        btf.read(header + types + long)
    assert tracemalloc.get_traced_memory()[1] < 16 << 20
    tracemalloc.stop()
    many = btf.Btf([btf.Type(0, "void"), btf.Type(btf.DATASEC, ".maps", members=(btf.Member("one", 0, 0),) * 65)])
    with pytest.raises(InvalidError, match="at most 64"):
        many.maps()
    wide = btf.Btf([btf.Type(0, "void"), btf.Type(btf.INT, "u64", 8), btf.Type(btf.ARRAY, "", 0, 1, 1 << 31)])
    with pytest.raises(InvalidError, match="expected at most 1048576"):
        wide.pack(2, [1], "spec.maps")

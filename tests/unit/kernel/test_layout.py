# SPDX-License-Identifier: Apache-2.0
"""Python's view of dataplane.h is C's, and refuses what does not fit."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mizar.kernel import layout
from mizar.model.errors import InvalidError

ADDRESS = bytes(10) + b"\xff\xff\x0a\x00\x01\x05"
STRUCTS = re.findall(r"^struct (\w+) \{", layout.header_text(), re.MULTILINE)


def test_fields_land_where_c_puts_them() -> None:
    """A struct written by name is, byte for byte, what a C program would have written."""
    data = layout.struct(
        "endpoint", droplet=1, ifindex=2, slot=3, vpc_slot=4, network=5, mac=b"\x02\0\0\0\0\x09", tunnel=2
    )
    assert data.hex() == "01000000 02000000 03000000 04000000 05000000 020000000009 02 00 00000000".replace(" ", "")


@pytest.mark.skipif(shutil.which("clang") is None, reason="needs clang, as the build does")
def test_sizes_are_those_of_the_compiler(tmp_path: Path) -> None:
    """Each struct has the size that clang gives it for the kernel's programs."""
    (tmp_path / "dataplane.h").write_text(layout.header_text())
    asserts = "\n".join(f'_Static_assert(sizeof(struct {name}) == {layout.size(name)}, "{name}");' for name in STRUCTS)
    source = tmp_path / "sizes.c"
    source.write_text(f'#include "dataplane.h"\n{asserts}\n')
    subprocess.run(["clang", "-fsyntax-only", str(source)], check=True)


def test_constants_come_from_the_enums() -> None:
    """Enum constants are numbers by their C names."""
    assert layout.constant("HOPS") == 16
    assert layout.constant("NETWORK_BOUNCED_HERE") == 1
    assert layout.constant("HANDOVER_MAGIC") == 0x4D5A4F31
    with pytest.raises(InvalidError, match="no enum constant NO_SUCH"):
        layout.constant("NO_SUCH")


@given(st.lists(st.integers(0, 2**32 - 1), min_size=16, max_size=16), st.integers(0, 2**24 - 1))
def test_parsing_gives_back_what_was_packed(droplets: list[int], vni: int) -> None:
    """Arrays of numbers come back as tuples, in order."""
    fields = {"droplet": tuple(droplets), "vni": vni, "network_id": 7}
    assert layout.parse("hop_set", layout.struct("hop_set", **fields)) == fields


def test_pads_are_always_zero_and_never_seen() -> None:
    """A hash key with a stray byte in its pad would be another key; nobody can write one."""
    assert layout.struct("agent", vni=1) == (1).to_bytes(4, "little") + bytes(layout.size("agent") - 4)
    assert "pad" not in layout.parse("network", bytes(layout.size("network")))
    with pytest.raises(InvalidError, match="no field pad"):
        layout.struct("network", pad=1)


@pytest.mark.parametrize(
    ("name", "fields", "complaint"),
    [
        ("endpoint_key", {"vni": 1, "address": ADDRESS}, "no field address"),
        ("endpoint_key", {"vni": 2**32, "addr": ADDRESS}, "does not fit"),
        ("endpoint_key", {"vni": -1, "addr": ADDRESS}, "does not fit"),
        ("endpoint_key", {"vni": "7", "addr": ADDRESS}, "does not fit"),
        ("endpoint_key", {"vni": 1, "addr": ADDRESS[:15]}, "16 bytes long, not 15"),
        ("hop_set", {"droplet": (1, 2)}, "16 places, not 2"),
        ("no_such_struct", {}, "no struct no_such_struct"),
    ],
)
def test_what_does_not_fit_is_refused(name: str, fields: dict[str, object], complaint: str) -> None:
    """Nothing is cut off, padded or guessed."""
    with pytest.raises(InvalidError, match=complaint):
        layout.struct(name, **fields)


def test_parsing_wants_the_exact_length() -> None:
    """Bytes of another struct are not read as this one."""
    with pytest.raises(InvalidError, match="20 bytes long, not 19"):
        layout.parse("endpoint_key", bytes(19))

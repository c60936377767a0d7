# SPDX-License-Identifier: Apache-2.0
"""What the kernel room decides without asking the kernel."""

import errno
from ipaddress import IPv4Interface

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mizar.kernel import layout, libbpf
from mizar.kernel.bpffs import Pins
from mizar.kernel.endpoint_link import GROUP, EndpointLink, OwnedLink
from mizar.kernel.interfaces import Interface
from mizar.kernel.namespaces import Namespace
from mizar.kernel.tables import hop_set_places, network_key
from mizar.model.errors import (
    ConflictError,
    ExhaustedError,
    InvalidError,
    MizarError,
    NotFoundError,
    TemporaryError,
)

V4 = bytes(10) + b"\xff\xff\x0a\x00\x01\x00"
V6 = bytes.fromhex("fd000010000000010000000000000000")


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.EEXIST, ConflictError),
        (errno.EBUSY, ConflictError),
        (errno.ENOENT, NotFoundError),
        (errno.ENODEV, NotFoundError),
        (errno.E2BIG, ExhaustedError),
        (errno.EAGAIN, TemporaryError),
        (errno.EINVAL, InvalidError),
        (errno.EPERM, InvalidError),
        (libbpf.ENOTSUPP, InvalidError),
    ],
)
def test_an_errno_becomes_what_the_caller_does_next(number: int, kind: type[MizarError]) -> None:
    """The class tells what to do, the message what failed; the errno stays readable."""
    error = libbpf.error_of(number, "write table x")
    assert type(error) is kind
    assert str(error).startswith("write table x: ")
    assert libbpf.errno_of(error) == number


def test_an_error_shows_the_end_of_the_log() -> None:
    """The verifier's verdict stands in its last lines; the thousands before are left out."""
    error = libbpf.error_of(errno.EACCES, "load x", "\n".join(f"line {n}" for n in range(1000)))
    assert "line 999" in str(error)
    assert "line 900" not in str(error)


def test_a_missing_privilege_is_named() -> None:
    """Nobody has to guess what "operation not permitted" wants."""
    assert "CAP_BPF" in str(libbpf.error_of(errno.EPERM, "load x"))


def test_network_keys_count_the_vni_and_mapped_bits() -> None:
    """A trie compares from the first bit on: VNI in network order, then the mapped address."""
    key = layout.struct("network_key", **network_key(0x010203, V4, 24))
    assert key == (32 + 96 + 24).to_bytes(4, "little") + b"\x00\x01\x02\x03" + V4
    assert network_key(1, V6, 64)["prefix_bits"] == 32 + 64


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=16, unique=True))
def test_a_hop_set_is_full_and_even(droplets: list[int]) -> None:
    """All places are taken, and no member has two more than another."""
    places = hop_set_places(droplets, 16)
    counts = [places.count(droplet) for droplet in droplets]
    assert len(places) == 16
    assert sum(counts) == 16
    assert max(counts) - min(counts) <= 1


def test_an_empty_hop_set_is_zero() -> None:
    """Slot 0 is nobody."""
    assert hop_set_places([], 16) == (0,) * 16


def link(uid: str = "u1") -> EndpointLink:
    mac = bytes.fromhex("020000000001")
    return EndpointLink("d1", uid, "mz1", "eth0", mac, 1450, (IPv4Interface("10.0.1.5/24"),), ())


def interface(alias: str, group: int = GROUP, kind: str = "veth") -> Interface:
    return Interface(2, "mz1", bytes(6), 1450, True, kind, alias, group, 3, 0, "", 0)


def test_the_alias_tells_whose_a_link_is() -> None:
    """What is written on a link can be read back, spaces in a path included."""
    alias = link().alias(Namespace(-1, "path:/run/my containers/1"))
    owned = OwnedLink.of(interface(alias))
    assert owned is not None
    assert (owned.instance, owned.uid, owned.inner_name) == ("d1", "u1", "eth0")
    assert owned.spec == "path:/run/my containers/1"


def test_an_interrupted_link_is_ours_but_nobodys() -> None:
    """The group is there from the first moment on, the alias is not."""
    owned = OwnedLink.of(interface(""))
    assert owned is not None
    assert owned.uid == ""


@pytest.mark.parametrize("facts", [interface("mizar d1 u1 eth0 name:x", group=0), interface("", kind="bridge")])
def test_other_interfaces_are_not_ours(facts: Interface) -> None:
    """An alias alone proves nothing: anybody can write one."""
    assert OwnedLink.of(facts) is None


def test_an_alias_too_long_is_refused() -> None:
    """The kernel would cut it, and with it the record of whose the link is."""
    with pytest.raises(InvalidError, match="too long"):
        link().alias(Namespace(-1, "path:/" + "x" * 255))


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a.b", "x" * 64])
def test_an_instance_must_be_a_folder_name(name: str) -> None:
    """No name leads out of the folder of pins."""
    with pytest.raises(InvalidError):
        Pins.of(name)


@pytest.mark.parametrize("spec", ["", "name", "name:", "name:../x", "pid:x", "host:1", "path:/etc/hostname"])
def test_a_namespace_must_be_one(spec: str) -> None:
    """Neither a wrong word nor a file that is no namespace gets through."""
    with pytest.raises(InvalidError):
        Namespace.open_spec(spec)


def test_a_missing_namespace_is_not_found() -> None:
    """As opposed to one that could never be."""
    with pytest.raises(NotFoundError):
        Namespace.by_name("mizar-no-such-namespace")

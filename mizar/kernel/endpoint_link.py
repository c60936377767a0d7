# SPDX-License-Identifier: Apache-2.0
"""What the link of an endpoint is: the wish (EndpointLink, TapLink) and the mark of ownership on its host side
(OwnedLink).

Owns the format of the alias, which is the only record of whose a link is. Used by links, taps and the daemon. It must
never do anything: values only.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface

from mizar.kernel.interfaces import Interface
from mizar.kernel.namespaces import Namespace
from mizar.model.errors import InvalidError

GROUP = 0x4D5A
"""Interface group ("MZ") of the host side of every endpoint's link."""

KINDS = ("veth", "tun")
"""Kinds of interfaces (Interface.kind) that are made for endpoints; a tap is a "tun" to netlink."""

_ALIAS_LIMIT = 255  # IFALIASZ - 1


@dataclass(frozen=True)
class EndpointLink:
    """What the link of an endpoint should be."""

    instance: str
    """The daemon that owns it: several may share a host."""
    uid: str
    host_name: str
    """Name on the host, at most 15 bytes; chosen by the caller, the same for the same uid."""
    inner_name: str
    """Name in the workload's namespace, for example eth0."""
    mac: bytes
    """6 bytes, of the workload's end."""
    mtu: int
    addresses: tuple[IPv4Interface | IPv6Interface, ...]
    gateways: tuple[IPv4Address | IPv6Address, ...]
    """Default routes, at most one per family."""
    queues: int = 1
    """Transmit and receive queues of both ends: XDP refuses unequal counts."""
    self_configured: bool = False
    """The workload sets addresses and routes by itself; `addresses` and `gateways` say what it will be given."""
    standby: bool = False
    """The endpoint has another interface of the name in the namespace still: this one waits under another, without
    addresses and routes."""
    bypass: bool = False
    """What comes in is for a program that wants it as it was on a wire: nothing merged, and nothing left undone."""
    takes_over: bool = False
    """It may push that other interface (it has the same MAC) out of its name and of the default routes."""

    @property
    def name_inside(self) -> str:
        """What the workload's end is called now."""
        return self.name_waiting if self.standby else self.inner_name

    @property
    def name_waiting(self) -> str:
        """What the workload's end is called while it stands by."""
        return f"s{self.host_name[2:]}"

    @property
    def name_aside(self) -> str:
        """What an interface is called that was pushed out of the name."""
        return f"o{self.host_name[2:]}"

    def alias(self, namespace: Namespace) -> str:
        """What is written on the host side. The namespace comes last, because a path may hold anything."""
        inner = self.inner_name + ("%dhcp" if self.self_configured else "")
        return alias_of(self.instance, self.uid, inner, namespace.spec)


@dataclass(frozen=True)
class TapLink:
    """What the tap of an endpoint should be."""

    instance: str
    """The daemon that owns it: several may share a host."""
    uid: str
    host_name: str
    alias: str
    """As alias_of() makes it."""
    mtu: int
    owner: int
    """User id that may open it."""
    multi_queue: bool


def alias_of(instance: str, uid: str, inner: str, spec: str) -> str:
    """What is written on the host side. `spec`, what is behind it, comes last, because a path may hold anything."""
    alias = f"mizar {instance} {uid} {inner} {spec}"
    if len(alias.encode()) > _ALIAS_LIMIT:
        raise InvalidError(f"what is behind endpoint {uid} has too long a name: {spec}")
    return alias


@dataclass(frozen=True)
class OwnedLink:
    """The host side of a link that some daemon made; `uid` is empty when it was interrupted while making it."""

    interface: Interface
    instance: str
    uid: str
    inner_name: str
    spec: str
    """What is behind it: a namespace as Namespace.open_spec() takes it, or what the daemon wrote."""

    @classmethod
    def of(cls, interface: Interface) -> OwnedLink | None:
        """Reads group and alias; None for an interface that is not Mizar's."""
        if interface.group != GROUP or interface.kind not in KINDS:
            return None
        parts = interface.alias.split(" ", 4)
        if len(parts) != 5 or parts[0] != "mizar":
            return cls(interface, "", "", "", "")
        return cls(interface, *parts[1:])

# SPDX-License-Identifier: Apache-2.0
"""What is behind an endpoint of this droplet, as values, and how the alias of its interface records it.

Made by `requests` and, from an alias, by `attachments`; read wherever a kind of workload makes a difference. An alias
keeps two texts: `inner`, a name without spaces, and `spec`, which comes last and may hold any. It does no I/O.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from mizar.model.errors import InvalidError

SELF_CONFIGURED = "%dhcp"
"""Behind the name of an interface in an alias; no name of an interface holds a %."""
_UNNAMED = "-"


class NamespaceBy(IntEnum):
    """How a workload's namespace is named."""

    NAME = 1
    PATH = 2
    PID = 3
    POOL = 4  # a name, of one that the daemon brings


@dataclass(frozen=True, slots=True)
class InNamespace:
    """A network namespace, and the interface's name in it. `self_configured`: by DHCP, so it is given no addresses."""

    by: NamespaceBy
    namespace: str
    interface: str
    self_configured: bool = False

    egress = False
    """Frames enter the namespace directly: they are not transmitted by the droplet's side."""

    @property
    def inner(self) -> str:
        """For the alias."""
        return self.interface + (SELF_CONFIGURED if self.self_configured else "")

    @property
    def spec(self) -> str:
        """For the alias, and what `Namespace.open_spec` takes."""
        return f"{self.by.name.lower()}:{self.namespace}"

    def __str__(self) -> str:
        return f"namespace {self.spec}"


@dataclass(frozen=True, slots=True)
class Tap:
    """A tap device for a virtual machine; an empty name leaves it to the daemon. `owner`: a user id."""

    name: str
    owner: int
    queues: int

    egress = True

    @property
    def inner(self) -> str:
        """For the alias: the name that was asked for."""
        return self.name or _UNNAMED

    @property
    def spec(self) -> str:
        """For the alias."""
        return f"tap:{self.owner}/{self.queues}"

    def __str__(self) -> str:
        return f"tap of user {self.owner}"


@dataclass(frozen=True, slots=True)
class OvsPort:
    """A port of an Open vSwitch bridge; an empty name leaves it to the daemon. `vlan`: its access VLAN, 0 for none."""

    bridge: str
    port: str
    vlan: int

    egress = True

    @property
    def inner(self) -> str:
        """For the alias: the name that was asked for."""
        return self.port or _UNNAMED

    @property
    def spec(self) -> str:
        """For the alias."""
        return f"ovs:{self.bridge}/{self.vlan}"

    def __str__(self) -> str:
        return f"port of bridge {self.bridge}"


Workload = InNamespace | Tap | OvsPort


def of_alias(inner: str, spec: str) -> Workload:
    """What an alias says. Raises InvalidError for one that this version does not write."""
    kind, _, rest = spec.partition(":")
    if kind == "tap":
        owner, _, queues = rest.partition("/")
        if owner.isdecimal() and queues.isdecimal():
            return Tap("" if inner == _UNNAMED else inner, int(owner), int(queues))
    elif kind == "ovs":
        bridge, _, vlan = rest.rpartition("/")
        if bridge and vlan.isdecimal():
            return OvsPort(bridge, "" if inner == _UNNAMED else inner, int(vlan))
    elif kind.upper() in NamespaceBy.__members__:
        interface = inner.removesuffix(SELF_CONFIGURED)
        return InNamespace(NamespaceBy[kind.upper()], rest, interface, interface != inner)
    raise InvalidError(f"{spec!r} names no workload that this version knows")

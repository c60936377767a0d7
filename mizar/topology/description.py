# SPDX-License-Identifier: Apache-2.0
"""The kind HostTopology: bridges, VXLAN devices, veth pairs, ports and functions of one host. Owns its shape.

Called by reading and by everything behind it. Frozen, and valid in itself; what has to fit between its parts is in
`checks`. "The host" is the network namespace in which the command runs; a namespace is named as under /run/netns.
Not one of the kinds that a server stores, therefore not in mizar.model.resources.KINDS.
"""

from __future__ import annotations

import re
from ipaddress import ip_interface
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints, model_validator

from mizar.model import fields
from mizar.model.addresses import parse_address
from mizar.model.fields import Value
from mizar.model.resources import Resource, Scope

MAX_VNI = 2**24 - 1
MAX_VNIS = 2**16
_HANDLE = re.compile(r"[a-z0-9_]{1,32}/[A-Za-z0-9:.@_-]{1,64}")


def _host_address(text: str) -> str:
    try:
        address = ip_interface(text if "/" in text else "")
    except ValueError:
        raise ValueError(f"expected an address with its prefix length, such as 192.0.2.1/24, found {text!r}") from None
    if address.version == 6 and address.is_link_local:
        raise ValueError(f"expected no link-local address, which the kernel gives and takes itself, found {text!r}")
    return str(address)


def _local(text: str) -> str:
    address = parse_address(text)
    if address.is_unspecified or address.is_multicast:
        raise ValueError(f"expected a unicast address, or none for whatever the route says, found {text!r}")
    return str(address)


def _vnis(value: Any) -> tuple[int, int]:
    """One VNI or `first-last`."""
    first, dash, last = str(value).partition("-")
    if not isinstance(value, bool) and all(
        part.isascii() and part.isdigit() for part in (first, last if dash else first)
    ):
        low, high = int(first), int(last or first)
        if 1 <= low <= high <= MAX_VNI:
            return low, high
    raise ValueError(f"expected a VNI of 1 to {MAX_VNI}, or a range such as 200-210, found {value!r}")


def _handle(text: str) -> str:
    if not _HANDLE.fullmatch(text):
        raise ValueError(f"expected a devlink handle, such as pci/0000:03:00.0, found {text!r}")
    return text


Addresses = tuple[Annotated[str, AfterValidator(_host_address)], ...]
Mtu = Annotated[int, Field(strict=True, ge=68, le=65535)]
UdpPort = Annotated[int, Field(strict=True, ge=1, le=65535)]
Vlan = Annotated[int, Field(strict=True, ge=1, le=4094)]
VniRange = Annotated[tuple[int, int], BeforeValidator(_vnis)]
Label = Annotated[str, StringConstraints(pattern=r"^[!-~]([ -~]{0,61}[!-~])?$")]
"""Names an object of the description in marks and pictures; ASCII, because marks count bytes."""
Shown = Annotated[str, Field(min_length=1, max_length=200)]
"""Text that is only drawn."""


class NamespaceSpec(Value):
    """A network namespace. `existing`: somebody else makes and removes it. `processes` are only drawn."""

    name: fields.NamespaceName
    existing: bool = False
    processes: tuple[Shown, ...] = ()


class BridgeSpec(Value):
    """A bridge. With `vlanFiltering` each of its ports has to say which VLAN it is in."""

    name: fields.InterfaceName
    namespace: fields.NamespaceName | None = None
    vlan_filtering: bool = False
    mtu: Mtu | None = None
    addresses: Addresses = ()


class VlanVni(Value):
    """A VLAN of the bridge that is a VNI on the wire."""

    vlan: Vlan
    vni: fields.Vni


class VtepSpec(Value):
    """A VXLAN device: either one VNI (`id`), or `external`, for any VNI or those in `vnis` (the VNI filter).

    `bridge`: it is a port there, and lives where the bridge does; else it lives in `namespace` or on the host.
    """

    name: fields.InterfaceName
    bridge: fields.InterfaceName | None = None
    namespace: fields.NamespaceName | None = None
    id: fields.Vni | None = None
    external: bool = False
    vnifilter: bool = False
    vnis: tuple[VniRange, ...] = ()
    vlan: Vlan | None = None
    vlans: tuple[VlanVni, ...] = ()
    local: Annotated[str, AfterValidator(_local)] | None = None
    port: UdpPort = 4789
    learning: bool | None = None
    mtu: Mtu | None = None

    @model_validator(mode="after")
    def _one_way_to_a_vni(self) -> Self:
        if (self.id is not None) == self.external:
            raise ValueError("expected either id (one VNI) or external: true")
        if not self.external and (self.vnifilter or self.vnis or self.vlans):
            raise ValueError("vnifilter, vnis and vlans are for an external device; this one has an id")
        if bool(self.vnis) != self.vnifilter:
            raise ValueError(
                "expected vnifilter: true and a list of vnis, both or neither: a filter without passes nothing"
            )
        if sum(last - first + 1 for first, last in self.vnis) > MAX_VNIS:
            raise ValueError(f"expected at most {MAX_VNIS} VNIs in vnis: the kernel keeps an entry for each")
        if self.external and self.vlan is not None:
            raise ValueError("an external device has vlans with their VNIs, not one vlan")
        if self.bridge is not None and self.namespace is not None:
            raise ValueError("expected bridge or namespace, not both: a port lives where its bridge does")
        return self


class EndSpec(Value):
    """One end of a veth pair: a port of `bridge` (in its namespace), or in `namespace`, or on the host."""

    interface: fields.InterfaceName
    bridge: fields.InterfaceName | None = None
    namespace: fields.NamespaceName | None = None
    vlan: Vlan | None = None
    addresses: Addresses = ()

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if self.bridge is not None and self.namespace is not None:
            raise ValueError("expected bridge or namespace, not both: a port lives where its bridge does")
        if self.bridge is not None and self.addresses:
            raise ValueError("a port of a bridge has no addresses of its own: give them to the bridge")
        return self


class VethSpec(Value):
    """A veth pair."""

    name: Label
    ends: Annotated[tuple[EndSpec, ...], Field(min_length=2, max_length=2)]
    mtu: Mtu | None = None


class PortSpec(Value):
    """A physical port. Without `interface` it is only drawn."""

    name: Label
    interface: fields.InterfaceName | None = None


class FunctionSpec(Value):
    """An SR-IOV virtual function, by its place in the list, and its representor, which stays on the host."""

    name: Label
    interface: fields.InterfaceName
    representor: fields.InterfaceName
    namespace: fields.NamespaceName | None = None


class EswitchSpec(Value):
    """The switch inside of a NIC. `device`: its devlink handle; without, the only one that has virtual functions.

    `namespace`: its ports' interfaces are taken there, and given back when the topology is deleted.
    """

    name: Label = "eswitch"
    device: Annotated[str, AfterValidator(_handle)] | None = None
    namespace: fields.NamespaceName | None = None
    ports: tuple[PortSpec, ...] = ()
    functions: tuple[FunctionSpec, ...] = ()

    @model_validator(mode="after")
    def _functions_on_the_host(self) -> Self:
        if self.functions and self.namespace is not None:
            raise ValueError("an eswitch with functions is the host's: representors stay where the device is")
        return self


class NoteSpec(Value):
    """A remark beside an object of the picture."""

    about: Shown
    text: Annotated[str, Field(min_length=1, max_length=2000)]


class BoxSpec(Value):
    """Something that the picture shows and that nobody makes."""

    name: Shown
    namespace: fields.NamespaceName | None = None


class HostTopologySpec(Value):
    """All parts; each list may be empty."""

    namespaces: tuple[NamespaceSpec, ...] = ()
    bridges: tuple[BridgeSpec, ...] = ()
    vteps: tuple[VtepSpec, ...] = ()
    veths: tuple[VethSpec, ...] = ()
    eswitches: tuple[EswitchSpec, ...] = ()
    boxes: tuple[BoxSpec, ...] = ()
    notes: tuple[NoteSpec, ...] = ()


class HostTopology(Resource):
    """The interfaces of one host as they should be."""

    scope = Scope.CLUSTER
    kind: Literal["HostTopology"] = "HostTopology"
    spec: HostTopologySpec

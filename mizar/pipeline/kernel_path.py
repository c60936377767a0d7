# SPDX-License-Identifier: Apache-2.0
"""How the kernel lives behind `trap: kernel`, as values: the `kernel:` section of a pipeline.

A port for each tenant that may be translated there, and for each side outside. Each value is valid by itself; whether
they go with the rules of `nat:` is asked where both are used (mizar/gateway/kernel_plan.py).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network

from mizar.pipeline.nat import Address
from mizar.pipeline.steps import META_BITS, Where

_NAMESPACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelRoute:
    """Where a port sends packets `to`: `via` a router, or to neighbours. Raises ValueError."""

    to: IPv4Network | IPv6Network
    via: Address | None = None

    def __post_init__(self) -> None:
        if self.via is not None and self.via.version != self.to.version:
            raise ValueError(f"via: expected an address of the family of {self.to}, found {self.via}")


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelPort:
    """A tenant's interface in the kernel. Its frames leave with the VNI that is the low 24 bits of `meta`, to the
    tunnel end `to`. Raises ValueError."""

    meta: int
    to: str
    mac: int
    addresses: tuple[IPv4Interface | IPv6Interface, ...]
    routes: tuple[KernelRoute, ...] = ()
    where: Where = field(default=Where(), compare=False, repr=False)

    def __post_init__(self) -> None:
        if not 0 < self.meta < 1 << META_BITS or not self.vni:
            raise ValueError(
                f"meta: expected a number of {META_BITS} bits whose low 24 are not 0, found {self.meta:#x}"
            )
        if not 0 < self.mac < 1 << 48 or self.mac >> 40 & 1:
            raise ValueError(f"mac: expected the address of one station, found {self.mac:#x}")
        if not self.addresses:
            raise ValueError("addresses: expected at least one, with its prefix length")

    @property
    def vni(self) -> int:
        """What the kernel knows the tenant by."""
        return self.meta & 0xFFFFFF


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelPath:
    """The whole section. `namespace` is made for it; `mtu` is the tenants': what fits into the tunnel.

    Raises ValueError.
    """

    namespace: str
    ports: tuple[KernelPort, ...]
    mtu: int = 1450
    where: Where = field(default=Where(), compare=False, repr=False)

    def __post_init__(self) -> None:
        if not _NAMESPACE.fullmatch(self.namespace):
            raise ValueError(f"namespace: expected a name of letters, digits and _.-, found {self.namespace!r}")
        if not 1280 <= self.mtu <= 65535:
            raise ValueError(f"mtu: expected 1280 to 65535, found {self.mtu}")
        vnis = [port.vni for port in self.ports]
        twice = sorted({f"{one:#x}" for one in vnis if vnis.count(one) > 1})
        if twice:
            raise ValueError(f"ports: expected each VNI (low 24 bits of meta) once, found twice: {', '.join(twice)}")

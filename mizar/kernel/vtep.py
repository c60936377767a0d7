# SPDX-License-Identifier: Apache-2.0
"""The program of a gateway's external VXLAN device (dataplane/vtep.c): one link for each VNI.

Owns loading, attaching and its two maps, all pinned: frames go on without the process. Called by the gateway, in the
network namespace of the device. It must never be attached to an interface that is not the gateway's own.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Any

from mizar.kernel import attach
from mizar.kernel.bpffs import Pins
from mizar.kernel.layout import U32, Codec
from mizar.kernel.maps import Table
from mizar.kernel.programs import load, object_bytes

_WAY = struct.Struct("=III")  # struct vtep_way
_Way = tuple[int, int, int]


def _way(data: bytes) -> Any:
    return _WAY.unpack(data)


_WAYS: Codec[_Way] = Codec("vtep_way", _WAY.size, lambda value: _WAY.pack(*value), _way)


@dataclass(frozen=True, slots=True)
class VtepPort:
    """A tenant's link: what comes with `vni` leaves over `interface` (an ifindex), and the other way round to the
    tunnel end `remote`."""

    vni: int
    interface: int
    remote: IPv4Address


def settle(pins: Pins, device: int, ports: Iterable[VtepPort]) -> None:
    """From now on the device (an ifindex) and the ports' interfaces carry exactly these. May be called again."""
    wanted = {port.interface: port for port in ports}
    pins.make()
    with load(b"", objects={"vtep": object_bytes("vtep")}, pins=pins) as programs:
        ways = Table("vtep_ways", programs.maps["vtep_ways"], U32, _WAYS)
        vnis = Table("vtep_ports", programs.maps["vtep_ports"], U32, U32)
        ways.put_many((port.interface, (device, port.vni, int(port.remote))) for port in wanted.values())
        fd = programs.programs["vtep"].fd
        for interface in (*wanted, device):
            attach.attach_tc(fd, interface, pins.links / f"vtep_{interface}", force="tcx")
        vnis.put_many((port.vni, port.interface) for port in wanted.values())
        gone = [key for key, _ in vnis.items() if key not in {port.vni for port in wanted.values()}]
        vnis.delete_many(gone)
        unused = [key for key, _ in ways.items() if key not in wanted]
        for interface in unused:
            (pins.links / f"vtep_{interface}").unlink(missing_ok=True)
        ways.delete_many(unused)


def remove(pins: Pins) -> None:
    """Takes the program and its maps away. Nothing passes any more."""
    pins.remove()


def is_there(pins: Pins) -> bool:
    """Whether it was settled and not removed."""
    return os.path.lexists(pins.progs / "vtep")

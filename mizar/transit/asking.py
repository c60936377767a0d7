# SPDX-License-Identifier: Apache-2.0
"""Where is an endpoint? The question and the answer between daemons, as values and as data of a CONTROL option.

Called by `direct`. Pure. Transit XDP has checked that who sent them is a known droplet, and that the VPC is known here;
everything in them is still only what another droplet says.
"""

import struct
from dataclasses import dataclass
from typing import Any

from mizar.model.addresses import from_mapped, to_mapped
from mizar.transit.values import Tunnel

_FORM = "!BBBx6s2xII16s16s16s"  # struct control_place in dataplane/lib/control.h
_ASK, _HINT = 3, 4


@dataclass(frozen=True, slots=True)
class Ask:
    """For the endpoint `src`, on the droplet `asker`: where is `dst`? `hops` droplets have passed it on."""

    vni: int
    src: bytes
    dst: bytes
    asker: bytes
    nonce: int
    hops: int = 0

    def data(self) -> bytes:
        """On the wire."""
        addresses = map(to_mapped, (self.src, self.dst, self.asker))
        return struct.pack(_FORM, _ASK, 0, self.hops, bytes(6), 0, self.nonce, *addresses)


@dataclass(frozen=True, slots=True)
class Hint:
    """`dst` is on the droplet `host`, and is reached in `tunnel`. `nonce` is the asker's."""

    vni: int
    dst: bytes
    host: bytes
    mac: bytes
    tunnel: Tunnel
    network_id: int
    nonce: int

    def data(self) -> bytes:
        """On the wire."""
        addresses = bytes(16), to_mapped(self.dst), to_mapped(self.host)
        return struct.pack(_FORM, _HINT, self.tunnel, 0, self.mac, self.network_id, self.nonce, *addresses)


def ask(notice: dict[str, Any]) -> Ask | None:
    """A question that came in; None when it makes no sense."""
    src, dst, asker = (from_mapped(notice[name]) for name in ("src", "dst", "droplet"))
    if len(src) != len(dst):
        return None
    return Ask(notice["vni"], src, dst, asker, notice["nonce"], notice["hops"])


def hint(notice: dict[str, Any]) -> Hint | None:
    """An answer that came in; None when it makes no sense."""
    if notice["tunnel"] not in list(Tunnel):
        return None
    dst, host = from_mapped(notice["dst"]), from_mapped(notice["droplet"])
    tunnel = Tunnel(notice["tunnel"])
    return Hint(notice["vni"], dst, host, notice["mac"], tunnel, notice["network_id"], notice["nonce"])

# SPDX-License-Identifier: Apache-2.0
"""What engines that translate public addresses have in common: the way of their packets, what the droplet attracts for
them, and the record of it, by which `nat_left` leaves none of it.

Called by `nat_gateway` and `public_balancer`. Blocks.
"""

import contextlib
import json
from collections.abc import Iterable, Iterator
from ipaddress import ip_address
from pathlib import Path

from mizar._built import transit_pb2 as pb
from mizar.kernel import interfaces, nat_way
from mizar.kernel.announce import announce
from mizar.kernel.namespaces import Namespace
from mizar.kernel.nat_way import Way
from mizar.kernel.netlink import Netlink
from mizar.transit.engines.engine import Place
from mizar.transit.engines.nat_left import RECORD
from mizar.transit.engines.nat_pipeline import prefix_of

MOST_LOOKS = 64
"""Of Heralds: five minutes, with a look each five seconds."""
INTERFACE = "eth0"
"""Of an instance's endpoint (mizar.manager.instances)."""


@contextlib.contextmanager
def way_of(place: Place, inside: Iterable[pb.Subnet], public: Iterable[bytes]) -> Iterator[Way]:
    """Of an instance, while its namespace is open."""
    with Namespace.open_spec(place.namespace) as namespace:
        networks = tuple(map(prefix_of, inside))
        yield Way(place.uid, namespace, INTERFACE, place.uplink(), networks, tuple(map(ip_address, public)))


def record(home: Path, way: Way) -> None:
    """What is recorded is at least what the droplet does for it, however far it came."""
    text = json.dumps({"uplink": way.uplink, "public": [str(one) for one in way.public]})
    file = home / RECORD
    if not file.exists() or file.read_text() != text:
        file.write_text(text)


class Heralds:
    """When a droplet says once more that addresses are here: at the 1st, 2nd, 4th, ... look, for some minutes. Where
    two have attracted them, apart from one another, the later one is heard last, and again when the other is back."""

    def __init__(self) -> None:
        self._looks = 0

    def anew(self) -> None:
        """Somebody else may have been heard: from the beginning."""
        self._looks = 0

    def due(self) -> bool:
        """Called at each look."""
        self._looks += 1
        return self._looks <= MOST_LOOKS and self._looks & (self._looks - 1) == 0


def attract(way: Way, heralds: Heralds) -> None:
    """The droplet takes what comes for the public addresses, and tells its link of them."""
    if nat_way.attract(way):
        heralds.anew()
    if heralds.due():
        with Netlink() as here:
            uplink = interfaces.get(here, way.uplink)
        announce(uplink, way.public)

# SPDX-License-Identifier: Apache-2.0
"""Whether one endpoint reaches an address, and what the answer does: a request over the oracle's fleet, and back.

Called by mizar.lab.simulated and mizar.preview. It changes nothing but the flows of the fleet that it is given.
"""

from __future__ import annotations

from dataclasses import dataclass

from mizar.model import drop_reasons
from mizar.oracle.fleet import End, Way
from mizar.simulation import packets
from mizar.simulation.fleet import Deployed, Station

MOST_FORWARDED = 16
"""How many endpoints may send a packet on, one after the other."""


@dataclass(frozen=True, slots=True)
class Reach:
    """What became of a request and of the answer to it."""

    ok: bool
    receiver: str
    """uid of the endpoint that got the request; empty where none did."""
    detail: str
    """A sentence about what went wrong, empty when nothing did."""
    reason: str
    """Name of the drop reason, where a droplet refused one of the two."""
    there: Way
    back: Way | None = None


def reach(
    deployed: Deployed, source: Station, destination: bytes, protocol: str, sport: int = packets.SOURCE_PORT
) -> Reach:
    """Sends a request, and from whoever gets it an answer, which must come back from the address that was asked."""
    own = next((address for address in source.addresses if len(address) == len(destination)), None)
    assert own is not None, "the caller asks for families that both have"
    there = carry(deployed, source, packets.request(protocol, source.mac, own, destination, sport))
    if there.end is End.LEFT:  # what is behind a tunnel end without a daemon answers as it likes
        return Reach(True, "", "", "", there)
    if there.receiver is None:
        return Reach(False, "", _why(deployed, there), _reason(there), there)
    receiver = deployed.stations[there.receiver.uid]
    if receiver.bypass:
        return Reach(True, receiver.uid, "", "", there)
    back = carry(deployed, receiver, packets.answer(there.frame))
    found, detail = back.receiver, ""
    if found is None:
        detail = "the answer: " + _why(deployed, back)
    elif found.uid != source.uid:
        detail = "the answer came to another endpoint"
    elif packets.source_of(back.frame) != destination:
        detail = "the answer came from another address"
    return Reach(not detail, receiver.uid, detail, _reason(back) if found is None else "", there, back)


def carry(deployed: Deployed, source: Station, frame: bytes) -> Way:
    """The way of a frame, on by way of endpoints that forward."""
    way = deployed.fleet.send(source.host, source.ifindex, frame)
    hops = way.hops
    for _ in range(MOST_FORWARDED):
        by = deployed.stations.get(way.receiver.uid) if way.receiver else None
        if by is None or not by.forwards or packets.destination_of(way.frame) in by.addresses:
            break
        way = deployed.fleet.send(by.host, by.ifindex, packets.forwarded(way.frame, by.mac))
        hops += way.hops
    return Way(hops, way.end)


def _reason(way: Way) -> str:
    """The first refusal: what tells a sender of it may have been delivered."""
    return next((hop.outcome.reason for hop in way.hops if hop.outcome.reason), "")


def _why(deployed: Deployed, way: Way) -> str:
    last = next((hop for hop in way.hops if hop.outcome.reason), way.hops[-1])
    where = deployed.names.get(last.droplet, "a droplet")
    known = drop_reasons.by_name().get(last.outcome.reason)
    return f"{where}: {known.name}: {known.sentence}" if known else f"{where}: it was {way.end.value}"

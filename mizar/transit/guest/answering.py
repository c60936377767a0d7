# SPDX-License-Identifier: Apache-2.0
"""Takes what endpoints ask, and answers.

Runs beside the server. The agents have put the requests into a ring, at most so many of each endpoint; here each is
parsed and answered out of the endpoint's own interface, so an answer reaches nobody else whatever was asked. It must
never fail because of what an endpoint sent.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from ipaddress import ip_address
from typing import Any, Protocol

from mizar.transit.guest import dhcp4, dhcp6, frames, router
from mizar.transit.guest.lease import BadRequestError, Lease, Leg
from mizar.transit.ledger import Ledger
from mizar.transit.logs import event
from mizar.transit.values import Local, Network

_log = logging.getLogger(__name__)


class Sender(Protocol):
    """What is needed of kernel.packet_socket.PacketSocket."""

    def send(self, ifindex: int, frame: bytes) -> bool:
        """Send a frame out of an interface."""


def answer(frame: bytes, lease: Lease) -> bytes | None:
    """The frame that answers another, None where silence does. Raises BadRequestError."""
    request = frames.parse(frame)
    if request.mac != lease.mac:
        raise BadRequestError("it bears another MAC")
    if request.protocol == frames.ICMPV6:
        return router.answer(request, lease)
    if request.port == frames.DHCP4_SERVER:
        return dhcp4.answer(request, lease)
    if request.port == frames.DHCP6_SERVER:
        return dhcp6.answer(request, lease)
    raise BadRequestError(f"nobody listens on port {request.port}")


def kind_of(frame: bytes) -> str:
    """What a frame asks for: "dhcp4", "dhcp6", "router", or empty when it is none of them."""
    try:
        request = frames.parse(frame)
    except BadRequestError:
        return ""
    if request.protocol == frames.ICMPV6:
        return "router"
    return {frames.DHCP4_SERVER: "dhcp4", frames.DHCP6_SERVER: "dhcp6"}.get(request.port, "")


class Answering:
    """Answers endpoints of this droplet. `traps` yields struct trap; `room` is the MTU of endpoints by default."""

    def __init__(
        self,
        ledger: Ledger,
        traps: AsyncIterator[dict[str, Any]],
        sender: Sender,
        room: Callable[[], int],
        asked: Callable[[str, int, str, bool], None] = lambda *_: None,
    ) -> None:
        """`asked` is told of each request: uid and VNI of the endpoint, what it asked for, and whether it got it."""
        self._ledger = ledger
        self._traps = traps
        self._sender = sender
        self._room = room
        self._asked = asked
        self._told: set[int] = set()  # interfaces whose endpoints asked for a router

    async def run(self) -> None:
        """Answer until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._answer_all())
            group.create_task(self._tell_again())

    async def _answer_all(self) -> None:
        async for trap in self._traps:
            self.answer(trap["ifindex"], trap["frame"][: trap["length"]])

    def answer(self, ifindex: int, frame: bytes) -> None:
        """Answer one request, if it is one."""
        local = self._local(ifindex)
        lease = self._lease(local)
        if local is None or lease is None:
            return
        reply = None
        try:
            reply = answer(frame, lease)
        except BadRequestError as error:
            event(_log, logging.DEBUG, "request_ignored", ifindex=ifindex, why=error)
        self._asked(local.wanted.uid, local.endpoint.vni, kind_of(frame), reply is not None)
        if reply is not None:
            self._sender.send(ifindex, reply)
            if lease.ipv6 is not None and frame[20:21] == bytes([frames.ICMPV6]):
                self._told.add(ifindex)

    async def _tell_again(self) -> None:
        """A router is forgotten unless it is heard of again."""
        while True:
            await asyncio.sleep(router.REFRESH_S)
            for ifindex in tuple(self._told):
                lease = self._lease(self._local(ifindex))
                advertisement = router.advertisement(lease) if lease else None
                if advertisement is None or not self._sender.send(ifindex, advertisement):
                    self._told.discard(ifindex)

    def _local(self, ifindex: int) -> Local | None:
        return next((one for one in self._ledger.state.locals.values() if one.ifindex == ifindex), None)

    def _lease(self, local: Local | None) -> Lease | None:
        state = self._ledger.state
        network = state.networks.get((local.endpoint.vni, local.endpoint.network_id)) if local else None
        return lease_of(local, network, self._room()) if local and network else None


def lease_of(local: Local, network: Network, room: int) -> Lease:
    """What an endpoint is told about itself."""
    legs: dict[int, Leg] = {}
    for address in local.endpoint.addresses:
        prefix = network.prefix_of(address)
        if prefix is not None:
            legs[len(address)] = Leg(address, prefix.gateway, ip_address(prefix.address).packed, prefix.length)
    return Lease(local.endpoint.mac, local.wanted.mtu or room, legs.get(4), legs.get(16), network.dhcp)

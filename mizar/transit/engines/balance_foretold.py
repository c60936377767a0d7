# SPDX-License-Identifier: Apache-2.0
"""What an instance of a load balancer in mode nat makes of a frame, told for traces: the connection that it is of, or
where a new one would go. Called by `public_balancer`. Pure.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from mizar._built import transit_pb2 as pb
from mizar.kernel.conntrack import Entry, Tuple
from mizar.kernel.nat_balance import Balance
from mizar.oracle.frames import Inner, Kind, parse_inner
from mizar.oracle.nat_balance import Client, NatBalancer, choose
from mizar.oracle.outcome import RefusedError
from mizar.trace.packet import PROTOCOLS, Asked, build

_TOLD = pb.TraceEngineReply
_WORDS = {number: word for word, number in PROTOCOLS.items() if word != "icmp"}


def foretold(frame: bytes, balance: Balance, find: Callable[[Tuple], Entry | None]) -> pb.TraceEngineReply:
    """Of a frame from outside. `find`: the connection that began so; there may be too many to look at all. The source
    of a new one is left: the kernel takes the endpoint's own address, and the same port where that is free."""
    client = _client(frame)
    if client is None:
        return _TOLD(fate=_TOLD.DROPPED, sentence="It is nothing that a listener takes: neither TCP nor UDP.")
    ends = client.source, client.destination, client.source_port, client.destination_port
    entry = find(Tuple(client.protocol, *ends))
    if entry is not None and entry.reply.source != client.destination:
        to = Client(client.protocol, entry.reply.destination, entry.reply.source,
                    entry.reply.destination_port, entry.reply.source_port)  # fmt: skip
        return _TOLD(fate=_TOLD.TRANSLATED, frame=_frame(frame, to), known=True, inside=True)
    found = choose(of(balance), client)
    if found.why:
        return _TOLD(fate=_TOLD.DROPPED, sentence=found.why)
    to = Client(client.protocol, client.source, found.member, client.source_port, found.port)
    return _TOLD(fate=_TOLD.TRANSLATED, frame=_frame(frame, to), inside=True)


def of(balance: Balance) -> NatBalancer:
    """What its rules follow from, as the oracle has it."""
    return NatBalancer(
        tuple(one.packed for one in balance.public),
        {(one.protocol, one.port): one.target_port for one in balance.listeners},
        tuple((one.address.packed, one.weight) for one in balance.members if one.takes),
        tuple((one.network_address.packed, one.prefixlen) for one in balance.refused),
        balance.by_client,
        balance.full,
    )


def _client(frame: bytes) -> Client | None:
    try:
        inner: Inner = parse_inner(frame)
    except RefusedError:
        return None
    if inner.kind not in (Kind.IPV4, Kind.IPV6) or inner.protocol not in _WORDS or len(inner.payload) < 4:
        return None
    return Client(inner.protocol, inner.source, inner.destination, *struct.unpack_from("!HH", inner.payload))


def _frame(frame: bytes, to: Client) -> bytes:
    asked = Asked(_WORDS[to.protocol], to.source_port, to.destination_port, len(frame) - 14)
    return build(asked, frame[6:12], to.source, to.destination)

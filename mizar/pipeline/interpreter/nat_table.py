# SPDX-License-Identifier: Apache-2.0
"""Masquerade and static translation, per tenant: a table of connections in plain Python.

Mapping is endpoint-independent and addresses are paired (RFC 4787 REQ-1, REQ-2), ports are kept where they are free;
filtering is by address and port. docs/pipeline.md lists what is not there yet. Never evicts a connection that lives.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv6Address

from mizar.pipeline.description import State
from mizar.pipeline.interpreter.connection import Answer, Flow, Seen

Address = IPv4Address | IPv6Address
_S = 1_000_000_000
TIMEOUTS_NS = {
    "udp": 300 * _S,  # RFC 4787 REQ-5: five minutes recommended
    "icmp4": 60 * _S,  # RFC 5508 REQ-1: at least 60 s
    "icmp6": 60 * _S,
    "tcp": 7440 * _S,  # RFC 5382 REQ-5: 2 h 4 min established
    "tcp transitory": 240 * _S,  # the same: 4 min while it opens or closes
}
_FIN, _RST = 0x01, 0x04


@dataclass(frozen=True, slots=True)
class Masquerade:
    """Connections from tenant `inside` leave as tenant `outside`, behind a pool of addresses of one family."""

    inside: int
    outside: int
    addresses: tuple[Address, ...]
    first_port: int = 1024
    last_port: int = 65535

    def __post_init__(self) -> None:
        if not self.addresses or len({address.version for address in self.addresses}) != 1:
            raise ValueError("expected at least one address, all of one family")
        if not 1 <= self.first_port <= self.last_port <= 65535:
            raise ValueError(f"expected ports from 1 to 65535 in order, found {self.first_port}-{self.last_port}")


@dataclass(frozen=True, slots=True)
class Static:
    """One address of a tenant is always one address outside, in both directions."""

    inside: int
    inside_address: Address
    outside: int
    outside_address: Address

    def __post_init__(self) -> None:
        if self.inside_address.version != self.outside_address.version:
            raise ValueError("expected addresses of one family")


_Mapping = tuple[int, int, str, int, int]
"""Metadata, IP version, protocol, address and port: of an inner end, or of the outer one that stands for it."""


@dataclass(slots=True)
class _Connection:
    original: Flow
    translated: Flow
    expires_ns: int
    inner: _Mapping | None
    answered: bool = False
    closing: bool = False


@dataclass
class NatTable:
    """Rules, and the connections that they made. `exhausted` counts connections that found no free port."""

    rules: tuple[Masquerade | Static, ...] = ()
    exhausted: int = 0
    _connections: dict[Flow, _Connection] = field(default_factory=dict)
    _outer: dict[_Mapping, _Mapping] = field(default_factory=dict)
    _users: dict[_Mapping, int] = field(default_factory=dict)
    _taken: set[_Mapping] = field(default_factory=set)

    def __post_init__(self) -> None:
        ends = [(rule.outside, rule.outside_address) for rule in self.rules if isinstance(rule, Static)]
        pools = [(rule.outside, one) for rule in self.rules if isinstance(rule, Masquerade) for one in rule.addresses]
        if len(set(ends)) < len(ends) or set(ends) & set(pools):
            raise ValueError("expected each static outside address once, and in no pool")

    def __len__(self) -> int:
        """How many connections there are, those that ran out and were not asked for since included."""
        return len({id(connection) for connection in self._connections.values()})

    def look(self, seen: Seen, now_ns: int) -> Answer:
        """Established or related with its translation; new where a packet may begin a connection; else invalid."""
        connection = self._find(seen.flow, now_ns)
        if connection is None:
            return Answer(State.NEW if seen.may_begin else State.INVALID)
        outward = seen.flow == connection.original
        becomes = connection.translated if outward else connection.original.reversed()
        if seen.is_error:
            return Answer(State.RELATED, becomes)
        self._refresh(connection, seen, outward, now_ns)
        return Answer(State.ESTABLISHED, becomes)

    def allocate(self, flow: Flow, now_ns: int) -> Flow | None:
        """The connection that begins with this flow: the one there is, or a new one by the first rule that fits."""
        connection = self._find(flow, now_ns)
        if connection is not None:
            return connection.translated if flow == connection.original else connection.original.reversed()
        for rule in self.rules:
            becomes = self._static(rule, flow) if isinstance(rule, Static) else self._masqueraded(rule, flow, now_ns)
            if becomes is not None:
                expires = now_ns + TIMEOUTS_NS["tcp transitory" if flow.protocol == "tcp" else flow.protocol]
                made = _Connection(flow, becomes, expires, None if isinstance(rule, Static) else _source(flow))
                self._connections[flow] = self._connections[becomes.reversed()] = made
                return becomes
        return None

    def expire(self, now_ns: int) -> None:
        """Forgets every connection whose time is up."""
        for connection in {id(one): one for one in self._connections.values()}.values():
            if connection.expires_ns <= now_ns:
                self._forget(connection)

    def _find(self, flow: Flow, now_ns: int) -> _Connection | None:
        connection = self._connections.get(flow)
        if connection is not None and connection.expires_ns <= now_ns:
            self._forget(connection)
            return None
        return connection

    def _refresh(self, connection: _Connection, seen: Seen, outward: bool, now_ns: int) -> None:
        """Only traffic from inside keeps a UDP or ICMP mapping alive (RFC 4787 REQ-6); of TCP, both directions do."""
        connection.answered |= not outward
        connection.closing |= bool(seen.tcp_flags & (_FIN | _RST))
        kind = seen.flow.protocol
        if kind == "tcp" and (connection.closing or not connection.answered):
            kind = "tcp transitory"
            if connection.closing:
                connection.expires_ns = min(connection.expires_ns, now_ns + TIMEOUTS_NS[kind])
                return
        if kind.startswith("tcp") or outward:
            connection.expires_ns = now_ns + TIMEOUTS_NS[kind]

    def _forget(self, connection: _Connection) -> None:
        self._connections.pop(connection.original, None)
        self._connections.pop(connection.translated.reversed(), None)
        if connection.inner is not None:
            self._users[connection.inner] -= 1
            if not self._users[connection.inner]:
                del self._users[connection.inner]
                self._taken.discard(self._outer.pop(connection.inner))

    @staticmethod
    def _static(rule: Static, flow: Flow) -> Flow | None:
        if flow.version != rule.inside_address.version:
            return None
        if flow.meta == rule.inside and flow.source == int(rule.inside_address):
            return replace(flow, meta=rule.outside, source=int(rule.outside_address))
        if flow.meta == rule.outside and flow.destination == int(rule.outside_address):
            return replace(flow, meta=rule.inside, destination=int(rule.inside_address))
        return None

    def _masqueraded(self, rule: Masquerade, flow: Flow, now_ns: int) -> Flow | None:
        if flow.meta != rule.inside or flow.version != rule.addresses[0].version:
            return None
        inner = _source(flow)
        if inner not in self._outer:
            outer = self._free(rule, flow)
            if outer is None:
                self.expire(now_ns)
                outer = self._free(rule, flow)
            if outer is None:
                self.exhausted += 1
                return None
            self._outer[inner] = outer
            self._taken.add(outer)
        self._users[inner] = self._users.get(inner, 0) + 1
        meta, _, _, address, port = self._outer[inner]
        query = flow.protocol.startswith("icmp")
        return replace(
            flow,
            meta=meta,
            source=address,
            source_port=port,
            destination_port=port if query else flow.destination_port,
        )

    def _free(self, rule: Masquerade, flow: Flow) -> _Mapping | None:
        """A free outer end on the address that this inner address always gets; the same port where it is free."""
        address = int(rule.addresses[flow.source % len(rule.addresses)])
        for port in _ports(rule, flow.source_port):
            outer = (rule.outside, flow.version, flow.protocol, address, port)
            if outer not in self._taken:
                return outer
        return None


def _ports(rule: Masquerade, wanted: int) -> Iterable[int]:
    count = rule.last_port - rule.first_port + 1
    start = (wanted - rule.first_port) % count
    return (rule.first_port + (start + step) % count for step in range(count))


def _source(flow: Flow) -> _Mapping:
    return flow.meta, flow.version, flow.protocol, flow.source, flow.source_port

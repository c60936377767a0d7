# SPDX-License-Identifier: Apache-2.0
"""Translation of a load balancer's public addresses by the kernel of the namespace where they are attracted: a new
connection gets a member as its destination and the namespace's own address as its source: so answers come back.

Called by mizar.transit.engines.public_balancer, on any thread. Owns the rules and what becomes of connections when they
change; links and routes are mizar.kernel.nat_way's. It must never touch a table that it did not make.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network, ip_address
from pathlib import Path

from mizar.kernel import nftables
from mizar.kernel.conntrack import Conntrack, Entry
from mizar.kernel.namespaces import Namespace
from mizar.kernel.nat_way import NEAR, Address, Prefix

_TABLE, _REFUSED, _FAMILY = "mizar_balance", "refused", "inet"
_NUMBERS = {6: "tcp", 17: "udp"}
_SEED = "0x4d5a"
_COUNT = Path("/proc/sys/net/netfilter/nf_conntrack_count")
_TIMEOUTS = {"tcp_timeout_established": 7440, "udp_timeout": 300, "udp_timeout_stream": 300}
"""Seconds; as of services (docs/scaled-endpoints.md)."""


@dataclass(frozen=True, slots=True)
class Listener:
    """A port of every public address, and of the members."""

    protocol: int
    port: int
    target_port: int


@dataclass(frozen=True, slots=True)
class Member:
    """Its address of one family. `takes`: new connections; `keeps`: those of these protocols that it has."""

    address: Address
    weight: int
    takes: bool
    keeps: frozenset[int]


@dataclass(frozen=True, slots=True)
class Balance:
    """All that the rules follow from. `interface`: the endpoint's own; `full`: nothing new is taken."""

    interface: str
    public: tuple[Address, ...]
    listeners: tuple[Listener, ...]
    members: tuple[Member, ...]
    refused: tuple[Prefix, ...]
    by_client: bool
    connections: int
    full: bool = False


def rules(wanted: Balance) -> str:
    """In nft's language: chains are emptied and filled in one transaction; the counter goes on."""
    add, near = f"add rule {_FAMILY} {_TABLE}", f"iifname {NEAR}"
    count = f"counter name {_REFUSED} drop"
    text = f"add table {_FAMILY} {_TABLE}\nadd counter {_FAMILY} {_TABLE} {_REFUSED}\n"
    hooks = (
        ("bounded", ""),
        ("first", "type filter hook prerouting priority -150;"),
        ("choose", "type nat hook prerouting priority -100;"),
        ("leave", "type nat hook postrouting priority 100;"),
        ("through", "type filter hook forward priority 0; policy drop;"),
        ("own", "type filter hook input priority 0;"),
    )
    for chain, hook in hooks:
        text += f"add chain {_FAMILY} {_TABLE} {chain} {f'{{ {hook} }}' if hook else ''}\n"
        text += f"flush chain {_FAMILY} {_TABLE} {chain}\n"
    for prefix in wanted.refused:
        text += f"{add} first {near} {'ip6' if isinstance(prefix, IPv6Network) else 'ip'} saddr {prefix} drop\n"
    if wanted.full:
        text += f"{add} bounded {count}\n"
    text += f"{add} bounded limit rate over {wanted.connections}/second burst {wanted.connections} packets {count}\n"
    for line in _choices(wanted):
        text += f"{add} choose {near} {line}\n"
    text += f"{add} leave oifname {wanted.interface} ct status dnat masquerade\n"
    text += f"{add} through {near} oifname {wanted.interface} ct status dnat accept\n"
    text += f"{add} through iifname {wanted.interface} oifname {NEAR} ct status dnat accept\n"
    # What is for the namespace itself leaves no entry in its table, which is for clients alone.
    text += f"{add} own icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert, nd-router-advert }} accept\n"
    return text + f"{add} own iifname {{ {NEAR}, {wanted.interface} }} drop\n"


def _choices(wanted: Balance) -> Iterator[str]:
    for public in wanted.public:
        ip = "ip6" if isinstance(public, IPv6Address) else "ip"
        taking = [one for one in wanted.members if one.takes and one.address.version == public.version]
        for listener in wanted.listeners:
            word = _NUMBERS[listener.protocol]
            match = f"{ip} daddr {public} {word} dport {listener.port}"
            yield f"{match} jump bounded"
            if not taking:
                yield f"{match} drop"
                continue
            total = sum(one.weight for one in taking)
            client = f"{ip} saddr" if wanted.by_client else f"{ip} saddr . {word} sport"
            places = ", ".join(_places(taking, listener.target_port))
            yield f"{match} dnat {ip} to jhash {client} mod {total} seed {_SEED} map {{ {places} }}"


def _places(taking: Iterable[Member], port: int) -> Iterator[str]:
    first = 0
    for one in taking:
        last = first + one.weight - 1
        yield f"{first if first == last else f'{first}-{last}'} : {one.address} . {port}"
        first = last + 1


def keep(wanted: Balance, namespace: Namespace, *, fresh: bool = False) -> None:
    """The rules of a namespace; connections that they still stand for go on, others end. `fresh`: whatever else the
    table has goes too, in the same transaction."""
    before = nftables.without(_FAMILY, _TABLE) if fresh else ""
    nftables.apply(before + rules(wanted), namespace)
    namespace.run(_set_timeouts)
    sweep(wanted, namespace)


def altered(wanted: Balance, namespace: Namespace) -> Iterator[tuple[str, str, str]]:
    """What of the rules is not as it should be: the chain, the rules that are missing, and those that are foreign."""
    yield from nftables.altered(_FAMILY, _TABLE, rules(wanted), namespace)


def sweep(wanted: Balance, namespace: Namespace) -> None:
    """Ends connections whose listener or member is gone. What comes of them afterwards begins a new one."""
    with Conntrack(namespace) as table:
        for entry in table.entries():
            if not stands(wanted, entry):
                table.delete(entry)


def stands(wanted: Balance, entry: Entry) -> bool:
    """Whether a connection may go on. One that was not translated may: there is nothing that it could do."""
    to, member = entry.original, ip_address(entry.reply.source)
    if ip_address(to.destination) not in wanted.public or entry.reply.source == to.destination:
        return True
    listened = Listener(to.protocol, to.destination_port, entry.reply.source_port) in wanted.listeners
    return listened and any(one.address == member and to.protocol in one.keeps for one in wanted.members)


def held(namespace: Namespace) -> int:
    """Connections now."""
    return namespace.run(lambda: int(_COUNT.read_text()))


def refused(namespace: Namespace) -> int:
    """New connections that were beyond the quota."""
    return nftables.packets(_FAMILY, _TABLE, namespace).get(_REFUSED, 0)


def _set_timeouts() -> None:
    for name, seconds in _TIMEOUTS.items():
        with contextlib.suppress(OSError):
            Path(f"/proc/sys/net/netfilter/nf_conntrack_{name}").write_text(str(seconds))

# SPDX-License-Identifier: Apache-2.0
"""What keeps tenants behind a NAT gateway away from the droplets and their network, and the droplet from forwarding
anything else on its account.

Called by mizar.transit.engines.nat_gateway, on any thread. In the gateway's namespace rules of nftables refuse what is
not for tenants; in the droplet's, nothing from a gateway reaches the host itself. A host that does not forward is made
to, for gateways alone. It must never touch a table that it did not make.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path

from mizar.kernel import host_forwarding, interfaces, nftables
from mizar.kernel.namespaces import Namespace
from mizar.kernel.nat_way import INNER, NEAR, OUTER, PREFIX, Address, Prefix
from mizar.kernel.netlink import Netlink

_TABLE = "mizar_nat"
_HOST = f"""add table inet {_TABLE}
add chain inet {_TABLE} host {{ type filter hook input priority 0; }}
flush chain inet {_TABLE} host
add rule inet {_TABLE} host iifname "{PREFIX}*" drop
"""
_SYSCTL = Path("/proc/sys/net")


@dataclass(frozen=True, slots=True)
class Limits:
    """Where packets of tenants may not go. `never`: in no case; `reach`: although it is in `refused`."""

    never: tuple[Prefix, ...]
    refused: tuple[Prefix, ...]
    reach: tuple[Prefix, ...]


def own_prefixes(own: Iterable[Prefix] = ()) -> tuple[tuple[Prefix, ...], tuple[Prefix, ...]]:
    """Addresses of this host, as prefixes, and the networks that it is in. Called in the droplet's namespace."""
    hosts, networks = set(own), set[Prefix]()
    with Netlink() as here:
        for link in interfaces.listed(here):
            for address in interfaces.addresses(here, link.index):
                hosts.add(ip_network(address.ip))
                if address.network.prefixlen:
                    networks.add(address.network)
    return tuple(sorted(hosts, key=str)), tuple(sorted(networks, key=str))


def rules(interface: str, inside: Iterable[Prefix], limits: Limits, peer: tuple[int, Address] | None = None) -> str:
    """For the gateway's namespace, whole, in one transaction. `peer`: the port that nobody in the VPC but the other
    instance of its pair may speak with."""
    found = list(inside)
    sets = [("inside", found), ("never", limits.never), ("reach", limits.reach), ("refused", limits.refused)]
    text = f"add table inet {_TABLE}\nadd counter inet {_TABLE} refused\n"
    text += "".join(f"add chain inet {_TABLE} {one}\nflush chain inet {_TABLE} {one}\n" for one in ("out4", "out6"))
    hooks = (("through", "type filter hook forward priority 0; policy drop;"),
             ("own", "type filter hook input priority 0; policy accept;"))  # fmt: skip
    for chain, hook in hooks:
        text += f"add chain inet {_TABLE} {chain} {{ {hook} }}\nflush chain inet {_TABLE} {chain}\n"
    for name, prefixes in sets:
        for version, kind in ((4, "ipv4_addr"), (6, "ipv6_addr")):
            text += f"add set inet {_TABLE} {name}{version} {{ type {kind}; flags interval; auto-merge; }}\n"
            text += f"flush set inet {_TABLE} {name}{version}\n"
            if mine := [str(one) for one in prefixes if one.version == version]:
                text += f"add element inet {_TABLE} {name}{version} {{ {', '.join(sorted(set(mine)))} }}\n"
    refuse = "counter name refused reject with icmpx type admin-prohibited"
    for version, ip in ((4, "ip"), (6, "ip6")):
        add = f"add rule inet {_TABLE}"
        ends = f"{{ {NEAR}, {INNER} }}"  # from the program: what came from outside, and what it gave back
        text += f"{add} through iifname {ends} {ip} saddr @inside{version} drop\n"  # nobody outside is inside
        text += f"{add} through iifname {ends} oifname {interface} {ip} daddr @inside{version} accept\n"
        text += f"{add} through iifname {interface} oifname {NEAR} {ip} saddr @inside{version} goto out{version}\n"
        text += f"{add} out{version} {ip} daddr @never{version} {refuse}\n"
        text += f"{add} out{version} {ip} daddr @reach{version} accept\n"
        text += f"{add} out{version} {ip} daddr @refused{version} {refuse}\n"
        text += f"{add} out{version} accept\n"
    text += f"add rule inet {_TABLE} own iifname {{ {NEAR}, {INNER}, {OUTER} }} drop\n"
    if peer is not None:
        ip = "ip" if peer[1].version == 4 else "ip6"
        text += f"add rule inet {_TABLE} own tcp dport {peer[0]} {ip} saddr {peer[1]} accept\n"
        text += f"add rule inet {_TABLE} own tcp dport {peer[0]} drop\n"
    return text


def refuses(inside: Iterable[Prefix], limits: Limits, source: Address, destination: Address) -> tuple[bool, str]:
    """What the rules make of a packet that an endpoint has sent: whether its sender is told, and why it is refused;
    empty: it passes."""
    if not holds(inside, source):
        return False, f"{source} is no address of the VPC"
    if holds(limits.never, destination):
        return True, f"{destination} is of the droplets, which nobody reaches"
    if holds(limits.refused, destination) and not holds(limits.reach, destination):
        return (
            True,
            f"{destination} is of a droplet's network or nobody's on the Internet, and the pool's reach lacks it",
        )
    return False, ""


def holds(prefixes: Iterable[Prefix], address: Address) -> bool:
    """Whether an address is in one of them."""
    return any(one.version == address.version and address in one for one in prefixes)


def keep(namespace: Namespace, text: str, *, fresh: bool = False) -> None:
    """The rules of a gateway's namespace; packets go on meanwhile. `fresh`: whatever else the table has goes too."""
    nftables.apply((nftables.without("inet", _TABLE) if fresh else "") + text, namespace)


def altered(namespace: Namespace, text: str) -> Iterator[tuple[str, str, str]]:
    """Where the rules of a gateway's namespace are others: the block, what is missing, and what is foreign."""
    return nftables.altered("inet", _TABLE, text, namespace)


def host_altered() -> list[tuple[str, str, str]]:
    """The same of what keeps gateways from the host, in its namespace."""
    with Namespace.current() as here:
        return list(nftables.altered("inet", _TABLE, _HOST, here))


def keep_host() -> None:
    """What keeps gateways from the host, whatever somebody has made of it."""
    with Namespace.current() as here:
        nftables.apply(nftables.without("inet", _TABLE) + _HOST, here)


def open_host(uplink: str, end: str) -> None:
    """The droplet's stack forwards between its uplink and a gateway's end, and nothing from there reaches the host."""
    with Namespace.current() as here, Netlink() as outside:
        if not is_kept(here, _HOST):
            nftables.apply(nftables.without("inet", _TABLE) + _HOST, here)
        _write(f"ipv6/conf/{end}/disable_ipv6", "0")
        _write(f"ipv4/conf/{end}/forwarding", "1")
        host_forwarding.answer(outside, here, end, uplink)
        host_forwarding.allow(outside, here, end, uplink, 4)
        _write(f"ipv6/conf/{end}/force_forwarding", "1")
        host_forwarding.allow(outside, here, end, uplink, 6, router=True)


def release_host(uplink: str, end: str) -> None:
    """The host forwards nothing for a gateway any more, whose end is about to go."""
    with Namespace.current() as here, Netlink() as outside:
        host_forwarding.release(outside, here, end, uplink)


def close_host() -> None:
    """What kept the last gateway from the host, once its end is gone."""
    with Namespace.current() as here, Netlink() as netlink:
        if any(one.name.startswith(PREFIX) for one in interfaces.listed(netlink)):
            return
        if nftables.listing("inet", _TABLE, here):
            nftables.apply(f"delete table inet {_TABLE}\n", here)


def is_kept(namespace: Namespace, text: str) -> bool:
    """Whether the gateway's rules are just these: whoever restarts a firewall takes them away, or some of them."""
    return nftables.listing("inet", _TABLE, namespace) == nftables.made("inet", _TABLE, text)


def _read(switch: str) -> str:
    with contextlib.suppress(OSError):
        return (_SYSCTL / switch).read_text().strip()
    return ""


def _write(switch: str, value: str) -> None:
    with contextlib.suppress(OSError):
        if _read(switch) != value:
            (_SYSCTL / switch).write_text(value)

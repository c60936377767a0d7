# SPDX-License-Identifier: Apache-2.0
"""A host that does not forward is made to, for NAT gateways and ways out of tunnels alone: what was switched on, for
whom, what must not pass because of it, and the end of it with the last of them.

Called by mizar.kernel.nat_guard and mizar.kernel.tunnel_outer, on any thread. Each end in the droplet's namespace says
in its alias what the host was made to do while it is there; rules do not tell, whoever restarts a firewall takes them
away. So neither kind can take the switches from the other, nor the guard. It must never touch a switch that somebody
else had on.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from mizar.kernel import interfaces, nftables
from mizar.kernel.interfaces import RTM_SETLINK, set_link
from mizar.kernel.namespaces import Namespace
from mizar.kernel.netlink import Netlink
from mizar.model.errors import InvalidError

GATEWAYS, TUNNELS = "mznt", "mzvo"
"""How the names of ends begin for which a host is made to forward."""
GUARD = "mizar_forward"
"""The table, of each family, that lets nothing else pass."""
_WORD = {4: "ip", 6: "ip6"}
_ROUTER = "router"
"""Answers for others by neighbour discovery, and is no host any more; alone it forwards nothing."""
_PROXY, _ADVERTISED = "proxy", "advertised"
"""Answers neighbour discovery for addresses that it is told of; takes router advertisements although it forwards."""
_FILES = {_PROXY: ("proxy_ndp", "1", "0"), _ADVERTISED: ("accept_ra", "2", "1")}
"""In /proc/sys/net/ipv6/conf/NAME; as it is made to be, and as it was before."""
_ALL = "all"
"""Where the kernel (before 6.17) can make all interfaces forward IPv6, and not one."""
_MARK = "made to forward: "
_LOCK = threading.Lock()
Switch = tuple[str, str]
"""A word, and the interface or _ALL."""


def allow(outside: Netlink, here: Namespace, name: str, uplink: str, version: int, *, router: bool = False) -> None:
    """The host forwards what comes by its uplink to the end `name`. What has gone is made again."""
    word = _WORD[version]
    with _LOCK:
        guarded = _has(here, word)
        made = _marks(interfaces.listed(outside))
        able = version == 4 or here.run(lambda: _path((word, uplink)).exists())
        one = (word, uplink if able else _ALL)
        wide = version == 6 and here.run(lambda: _on((word, _ALL)))
        by_itself = here.run(lambda: _on(one)) or wide
        if by_itself and not guarded and not any(switch[0] == word for switch in made):
            return
        wanted = {one}
        router_one = (_ROUTER, uplink)
        if router and able and (router_one in made or not here.run(lambda: _on(router_one))):
            wanted.add(router_one)
        own = _marks([interfaces.get(outside, name)])
        _mark(outside, name, own, wanted)  # before all else
        if not guarded or one not in made:
            _guard(here, word, {place for kind, place in made | wanted if kind == word})
        here.run(lambda: _turn(wanted, on=True))


def answer(outside: Netlink, here: Namespace, name: str, uplink: str) -> None:
    """The uplink can answer neighbour discovery for the end `name`, and goes on to take router advertisements."""
    with _LOCK:
        made = _marks(interfaces.listed(outside))
        wanted = {one for word in _FILES if (one := (word, uplink)) in made or here.run(partial(_was, one))}
        _mark(outside, name, _marks([interfaces.get(outside, name)]), wanted)
        here.run(lambda: _turn(wanted, on=True))


def release(outside: Netlink, here: Namespace, name: str, uplink: str) -> None:
    """The end `name` goes next: the host forwards only what others need; with the last it is as it was."""
    with _LOCK:
        links = interfaces.listed(outside)
        held = _marks(one for one in links if one.name != name)
        going = _marks(one for one in links if one.name == name)
        for word in _WORD.values():
            guarded, rest = _has(here, word), {place for kind, place in held if kind == word}
            if guarded and not rest and not any(kind == word for kind, _ in going):
                # Of ends that are gone, nobody can say what they had.
                going.add((word, uplink))
                if word == "ip6" and not here.run(lambda: _path(("ip6", uplink)).exists()):
                    going.add((word, _ALL))
            # It forwards no more, and then the guard goes: never the one without the other.
            here.run(partial(_turn, {one for one in going - held if one[0] == word}, on=False))
            if rest and any(kind == word for kind, _ in going):
                _guard(here, word, rest)
            elif not rest and guarded:
                nftables.apply(f"add table {word} {GUARD}\ndelete table {word} {GUARD}\n", here)
        here.run(partial(_turn, {one for one in going - held if one[0] not in _WORD.values()}, on=False))


def is_guarded(outside: Netlink, here: Namespace, version: int) -> bool:
    """Whether nothing else passes, if the host was made to forward."""
    made = any(kind == _WORD[version] for kind, _ in _marks(interfaces.listed(outside)))
    return not made or _has(here, _WORD[version])


def _mark(outside: Netlink, name: str, own: set[Switch], wanted: set[Switch]) -> None:
    if not wanted <= own:
        text = _MARK + " ".join("/".join(switch) for switch in sorted(own | wanted))
        outside.tell([(set_link(name, alias=text), RTM_SETLINK, 0, f"mark {name}")])


def _marks(links: Iterable[interfaces.Interface]) -> set[Switch]:
    """What ends say."""
    found = set()
    for link in links:
        if link.name.startswith((GATEWAYS, TUNNELS)) and link.alias.startswith(_MARK):
            for text in link.alias.removeprefix(_MARK).split():
                word, _, place = text.partition("/")
                found.add((word, place))
    return found


def _guard(here: Namespace, word: str, places: Iterable[str]) -> None:
    others = f'oifname != "{GATEWAYS}*" oifname != "{TUNNELS}*" drop;'
    own = f'iifname != "{GATEWAYS}*" iifname != "{TUNNELS}*"'
    whose = [own if place == _ALL else f'iifname "{place}"' for place in sorted(places)]
    drops = " ".join(f"{one} {others}" for one in whose)
    chain = f"chain through {{ type filter hook forward priority 0; {drops} }}"
    table = f"{word} {GUARD}"
    nftables.apply(f"add table {table}\ndelete table {table}\ntable {table} {{\n{chain}\n}}\n", here)


def _has(here: Namespace, word: str) -> bool:
    with contextlib.suppress(InvalidError):
        nftables.apply(f"list table {word} {GUARD}\n", here)
        return True
    return False


def _path(switch: Switch) -> Path:
    word, place = switch
    if word in _FILES:
        return Path("/proc/sys/net/ipv6/conf", place, _FILES[word][0])
    forced = word == "ip6" and place != _ALL
    family = "ipv4" if word == "ip" else "ipv6"
    return Path("/proc/sys/net", family, "conf", place, "force_forwarding" if forced else "forwarding")


def _on(switch: Switch) -> bool:
    try:
        found = _path(switch).read_text().strip()
        return found == _FILES[switch[0]][1] if switch[0] in _FILES else found != "0"
    except FileNotFoundError:
        return False


def _was(switch: Switch) -> bool:
    """Whether it is as nobody has changed it."""
    try:
        return _path(switch).read_text().strip() == _FILES[switch[0]][2]
    except FileNotFoundError:
        return False


def _turn(switches: Iterable[Switch], *, on: bool) -> None:
    for switch in sorted(switches):
        with contextlib.suppress(FileNotFoundError):  # the interface has gone
            if _on(switch) != on:
                _, made, before = _FILES.get(switch[0], ("", "1", "0"))
                _path(switch).write_text(made if on else before)

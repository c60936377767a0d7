# SPDX-License-Identifier: Apache-2.0
"""Interfaces and namespaces of a host topology: read, made, changed, moved, removed.

Called by mizar.topology, which decides what to do; every call here is one thing done, or an error and nothing done.
"The host" is the network namespace that the caller is in, others are found under /run/netns. What is made carries a
mark from the first moment on: the interface group at once, the alias right behind it. It must never touch an interface
or a namespace that it is not told to.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_interface
from types import TracebackType

from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.nsidmsg import nsidmsg

from mizar.kernel import bridge_vlans, interfaces, namespaces, vxlan
from mizar.kernel.interfaces import RTM_DELLINK, RTM_GETLINK, RTM_NEWLINK, RTM_SETLINK, set_link
from mizar.kernel.namespaces import Namespace
from mizar.kernel.netlink import CREATE, EXCL, Message, Netlink, Order
from mizar.kernel.topology_facts import GROUP, HOST, Found, Link, Mark
from mizar.model.errors import InvalidError, NotFoundError

_RTM_GETNSID = 90
_SKIP_STATS = 8  # RTEXT_FILTER_SKIP_STATS


@dataclass(frozen=True)
class Seen:
    """What there is."""

    namespaces: Mapping[str, Mark | None]
    """Every name under /run/netns, and whose it is: None for what no topology made, for a name of the host's own
    namespace, and for a file that is no namespace."""
    enterable: frozenset[str]
    """Those that are namespaces other than the host's own."""
    links: tuple[Found, ...]
    """Without the `lo`s."""


class TopologyLinks:
    """The host and its named namespaces, each with an open socket as soon as it is asked for."""

    def __init__(self) -> None:
        self._open: dict[str, tuple[Namespace, Netlink]] = {}

    def __enter__(self) -> TopologyLinks:
        self._add(HOST, Namespace.current())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name in list(self._open):
            self._forget(name)

    # ---- reading

    def read(self) -> Seen:
        """Everything on the host and in all named namespaces, one after the other, so that thousands of them need no
        more file descriptors than one. Details (addresses, VNIs, VLANs, other ends) are of what a topology made."""
        marks: dict[str, Mark | None] = {}
        enterable: set[str] = set()
        found = _listed(self._open[HOST][1], HOST)
        for name in namespaces.names():
            try:
                namespace = Namespace.by_name(name)
            except NotFoundError:
                continue  # gone since the names were read
            except InvalidError:
                marks[name] = None  # a file without a namespace: its maker was killed in between
                continue
            with namespace:
                marks[name] = None
                if namespace.identity == self._open[HOST][0].identity:
                    continue
                enterable.add(name)
                with Netlink(namespace) as netlink:
                    inside = _listed(netlink, name)
            marks[name] = next((item.mark for item in inside if item.link.name == "lo" and item.alias), None)
            found += inside
        found = [item for item in found if item.link.name != "lo"]
        names = {(item.link.namespace, item.index): item.link.name for item in found}
        ours = {item.link.namespace for item in found if item.group == GROUP}
        links: list[Found] = []
        for item in found:
            with contextlib.suppress(NotFoundError):  # gone since the list was read
                links.append(self._detailed(item, names, ours) if item.group == GROUP else item)
        return Seen(marks, frozenset(enterable), tuple(links))

    def find(self, key: tuple[str, str]) -> Link:
        """One link that a topology made, without its other end. Raises NotFoundError."""
        for item in _listed(self._place(key[0])[1], key[0]):
            if item.link.key == key:
                return self._detailed(item, {}, ()).link
        raise NotFoundError(f"there is no interface {key[1]} in {_words(key[0])}")

    def _detailed(self, found: Found, names: dict[tuple[str, int], str], places: Collection[str]) -> Found:
        namespace, link = found.link.namespace, found.link
        netlink = self._place(namespace)[1]
        addresses = interfaces.addresses(netlink, found.index)
        link = replace(link, addresses=frozenset(str(a) for a in addresses if not (a.version == 6 and a.is_link_local)))
        if link.vxlan is not None and link.vxlan.vnifilter:
            link = replace(link, vnis=vxlan.vnis(netlink, found.index))
        if link.kind == "veth":
            link = replace(link, peer=self._peer(namespace, interfaces.get(netlink, found.index), names, places))
        if link.master:
            link = replace(link, vlans=bridge_vlans.read(netlink, found.index))
        return replace(found, link=link)

    def _peer(
        self, namespace: str, end: interfaces.Interface, names: dict[tuple[str, int], str], places: Collection[str]
    ) -> tuple[str, str] | None:
        """The other end of a veth, when it is in one of the places: both ends of what a topology made are."""
        for place in (namespace,) if end.peer_nsid is None else places:
            key = place, end.peer_index
            if key in names and (end.peer_nsid is None or self._nsid(namespace, place) == end.peer_nsid):
                return place, names[key]
        return None

    def _nsid(self, namespace: str, other: str) -> int | None:
        message = nsidmsg()
        message["attrs"] = [("NETNSA_FD", self._place(other)[0].fd)]
        answers = self._place(namespace)[1].ask(message, _RTM_GETNSID, f"find the id of {_words(other)}")
        nsid = answers[0].get_attr("NETNSA_NSID")
        return None if nsid in (None, -1, 0xFFFFFFFF) else int(nsid)

    # ---- namespaces

    def make_namespace(self, name: str, mark: Mark) -> None:
        """Makes a namespace with its `lo` up. Raises ConflictError when the name is taken."""
        namespace = namespaces.create(name)
        try:
            with Netlink(namespace) as netlink:
                netlink.tell(
                    [*_marked("lo", GROUP, str(mark)), (set_link("lo", up=True), RTM_SETLINK, 0, f"raise lo in {name}")]
                )
        except BaseException:
            namespaces.remove(name)
            raise
        finally:
            namespace.close()

    def remove_namespace(self, name: str) -> None:
        """Takes the name away; what is in the namespace ends with it, unless somebody else holds it."""
        self._forget(name)
        namespaces.remove(name)

    # ---- interfaces

    def make(self, link: Link, mark: Mark) -> None:
        """Makes a bridge or a VXLAN device, down and without addresses. Raises ConflictError when the name is taken,
        InvalidError when the kernel lacks something that it asks for."""
        message = _bridge(link) if link.vxlan is None else vxlan.new(link.name, link.vxlan, GROUP)
        self._create(link, message, f"make the {link.kind} {link.name} in {_words(link.namespace)}", [(link, mark)])

    def make_veth(self, near: Link, far: Link, mark: Mark) -> None:
        """Makes a veth pair, both ends down. Errors as make()."""
        peer = [("IFLA_IFNAME", far.name), ("IFLA_GROUP", GROUP), ("IFLA_NET_NS_FD", self._place(far.namespace)[0].fd)]
        pair = [("IFLA_INFO_KIND", "veth"), ("IFLA_INFO_DATA", {"attrs": [("VETH_INFO_PEER", {"attrs": peer})]})]
        message = set_link(near.name)
        message["attrs"] += [("IFLA_GROUP", GROUP), ("IFLA_LINKINFO", {"attrs": pair})]
        what = f"make the veth pair {near.name} in {_words(near.namespace)}, {far.name} in {_words(far.namespace)}"
        self._create(near, message, what, [(near, mark), (far, mark)])

    def _create(self, link: Link, message: Message, what: str, marks: Iterable[tuple[Link, Mark]]) -> None:
        netlink = self._place(link.namespace)[1]
        netlink.tell([(message, RTM_NEWLINK, CREATE | EXCL, what)])
        try:
            for end, mark in marks:
                self.mark(end.key, GROUP, str(mark))
        except BaseException:
            self.remove(link.key)
            raise

    def mark(self, key: tuple[str, str], group: int, alias: str) -> None:
        """Writes whose an interface is."""
        self._place(key[0])[1].tell(_marked(key[1], group, alias))

    def remove(self, key: tuple[str, str]) -> None:
        """Deletes an interface; of a veth both ends."""
        message = set_link(key[1])
        self._place(key[0])[1].tell([(message, RTM_DELLINK, 0, f"delete {key[1]} in {_words(key[0])}")])

    def move(self, key: tuple[str, str], namespace: str) -> None:
        """Takes an interface to another namespace, where it is down."""
        message = set_link(key[1])
        message["attrs"].append(("IFLA_NET_NS_FD", self._place(namespace)[0].fd))
        what = f"take {key[1]} from {_words(key[0])} to {_words(namespace)}"
        self._place(key[0])[1].tell([(message, RTM_SETLINK, 0, what)])

    def rename(self, key: tuple[str, str], name: str) -> None:
        """Gives an interface another name."""
        netlink = self._place(key[0])[1]
        message = ifinfmsg()
        message["index"] = interfaces.get(netlink, key[1]).index
        message["attrs"] = [("IFLA_IFNAME", name)]
        netlink.tell([(message, RTM_SETLINK, 0, f"rename {key[1]} in {_words(key[0])} to {name}")])

    def settle(self, before: Link, after: Link, fields: Collection[str]) -> None:
        """Changes an interface from `before` to `after` in some of its fields (names of Link's)."""
        netlink = self._place(after.namespace)[1]
        now = interfaces.get(netlink, after.name)
        what = f"{after.name} in {_words(after.namespace)}"
        orders: list[Order] = []
        if "mtu" in fields and after.mtu is not None:
            orders.append((set_link(after.name, mtu=after.mtu), RTM_SETLINK, 0, f"set the MTU of {what}"))
        if "vlan_filtering" in fields:
            orders.append((_filtering(after), RTM_NEWLINK, 0, f"set VLAN filtering of {what}"))
        if "master" in fields:
            message = set_link(after.name)
            index = interfaces.get(netlink, after.master).index if after.master else 0
            message["attrs"].append(("IFLA_MASTER", index))
            orders.append((message, RTM_SETLINK, 0, f"make {what} a port of {after.master or 'nothing'}"))
        if "vlans" in fields:
            orders += bridge_vlans.orders(
                now.index, after.name, before.vlans or frozenset(), after.vlans or frozenset()
            )
        if "vnis" in fields:
            orders += vxlan.vni_orders(now.index, after.name, after.vnis - before.vnis, before.vnis - after.vnis)
        if "addresses" in fields:
            gone, new = before.addresses - after.addresses, after.addresses - before.addresses
            orders += [interfaces.address_order(now, ip_interface(text), remove=True) for text in sorted(gone)]
            orders += [interfaces.address_order(now, ip_interface(text)) for text in sorted(new)]
        if "up" in fields:
            orders.append(
                (set_link(after.name, up=after.up), RTM_SETLINK, 0, f"set {what} {'up' if after.up else 'down'}")
            )
        for order in orders:  # one by one: a later one may need what an earlier one did
            netlink.tell([order])

    def _place(self, name: str) -> tuple[Namespace, Netlink]:
        if name not in self._open:
            self._add(name, Namespace.by_name(name))
        return self._open[name]

    def _add(self, name: str, namespace: Namespace) -> None:
        try:
            self._open[name] = namespace, Netlink(namespace)
        except BaseException:
            namespace.close()
            raise

    def _forget(self, name: str) -> None:
        if name in self._open:
            namespace, netlink = self._open.pop(name)
            netlink.close()
            namespace.close()


def _listed(netlink: Netlink, namespace: str) -> list[Found]:
    message = ifinfmsg()
    message["attrs"] = [("IFLA_EXT_MASK", _SKIP_STATS)]
    answers = netlink.ask(message, RTM_GETLINK, f"list the interfaces of {_words(namespace)}", dump=True)
    names = {answer["index"]: answer.get_attr("IFLA_IFNAME") for answer in answers}
    return [_found(answer, namespace, names) for answer in answers]


def _found(message: Message, namespace: str, names: dict[int, str]) -> Found:
    facts = interfaces.interface_of(message)
    info = message.get_attr("IFLA_LINKINFO")
    data = info.get_attr("IFLA_INFO_DATA") if info else None
    filtering = bool(data.get_attr("IFLA_BR_VLAN_FILTERING")) if facts.kind == "bridge" and data else None
    link = Link(
        namespace=namespace,
        name=facts.name,
        kind=facts.kind,
        mtu=facts.mtu,
        up=facts.up,
        master=names.get(message.get_attr("IFLA_MASTER") or 0, ""),
        vlan_filtering=filtering,
        vxlan=vxlan.read(message) if facts.kind == "vxlan" else None,
    )
    return Found(link, facts.index, facts.group, facts.alias)


def _bridge(link: Link) -> Message:
    """A new bridge. With VLAN filtering no port is in a VLAN that it does not say."""
    filtering = [("IFLA_BR_VLAN_FILTERING", 1), ("IFLA_BR_VLAN_DEFAULT_PVID", 0)] if link.vlan_filtering else []
    message = set_link(link.name)
    info = [("IFLA_INFO_KIND", "bridge"), ("IFLA_INFO_DATA", {"attrs": filtering})]
    message["attrs"] += [("IFLA_GROUP", GROUP), ("IFLA_LINKINFO", {"attrs": info})]
    return message


def _filtering(link: Link) -> Message:
    message = set_link(link.name)
    data = [("IFLA_BR_VLAN_FILTERING", int(bool(link.vlan_filtering)))]
    message["attrs"].append(
        ("IFLA_LINKINFO", {"attrs": [("IFLA_INFO_KIND", "bridge"), ("IFLA_INFO_DATA", {"attrs": data})]})
    )
    return message


def _marked(name: str, group: int, alias: str) -> list[Order]:
    message = set_link(name, alias=alias)
    message["attrs"].append(("IFLA_GROUP", group))
    return [(message, RTM_SETLINK, 0, f"mark {name}")]


def _words(namespace: str) -> str:
    return f"namespace {namespace}" if namespace else "the host"

# SPDX-License-Identifier: Apache-2.0
"""The link of an endpoint: a veth pair, one end on the host, the other in the workload's namespace.

Owns making, adjusting, listing and deleting them. Called by the daemon's attach and detach. What it made is told by
the interface group (from the first moment on) and by the alias (when it is whole), so that nothing needs to be
remembered elsewhere. It must never touch an interface that it did not make.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from typing import Literal, TypeVar

from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.nsidmsg import nsidmsg

from mizar.kernel import interfaces, workload
from mizar.kernel.endpoint_link import GROUP, KINDS, EndpointLink, OwnedLink
from mizar.kernel.interfaces import RTM_DELLINK, RTM_NEWLINK, RTM_SETLINK, Interface, no_link_local, set_link
from mizar.kernel.namespaces import Namespace
from mizar.kernel.netlink import CREATE, EXCL, Netlink
from mizar.model.errors import ConflictError, NotFoundError

T = TypeVar("T")

_RTM_GETNSID = 90

Change = Literal["created", "changed", "unchanged"]


class Links:
    """Links whose host side is in one network namespace. Calls take a few milliseconds; usable from any thread."""

    def __init__(self, namespace: Namespace | None = None) -> None:
        """In `namespace`, or in the one of the calling thread."""
        self.netlink = Netlink(namespace)
        self._namespace = namespace

    def close(self) -> None:
        """Closes the socket."""
        self.netlink.close()

    def owned(self) -> list[OwnedLink]:
        """All links here that a daemon made."""
        found = [OwnedLink.of(interface) for kind in KINDS for interface in interfaces.listed(self.netlink, kind)]
        return [link for link in found if link is not None]

    def delete(self, host_name: str) -> bool:
        """Deletes a link with both ends; False when it was not there. Raises ConflictError when it is not Mizar's."""
        interface = interfaces.find(self.netlink, host_name)
        if interface is None:
            return False
        if OwnedLink.of(interface) is None:
            raise ConflictError(f"the interface {host_name} was not made by Mizar and is left alone")
        try:
            self.delete_interface(interface)
        except NotFoundError:
            return False  # its namespace ended at this moment
        return True

    def ensure_endpoint(
        self, link: EndpointLink, namespace: Namespace, guard: Callable[[Interface], None] = lambda _host: None
    ) -> tuple[Interface, Change]:
        """Makes the link as wanted, or adjusts what is there; returns the host side and what had to be done.

        `guard` is called with the host side before it is up, so that no frame passes unseen. What it raises is raised.

        Raises ConflictError when the name on the host belongs to another endpoint or to somebody else, or when the
        name, an address or the default route in the namespace is taken. A link that could not be made whole is gone
        afterwards.
        """
        alias = link.alias(namespace)
        with Netlink(namespace) as inside:
            present = self._present(link, namespace, inside)
            if present is not None:
                host, inner = present
                guard(host)
                changed = workload.take_name(link, inside, inner)
                changed |= workload.configure(link, namespace, inside, interfaces.get(inside, inner.index))
                if host.mtu != link.mtu or host.alias != alias or not host.up:
                    self._configure_host(link, alias)
                    self.run(lambda: interfaces.set_tx_checksum(link.host_name, not link.bypass))
                    changed = True
                return interfaces.get(self.netlink, host.index), "changed" if changed else "unchanged"
            self._create(link, namespace)
            try:
                host = interfaces.get(self.netlink, link.host_name)
                return self._finish(link, namespace, inside, host, guard), "created"
            except BaseException:
                with contextlib.suppress(NotFoundError):
                    self.delete(link.host_name)
                raise

    def complete(
        self, link: EndpointLink, namespace: Namespace, host: Interface, guard: Callable[[Interface], None]
    ) -> Interface:
        """Makes an endpoint's link of one that prepare() made and rename() renamed; returns the host side."""
        with Netlink(namespace) as inside:
            return self._finish(link, namespace, inside, host, guard)

    def _finish(
        self,
        link: EndpointLink,
        namespace: Namespace,
        inside: Netlink,
        host: Interface,
        guard: Callable[[Interface], None],
    ) -> Interface:
        """All that a link lacks whose ends are there and down. It is known without asking what they are: asking takes
        longer than doing."""
        alias = link.alias(namespace)
        guard(host)
        self._configure_host(link, alias)
        if link.bypass:  # without it the kernel cuts superpackets too, and finishes checksums, before it transmits
            self.run(lambda: interfaces.set_tx_checksum(link.host_name, False))
        inner = replace(host, index=host.peer_index, name=link.name_inside, mac=b"", up=False)
        workload.configure(link, namespace, inside, inner, fresh=True)
        self.run(lambda: interfaces.carries(link.host_name))  # or the answer to the workload's first ARP may be lost
        return replace(host, mtu=link.mtu, alias=alias, up=True)

    def held(self, host_name: str, instance: str, uid: str) -> OwnedLink | None:
        """What an endpoint has under a name on the host, None when that is free; its `uid` is empty when it was left
        half made. Raises ConflictError when the name is another's."""
        host = interfaces.find(self.netlink, host_name)
        if host is None:
            return None
        owned = OwnedLink.of(host)
        if owned is None:
            raise ConflictError(f"the interface name {host_name} is taken by an interface that is not Mizar's")
        if owned.uid and (owned.instance, owned.uid) != (instance, uid):
            raise ConflictError(f"the interface name {host_name} is taken by endpoint {owned.uid} of {owned.instance}")
        return owned

    def holds(self, host: Interface, namespace: Namespace) -> bool:
        """Whether the other end of a link is in that namespace."""
        return host.peer_nsid is not None and host.peer_nsid == self._nsid_of(namespace)

    def prepare(self, link: EndpointLink, namespace: Namespace, alias: str) -> Interface:
        """A link for later: both ends with their offloads, down, and marked by `alias`; ensure_endpoint() does the rest
        once the host side has the name and the alias of an endpoint."""
        self._create(link, namespace)
        orders = [(set_link(link.host_name, alias=alias), RTM_SETLINK, 0, f"mark {link.host_name}")]
        self.netlink.tell([*orders, (no_link_local(link.host_name), RTM_SETLINK, 0, f"configure {link.host_name}")])
        self.run(lambda: interfaces.set_gro(link.host_name, True))
        return interfaces.get(self.netlink, link.host_name)

    def rename(self, host: Interface, name: str, alias: str) -> Interface:
        """Gives a host side that is down another name, and its alias."""
        message = ifinfmsg()
        message["index"] = host.index
        message["attrs"] = [("IFLA_IFNAME", name), ("IFLA_IFALIAS", alias)]
        self.netlink.tell([(message, RTM_SETLINK, 0, f"give {host.name} the name {name}")])
        return replace(host, name=name, alias=alias)

    def rename_inner(self, namespace: Namespace, old: str, new: str) -> None:
        """Gives a workload's end that is down another name."""
        with Netlink(namespace) as inside:
            message = ifinfmsg()
            message["index"] = interfaces.get(inside, old).index
            message["attrs"] = [("IFLA_IFNAME", new)]
            inside.tell([(message, RTM_SETLINK, 0, f"give {old} the name {new}")])

    def _present(self, link: EndpointLink, namespace: Namespace, inside: Netlink) -> tuple[Interface, Interface] | None:
        """Both ends when the link is there; what is half made, or leads elsewhere, is deleted."""
        owned = self.held(link.host_name, link.instance, link.uid)
        if owned is None:
            return None
        host = owned.interface
        inner = interfaces.find(inside, host.peer_index) if host.peer_index else None
        whole = (
            owned.uid
            and inner is not None
            and inner.peer_index == host.index
            and inner.name in (link.name_inside, link.name_waiting)
            and host.peer_nsid == self._nsid_of(namespace)
        )
        if whole and inner is not None:
            return host, inner
        self.delete_interface(host)
        return None

    def _nsid_of(self, namespace: Namespace) -> int | None:
        message = nsidmsg()
        message["attrs"] = [("NETNSA_FD", namespace.fd)]
        nsid = self.netlink.ask(message, _RTM_GETNSID, f"find the id of {namespace.spec}")[0].get_attr("NETNSA_NSID")
        return None if nsid in (None, -1, 0xFFFFFFFF) else int(nsid)

    def _create(self, link: EndpointLink, namespace: Namespace) -> None:
        queues = [("IFLA_NUM_TX_QUEUES", link.queues), ("IFLA_NUM_RX_QUEUES", link.queues)]
        peer = [
            ("IFLA_IFNAME", link.name_inside),
            ("IFLA_ADDRESS", link.mac.hex(":")),
            ("IFLA_MTU", link.mtu),
            ("IFLA_NET_NS_FD", namespace.fd),
            *queues,
        ]
        message = ifinfmsg()
        message["attrs"] = [
            ("IFLA_IFNAME", link.host_name),
            ("IFLA_MTU", link.mtu),
            ("IFLA_GROUP", GROUP),
            *queues,
            (
                "IFLA_LINKINFO",
                {
                    "attrs": [
                        ("IFLA_INFO_KIND", "veth"),
                        ("IFLA_INFO_DATA", {"attrs": [("VETH_INFO_PEER", {"attrs": peer})]}),
                    ]
                },
            ),
        ]
        what = f"make the link {link.host_name}, whose other end is {link.name_inside} in {namespace.spec}"
        try:
            self.netlink.tell([(message, RTM_NEWLINK, CREATE | EXCL, what)])
        except ConflictError as error:
            taken = link.host_name if interfaces.find(self.netlink, link.host_name) else link.name_inside
            raise ConflictError(f"{what}: the name {taken} is taken already") from error

    def _configure_host(self, link: EndpointLink, alias: str) -> None:
        def gro_on() -> None:
            interfaces.set_gro(link.host_name, True)

        self.run(gro_on)
        facts = no_link_local(link.host_name)
        facts["attrs"] += [("IFLA_IFALIAS", alias), ("IFLA_MTU", link.mtu)]
        what = f"configure {link.host_name}"
        self.netlink.tell(
            [
                (facts, RTM_SETLINK, 0, what),
                (set_link(link.host_name, up=True), RTM_SETLINK, 0, f"{what}: up"),
            ]
        )

    def run(self, call: Callable[[], T]) -> T:
        """Calls `call` in the namespace of the host sides."""
        return call() if self._namespace is None else self._namespace.run(call)

    def delete_interface(self, interface: Interface) -> None:
        """Deletes one that is known to be Mizar's."""
        message = ifinfmsg()
        message["index"] = interface.index
        self.netlink.tell([(message, RTM_DELLINK, 0, f"delete {interface.name}")])

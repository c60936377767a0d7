# SPDX-License-Identifier: Apache-2.0
"""The interface of each local endpoint, by kind of workload: made, adjusted, guarded by the agent, removed, found.

Called by `attachments`, on any of its threads. It keeps nothing: what it made is told by the aliases of interfaces and
by pins. It must never touch the tables.
"""

import contextlib
import hashlib
import logging
import threading
from collections.abc import Collection, Iterator
from dataclasses import replace
from ipaddress import IPv4Interface, IPv6Interface, ip_address, ip_interface
from pathlib import Path

from mizar.kernel import attach, host_pair, interfaces, namespaces, taps
from mizar.kernel.bpffs import Pins
from mizar.kernel.endpoint_link import EndpointLink, OwnedLink, TapLink, alias_of
from mizar.kernel.endpoint_look import Fault, host_faults, inner_faults
from mizar.kernel.host_pair import HostPair
from mizar.kernel.interfaces import Interface
from mizar.kernel.links import Change, Links
from mizar.kernel.namespaces import Namespace
from mizar.kernel.ovsdb import Ovsdb, Port
from mizar.kernel.pulse import Pulse
from mizar.model.addresses import text_of
from mizar.model.errors import InvalidError, MizarError, NotFoundError
from mizar.transit.logs import event
from mizar.transit.options import Options
from mizar.transit.pool import INNER, Pool, hand_out, retire
from mizar.transit.readback import Found
from mizar.transit.room import Room
from mizar.transit.state import State
from mizar.transit.told import kept
from mizar.transit.values import Local, Network, Wanted
from mizar.transit.workloads import InNamespace, NamespaceBy, OvsPort, Tap, Workload, of_alias

OVS = "ovs:"
"""How the alias of an Open vSwitch port's link begins to say what is behind it."""

_PIN = "agent_"
_log = logging.getLogger(__name__)


def port_name(uid: str, workload: Workload) -> str:
    """The name of an Open vSwitch port: what it was given, or the same for the same uid; empty for other workloads."""
    if not isinstance(workload, OvsPort):
        return ""
    return workload.port or "op" + hashlib.sha256(uid.encode()).hexdigest()[:12]


def host_name(uid: str, workload: Workload | None = None) -> str:
    """The name of the host side of an endpoint's link: the same for the same uid, 14 bytes; or what a tap was given."""
    if isinstance(workload, Tap) and workload.name:
        return workload.name
    return "mz" + hashlib.sha256(uid.encode()).hexdigest()[:12]


class Installer:
    """Works on interfaces. `room` tells how large packets may be.

    What is wanted has its MTU already.
    """

    def __init__(self, agent_fd: int, pins: Pins, options: Options, room: Room) -> None:
        self._agent_fd = agent_fd
        self._pins = pins
        self._options = options
        self._room = room
        self._links = threading.local()
        self._ovsdb = Ovsdb(options.ovsdb)
        self._pool = Pool(options.pool, options.instance, agent_fd, tcx=options.tc != "clsact")

    def make(self, wanted: Wanted, network: Network, arrives: bool = False) -> tuple[Interface, Change]:
        """The interface as wanted, and what had to be done. What could not be made whole is gone.

        `arrives`: it stood by until now, and takes name and routes over from the interface of its former host.
        """
        name, workload = host_name(wanted.uid, wanted.workload), wanted.workload
        try:
            if isinstance(workload, Tap):
                return taps.ensure(self._own_links(), self._tap(wanted, workload), self._guard)
            if isinstance(workload, OvsPort):
                return self._plug(wanted, workload)
            link = replace(self._link(wanted, workload, network), takes_over=arrives)
            if workload.by is NamespaceBy.POOL and not namespaces.exists(workload.namespace):
                return self._from_pool(link, workload)
            with Namespace.open_spec(workload.spec) as namespace:
                return self._own_links().ensure_endpoint(link, namespace, self._guard)
        except MizarError:
            if interfaces.find(self._own_links().netlink, name) is None:
                self.unpin(name, 0)
            raise

    def restore(self, interface: Interface, old: Local | None, network: Network, created: bool) -> None:
        """Undo `make`: an endpoint that was there before gets back what it had."""
        if old is None or created or not isinstance(old.wanted.workload, InNamespace):
            self.remove(interface.name)
            return
        link = self._link(old.wanted, old.wanted.workload, network)
        with Namespace.open_spec(old.wanted.workload.spec) as namespace:
            self._own_links().ensure_endpoint(link, namespace)

    def settle(self, name: str, ifindex: int) -> None:
        """Attach the agent in the way that is best for packets, where `make` took the one that is quickest."""
        attach.attach_tc(self._agent_fd, ifindex, self._pin(name), force=self._options.tc)

    def remove(self, name: str) -> bool:
        """The interface goes; False when it was not there."""
        interface = interfaces.find(self._own_links().netlink, name)
        link = OwnedLink.of(interface) if interface else None
        if link is not None and link.spec.startswith(OVS):
            self.unplug(port_name(link.uid, of_alias(link.inner_name, link.spec)))
        if link is not None:
            retire(self._own_links(), link)
        removed = self._own_links().delete(name)
        self.unpin(name, 0)
        return removed

    def unplug(self, name: str) -> None:
        """A port of ours ends. Where Open vSwitch does not answer, its row is left for the next daemon's start."""
        try:
            self._ovsdb.remove(name, self._options.instance)
        except MizarError as error:
            event(_log, logging.WARNING, "port_left", port=name, error=error)

    def unpin(self, name: str, ifindex: int) -> None:
        """The agent of an interface that is going, or gone (ifindex 0)."""
        attach.detach_tc(ifindex, self._pin(name))

    def forget(self, local: Local) -> None:
        """The interface of an endpoint has vanished: so do its agent's pin and its port."""
        self.unpin(local.host_interface, local.ifindex)
        port = port_name(local.wanted.uid, local.wanted.workload)
        if port:
            self.unplug(port)

    def unpin_dead(self, name: str) -> None:
        """The same uid may have been attached again meanwhile: its pin is another's, and holds its agent in place."""
        link = attach.attached(self._pin(name))
        if link is not None and not link.ifindex:
            self._pin(name).unlink()

    def found(self) -> list[Found]:
        """The interfaces that this daemon, or the one before it, made for endpoints."""
        found = []
        for link in self._own_links().owned():
            if link.instance != self._options.instance:
                continue
            try:
                workload = of_alias(link.inner_name, link.spec)
            except InvalidError as error:
                event(_log, logging.WARNING, "alias_unknown", interface=link.interface.name, error=error)
                continue
            interface = link.interface
            engine = kept(self._options.engines_folder / link.uid)
            facts = (interface.name, interface.index, interface.mtu, self._room.mtus(), link.uid, workload, engine)
            found.append(Found(*facts))
        return found

    def take_over(self, kept: Collection[Local]) -> dict[str, int]:
        """Give every endpoint the new agent program; remove links and pins that belong to no endpoint.

        Returns the MTU of each interface that is kept.
        """
        by_name = {local.host_interface: local for local in kept}
        sizes = {}
        for link in self._own_links().owned():
            if link.interface.name in by_name:
                sizes[link.interface.name] = link.interface.mtu
            if link.interface.name not in by_name and self._is_own(link):
                event(_log, logging.WARNING, "link_removed", interface=link.interface.name, uid=link.uid)
                retire(self._own_links(), link)
                self._own_links().delete(link.interface.name)
        for pin in self._pins.links.iterdir():
            if pin.name.startswith(_PIN) and pin.name.removeprefix(_PIN) not in by_name:
                pin.unlink()
        for name, local in by_name.items():
            self.settle(name, local.ifindex)
        self._unplug_strays(kept)
        return sizes

    def pulse(self, wanted: Wanted, network: Network) -> Pulse | None:
        """Measures how long the workload gets no answer from its router while it moves here; None where it cannot."""
        workload = wanted.workload
        if not isinstance(workload, InNamespace):
            return None
        link = self._link(wanted, workload, network)
        with Namespace.open_spec(workload.spec) as namespace:
            return Pulse(namespace, str(link.gateways[0]), link.name_aside)

    def problems(self, state: State) -> dict[str, str]:
        """What is wrong with the local endpoints of a state, by uid."""
        found: dict[str, str] = {}
        for uid, local in state.locals.items():
            workload = local.wanted.workload
            if isinstance(workload, InNamespace):
                try:
                    Namespace.open_spec(workload.spec).close()
                except MizarError as error:
                    found[uid] = f"its {workload} has vanished: {error}"
        ports = {uid: one.wanted.workload for uid, one in state.locals.items()}
        plugged = {uid: one for uid, one in ports.items() if isinstance(one, OvsPort)}
        held = self._plugged() if plugged else None
        for uid, port in plugged.items():
            if held is not None and held.get(port_name(uid, port)) != port.bridge:
                found[uid] = f"{port_name(uid, port)} is no {port} any more"
        return found

    def faults(self, local: Local, network: Network) -> Iterator[Fault]:
        """What is wrong with the interface and the agent of a local endpoint, whose size is known."""
        wanted, netlink = local.wanted, self._own_links().netlink
        yield from host_faults(netlink, local.host_interface, local.ifindex, wanted.mtu)
        wrong = attach.fault([self._agent_fd], local.ifindex, self._pin(local.host_interface))
        if wrong is not None:
            yield Fault(f"agent at {local.host_interface}", "attached", wrong)
        workload = wanted.workload
        if isinstance(workload, InNamespace):
            with Namespace.open_spec(workload.spec) as namespace:
                yield from inner_faults(netlink, self._link(wanted, workload, network), namespace)

    @property
    def pool_is_short(self) -> bool:
        """Whether the pool of prepared namespaces lacks any."""
        return self._pool.short

    def refill(self) -> None:
        """Prepare one more namespace."""
        self._pool.refill(self._own_links(), self._room.mtu())

    def close(self) -> None:
        """End what is held open."""
        self._ovsdb.close()
        self._pool.close()

    def _from_pool(self, link: EndpointLink, workload: InNamespace) -> tuple[Interface, Change]:
        """A namespace of the pool becomes the endpoint's."""
        links, pin = self._own_links(), self._pin(link.host_name)
        self.unpin(link.host_name, 0)
        with contextlib.closing(self._pool.take(links, link.mtu)) as prepared:
            host = hand_out(links, prepared, workload.namespace, link, pin)
            try:
                with Namespace.open_spec(workload.spec) as namespace:
                    if link.inner_name != INNER:
                        links.rename_inner(namespace, INNER, link.inner_name)
                    return links.complete(link, namespace, host, self._guard), "created"
            except BaseException:
                self.remove(link.host_name)
                raise

    def _plugged(self) -> dict[str, str] | None:
        """Our ports and their bridges; None when Open vSwitch does not say."""
        try:
            return self._ovsdb.owned(self._options.instance)
        except MizarError as error:
            event(_log, logging.WARNING, "ports_unknown", error=error)
            return None

    def _unplug_strays(self, kept: Collection[Local]) -> None:
        used = {port_name(local.wanted.uid, local.wanted.workload) for local in kept}
        if self._ovsdb.is_here:
            for name in (self._plugged() or {}).keys() - used:
                event(_log, logging.WARNING, "port_removed", port=name)
                self.unplug(name)

    def _plug(self, wanted: Wanted, workload: OvsPort) -> tuple[Interface, Change]:
        """First the pair, then the port: what the bridge opens is there."""
        offloads = not self._ovsdb.in_user_space(workload.bridge)
        name, instance = port_name(wanted.uid, workload), self._options.instance
        pair = HostPair(
            instance=instance,
            uid=wanted.uid,
            host_name=host_name(wanted.uid),
            port_name=name,
            alias=alias_of(instance, wanted.uid, workload.inner, workload.spec),
            mtu=wanted.mtu or self._room.mtu(),
            offloads=offloads,
        )
        made, change = host_pair.ensure(self._own_links(), pair, self._guard)
        try:
            mac = wanted.endpoint.mac
            self._ovsdb.add(Port(workload.bridge, name, instance, wanted.uid, mac, workload.vlan))
        except MizarError:
            if change == "created":
                self._own_links().delete(made.name)
            raise
        return made, change

    def _is_own(self, link: OwnedLink) -> bool:
        return not link.uid or link.instance == self._options.instance

    def _pin(self, name: str) -> Path:
        return self._pins.links / f"{_PIN}{name}"

    def _own_links(self) -> Links:
        """A conversation with netlink for each thread."""
        if not hasattr(self._links, "links"):
            self._links.links = Links()
        links: Links = self._links.links
        return links

    def _guard(self, interface: Interface) -> None:
        attach.guard_tc(self._agent_fd, interface.index, self._pin(interface.name), force=self._options.tc)

    def _link(self, wanted: Wanted, workload: InNamespace, network: Network) -> EndpointLink:
        addresses: list[IPv4Interface | IPv6Interface] = []
        gateways = []
        for address in wanted.endpoint.addresses:
            prefix = network.prefix_of(address)
            if prefix is None:
                raise NotFoundError(f"{network} has no prefix that holds {text_of(address)}; put the network first")
            addresses.append(ip_interface(f"{text_of(address)}/{prefix.length}"))
            gateways.append(ip_address(prefix.gateway))
        return EndpointLink(
            instance=self._options.instance,
            uid=wanted.uid,
            host_name=host_name(wanted.uid),
            inner_name=workload.interface,
            self_configured=workload.self_configured,
            mac=wanted.endpoint.mac,
            mtu=wanted.mtu,
            addresses=tuple(addresses),
            gateways=tuple(gateways),
            standby=wanted.standby,
            bypass=wanted.bypass,
        )

    def _tap(self, wanted: Wanted, workload: Tap) -> TapLink:
        return TapLink(
            instance=self._options.instance,
            uid=wanted.uid,
            host_name=host_name(wanted.uid, workload),
            alias=alias_of(self._options.instance, wanted.uid, workload.inner, workload.spec),
            mtu=wanted.mtu,
            owner=workload.owner,
            multi_queue=workload.queues > 1,
        )

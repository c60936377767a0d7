# SPDX-License-Identifier: Apache-2.0
"""The programs and maps of this droplet, from load to removal.

Called by the daemon at its start and end. Finding maps of a daemon before, it takes them over, and programs of the
same build; replacing those of another, it loses no packet. It must never leave half of a new droplet behind when it
fails.
"""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, replace

from mizar._built import transit_pb2 as pb
from mizar.kernel import attach, features, interfaces, libbpf, programs, shaper, stack_link, tunnel_gro
from mizar.kernel.bpffs import Pins, ensure_mounted
from mizar.kernel.configuration import configuration
from mizar.kernel.endpoint_look import Fault, map_pin_fault
from mizar.kernel.events import EventReader
from mizar.kernel.interfaces import Interface
from mizar.kernel.layout import U32, constant, struct_codec
from mizar.kernel.links import Links
from mizar.kernel.maps import Table
from mizar.kernel.netlink import Netlink
from mizar.kernel.programs import GENERIC, Programs
from mizar.kernel.qdisc import keeps_departure_times
from mizar.kernel.tables import Tables
from mizar.model.addresses import from_mapped
from mizar.model.errors import MizarError
from mizar.transit import without_xdp
from mizar.transit.drops import Describer, Suppressed
from mizar.transit.limit_values import UNLIMITED, uplink_value
from mizar.transit.logs import event
from mizar.transit.options import Options
from mizar.transit.pool import retire
from mizar.transit.service_values import MOST_INSIDE, MOST_LISTENERS
from mizar.transit.state import Limits

ICMP_ERRORS = 64
"""How many ICMP errors the virtual router sends at most per CPU, VPC and 134 ms: some 480 a second."""
TRAPS = 16
"""How many requests for its configuration an endpoint has answered in 1.07 s; clients send a handful."""
PACE_NS = 200_000_000
"""How late a packet that is over a limit may leave, where the interface's queue keeps departure times (fq)."""

_BREATH = 64
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Loaded:
    """Programs and maps, ready to be attached."""

    programs: Programs
    tables: Tables
    pins: Pins
    limits: Limits
    paced: bool = False
    """The interface's queue holds back what is over a limit; otherwise it is dropped."""


@dataclass(frozen=True, slots=True)
class Modes:
    """How the programs run on the interface."""

    xdp: str
    tc: str


def load(options: Options, uplink: Interface, own: Sequence[bytes]) -> Loaded:
    """Load the programs with this droplet's configuration, over the maps that are there or over new ones."""
    ensure_mounted()
    pins = Pins.of(options.instance)
    pins.make()
    paced = keeps_departure_times(uplink.index)
    config = configuration(
        own,
        uplink.mac,
        uplink.index,
        send_by_tc=uplink.kind == "veth",
        icmp_errors=ICMP_ERRORS,
        traps=TRAPS,
        pace_ns=PACE_NS if paced else 0,
        uplink=options.limits.uplink != UNLIMITED,
    )
    loaded = programs.load(config, max_entries=sizes(options.limits), pins=pins, take_over=True)
    tables = Tables.of(loaded.maps)
    tables.limiters.put(constant("LIMITER_UPLINK"), uplink_value(options.limits.uplink))
    return Loaded(loaded, tables, pins, replace(options.limits, paced=paced), paced)


def held_address(options: Options) -> bytes | None:
    """The address of the droplet that this instance's endpoints belong to; None when there are none."""
    folder = Pins.of(options.instance).maps
    fds = [libbpf.open_pin(folder / name) for name in ("agents", "endpoints", "droplets")]
    try:
        agents_fd, endpoints_fd, droplets_fd = fds
        if agents_fd is None or endpoints_fd is None or droplets_fd is None:
            return None
        agents = Table("agents", agents_fd, U32, struct_codec("agent"))
        endpoints = Table("endpoints", endpoints_fd, struct_codec("endpoint_key"), struct_codec("endpoint"))
        droplets = Table("droplets", droplets_fd, U32, struct_codec("droplet"))
        keys = [{"vni": one["vni"], "addr": one[name]} for _, one in agents.items() for name in ("addr4", "addr6")]
        found = (endpoints.get(key) for key in keys)
        hosts = (droplets.get(endpoint["droplet"]) for endpoint in found if endpoint and endpoint["ifindex"])
        return next((from_mapped(host["addr"]) for host in hosts if host and any(host["addr"])), None)
    finally:
        for fd in fds:
            if fd is not None:
                os.close(fd)


def sizes(limits: Limits) -> dict[str, int]:
    """Of tables, by name."""
    return {
        "droplets": limits.droplets,
        "droplet_slots": limits.droplets,
        "vpcs": limits.vpcs,
        "vpc_counters": limits.vpcs,
        "identities": limits.vpcs,
        "group_sets": limits.group_sets,
        "networks": 2 * limits.networks,
        "routes": 4 * limits.networks,
        "substrate_endpoints": 2 * limits.local_endpoints,
        "hop_sets": limits.hop_sets,
        "endpoints": limits.endpoints + limits.learned,
        "agents": limits.local_endpoints,
        "agent_options": limits.local_endpoints + 2 * limits.proxies,
        "endpoint_counters": limits.local_endpoints,
        "trap_budgets": limits.local_endpoints,
        "services": limits.services,
        "service_notes": limits.services,
        "public_counters": 2 * limits.services,
        "public_addresses": 2 * limits.services,
        "public_inside": MOST_INSIDE * limits.services,  # nobody fills it for others
        "members": limits.members,
        "member_notes": limits.members,
        "member_slots": limits.members,
        "listeners": 2 * MOST_LISTENERS * limits.services,
        "flows": limits.flows,
        "flow_budgets": limits.vpcs,
        "flow_counts": limits.vpcs,
        "vpc_functions": limits.vpcs,
        "endpoint_functions": limits.local_endpoints,
        "network_functions": limits.hop_sets,
        "group_functions": limits.group_sets,
        "endpoint_policies": limits.local_endpoints,
        "endpoint_limits": limits.local_endpoints,
        "limiters": limits.limiters,
        "limiter_states": limits.limiters,
        "policy_sets": limits.policy_sets,
        "policy_peers": limits.policy_rows,
        "policy_verdicts": limits.policy_rows,
        "policy_flows": limits.policy_flows,
        "policy_budgets": limits.vpcs,
        "policy_counts": limits.vpcs,
        "acl_vpcs": limits.vpcs,
        "network_acls": 2 * limits.networks,
        "proxies": limits.proxies,
        "proxy_usage": limits.proxies,
        "proxy_ended": limits.proxies,
        "proxy_embryos": limits.proxies * constant("FLOW_EMBRYOS"),
        "proxy_flows": 2 * limits.proxies * limits.proxy_flows,
    }


def left_to_wire(uplink: Interface, options: Options) -> str:
    """For the status of the droplet: what an operator has to know of a wire that carries unfinished checksums."""
    if uplink.kind != "veth" or not options.uplink_offloads:
        return ""
    return (
        "checksums are left to the wire: an XDP program on it that rewrites packets, such as a gateway's, spoils them"
    )


def start(loaded: Loaded, uplink: Interface, options: Options) -> Modes:
    """Attach `deliver`, then `transit`, or put the new programs where the old ones run."""
    interfaces.set_gro(uplink.name, on=True)  # without it, delivered packets stay single
    if uplink.kind == "veth":
        # XDP at the other end loses partial checksums, or spoils them where it rewrites what they cover. Without them,
        # the kernel cuts superpackets here.
        interfaces.set_tx_checksum(uplink.name, on=options.uplink_offloads)
        if offloads := left_to_wire(uplink, options):
            event(_log, logging.WARNING, "uplink_offloads", interface=uplink.name, reason=offloads)
        # Whoever is at the other end: Transit at tc could not hand them over.
        interfaces.end_udp_segmentation(uplink.name)
    if options.xdp == without_xdp.MODE:
        return _start_without_xdp(loaded, uplink, options)
    links = loaded.pins.links
    # Where Transit has run at tc, nothing passes unseen until it is replaced.
    if attach.attached(links / "transit") is None and attach.attached(links / "deliver") is not None:
        transit = _attach_transit(loaded, uplink, options)
        deliver = attach.attach_tc(loaded.programs.deliver.fd, uplink.index, links / "deliver", force=options.tc)
    else:
        deliver = attach.attach_tc(loaded.programs.deliver.fd, uplink.index, links / "deliver", force=options.tc)
        try:
            transit = _attach_transit(loaded, uplink, options)
        except MizarError:
            if not deliver.updated:
                attach.detach_tc(uplink.index, links / "deliver")
            raise
    with Netlink() as netlink:
        tunnel_gro.remove(netlink, options.instance)
    for attachment in (deliver, transit):
        if attachment.fallback_reason:
            event(_log, logging.WARNING, "mode_fallback", mode=attachment.mode, reason=attachment.fallback_reason)
    if transit.mode == "generic" and uplink.kind == "veth":
        why = "generic XDP sees nothing that a droplet at the other end of this very veth sends; a bridge between helps"
        event(_log, logging.WARNING, "generic_on_veth", interface=uplink.name, reason=why)
    event(_log, logging.INFO, "attached", interface=uplink.name, xdp=transit.mode, tc=deliver.mode)
    return Modes(transit.mode, deliver.mode)


def _attach_transit(loaded: Loaded, uplink: Interface, options: Options) -> attach.Attachment:
    return attach.attach_xdp(
        loaded.programs.transit.fd,
        uplink.index,
        loaded.pins.links / "transit",
        force=None if options.xdp == "off" else options.xdp,
        generic=lambda: loaded.programs.transit_generic.fd,
    )


def _start_without_xdp(loaded: Loaded, uplink: Interface, options: Options) -> Modes:
    """Transit takes the place of `deliver`, whose notes it understands, before XDP goes."""
    without_xdp.refuse_kernel()
    without_xdp.refuse_leftovers(options, loaded.tables)
    links = loaded.pins.links
    fd = loaded.programs.transit_tc.fd
    attachment = attach.attach_tc(fd, uplink.index, links / "deliver", force=options.tc)
    attach.detach_xdp(links / "transit")
    if attachment.fallback_reason:
        event(_log, logging.WARNING, "mode_fallback", mode=attachment.mode, reason=attachment.fallback_reason)
    event(_log, logging.INFO, "attached", interface=uplink.name, xdp=without_xdp.MODE, tc=attachment.mode)
    return Modes(without_xdp.MODE, attachment.mode)


def faults(loaded: Loaded, uplink: Interface) -> Iterator[Fault]:
    """What is wrong with the programs at the droplet's interface, and with the pins by which the next daemon finds the
    maps."""
    links, programs_ = loaded.pins.links, loaded.programs
    if programs_.at_tc:
        expected = {"deliver": [programs_.transit_tc.fd]}
    else:
        # A mode that was not asked for is not loaded for a look: that would pin what is found to be missing.
        transits = [programs_.programs[name].fd for name in ("transit", GENERIC) if name in programs_.programs]
        expected = {"transit": transits, "deliver": [programs_.deliver.fd]}
    for name, fds in expected.items():
        wrong = attach.fault(fds, uplink.index, links / name)
        if wrong is not None:
            yield Fault(f"{name} at {uplink.name}", "attached", wrong)
    for name, fd in sorted(programs_.maps.items()):
        wrong = map_pin_fault(fd, loaded.pins.maps / name)
        if wrong is not None:
            yield Fault(f"pin of {name}", "the map that is in use", wrong)


def mend(loaded: Loaded, uplink: Interface, options: Options) -> None:
    """Attach and pin again what is not."""
    start(loaded, uplink, options)
    for name, fd in loaded.programs.maps.items():
        if map_pin_fault(fd, loaded.pins.maps / name) is not None:
            (loaded.pins.maps / name).unlink(missing_ok=True)
            libbpf.pin(fd, loaded.pins.maps / name)


def remove(options: Options) -> None:
    """Remove everything that a daemon of this instance ever made: programs, endpoints, pins. Repeating it is safe."""
    pins = Pins.of(options.instance)
    links = Links()
    try:
        uplink = interfaces.find(links.netlink, options.interface)
        attach.detach_xdp(pins.links / "transit")
        attach.detach_tc(uplink.index if uplink else 0, pins.links / "deliver")
        attach.detach_tc(0, pins.links / "substrate")
        stack_link.remove(links.netlink, options.instance)
        tunnel_gro.remove(links.netlink, options.instance)
        attach.detach_tc(0, pins.links / "shaped")
        shaper.remove(links.netlink, options.instance)
        for link in links.owned():
            if link.instance == options.instance:
                retire(links, link)
                links.delete(link.interface.name)
    finally:
        links.close()
    pins.remove()
    options.functions_file.unlink(missing_ok=True)


def missing_feature() -> str:
    """The first thing that this machine lacks and Mizar needs, in one sentence; empty when nothing is."""
    for feature in features.probe():
        if feature.needed and not feature.present:
            return f"this machine lacks {feature.name} ({feature.detail}): {feature.how_to_fix}"
    return ""


class Drops:
    """The ring of drops, and the switch that makes the programs write to it (events.DropSource)."""

    def __init__(self, loaded: Loaded, describer: Describer) -> None:
        self._tables = loaded.tables
        self._describer = describer
        self._reader = EventReader(loaded.programs.maps["events"])
        self._suppressed = Suppressed(loaded.tables)

    def switch(self, on: bool) -> None:
        """Write drops to the ring, or not. What an earlier time left in the ring is read away first."""
        if on:
            self._reader.read()
        self._tables.droplet_switches.put(0, {"events": int(on)})

    async def __aiter__(self) -> AsyncIterator[tuple[int, pb.Drop]]:
        """Drops since the switch was turned on; whoever else has work to do gets to it in between."""
        async for batch in self._reader.batches():
            for number, fields in enumerate(batch):
                yield fields["time_ns"], self._describer.drop(fields)
                if number % _BREATH == _BREATH - 1:
                    await asyncio.sleep(0)

    async def suppressed(self) -> list[pb.Suppressed]:
        """What was not written, as the limits were reached, since the last time."""
        return await asyncio.to_thread(lambda: list(self._suppressed.take()))

    def close(self) -> None:
        """Give the ring back."""
        self._reader.close()

# SPDX-License-Identifier: Apache-2.0
"""A daemon from start to end: what is put together, in which order, and what stays when it goes.

Called by the command line. At the start it takes over what the daemon before left in the kernel; at the end it leaves
all of it running, unless it was told to detach. It must never need to know where it runs: its interface, its network
namespace and its privileges are those of the process.
"""

import asyncio
import contextlib
import functools
import gc
import logging
import resource
import signal
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from importlib import metadata

from mizar.api.listen import parse_listen
from mizar.kernel import interfaces
from mizar.kernel.bpffs import Pins, instances
from mizar.kernel.control import ControlSocket
from mizar.kernel.events import EventReader
from mizar.kernel.interfaces import Interface
from mizar.kernel.neighbours import Neighbours
from mizar.kernel.netlink import Netlink
from mizar.kernel.packet_socket import PacketSocket
from mizar.model.addresses import text_of
from mizar.model.errors import ConflictError, InvalidError, MizarError
from mizar.transit import cgroups, programs, server, told, without_xdp
from mizar.transit.attachments import Attachments
from mizar.transit.audit import Audit
from mizar.transit.audit_links import LinkAudit, ProgramAudit
from mizar.transit.ddos import Ddos
from mizar.transit.direct import Direct
from mizar.transit.drops import Describer
from mizar.transit.engines import host
from mizar.transit.engines.audit import EngineAudit
from mizar.transit.engines.kinds import KINDS
from mizar.transit.engines.nat_left import forget_all, let_go_of_all
from mizar.transit.events import Hub
from mizar.transit.flows import FlowAger
from mizar.transit.function_audit import FunctionAudit
from mizar.transit.functions import Functions
from mizar.transit.guest.answering import Answering
from mizar.transit.health import Health
from mizar.transit.ledger import Ledger
from mizar.transit.logs import event
from mizar.transit.member_health import MemberHealth
from mizar.transit.merging import Merging
from mizar.transit.options import Options
from mizar.transit.policy_audit import RowsAudit
from mizar.transit.policy_flows import PolicyFlows
from mizar.transit.programs import Drops, Loaded, Modes
from mizar.transit.room import Room
from mizar.transit.service_flows import ServiceFlows
from mizar.transit.servicer import Identity, Servicer
from mizar.transit.shaping import Shaping
from mizar.transit.stack import Stack
from mizar.transit.substrate import InterfaceGoneError, Substrate, Uplink
from mizar.transit.tracing import Tracer
from mizar.transit.values import Local
from mizar.transit.vpns import Vpns
from mizar.transit.vpns import remove_all as remove_tunnels

STOP_S = 1.0
"""How long requests may take to end when the daemon is told to."""

_log = logging.getLogger(__name__)


def cleanup(options: Options) -> None:
    """Remove what an instance left behind. Raises ConflictError while its daemon runs."""
    Pins.of(options.instance)  # refuses a name that cannot be one
    with server.locked(options):
        programs.remove(options)
        _remove_engines(options)
        remove_tunnels(options.vpn_folder, options.interface)
        server.remove_socket(options)


def _remove_engines(options: Options) -> None:
    let_go_of_all(options.engines_folder)
    forget_all(options.engines_folder)
    told.remove_all(options.engines_folder)


def run(options: Options) -> None:
    """Be the daemon of an instance until SIGTERM or SIGINT. Raises MizarError with one sentence when it cannot."""
    Pins.of(options.instance)  # refuses a name that cannot be one
    with server.locked(options):
        server.check_listening(options)
        check_metrics(options)
        uplink, own = _own(options)
        _raise_limits()
        fresh = options.instance not in instances()
        try:
            _be(options, uplink, own)
        except InterfaceGoneError:
            raise  # a daemon on the interface that comes back takes over what is there
        except MizarError:
            if fresh:
                programs.remove(options)
            raise
        if options.detach_on_exit:
            programs.remove(options)
            _remove_engines(options)
            remove_tunnels(options.vpn_folder, options.interface)
            event(_log, logging.INFO, "detached", instance=options.instance)


def _be(options: Options, uplink: Interface, own: tuple[bytes, ...]) -> None:
    with _named_feature():
        loaded = programs.load(options, uplink, own)
    with loaded.programs:
        with _named_feature():
            modes = programs.start(loaded, uplink, options)
        asyncio.run(_serve(options, uplink, own, loaded, modes))


def _own(options: Options) -> tuple[Interface, tuple[bytes, ...]]:
    """The droplet's interface and addresses: the first one names it (contracts/wire.md)."""
    with Netlink() as netlink:
        uplink = interfaces.get(netlink, options.interface)
        found = interfaces.addresses(netlink, uplink.index)
    if len(uplink.mac) != 6 or not any(uplink.mac):
        raise InvalidError(f"{uplink.name} has no Ethernet address and cannot be a droplet; choose another interface")
    if options.addresses:
        for address in options.addresses:
            if address not in [one.ip for one in found]:
                event(_log, logging.WARNING, "address_not_here", address=address, interface=uplink.name)
        own = tuple(sorted((address.packed for address in options.addresses), key=len))
        return uplink, _same_as_before(options, own)
    held = programs.held_address(options)
    if held is not None and held in [one.ip.packed for one in found]:
        return uplink, (held,)
    usable = sorted((one.ip for one in found if not one.is_link_local), key=lambda address: address.version)
    if not usable:
        raise InvalidError(f"the interface {uplink.name} has no address for others; give it one, or pass --address")
    return uplink, _same_as_before(options, (usable[0].packed,))


def _same_as_before(options: Options, own: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """Refuse to be another droplet than the one whose endpoints are here: they would have to be ended."""
    held = programs.held_address(options)
    if held not in (None, own[0]):
        raise ConflictError(
            f"the endpoints here belong to droplet {text_of(held)}, and this would be {text_of(own[0])}: give "
            f"{options.interface} the address {text_of(held)} again, or end the endpoints by `mizar daemon --cleanup`"
        )
    return own


def _raise_limits() -> None:
    """Each endpoint keeps files open, and older kernels count maps as locked memory. What it holds of secrets is in no
    file, so that none of its memory is: whoever must look into it gives it another soft limit (prlimit(1))."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with contextlib.suppress(ValueError, OSError):  # not permitted; kernels since 5.11 do not ask for it
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


@contextlib.contextmanager
def _named_feature() -> Iterator[None]:
    """When the kernel refuses, say what the machine lacks, if it lacks anything."""
    try:
        yield
    except MizarError as error:
        missing = programs.missing_feature()
        if missing:
            raise MizarError(missing) from error
        raise


async def _serve(options: Options, facts: Interface, own: tuple[bytes, ...], loaded: Loaded, modes: Modes) -> None:
    uplink, second = Uplink(facts), own[1] if len(own) > 1 else b""
    generic, xdp = modes.xdp == "generic", modes.xdp != without_xdp.MODE
    functions = Functions(loaded.programs.maps, loaded.pins, options.functions_file, generic=generic, xdp=xdp)
    drops = Drops(loaded, Describer(lambda: ledger.state, _interface_name, functions.name_of))
    drops.switch(on=False)  # the daemon before may have died while somebody watched
    hub = Hub(drops)
    ledger = Ledger(loaded.tables, own[0], loaded.limits, lambda: attachments.interfaces(), second)
    room = Room(uplink.mtu, lambda: ledger.state)
    groups = cgroups.opened()
    uplink_name = lambda: uplink.facts.name  # noqa: E731
    engines = host.Engines(options.engines_folder, options.logs_folder, KINDS, hub.engine, uplink_name, groups)
    attachments = Attachments(ledger, loaded.programs.agent.fd, loaded.pins, options, hub, room, engines)
    neighbours = Neighbours()
    substrate = Substrate(uplink, neighbours, ledger, attachments, hub)
    sender = ControlSocket(*own)
    traps, answers = EventReader(loaded.programs.maps["traps"], "trap"), PacketSocket()
    answering = Answering(ledger, aiter(traps), answers, room.mtu, hub.trapped)
    direct = Direct(ledger, sender, hub.path_changed)
    health = Health(ledger, sender, hub, options.probes, direct.hosts)
    members = MemberHealth(ledger, hub)
    vpns = Vpns(options.vpn_folder, ledger, hub, lambda: uplink.facts, own, options.vpn_ports, groups)
    ddos = Ddos(functions, ledger, hub, options.ddos_file)
    notices = EventReader(loaded.programs.maps["notices"], "notice")
    reports = EventReader(loaded.programs.maps["traces"], "trace_report")
    tracer = Tracer(loaded, ledger, lambda: uplink.facts, reports, functions.name_of)
    try:
        await asyncio.to_thread(_take_over, ledger, attachments)
        await asyncio.to_thread(functions.restore, ledger.state)
        ledger.before_change = functions.follow
        await asyncio.to_thread(ddos.restore)
        vpns.load()
        await ledger.set_own_mtu(facts.mtu)
        engines.take_over(list(ledger.state.locals.values()))
        loop = asyncio.get_running_loop()

        def on_lost(local: Local) -> None:
            asyncio.run_coroutine_threadsafe(ledger.whole(attachments.found_lost(local)), loop)

        ledger.on_lost = on_lost
        shaping = Shaping(
            ledger, loaded.tables, loaded.programs.programs["shaped"].fd, loaded.pins, options, paced=loaded.paced
        )
        identity = Identity(
            address=own[0],
            second_address=second,
            interface=facts.name,
            version=metadata.version("mizar"),
            instance=uuid.uuid4().hex,
            xdp_mode=modes.xdp,
            tc_mode=modes.tc,
            limits_mode=lambda: shaping.mode,
            limits_reason=lambda: shaping.reason,
            vpn_ports=str(options.vpn_ports),
            process_limits=groups.told,
            uplink_offloads=programs.left_to_wire(facts, options),
        )

        def tables_changed() -> None:
            substrate.droplets_changed()
            health.tables_changed()
            members.tables_changed()
            attachments.refit_soon()

        attachments.refit_soon()
        attachments.settle_later()
        others = LinkAudit(ledger, attachments), ProgramAudit(loaded, facts, options), RowsAudit(ledger)
        audit = Audit(ledger, (*others, FunctionAudit(ledger, functions, ddos), EngineAudit(engines)))
        servicer = Servicer(
            identity,
            ledger,
            attachments,
            hub,
            uplink.mtu,
            tables_changed,
            audit,
            tracer,
            members.rows,
            engines.reports,
            vpns,
            functions,
            ddos,
            engines.log,
            engines.foretell,
        )
        aging = FlowAger(ledger)
        served, policed = ServiceFlows(ledger), PolicyFlows(ledger)
        stack = Stack(ledger, loaded.tables, loaded.programs.substrate.fd, loaded.pins, options, room.mtu)
        watches = [substrate.run, health.run, members.run, aging.run, served.run, policed.run, answering.run, stack.run]
        watches.append(lambda: direct.run(notices))
        watches.append(vpns.run)
        watches.append(functions.run)
        watches.append(ddos.run)
        watches.append(shaping.run)
        if not xdp:
            watches.append(Merging(ledger, options.instance).run)
        async with _metrics(options, servicer, identity, ledger, hub, uplink.mtu, engines, functions, ddos):
            await _until_told(servicer, options, ledger, attachments, hub, watches)
    finally:
        attachments.close()
        functions.close()
        engines.close()
        neighbours.close()
        sender.close()
        traps.close()
        answers.close()
        notices.close()
        tracer.close()
        drops.close()


def check_metrics(options: Options) -> None:
    """Raises InvalidError when metrics would be open to strangers."""
    if options.metrics:
        parse_listen(options.metrics, certificates=options.pki is not None)


@contextlib.asynccontextmanager
async def _metrics(
    options: Options,
    servicer: Servicer,
    identity: Identity,
    ledger: Ledger,
    hub: Hub,
    mtu: Callable[[], int],
    engines: host.Engines,
    functions: Functions,
    ddos: Ddos,
) -> AsyncIterator[None]:
    """Metrics for the length of the block; what serves them is loaded where they are wanted."""
    if not options.metrics:
        yield
        return
    from mizar.metrics.serve import serving
    from mizar.transit.metrics import DaemonMetrics

    metrics = DaemonMetrics(identity, ledger, hub, mtu, engines.samples, functions.read, ddos.named)
    servicer.observe = metrics.observe
    certificates = (options.pki, "daemon") if options.pki is not None else None
    async with serving(options.metrics, metrics.read, certificates):
        event(_log, logging.INFO, "metrics", on=options.metrics)
        yield


def _take_over(ledger: Ledger, attachments: Attachments) -> None:
    gc.disable()  # what is read stays: Python's collector need not look through it, while it comes and ever after
    try:
        ledger.reread()
    finally:
        gc.enable()
    gc.freeze()
    attachments.take_over()
    state = ledger.state
    event(
        _log,
        logging.INFO,
        "state_read",
        droplets=len(state.droplets),
        vpcs=len(state.vpcs),
        networks=len(state.networks),
        addresses=len(state.at),
        local_endpoints=len(state.locals),
    )


async def _until_told(
    servicer: Servicer,
    options: Options,
    ledger: Ledger,
    attachments: Attachments,
    hub: Hub,
    watches: Sequence[Callable[[], Awaitable[None]]],
) -> None:
    """Serve until a signal comes, or a watch ends: the droplet's interface has vanished."""
    loop = asyncio.get_running_loop()
    told = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    watching = asyncio.create_task(_watch(watches))
    watching.add_done_callback(lambda _: told.set())
    listener = server.make(servicer, options)
    await listener.start()
    event(_log, logging.INFO, "listening", on=options.listening, instance=options.instance)
    await told.wait()
    if not watching.done():
        watching.cancel()
    event(_log, logging.INFO, "stopping")
    hub.close()
    await listener.stop(STOP_S / 2)
    await ledger.drain(STOP_S / 2)
    await attachments.drain(STOP_S / 2)
    server.remove_socket(options)
    with contextlib.suppress(asyncio.CancelledError):
        try:
            await watching
        except ExceptionGroup as group:  # not `except*`: Python before 3.11.4 wraps again what is raised in it
            raise _first(group) from group


async def _watch(watches: Sequence[Callable[[], Awaitable[None]]]) -> None:
    async with asyncio.TaskGroup() as group:
        for watch in watches:
            group.create_task(_of(watch))


async def _of(watch: Callable[[], Awaitable[None]]) -> None:
    await watch()


def _first(group: ExceptionGroup[Exception]) -> Exception:
    error: Exception = group
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


@functools.lru_cache(maxsize=1024)
def _interface_name(index: int) -> str:
    with Netlink() as netlink:
        found = interfaces.find(netlink, index)
    return found.name if found else ""

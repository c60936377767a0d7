# SPDX-License-Identifier: Apache-2.0
"""What the daemon does for who explains a packet's way: it tells what the maps hold, sends a marked packet, and tells
what the programs report of marked packets.

Called by the servicer. It asks the kernel and not the ledger, so that an entry that somebody altered is seen as it is.
A marked packet is run through the agent itself, over the live maps, and what that made of it is sent: no program looks
for marks at the source, where none could be told from an endpoint's own.
"""

import asyncio
import contextlib
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace

from mizar._built import transit_pb2 as pb
from mizar.kernel import test_run
from mizar.kernel.events import EventReader
from mizar.kernel.interfaces import Interface
from mizar.kernel.layout import constant, parse, size
from mizar.kernel.packet_socket import PacketSocket
from mizar.kernel.stack_link import STACK_MAC
from mizar.model import drop_reasons
from mizar.model.addresses import from_mapped
from mizar.model.errors import ConflictError, InvalidError, NotFoundError
from mizar.transit import table_rows
from mizar.transit.drops import FUNCTION_MISSING, FUNCTION_REFUSED
from mizar.transit.ledger import Ledger
from mizar.transit.limits import LIMITED, limit_text, used_up, waits
from mizar.transit.logs import event
from mizar.transit.marking import destination_of, marked
from mizar.transit.policies import now_tick
from mizar.transit.programs import ICMP_ERRORS, TRAPS, Loaded
from mizar.transit.state import State
from mizar.transit.values import Local

MARKS = range(1, 256)
QUEUE = 256
SHORTEST, LONGEST = 60, 9234
_SHOT, _REDIRECT, _XDP_TX = 2, 7, 3
_PROGRAMS = {1: "agent", 2: "transit", 3: "deliver", 4: "proxy", 5: "substrate"}  # enum hook

_log = logging.getLogger(__name__)

Reports = asyncio.Queue[pb.TraceReport]


class Tracer:
    """For one droplet. `uplink`: its interface as last heard of; `ring`: what the programs report."""

    def __init__(
        self,
        loaded: Loaded,
        ledger: Ledger,
        uplink: Callable[[], Interface],
        ring: EventReader,
        function_of: Callable[[int], tuple[str, str, str]] = lambda _: ("", "", ""),
    ) -> None:
        self._function_of = function_of
        self._loaded = loaded
        self._ledger = ledger
        self._uplink = uplink
        self._ring = ring
        self._listening: dict[int, Reports] = {}
        self._reader: asyncio.Task[None] | None = None
        for mark in MARKS:  # the daemon before may have died while somebody listened
            loaded.tables.trace_marks.put(mark, 0)

    def close(self) -> None:
        """Give the ring back."""
        if self._reader is not None:
            self._reader.cancel()
        self._ring.close()

    # ---- tables

    def read(self, request: pb.ReadTablesRequest) -> list[pb.TableRows]:
        """Entries of the maps, and this droplet itself. Raises InvalidError or ExhaustedError."""
        keys = [table_rows.parse_key(one.table, one.key) for one in request.keys]
        found = [pb.TableRows(table="self", rows=[json.dumps(["", self._itself(request.uid)])])]
        for table, rows in table_rows.chunks(table_rows.read(self._loaded.tables, request.vnis, keys)):
            found.append(pb.TableRows(table=table, rows=rows))
        return found

    def _itself(self, uid: str) -> dict[str, object]:
        """`ifindex`: of the endpoint that was asked for, 0 when it has none here."""
        state, uplink, local = self._ledger.state, self._uplink(), self._ledger.state.locals.get(uid)
        return {
            "address": state.own.hex(),
            "address6": state.own6.hex(),
            "mac": uplink.mac.hex(),
            "mtu": uplink.mtu,
            "up": uplink.up,
            "ifindex": local.ifindex if local else 0,
            "icmp_errors": bool(ICMP_ERRORS),
            "traps": bool(TRAPS),
            "tick": now_tick(),
        }

    # ---- marked packets

    @contextlib.contextmanager
    def listening(self, mark: int) -> Iterator[Reports]:
        """Reports of one mark, for the length of the block. Raises InvalidError, or ConflictError when it is taken."""
        _check(mark)
        if mark in self._listening:
            raise ConflictError(f"somebody listens for mark {mark} already")
        reports = self._listening[mark] = Reports(QUEUE)
        if self._reader is None:
            self._ring.read()  # what was left by an earlier listener
            self._reader = asyncio.create_task(self._read())
        self._loaded.tables.trace_marks.put(mark, 1)
        try:
            yield reports
        finally:
            self._loaded.tables.trace_marks.put(mark, 0)
            del self._listening[mark]
            if not self._listening:
                self._reader.cancel()
                self._reader = None

    async def _read(self) -> None:
        async for fields in self._ring:
            reports = self._listening.get(fields["mark"])
            if reports is None:
                continue
            report = pb.TraceReport(
                program=_PROGRAMS.get(fields["hook"], ""),
                did=fields["did"],
                reason=fields["reason"],
                vni=fields["vni"],
                ifindex=fields["ifindex"],
                to=from_mapped(fields["to"]) if any(fields["to"]) else b"",
                source=from_mapped(fields["src"]),
                destination=from_mapped(fields["dst"]),
                rule=fields["rule"],
                policed=self._uid_at(fields["policed_slot"]) if fields["policed_slot"] else "",
            )
            if fields["reason"] in [drop_reasons.by_name()[one].number for one in (FUNCTION_REFUSED, FUNCTION_MISSING)]:
                report.function, report.function_reason, _ = self._function_of(fields["rule"])
                report.rule = 0
            if (reason := drop_reasons.by_number().get(fields["reason"])) and reason.name in LIMITED:
                report.limit_of, _ = limit_text(self._ledger.state, fields["rule"])
                report.rule, report.policed = 0, ""  # no policy's
            with contextlib.suppress(asyncio.QueueFull):
                reports.put_nowait(report)

    def _uid_at(self, slot: int) -> str:
        found = (uid for uid, one in list(self._ledger.state.locals.items()) if one.slot == slot)
        return next(found, "")

    def send(self, request: pb.SendTracedRequest) -> pb.TraceReport:
        """Run a frame through the agent and send what comes out. Raises NotFoundError or InvalidError."""
        _check(request.mark)
        if request.outside:
            return self._send_outside(request)
        local = self._ledger.state.locals.get(request.uid)
        if local is None:
            raise NotFoundError(f"this droplet has no endpoint {request.uid!r}")
        if not SHORTEST - 18 <= len(request.frame) <= LONGEST:
            raise InvalidError(f"a frame has {SHORTEST - 18} to {LONGEST} bytes, not {len(request.frame)}")
        run = self._run(request.frame, local)
        if run.mark >= constant("SHAPED_INTERFACE"):  # its receiver's, for whom it would wait
            run = replace(run, mark=0)
        event(_log, logging.INFO, "traced_packet", uid=request.uid, bytes=len(request.frame), reason=run.mark)
        report = pb.TraceReport(program="agent", reason=run.mark)
        if run.mark and run.mark == drop_reasons.by_name()["LIMIT_EGRESS"].number:
            report.limit_of = used_up(self._loaded.tables, self._ledger.state, local)
        if run.retval != _REDIRECT:
            report.did = pb.TraceReport.REFUSED if run.mark else pb.TraceReport.TRAPPED
            return report
        with contextlib.closing(PacketSocket()) as sender:
            self._go_on(request, local, run.frame, sender, report)
        return report

    def _send_outside(self, request: pb.SendTracedRequest) -> pb.TraceReport:
        """Through Transit XDP, as what the substrate brings, and out where that sends it. A member on this droplet gets
        nothing: `deliver` cannot be run by itself."""
        if not SHORTEST - 18 <= len(request.frame) <= LONGEST:
            raise InvalidError(f"a frame has {SHORTEST - 18} to {LONGEST} bytes, not {len(request.frame)}")
        refusals = self._refusals()
        run = test_run.run_xdp(self._loaded.programs.transit.fd, request.frame)
        event(_log, logging.INFO, "traced_packet_outside", bytes=len(request.frame), verdict=run.retval)
        report = pb.TraceReport(program="transit")
        note = parse("handover", run.metadata) if len(run.metadata) >= size("handover") else {"magic": 0, "ifindex": 0}
        to = destination_of(run.frame)
        if note["magic"] == constant("HANDOVER_MAGIC"):
            report.did, report.ifindex = pb.TraceReport.DELIVERED, note["ifindex"]
        elif to and (run.retval == _XDP_TX or note["magic"] == constant("HANDOVER_SEND")):
            report.did, report.to = pb.TraceReport.SENT, to
            with contextlib.closing(PacketSocket()) as sender:
                if not sender.send(self._uplink().index, marked(run.frame, request.mark, request.option)):
                    report.problem = f"the host did not take the packet of {len(run.frame)} bytes"
        elif risen := [reason for reason, count in self._refusals().items() if count > refusals.get(reason, 0)]:
            report.did, report.reason = pb.TraceReport.REFUSED, risen[0]
            if len(risen) > 1:
                report.problem = (
                    "it was refused, and the droplet has refused others meanwhile: for which reason is not known"
                )
        else:
            report.did = pb.TraceReport.PASSED
        return report

    def _refusals(self) -> dict[int, int]:
        return {reason: counter["packets"] for reason, counter in self._loaded.tables.drop_counters.items()}

    def _run(self, frame: bytes, local: Local) -> test_run.TestRun:
        """Through the agent. Where what the endpoint sends waits in the shaper first, as it comes out of there: it does
        not wait."""
        if waits(self._ledger.state, local) and self._loaded.tables.shaper.get(0):
            shaped = self._loaded.programs.programs["shaped"].fd
            return test_run.run_tc(shaped, frame, mark=constant("SHAPED_INTERFACE") | local.ifindex)
        return test_run.run_tc(self._loaded.programs.agent.fd, frame, ifindex=local.ifindex)

    def _go_on(
        self, request: pb.SendTracedRequest, local: Local, frame: bytes, sender: PacketSocket, report: pb.TraceReport
    ) -> None:
        """Out of the interface that the agent meant: the frame tells which."""
        uplink, to = self._uplink(), destination_of(frame)
        state = self._ledger.state
        if to and to not in (state.own, state.own6) and frame[6:12] == uplink.mac:
            report.did, report.to, ifindex = pb.TraceReport.SENT, to, uplink.index
            frame = marked(frame, request.mark, request.option)
        elif frame[:6] == local.wanted.endpoint.mac and not _is_from(frame, local):
            report.did, ifindex = pb.TraceReport.ANSWERED, local.ifindex
        elif (other := neighbour(state, local, frame)) is not None:
            report.did, ifindex = pb.TraceReport.DELIVERED, other.ifindex
            report.ifindex = ifindex
        elif frame[:6] != STACK_MAC:
            report.did = pb.TraceReport.DELIVERED
            report.problem = "nobody on this droplet has the address and MAC that the packet is for"
            return
        else:
            report.did, ifindex = pb.TraceReport.STACK, self._loaded.tables.substrate_link.get(0) or 0
        if not sender.send(ifindex, frame):
            size = f"{len(frame) - 14} bytes; the interface takes {uplink.mtu}" if to else f"{len(frame)} bytes"
            report.problem = f"the host did not take the packet of {size}"


def neighbour(state: State, local: Local, frame: bytes) -> Local | None:
    """The endpoint of this droplet that the agent of another has addressed a frame to.

    A MAC alone tells within a VPC: tenants choose theirs, and a stranger's may be the same. In a VPC that packets cross
    into the address tells; but for a tunnel packet as a whole, whose outer address is the droplet's.
    """
    mine = local.endpoint.vni
    near = {peer for vni, peer in list(state.peerings) if vni == mine}
    for proxy in list(state.proxies.values()):
        sides = {proxy.client.vni, proxy.source.vni}
        near |= sides if mine in sides else set()
    found = [one for one in list(state.locals.values()) if one.endpoint.mac == frame[:6] and not one.wanted.standby]
    own = [one for one in found if one.endpoint.vni == mine]
    others = [one for one in found if one.endpoint.vni in near - {mine}]
    to = frame[30:34] if frame[12:14] == b"\x08\x00" else frame[38:54]
    addressed = [one for one in (*own, *others) if to in one.endpoint.addresses]
    whole = [one for one in (*own, *others) if one.wanted.bypass and to in (state.own, state.own6)]
    return next(iter((*addressed, *whole, *own)), None)


def _is_from(frame: bytes, local: Local) -> bool:
    """Whether an IP packet bears the endpoint's own address as its source: what it sent to itself, and no answer."""
    return bool({frame[26:30], frame[22:38]} & set(local.wanted.endpoint.addresses))


def _check(mark: int) -> None:
    if mark not in MARKS:
        raise InvalidError(f"a mark is a number from {MARKS.start} to {MARKS.stop - 1}, not {mark}")

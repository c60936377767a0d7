# SPDX-License-Identifier: Apache-2.0
"""Queue N in Python: an AF_XDP socket whose frames begin connections. They are allocated as the interpreter does, made
hot, and the frame is sent on through the rest of the pipeline.

Called by the gateway's process for every queue of the description. A worker is bounded: the kernel drops what it is
too slow for. It must never send on what it could not make hot: an answer to it would find nothing.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace

from mizar.gateway.dataplane import Dataplane, index
from mizar.gateway.flow_table import FlowTable
from mizar.gateway.options import Options
from mizar.kernel import libbpf
from mizar.kernel.layout import U32, constant
from mizar.kernel.libbpf import lib
from mizar.kernel.xsk import XskSocket
from mizar.model.errors import ConflictError, ExhaustedError, InvalidError, MizarError
from mizar.pipeline.description import Pipeline
from mizar.pipeline.interpreter.connection import Flow, read
from mizar.pipeline.interpreter.machine import Machine, Verdict
from mizar.pipeline.interpreter.nat_choice import address_for, ports_for
from mizar.pipeline.interpreter.nat_rules import Fixed, destination_of, source_of
from mizar.pipeline.interpreter.translate import translated
from mizar.pipeline.nat import Mapping, NatRules
from mizar.pipeline.steps import Queue
from mizar.pipeline.structure import all_steps

_log = logging.getLogger(__name__)
_BATCH = 64
_NOTE = struct.Struct("=II")  # struct queue_note


def queues(pipeline: Pipeline) -> list[tuple[int, str]]:
    """The queues of a description, each with the group behind the one that leads there: where frames go on."""
    names = [group.name for group in pipeline.groups]
    found: dict[int, str] = {}
    for spot, step in all_steps(pipeline):
        if isinstance(step, Queue):
            number = names.index(spot.group)
            found.setdefault(step.number, names[number + 1] if number + 1 < len(names) else "")
    return sorted(found.items())


def check(pipeline: Pipeline) -> None:
    """Raises InvalidError for what a worker cannot do, by name."""
    if not queues(pipeline):
        return
    for number, group in queues(pipeline):
        if not group:
            raise InvalidError(f"queue {number}: no group stands behind the one that leads there, to go on in")
    for name, rule in (pipeline.nat or NatRules()).rules():
        if getattr(rule, "mapping", None) is Mapping.ENDPOINT_INDEPENDENT:
            raise InvalidError(f"nat {name}: a queue's worker has no endpoint-independent mapping; allocate in line")


@dataclass
class QueueWorker:
    """One queue on one receive queue of the interface."""

    queue: int
    group: str
    socket: XskSocket
    pipeline: Pipeline
    table: FlowTable
    made: int = 0
    refused: int = 0

    def fileno(self) -> int:
        """Readable when frames have come."""
        return self.socket.fileno()

    def serve(self) -> None:
        """The frames that have come, a batch of them."""
        out = []
        for note, frame in self.socket.receive_noted(_NOTE.size, _BATCH):
            magic, meta = _NOTE.unpack(note)
            sent = self._serve(meta, frame) if magic == constant("QUEUE_NOTE_MAGIC") else None
            if sent is not None:
                out.append(sent)
        if out:
            self.socket.send(out)

    def close(self) -> None:
        """Gives the queue back: frames for it are dropped and counted."""
        self.socket.close()

    def _serve(self, meta: int, frame: bytes) -> bytes | None:
        nat = self.pipeline.nat or NatRules()
        seen = read(frame, meta)
        if seen is None or not seen.may_begin or seen.later:
            self.refused += 1
            return None
        found = self.table.find(seen.flow)
        if found is not None and seen.flow in (found.original, found.becomes.reversed()):
            becomes: Flow | None = found.becomes if seen.flow == found.original else found.original.reversed()
        else:
            becomes = self._begin(nat, seen.flow)
        if becomes is None:
            self.refused += 1
            return None
        outcome = Machine(self.pipeline).resume(translated(frame, seen, becomes), becomes.meta, self.group)
        return outcome.frame if outcome.verdict is Verdict.EGRESS else None

    def _begin(self, nat: NatRules, flow: Flow) -> Flow | None:
        for becomes in choices(nat, flow):
            try:
                self.table.install(flow, becomes, nat)
            except ConflictError:
                continue
            except (ExhaustedError, MizarError) as error:
                _log.warning("connection-refused flow=%s reason=%s", flow, error)
                return None
            self.made += 1
            return becomes
        return None


def choices(nat: NatRules, flow: Flow) -> Iterator[Flow]:
    """What a new flow may become, in the order in which every engine tries it."""
    source = source_of(nat, flow)
    if source is None:
        inner = destination_of(nat, flow)
        if inner is not None:
            yield _to(flow, inner)
        return
    if isinstance(source, Fixed):
        ends = iter([source])
    else:
        address = int(address_for(source, flow.source))
        ends = (Fixed(source.outside, address, port) for port in ports_for(source, flow))
    for end in ends:
        found = _from(flow, end)
        inner = destination_of(nat, found)  # hairpin
        yield found if inner is None else _to(found, inner)


def _from(flow: Flow, end: Fixed) -> Flow:
    there = end.port if flow.protocol.startswith("icmp") else flow.destination_port
    return replace(flow, meta=end.meta, source=end.address, source_port=end.port, destination_port=there)


def _to(flow: Flow, end: Fixed) -> Flow:
    return replace(flow, meta=end.meta, destination=end.address, destination_port=end.port)


def open_all(options: Options, pipeline: Pipeline, plane: Dataplane, table: FlowTable) -> list[QueueWorker]:
    """A worker for every queue of the description, on receive queue 0 of the interface, unless a program behind
    another interface serves it. Raises MizarError when a socket cannot be had."""
    workers = []
    for number, group in queues(pipeline):
        if number in options.queues:
            continue
        sock = XskSocket(options.interface)
        slot = number * constant("RECEIVERS_MOST")
        fd = plane.maps["gateway_queues"]
        result = lib().bpf_map_update_elem(fd, U32.pack(slot), U32.pack(sock.fileno()), 0)
        libbpf.check(result, f"lead queue {number} to its worker on {options.interface} ({index(options.interface)})")
        workers.append(QueueWorker(number, group, sock, pipeline, table))
    return workers

# SPDX-License-Identifier: Apache-2.0
"""A gateway of tc filters in a guest: rules in, frames in, and what comes out where."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from mizar.pipeline.interpreter.connection import Flow
from mizar.pipeline.interpreter.machine import Outcome, Verdict
from mizar.pipeline.tc.lowering import Ports
from mizar.pipeline.tc.rules import Plan
from tests.guest.rooted import ROOT, Rooted

PORTS = Ports("uplink", kernel="kernel", worker="worker")
WIRES = {Verdict.EGRESS: "wuplink", Verdict.KERNEL: "wkernel", Verdict.QUEUE: "wworker"}
Came = list[tuple[str, bytes]]
"""Frames by where they came out."""


class TcGateway:
    """The namespace of the guest that is the gateway; `shared` is the folder that both know."""

    def __init__(self, guest: Rooted, shared: Path) -> None:
        self._guest, self._shared = guest, shared
        guest.run(f"bash {ROOT}/tests/guest/gateway.sh", 60)

    def load(self, plan: Plan) -> None:
        """What `mizar pipeline tc` prints, through ip and tc."""
        (self._shared / "links").write_text("\n".join(plan.links()) + "\n")
        (self._shared / "filters").write_text("\n".join(plan.commands()) + "\n")
        self._guest.run(f"ip -batch {self._shared}/links && tc -batch {self._shared}/filters", 60)

    def mizar(self, *arguments: str, code: int = 0) -> str:
        """What the command line prints in the guest; it must end with that code. Its start takes long there."""
        words = f"{Path(sys.executable).with_name('mizar')} pipeline tc {' '.join(arguments)}"
        ended, text = self._guest.attempt(f"cd {ROOT} && {words} --interface uplink --worker worker", 240)
        assert ended == code, text
        return text

    def tc(self, question: str) -> str:
        """What a command in the guest prints."""
        return self._guest.run(question)

    def pass_through(self, frames: Sequence[bytes]) -> list[Came]:
        """What each frame makes come out."""
        order = {"send": "wuplink", "listen": list(WIRES.values()), "frames": [frame.hex() for frame in frames]}
        out = self._shared / "answers.json"
        (self._shared / "order.json").write_text(json.dumps(order | {"out": str(out)}))
        wires = f"{sys.executable} -B -S -m tests.guest.wires {self._shared}/order.json"
        self._guest.run(f"cd {ROOT} && ip netns exec wire {wires}", 30 + len(frames) * 0.2)
        return [[_came(where, data) for where, data in came] for came in json.loads(out.read_text())]

    def install(self, plan: Plan, connections: Sequence[tuple[Flow, Flow]]) -> None:
        """Connections as somebody else would make them: an entry in either tenant's zone, the first one translates."""
        zones = dict(plan.zones)
        wanted = [_entry(flow, zones[flow.meta], becomes.meta, becomes) for flow, becomes in connections]
        wanted += [_entry(becomes, zones[becomes.meta], flow.meta, becomes) for flow, becomes in connections]
        self._guest.run(" && ".join(wanted), 60)


def _came(where: str, data: str) -> tuple[str, bytes]:
    """A frame that came out; what the guest could not even send has no place, and the words say why."""
    return (where, bytes.fromhex(data)) if where else (where, data.encode())


def _entry(flow: Flow, zone: int, mark: int, becomes: Flow) -> str:
    address = IPv4Address if flow.version == 4 else IPv6Address
    words = [f"conntrack -I -s {address(flow.source)} -d {address(flow.destination)}"]
    words.append(f"-t 300 -u SEEN_REPLY,ASSURED --zone {zone} -m {mark}")
    if flow.protocol.startswith("icmp"):
        protocol, kind = {"icmp4": ("icmp", 8), "icmp6": ("icmpv6", 128)}[flow.protocol]
        words.append(f"-p {protocol} --icmp-type {kind} --icmp-code 0 --icmp-id {flow.source_port}")
    else:
        words.append(f"-p {flow.protocol} --sport {flow.source_port} --dport {flow.destination_port}")
    if flow.protocol == "tcp":
        words.append("--state ESTABLISHED")
    if flow != becomes:
        outer = str(address(becomes.source))
        words.append(f"--src-nat {outer if flow.version == 4 else f'[{outer}]'}:{becomes.source_port}")
    return " ".join(words)


def wanted(outcome: Outcome, tenants: Sequence[int]) -> Came:
    """Where the interpreter's frame comes out; tenants without filters get nothing."""
    if outcome.verdict is Verdict.DROP or outcome.meta not in tenants:
        return []
    return [(WIRES[outcome.verdict], outcome.frame)]

# SPDX-License-Identifier: Apache-2.0
"""Proxied endpoints of the oracle's tables in the maps of a real droplet, and sequences of frames at them.

`RealProxies` is called by real.py alone; `run` by the short run (test_proxied.py) and the long one (fuzz.py).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mizar.kernel import test_run
from mizar.kernel.layout import U32, struct_codec
from mizar.kernel.maps import Table
from mizar.model.addresses import from_mapped, to_mapped
from mizar.oracle.agent import agent, at_proxy
from mizar.oracle.outcome import Outcome, Verdict
from mizar.oracle.tables import Droplet
from tests.oracle.proxied import Arrival, answer_to

if TYPE_CHECKING:
    from tests.oracle.real import RealDroplet

INSTANCE = 77
SHORTEST = {b"\x08\x00": 34, b"\x86\xdd": 54}
TC_SHOT = 2


class RealProxies:
    """The proxies of one droplet, and no flows."""

    def __init__(self, droplet: RealDroplet) -> None:
        self.droplet = droplet
        self.used: set[int] = set()

    def forget(self) -> None:
        """Nothing of those before is left."""
        if not self.used:
            return
        tables = self.droplet.tables
        tables.proxy_flows.delete_many([key for key, _ in tables.proxy_flows.items()])
        maps = self.droplet.programs.maps
        embryos = Table("proxy_embryos", maps["proxy_embryos"], U32, struct_codec("proxy_flow_key"))
        for place, embryo in list(embryos.items()):
            if embryo["vni"]:
                embryos.put(place, {})
        for slot in self.used:
            tables.proxies.put(slot, {})
            tables.proxy_usage.put(slot, {})
            tables.proxy_ended.put(slot, 0)
        self.used = set()

    def fill(self, here: Droplet) -> None:
        """Those of a droplet whose other tables are filled."""
        slots = self.droplet.vpc_slots
        for slot, found in here.proxies.items():
            value: dict[str, Any] = {
                "instance": INSTANCE,
                "budget": found.budget,
                "client_vni": found.client_vni,
                "source_vni": found.source_vni,
                "client_vpc_slot": slots.of(found.client_vni),
                "source_vpc_slot": slots.of(found.source_vni),
            }
            for name, ends in (("client", found.client), ("source", found.source), ("target", found.target)):
                value |= {f"{name}{family}": to_mapped(address) for family, address in ends.items()}
            self.droplet.tables.proxies.put(slot, value)
            self.used.add(slot)


def known_flows(real: RealDroplet) -> dict[Any, Any]:
    """The kernel's flows in the oracle's words."""

    def port(value: int) -> int:
        return int.from_bytes(value.to_bytes(2, "little"), "big")

    return {
        (key["vni"], from_mapped(key["local"]), from_mapped(key["remote"]), port(key["local_port_be"]),
         port(key["remote_port_be"]), key["protocol"]):
        (flow["slot"], from_mapped(flow["remote"]), port(flow["local_port_be"]), port(flow["remote_port_be"]),
         bool(flow["stamp"]), bool(flow["state"] & 1), bool(flow["state"] & 2))
        for key, flow in real.tables.proxy_flows.items()
    }  # fmt: skip


def expected_flows(here: Droplet) -> dict[Any, Any]:
    return {
        (k.vni, k.local, k.remote, k.local_port, k.remote_port, k.protocol):
        (f.slot, f.remote, f.local_port, f.remote_port, f.used, f.fin, f.reset)
        for k, f in here.proxy_flows.entries.items()
    }  # fmt: skip


def observe(real: RealDroplet, ifindex: int, frame: bytes) -> tuple[bool, bytes, Any]:
    if ifindex == 1:
        result = test_run.run_tc(real.programs.agent.fd, frame, ifindex=1)
    else:
        result = test_run.run_tc(real.programs.programs["proxy"].fd, frame, cb=ifindex)
    return result.retval == TC_SHOT, result.frame, real.counted()


def inner_of(outcome: Outcome) -> bytes:
    """The frame that left the last proxy."""
    if outcome.verdict is Verdict.DELIVER:
        return outcome.frame
    if outcome.verdict is not Verdict.SEND:
        return b""
    return outcome.frame[50 + (outcome.frame[42] & 0x3F) * 4 * (outcome.frame[36:38] == b"\x17\xc1") :]


def run(real: RealDroplet, here: Droplet, sequence: list[Arrival], seen: Counter[str]) -> None:
    """All of them, one after the other."""
    real.fill(here)
    last = b""
    for arrival in sequence:
        ifindex, frame = arrival.ifindex, arrival.frame
        if not frame:
            made = answer_to(here, last, arrival) if last else None
            if made is None:
                continue
            ifindex, frame = made
        if len(frame) < SHORTEST.get(frame[12:14], 15):
            continue
        said = agent(here, 1, frame) if ifindex == 1 else at_proxy(here, ifindex, frame)
        dropped, out, counted = observe(real, ifindex, frame)
        where = f"{arrival.what} at {ifindex:#x}: {frame.hex()}"
        assert (said.verdict is Verdict.DROP) == dropped, f"{where}\n{said}\n{counted}"
        if not dropped:
            assert said.frame.hex() == out.hex(), f"{where}\n{said}"
        assert dict(said.counted) == counted, where
        if said.proxy_flows is not None:
            here = replace(here, proxy_flows=said.proxy_flows)
        elif ifindex != 1:
            raise AssertionError(f"no flows told: {where}")
        assert known_flows(real) == expected_flows(here), where
        for slot in here.proxies:
            usage, found = here.proxy_flows.using(slot), real.tables.proxy_usage.get(slot)
            assert found == {
                "begun": usage.begun, "evicted": usage.evicted, "refused": usage.refused, "cursor": usage.cursor
            }, where  # fmt: skip
        seen[said.reason] += 1
        seen.update(["evicted"] if any(usage.evicted for usage in here.proxy_flows.usage.values()) else [])
        if not dropped and arrival.what != "agent":
            seen[arrival.what] += 1
        last = inner_of(said) or last

# SPDX-License-Identifier: Apache-2.0
"""The function ddos-protection alone in the kernel, with one protection for one endpoint, and its maps at hand."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from hashlib import sha256
from ipaddress import ip_address
from pathlib import Path
from socket import htons
from typing import Any

from mizar._built import transit_pb2 as pb
from mizar.kernel import layout, libbpf
from mizar.kernel.function_maps import replace_table
from mizar.kernel.function_trial import Hook, Outcome, Trial
from mizar.kernel.layout import constant
from mizar.kernel.libbpf import ffi, lib
from mizar.model.addresses import to_mapped
from mizar.model.function_object import STAGES
from mizar.model.prefix_list import PrefixList
from mizar.oracle.protection_state import SKETCH, Bucket, Mode, Rule, State, Threshold, per_kib, per_packet
from mizar.transit import ddos_values as values

OBJECT = Path(values.__file__).parents[1] / "_built" / "objects" / "ddos_protection.o"
ENDPOINT, NUMBER, DROP, CONTINUE, REDIRECT = 3, 1, 1, 0, 3
TARGETS = {4: "10.0.1.2", 6: "fd00:10:0:1::2"}
VNI = 7
_SEED = 12345
_MODES: dict[int, Mode] = {0: "off", 1: "auto", 3: "always"}


class Loaded:
    """One program of it. `rule_told`: what the oracle has to know of the protection."""

    def __init__(self, hook: Hook, stage: str = "ENDPOINT_INGRESS") -> None:
        self.trial = Trial(OBJECT.read_bytes(), values.FUNCTION, STAGES.index(stage), hook, {})
        self.rule_told = Rule()
        self.put("endpoint_values", ENDPOINT, NUMBER.to_bytes(4, "little"))

    def put(self, name: str, key: int, value: bytes) -> None:
        done = lib().bpf_map_update_elem(self.trial.maps[name], key.to_bytes(4, "little"), value, 0)
        libbpf.check(done, f"write {name}")

    def read(self, name: str, key: int, size: int) -> bytes:
        out = ffi.new("char[]", size)
        libbpf.check(lib().bpf_map_lookup_elem(self.trial.maps[name], key.to_bytes(4, "little"), out), f"read {name}")
        return bytes(ffi.buffer(out)[:])

    def rule(self, block: PrefixList | None = None, allow: PrefixList | None = None, **fields: Any) -> None:
        message = pb.DdosProtection(number=NUMBER, **{"burst_ms": 200, "hold_s": 30, **fields})
        for name, found in (("block", block), ("allow", allow)):
            if found is not None and len(found):
                setattr(message, name, found.packed)
                setattr(message, f"{name}_digest", sha256(found.packed).digest())
        values.check(message)
        tables = values.tables(message)
        for name in ("prefixes4", "prefixes6"):
            replace_table(self.trial.maps[name], NUMBER, tables.get(name))
        bits = values.port_words(message.ports)
        for word in {*bits, *values.port_words(self.rule_told.ports)}:
            self.put("reflectors", NUMBER * 1024 + word, bits.get(word, 0).to_bytes(8, "little"))
        self.put("protections", NUMBER, values.rule(message, _SEED))
        self.rule_told = Rule(
            seed=_SEED,
            source_packet_ns=per_packet(message.source_packets),
            source_kib_ns=per_kib(message.source_bytes),
            target_packet_ns=per_packet(message.target_packets),
            target_kib_ns=per_kib(message.target_bytes),
            burst_ns=message.burst_ms * 10**6,
            syn_ns=per_packet(message.syns),
            reflected_ns=per_packet(message.reflected),
            hold_ns=message.hold_s * 10**9,
            cookies=_MODES[message.flags & 3],
            reflection=_MODES[message.flags >> 2 & 3],
            ports=frozenset(message.ports),
            block=block or PrefixList(),
            allow=allow or PrefixList(),
        )

    def run(self, source: str, protocol: int = 17, body: bytes = bytes(8)) -> tuple[int, int]:
        """Verdict and the function's own reason."""
        found = self.sees(packet(source, protocol, body))
        return found.verdict, found.reason

    def sees(self, frame: bytes, note: int = 0) -> Outcome:
        """What it makes of a frame that is told to it as the platform tells one. `note`: enum handover_flag."""
        handed = layout.struct("handover", magic=constant("HANDOVER_MAGIC"), flags=note)
        return self.trial.run(frame, told_of(frame), handed)

    def listen(self, port: int, target: int) -> None:
        """Load balancers at the endpoint's addresses take a port."""
        for address in TARGETS.values():
            key = layout.struct(
                "listener_key", vni=VNI, addr=to_mapped(ip_address(address).packed), port_be=htons(port), protocol=6
            )
            value = layout.struct("listener", target_be=htons(target))
            done = lib().bpf_map_update_elem(self.trial.maps["listeners"], key, value, 0)
            libbpf.check(done, "write listeners")

    # ---- the oracle's state, in its maps

    def tell(self, state: State) -> None:
        one, other = state.syns, state.reflected
        self.put(
            "states",
            NUMBER,
            values.STATE.pack(one.at, one.until, other.at, other.until, one.since, other.since),
        )
        for (row, place), bucket in state.sources.items():
            self.put("sources", _source(row, place), struct.pack("=2Q", bucket.packets_at, bucket.bytes_at))
        for slot, bucket in state.targets.items():
            self.put("targets", slot, struct.pack("=2Q", bucket.packets_at, bucket.bytes_at))
        for name in ("questions", "verified", "trusted"):
            for place, value in getattr(state, name).items():
                self.put(name, NUMBER * 4096 + place, struct.pack("=Q", value))

    def told(self, places: State) -> State:
        """What is in its maps now, at the places that a state has."""
        words = values.STATE.unpack(self.read("states", NUMBER, values.STATE.size))
        return State(
            Threshold(words[0], words[1], words[4]),
            Threshold(words[2], words[3], words[5]),
            {at: Bucket(*struct.unpack("=2Q", self.read("sources", _source(*at), 16))) for at in places.sources},
            {slot: Bucket(*struct.unpack("=2Q", self.read("targets", slot, 16))) for slot in places.targets},
            self._words("questions", places.questions),
            self._words("verified", places.verified),
            self._words("trusted", places.trusted),
        )

    def forget(self, places: State) -> None:
        """Nothing is where the state has something."""
        self.tell(
            State(
                sources={at: Bucket() for at in places.sources},
                targets={slot: Bucket() for slot in places.targets},
                questions=dict.fromkeys(places.questions, 0),
                verified=dict.fromkeys(places.verified, 0),
                trusted=dict.fromkeys(places.trusted, 0),
            )
        )

    def _words(self, name: str, places: Iterable[int]) -> dict[int, int]:
        rows = {place: self.read(name, NUMBER * 4096 + place, 8) for place in places}
        return {place: int.from_bytes(data, "little") for place, data in rows.items()}


def _source(row: int, place: int) -> int:
    return NUMBER * SKETCH * 2 + row * SKETCH + place


def told_of(frame: bytes) -> dict[str, Any]:
    """Fields of struct function_frame, as the platform reads an inner frame."""
    family = 4 if frame[12:14] == b"\x08\x00" else 6
    fragment = family == 4 and int.from_bytes(frame[20:22], "big") & 0x1FFF
    addresses = (frame[26:30], frame[30:34]) if family == 4 else (frame[22:38], frame[38:54])
    return {
        "verdict": 2, "vni": VNI, "endpoint": ENDPOINT, "ifindex": 1, "network_at": 14, "length": len(frame),
        "transport_at": 0 if fragment else 14 + (frame[14] & 15) * 4 if family == 4 else 54,
        "family": family, "protocol": frame[23] if family == 4 else frame[20], "packets": 1,
        "src": to_mapped(addresses[0]), "dst": to_mapped(addresses[1]),
    }  # fmt: skip


def packet(source: str, protocol: int, body: bytes, *, fragment: int = 0, target: str = "") -> bytes:
    """To the endpoint's address of its family, or to `target`. `fragment`: IPv4's flags and offset."""
    one, other = ip_address(source), ip_address(target or TARGETS[ip_address(source).version])
    if one.version == 4:
        head = struct.pack(
            "!BBHHHBBH4s4s", 0x45, 0, 20 + len(body), 1, fragment, 63, protocol, 0x1234, one.packed, other.packed
        )
        return bytes(range(12)) + b"\x08\x00" + head + body
    head = struct.pack("!IHBB16s16s", 6 << 28, len(body), protocol, 63, one.packed, other.packed)
    return bytes(range(12)) + b"\x86\xdd" + head + body

# SPDX-License-Identifier: Apache-2.0
"""The function ddos-protection and its twin in the oracle: drawn protections, state and packets, octet by octet."""

from __future__ import annotations

import struct
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address
from random import Random
from typing import Any

import pytest

from mizar.kernel.function_trial import Outcome
from mizar.model.addresses import to_mapped
from mizar.oracle.checksum import checksum, ones_sum
from mizar.oracle.protection import Judged, Protection
from mizar.oracle.protection_cookies import Connection
from mizar.oracle.protection_state import SKETCH, Bucket, State, Threshold, hash_of
from mizar.transit import ddos_values as values
from tests.dataplane.ddos_loaded import DROP, ENDPOINT, TARGETS, VNI, Loaded, packet, told_of

pytestmark = pytest.mark.root
REASONS = {
    1: "SOURCE_BLOCKED", 2: "SOURCE_OVER_LIMIT", 3: "TARGET_OVER_LIMIT", 4: "NO_SUCH_CONNECTION", 5: "REFLECTED",
    6: "SYN_MALFORMED",
}  # fmt: skip
SOURCES = ("10.0.2.2", "fd00::2")
PORTS = (53, 123)
SYN, ACK = 2, 16
S, MS = 10**9, 10**6
COARSE = 6
"""CLOCK_MONOTONIC_COARSE (linux/time.h), which bpf_ktime_get_coarse_ns() reads."""


@dataclass
class Told:
    """What the endpoint's kernel says: read off the function's answers. `made_for`: the last SYN that was answered."""

    answers: dict[Connection, int] = field(default_factory=dict)
    now: tuple[int, int] | None = None
    made_for: bytes = b""

    def cookie(self, segment: bytes) -> tuple[int, int] | None:
        self.made_for = segment
        return self.now

    def heard(self, frame: bytes) -> None:
        """That it has answered this one."""
        assert self.now is not None
        self.answers[connection(frame, self.made_for)] = self.now[1]

    def has(self, _connection: Connection) -> bool:
        return False

    def made(self, connection: Connection, acknowledged: int) -> bool:
        return self.answers.get(connection) == (acknowledged - 1) & 0xFFFFFFFF


def connection(frame: bytes, segment: bytes) -> Connection:
    told = told_of(frame)
    return Connection(told["src"], told["dst"], *struct.unpack_from("!HH", segment))


def cookie(answer: bytes, length: int) -> tuple[int, int]:
    """Size of segments and sequence number of an answer whose SYN had a header of so many bytes."""
    header = answer[-length:]
    return int.from_bytes(header[22:24], "big") if length > 20 else 0, int.from_bytes(header[4:8], "big")


def tcp(source: str, port: int, number: int, acknowledged: int, flags: int, options: bytes, sum_: str) -> bytes:
    """A TCP header with its checksum: right, wrong, or `partial`, which its interface would complete."""
    length = 20 + len(options)
    head = struct.pack("!HHIIBBHHH", port, 80, number, acknowledged, length // 4 << 4, flags, 1024, 0, 0) + options
    pseudo = ip_address(source).packed + ip_address(TARGETS[ip_address(source).version]).packed
    pseudo += struct.pack("!II", length, 6)
    found = {"right": checksum(head + pseudo), "partial": ones_sum(pseudo), "wrong": 0x1111}[sum_]
    return head[:16] + struct.pack("!H", found) + head[18:]


def behind(source: str, protocol: int, body: bytes, headers: int) -> bytes:
    """Behind so many extension headers, where the family has them; the last is a fragment's, for an odd number."""
    if ":" not in source:
        return packet(source, protocol, body)
    for number in range(headers):
        first = number == 0 and headers % 2
        body = struct.pack("!BBHI", protocol, 0, 0, 0) + body
        protocol = 44 if first else 60
    return packet(source, protocol, body)


def frames(draw: Random) -> tuple[str, bytes]:
    source = draw.choice(SOURCES)
    kind = draw.choice(["syn", "syn", "ack", "back", "back", "udp", "udp", "tail"])
    if kind == "tail":
        if ":" in source:
            return kind, packet(source, 44, struct.pack("!BBHI", 17, 0, 8, 1) + bytes(16))
        return kind, packet(source, 17, bytes(16), fragment=2)
    headers = draw.choice([0, 0, 0, 1, 2, 4, 5])
    if kind == "udp":
        body = struct.pack("!HHHH", draw.choice([*PORTS, 124]), 9, 8, 0) + bytes(draw.randint(0, 900))
        return kind, behind(source, 17, body[: draw.choice([len(body), len(body), 4])], headers)
    flags = draw.choice([SYN, SYN, SYN, SYN | ACK, SYN | 1]) if kind == "syn" else ACK
    options = draw.choice([b"", b"\x02\x04\x05\xb4", b"\x02\x04\x02\x00\x01\x03\x03\x07", bytes(40)])
    sum_ = draw.choice(["right", "right", "partial", "wrong"])
    made = tcp(source, draw.randint(4000, 4001), 77, 5, flags, options if kind == "syn" else b"", sum_)
    made += draw.choice([b"", b"", b"", b"data"])
    return kind, behind(source, 6, made, headers)


def states(draw: Random) -> State:
    """Times from now on."""
    ahead, until = [-S, 0, 50 * MS, 150 * MS, 500 * MS, 60 * S], [-S, 5 * S, 40 * S]
    one, other = (Threshold(draw.choice(ahead), draw.choice(until)) for _ in range(2))
    made = State(one, other)
    made.targets[ENDPOINT] = Bucket(draw.choice([-S, 0, 150 * MS]), draw.choice(ahead))
    return made


def rules(draw: Random) -> dict[str, Any]:
    rates, modes = [0, 0, 0, 0, 6, 10**6], [0, 1, 1, 3]
    return {
        "flags": draw.choice(modes) | draw.choice(modes) << 2, "ports": PORTS, "syns": draw.choice([1, 6, 10**6]),
        "reflected": draw.choice([1, 6, 10**6]), "source_packets": draw.choice(rates),
        "target_packets": draw.choice(rates), "source_bytes": draw.choice(rates) * 1000,
        "target_bytes": draw.choice(rates) * 1000, "burst_ms": draw.choice([10, 200, 10_000, 10_000]),
        "hold_s": draw.choice([1, 30]),
    }  # fmt: skip


def at(base: int, state: State) -> State:
    """The same times from `base` on."""
    for one in (state.syns, state.reflected):
        one.at, one.until = base + one.at, base + one.until
    for bucket in state.targets.values():
        bucket.packets_at, bucket.bytes_at = base + bucket.packets_at, base + bucket.bytes_at
    return state


def header_of(frame: bytes) -> int:
    """Bytes of the TCP header of a SYN, behind which there is nothing in a frame that is answered."""
    return next(
        size for size in (20, 24, 28, 60) if frame[-size + 12] >> 4 == size // 4 and frame[-size + 2 :][:2] == b"\0P"
    )


def with_cookie(drawn: bytes, kernel: Told) -> bytes:
    """What brings back the last answer's cookie, if there was an answer."""
    if not kernel.answers:
        return drawn
    last, number = next(reversed(kernel.answers.items()))
    source = next(one for one in SOURCES if to_mapped(ip_address(one).packed) == last.source)
    return packet(source, 6, tcp(source, last.source_port, 78, number + 1 & 0xFFFFFFFF, ACK, b"", "right"))


def seen(loaded: Loaded, state: State, frame: bytes) -> tuple[int, Outcome]:
    """What the function does within one tick of the kernel's coarse clock, and which: another try behind each that a
    tick has fallen into."""
    hashed = hash_of(loaded.rule_told.seed, told_of(frame)["src"])
    for place in ((0, hashed % SKETCH), (1, (hashed >> 32) % SKETCH)):
        state.sources.setdefault(place, Bucket())
    for _ in range(1000):
        loaded.tell(state)
        before = time.clock_gettime_ns(COARSE)
        found = loaded.sees(frame)
        if time.clock_gettime_ns(COARSE) == before:
            return before, found
    raise AssertionError("no run of the function was within a tick")


def judged(found: Outcome) -> Judged:
    if found.verdict == DROP:
        return Judged(REASONS[found.reason])
    return Judged(answer=found.frame) if found.left["answers"] else Judged()


@pytest.fixture(scope="module", params=["xdp", "tc"])
def loaded(request: pytest.FixtureRequest) -> Iterator[Loaded]:
    made = Loaded(request.param)
    made.put("kernels", ENDPOINT, values.KERNEL.pack(4000, 1))
    yield made
    made.trial.close()


def test_the_twin_judges_as_the_function_does(loaded: Loaded) -> None:
    """Verdict, reason, the whole answer, and all that is remembered, packet after packet. XDP's test run has no note
    of a delivery, so nothing can be answered there: as for a member by the address of its scaled endpoint."""
    met: Counter[str] = Counter()

    for number in range(150):
        draw = Random(number)
        loaded.rule(**rules(draw))
        kernel = Told()
        state = at(time.clock_gettime_ns(COARSE), states(draw))
        twin = Protection(loaded.rule_told, ENDPOINT, kernel if loaded.trial.hook == "tc" else None, state)
        for _ in range(6):
            kind, drawn = frames(draw)
            frame = with_cookie(drawn, kernel) if kind == "back" else drawn
            now, found = seen(loaded, twin.state, frame)
            kernel.now = cookie(found.frame, header_of(frame)) if found.left["answers"] else None
            said = twin.judge(frame, now, VNI)
            assert said == judged(found), (number, kind, frame.hex())
            if said.answer is None:
                assert found.frame == frame
            else:
                kernel.heard(frame)
            assert loaded.told(twin.state) == twin.state, (number, kind)
            met[said.reason or ("answered" if said.answer else kind)] += 1
        met.update(one for one in twin.counted if one == "verified")
        loaded.forget(twin.state)

    wanted = {"SOURCE_OVER_LIMIT", "TARGET_OVER_LIMIT", "REFLECTED", "tail", "udp"}
    assert wanted <= met.keys()
    if loaded.trial.hook == "tc":
        assert {"answered", "SYN_MALFORMED", "NO_SUCH_CONNECTION", "verified"} <= met.keys()


def test_the_twin_remembers_the_same_questions() -> None:
    """What an endpoint asks at listed ports, and nothing else of what it sends; the answers then pass for both."""
    asking = Loaded("tc", "ENDPOINT_EGRESS")
    try:
        asking.rule(flags=values.REFLECTED | values.REFLECTED_ALWAYS, ports=PORTS)
        for source, port, remembered in (("10.0.2.2", 53, 2), ("fd00::2", 123, 2), ("10.0.2.2", 124, 0)):
            twin = Protection(asking.rule_told, ENDPOINT)
            frame = packet(source, 17, struct.pack("!HHHH", 9, port, 8, 0))
            for _ in range(1000):
                before = time.clock_gettime_ns(COARSE)
                asking.sees(frame)
                if time.clock_gettime_ns(COARSE) >> 30 == before >> 30:
                    break
            twin.sent(frame, before)
            assert len(twin.state.questions) == remembered
            assert asking.told(twin.state) == twin.state
    finally:
        asking.trial.close()


def test_the_twin_knows_answers_to_questions(loaded: Loaded) -> None:
    """What the endpoint has asked for passes, fragments included, for eight seconds; what it has not does not."""
    loaded.rule(flags=values.REFLECTED | values.REFLECTED_ALWAYS, ports=PORTS)
    source, target = "10.0.2.2", TARGETS[4]
    question = bytearray(packet(source, 17, struct.pack("!HHHH", 9, 53, 8, 0)))
    question[26:34] = ip_address(target).packed + ip_address(source).packed
    answer = packet(source, 17, struct.pack("!HHHH", 53, 9, 8, 0))
    others = (
        packet(source, 17, struct.pack("!HHHH", 53, 8, 8, 0)),
        packet("10.0.2.3", 17, struct.pack("!4H", 53, 9, 8, 0)),
    )
    twin = Protection(loaded.rule_told, ENDPOINT)
    now = time.clock_gettime_ns(COARSE)
    for ago_s, passes in ((0, True), (30, False)):
        loaded.forget(twin.state)
        twin.state = State()
        twin.sent(bytes(question), now - ago_s * S)
        for frame in (answer, packet(source, 17, bytes(8), fragment=2), *others):
            at_, found = seen(loaded, twin.state, frame)
            assert twin.judge(frame, at_, VNI) == judged(found)
            assert (judged(found) == Judged()) == (passes and frame not in others)
    loaded.forget(twin.state)

# SPDX-License-Identifier: Apache-2.0
"""The function ddos-protection and its twin in the oracle: drawn protections, state and packets, octet by octet."""

from __future__ import annotations

import itertools
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
from mizar.oracle.protection_cookies import Connection, Member
from mizar.oracle.protection_state import SKETCH, Bucket, State, Threshold, hash_of
from mizar.transit import ddos_values as values
from tests.dataplane.ddos_loaded import DROP, ENDPOINT, NUMBER, TARGETS, VNI, Loaded, packet, told_of

pytestmark = pytest.mark.root
REASONS = {
    1: "SOURCE_BLOCKED", 2: "SOURCE_OVER_LIMIT", 3: "TARGET_OVER_LIMIT", 4: "NO_SUCH_CONNECTION", 5: "REFLECTED",
    6: "SYN_MALFORMED",
}  # fmt: skip
SOURCES = ("10.0.2.2", "fd00::2")
PORTS = (53, 123)
SYN, RST, ACK = 2, 4, 16
OWN, MEMBER, LISTENED = 0, 1, 3
"""By whose address: enum handover_flag."""
MEMBERS = ("10.0.1.9", "fd00:10:0:1::9")
S, MS = 10**9, 10**6
COARSE = 6
"""CLOCK_MONOTONIC_COARSE (linux/time.h), which bpf_ktime_get_coarse_ns() reads."""


@dataclass
class Told:
    """What the endpoint's kernel says: read off the function's answers. `made_for`: the last SYN that was answered."""

    answers: dict[Connection, tuple[int, int]] = field(default_factory=dict)
    """The number of the SYN, and that of the answer."""
    now: tuple[int, int] | None = None
    made_for: tuple[Connection, int] | None = None

    def cookie(self, connection: Connection, segment: bytes) -> tuple[int, int] | None:
        self.made_for = connection, int.from_bytes(segment[4:8], "big")
        return self.now

    def heard(self) -> None:
        """That it has answered the last one."""
        assert self.now is not None
        assert self.made_for is not None
        made_for, number = self.made_for
        self.answers[made_for] = number, self.now[1]

    def has(self, _connection: Connection) -> bool:
        return False

    def made(self, connection: Connection, began: int, acknowledged: int) -> bool:
        return self.answers.get(connection) == (began, (acknowledged - 1) & 0xFFFFFFFF)


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
    """What brings back the last answer's cookie, if there was an answer; or refuses it, as who was challenged."""
    if not kernel.answers:
        return drawn
    last, (began, number) = next(reversed(kernel.answers.items()))
    source = next(one for one in SOURCES if to_mapped(ip_address(one).packed) == last.source)
    if not began:
        return packet(source, 6, tcp(source, last.source_port, number, 0, RST, b"", "right"))
    return packet(source, 6, tcp(source, last.source_port, 78, number + 1 & 0xFFFFFFFF, ACK, b"", "right"))


def seen(loaded: Loaded, state: State, frame: bytes, note: int = 0) -> tuple[int, Outcome]:
    """What the function does within one tick of the kernel's coarse clock, and which: another try behind each that a
    tick has fallen into."""
    hashed = hash_of(loaded.rule_told.seed, told_of(frame)["src"])
    for place in ((0, hashed % SKETCH), (1, (hashed >> 32) % SKETCH)):
        state.sources.setdefault(place, Bucket())
    for _ in range(1000):
        loaded.tell(state)
        before = time.clock_gettime_ns(COARSE)
        found = loaded.sees(frame, note)
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
    made.listen(80, 8080)
    yield made
    made.trial.close()


def test_the_twin_judges_as_the_function_does(loaded: Loaded) -> None:
    """Verdict, reason, the whole answer, and all that is remembered, packet after packet: of endpoints whose kernel is
    asked, by their own address and by that of a service, which tc does not see, and of those that have none."""
    met: Counter[str] = Counter()
    packed = [ip_address(one).packed for one in MEMBERS]

    for number in range(150):
        draw = Random(number)
        loaded.rule(**rules(draw))
        asks, note = draw.random() < 0.7, draw.choice([OWN, MEMBER, LISTENED]) if loaded.trial.hook == "xdp" else OWN
        loaded.put("kernels", ENDPOINT, values.kernel(4000 * asks, 1, packed))
        member = Member(tuple(map(to_mapped, packed)), {80: 8080} if note == LISTENED else None) if note else None
        kernel = Told()
        state = at(time.clock_gettime_ns(COARSE), states(draw))
        twin = Protection(loaded.rule_told, ENDPOINT, kernel, asks, state)
        for _ in range(6):
            kind, drawn = frames(draw)
            frame = with_cookie(drawn, kernel) if kind == "back" else drawn
            now, found = seen(loaded, twin.state, frame, note)
            kernel.now = cookie(found.frame, header_of(frame)) if found.left["answers"] else None
            said = twin.judge(frame, now, VNI, member=member)
            assert said == judged(found), (number, kind, frame.hex())
            if said.answer is None:
                assert found.frame == frame
            else:
                kernel.heard()
            assert loaded.told(twin.state) == twin.state, (number, kind)
            met[said.reason or ("answered" if said.answer else kind)] += 1
            met["trusted"] += bool(twin.state.trusted)
        met.update(one for one in twin.counted if one == "verified")
        loaded.forget(twin.state)

    wanted = {"SOURCE_OVER_LIMIT", "TARGET_OVER_LIMIT", "REFLECTED", "tail", "udp"}
    wanted |= {"answered", "SYN_MALFORMED", "NO_SUCH_CONNECTION", "verified", "trusted"}
    assert wanted <= {name for name, times in met.items() if times}


def test_the_cookie_of_a_service_is_the_members() -> None:
    """What answers a SYN for a service's address is believed by the member's kernel, at its own address and port: of
    both families, and of a load balancer's port. At the service's it is not."""
    outside, inside = Loaded("xdp"), Loaded("tc")
    try:
        outside.listen(80, 8080)
        for loaded in (outside, inside):
            loaded.rule(flags=values.COOKIES | values.COOKIES_ALWAYS)
            loaded.put("kernels", ENDPOINT, values.kernel(4000, 1, [ip_address(one).packed for one in MEMBERS]))
        for source, own in zip(SOURCES, MEMBERS, strict=True):
            for note, port, believed in ((MEMBER, 80, True), (LISTENED, 8080, True), (LISTENED, 80, False)):
                answered = outside.sees(packet(source, 6, tcp(source, 4000, 77, 0, SYN, b"", "right")), note)
                assert judged(answered).answer is not None
                _, made = cookie(answered.frame, 20)
                back = struct.pack("!HHIIBBHHH", 4000, port, 78, made + 1 & 0xFFFFFFFF, 5 << 4, ACK, 1024, 0, 0)
                frame = packet(source, 6, back, target=own)
                assert (judged(inside.sees(frame)) == Judged()) == believed
                inside.forget(State(verified=dict.fromkeys(range(4096), 0)))
    finally:
        outside.trial.close()
        inside.trial.close()


def test_a_source_is_let_in_that_meets_the_challenge() -> None:
    """It refuses an answer that acknowledges another number than its own, or acknowledges one that does not, as each
    source gets it a quarter of the time. No other is let in: another number proves nothing, nor does one source for
    another."""
    loaded, met = Loaded("tc"), set()
    try:
        loaded.rule(flags=values.COOKIES | values.COOKIES_ALWAYS)

        def asks(client: str) -> bytes | None:
            return judged(loaded.sees(packet(client, 6, tcp(client, 4000, 77, 0, SYN, b"", "right")))).answer

        for number, net in itertools.product(range(3, 200), (("10.0.2.", ""), ("fd00:0:0:", "::9"))):
            source = f"{net[0]}{number}{net[1]}"
            made = asks(source)
            assert made is not None
            cookie_, sound = int.from_bytes(made[-16:-12], "big"), int.from_bytes(made[-12:-8], "big") == 78
            assert sound or made[-16:-12] == made[-12:-8]
            for proof, passes in ((cookie_ ^ 1 << 16, False), (cookie_, True)):
                numbers = (78, proof + 1 & 0xFFFFFFFF, ACK) if sound else (proof, 0, RST)
                assert judged(loaded.sees(packet(source, 6, tcp(source, 4000, *numbers, b"", "right")))) == Judged()
                assert (asks(source) is None) == passes
            assert asks(f"{net[0]}2{net[1]}") is not None
            assert ":" not in source or asks(f"{net[0]}{number}:8::8") is None
            met.add((net, sound))
            if len(met) == 4:
                break
        assert len(met) == 4
    finally:
        loaded.trial.close()


@pytest.mark.parametrize("source", SOURCES)
def test_a_cookie_of_a_challenge_is_nothing_else(source: str) -> None:
    """All kernels of a machine make cookies by one secret, for whoever has an endpoint there. Neither is a challenge's
    one of those, by which a connection would be let in, nor one of those, or another protection's, a challenge's."""
    kernel = values.kernel(4000, 1, [ip_address(one).packed for one in MEMBERS])
    protected, other = Loaded("tc"), Loaded("tc")
    try:
        for seed, loaded in enumerate((protected, other), 1):
            loaded.rule(flags=values.COOKIES | values.COOKIES_ALWAYS)
            loaded.put("protections", NUMBER, seed.to_bytes(8, "little") + loaded.read("protections", NUMBER, 80)[8:])

        def asks(loaded: Loaded, number: int) -> tuple[int, int] | None:
            answer = judged(loaded.sees(packet(source, 6, tcp(source, 4000, number, 0, SYN, b"", "right")))).answer
            return None if answer is None else struct.unpack("!II", answer[-16:-8])

        def proves(loaded: Loaded, number: int, acknowledged: int, flags: int) -> Judged:
            return judged(loaded.sees(packet(source, 6, tcp(source, 4000, number, acknowledged, flags, b"", "right"))))

        for asked in (other, protected):
            for its_own, number in ((True, 0), (True, 77), (False, 0), (False, 77)):
                asked.put("kernels", ENDPOINT, kernel if its_own else bytes(len(kernel)))
                made = asks(asked, number)
                assert made is not None
                asked.put("kernels", ENDPOINT, bytes(len(kernel)))
                if its_own or asked is other:
                    proves(protected, number + 1, made[0] + 1 & 0xFFFFFFFF, ACK)
                    proves(protected, made[0], 0, RST)
                    assert asks(protected, 78) is not None
                else:
                    protected.put("kernels", ENDPOINT, kernel)
                    told = proves(protected, number + 1, made[0] + 1 & 0xFFFFFFFF, ACK)
                    assert told == Judged("NO_SUCH_CONNECTION")
    finally:
        protected.trial.close()
        other.trial.close()


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

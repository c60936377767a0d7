# SPDX-License-Identifier: Apache-2.0
"""The twin of the function ddos-protection: what it makes of a packet to or from an endpoint, by told state and clock.

Lists alone are a twin for mizar.oracle.functions.TWINS (`of_lists`); a whole protection (`of_protection`) is one that
remembers. Called by tests, and by traces in the manager, which know the state that droplets told. Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from mizar.model.addresses import to_mapped
from mizar.model.prefix_list import ALLOWED, BLOCKED, UNLISTED, PrefixList
from mizar.oracle.functions import Decision, Says, Seen, Twin
from mizar.oracle.protection_cookies import ACK, RST, SYN, Connection, Kernel, Member, answer, opens
from mizar.oracle.protection_state import VERIFIED, Rule, State, hash_of, mixed, words

NAME = "ddos-protection"
_PLACES = {b"\x08\x00": (4, 26, 4), b"\x86\xdd": (6, 22, 16)}
"""By Ethernet type: the family, and where the source's address is, with its bytes."""
_NETWORK, _TCP, _UDP, _FRAGMENT = 14, 6, 17, 44
_EXTENSIONS, _MOST_EXTENSIONS = (0, 43, _FRAGMENT, 60), 4


def verdict(block: PrefixList, allow: PrefixList, frame: bytes) -> int:
    """What the lists say of an inner frame: ALLOWED, BLOCKED or UNLISTED."""
    family, at, size = _PLACES.get(frame[12:14], (0, 0, 0))
    address = frame[at : at + size]
    if not family or len(address) < size:
        return UNLISTED
    number = int.from_bytes(address, "big")
    if allow.holds(family, number):
        return ALLOWED
    return BLOCKED if block.holds(family, number) else UNLISTED


def of_lists(block: PrefixList, allow: PrefixList) -> Twin:
    """Whether a frame to an endpoint with these lists is dropped."""

    def drops(seen: Seen) -> bool:
        return seen.stage == "ENDPOINT_INGRESS" and verdict(block, allow, seen.inner) == BLOCKED

    return drops


@dataclass(frozen=True, slots=True)
class Judged:
    """What becomes of a packet: it goes on, is dropped for a reason, or the endpoint's `answer` goes back."""

    reason: str = ""
    answer: bytes | None = None


PASSES = Judged()


@dataclass(slots=True)
class Protection:
    """Of one endpoint (its slot on its droplet). `kernel`: None where nothing can be answered. `asks`: whether it can
    be asked about its connections; else it only makes the cookies of challenges."""

    rule: Rule
    endpoint: int = 0
    kernel: Kernel | None = None
    asks: bool = True
    state: State = field(default_factory=State)
    counted: Counter[str] = field(default_factory=Counter)

    def sent(self, frame: bytes, now: int) -> None:
        """The endpoint has sent a frame: a question, perhaps."""
        place = _Place.of(frame)
        if place is None or self.rule.reflection == "off" or place.protocol != _UDP or not place.at:
            return
        ports = frame[place.at : place.at + 4]
        if len(frame) < place.at + 8 or int.from_bytes(ports[2:], "big") not in self.rule.ports:
            return
        for asked in (ports[2:] + ports[:2], bytes(4)):
            self.state.ask(self.rule, self.endpoint, place.destination, asked, now)

    def judge(
        self, frame: bytes, now: int, vni: int = 0, packets: int = 1, size: int = 0, member: Member | None = None
    ) -> Judged:
        """What is for the endpoint. `size`: bytes of the frame as it arrived, where that was another one. `member`:
        who the endpoint is, for what bears the address of a service."""
        place, rule, size = _Place.of(frame), self.rule, size or len(frame)
        if place is None:
            return PASSES
        listed = verdict(rule.block, rule.allow, frame)
        found = PASSES
        if listed == ALLOWED:
            found = PASSES
        elif listed == BLOCKED:
            found = Judged("SOURCE_BLOCKED")
        else:
            if rule.cookies != "off" and place.protocol == _TCP:
                found = self._segment(frame, place, now, vni, packets, member)
            if rule.reflection != "off" and place.protocol == _UDP:
                found = self._datagram(frame, place, now)
            if found == PASSES:
                found = self._limited(place, now, packets, size)
        self._count("seen", packets)
        self._count(found.reason or ("synsAnswered" if found.answer else ""), packets)
        return found

    def _limited(self, place: _Place, now: int, packets: int, size: int) -> Judged:
        rule, state = self.rule, self.state
        limited = rule.source_packet_ns or rule.source_kib_ns
        if limited and state.source_over(rule, place.source, now, packets, size):
            return Judged("SOURCE_OVER_LIMIT")
        limited = rule.target_packet_ns or rule.target_kib_ns
        if limited and state.target_over(rule, self.endpoint, now, packets, size):
            return Judged("TARGET_OVER_LIMIT")
        return PASSES

    def _datagram(self, frame: bytes, place: _Place, now: int) -> Judged:
        rule, state = self.rule, self.state
        ports = frame[place.at : place.at + 4] if place.at else bytes(4)
        if place.at and (len(frame) < place.at + 8 or int.from_bytes(ports[:2], "big") not in rule.ports):
            return PASSES
        if state.was_asked(rule, self.endpoint, place.source, ports, now):
            return PASSES
        if rule.reflection != "always" and not state.reflected.engages(now, rule.reflected_ns, rule.hold_ns):
            return PASSES
        return Judged("REFLECTED")

    def _segment(self, frame: bytes, place: _Place, now: int, vni: int, packets: int, member: Member | None) -> Judged:
        rule, state, kernel = self.rule, self.state, self.kernel
        segment = frame[place.at : place.at + 20]
        if not place.at or len(segment) < 20 or kernel is None:
            return PASSES
        begins = opens(segment)
        if begins:
            self._count("syns", packets)
            engaged = state.syns.engages(now, rule.syn_ns, rule.hold_ns)
        else:
            engaged = state.syns.until > now
        if not engaged and rule.cookies != "always":
            return PASSES
        ports = int.from_bytes(segment[:2], "big"), int.from_bytes(segment[2:4], "big")
        outside = Connection(place.source, place.destination, *ports)
        if not self.asks:
            return self._challenge(frame, place, outside, now, vni, packets)
        flow = mixed(mixed(hash_of(hash_of(rule.seed, place.source), place.destination), words(segment)), vni) | 1
        at = (flow >> 32) % VERIFIED
        inside = outside if member is None else member.inside(outside)
        if inside is None or (not begins and state.verified.get(at) == flow):
            return PASSES
        if begins:
            made = answer(frame, _NETWORK, place.at, kernel, inside, challenges=False)
            return Judged(answer=made) if made is not None else Judged("SYN_MALFORMED")
        bears = segment[13] & (SYN | ACK | RST) == ACK
        if kernel.has(inside):
            state.verified[at] = flow
        elif bears and kernel.made(inside, *_brings(segment)):
            self._count("verified", packets)
            state.verified[at] = flow
        else:
            return Judged("NO_SUCH_CONNECTION")
        return PASSES

    def _challenge(self, frame: bytes, place: _Place, outside: Connection, now: int, vni: int, packets: int) -> Judged:
        """Where no kernel would believe a cookie: a source has to refuse a wrong answer first, with what it says."""
        rule, state, kernel, segment = self.rule, self.state, self.kernel, frame[place.at : place.at + 20]
        assert kernel is not None
        if state.trusts(rule, place.source, vni, now):
            return PASSES
        if not opens(segment):
            reset = (int.from_bytes(segment[4:8], "big") + 1) & 0xFFFFFFFF
            proof = (0, reset) if segment[13] & RST else _brings(segment)
            if segment[13] & (RST | ACK) and not segment[13] & SYN and kernel.made(outside, *proof):
                state.trust(rule, place.source, vni, now)
                self._count("verified", packets)
            return PASSES
        challenges = not state.is_sound(rule, place.source, vni, now)
        made = answer(frame, _NETWORK, place.at, kernel, outside, challenges=challenges)
        return Judged(answer=made) if made is not None else Judged("SYN_MALFORMED")

    def _count(self, what: str, packets: int) -> None:
        if what:
            self.counted[what] += packets


def _brings(segment: bytes) -> tuple[int, int]:
    """The number of the SYN that a segment follows, and what it acknowledges."""
    return (int.from_bytes(segment[4:8], "big") - 1) & 0xFFFFFFFF, int.from_bytes(segment[8:12], "big")


def of_protection(found: Protection, clock: Callable[[], int]) -> Twin:
    """What a protection does with a frame; it learns from what it sees. An answer leaves by the endpoint's agent."""

    def says(seen: Seen) -> Says:
        if seen.stage == "ENDPOINT_EGRESS":
            found.sent(seen.inner, clock())
        if seen.stage != "ENDPOINT_INGRESS":
            return Says()
        judged = found.judge(seen.inner, clock(), seen.vni)
        if judged.answer is not None:
            return Says(Decision.REDIRECT, judged.answer)
        return Says(Decision.DROP if judged.reason else Decision.CONTINUE)

    return says


@dataclass(frozen=True, slots=True)
class _Place:
    """Mapped addresses of a frame, and its transport: which, and where, behind extension headers (0: not in it)."""

    source: bytes
    destination: bytes
    protocol: int
    at: int

    @classmethod
    def of(cls, frame: bytes) -> _Place | None:
        ip = frame[_NETWORK:]
        if frame[12:14] == b"\x08\x00" and len(ip) >= 20:
            behind = int.from_bytes(ip[6:8], "big") & 0x1FFF
            at = 0 if behind else _NETWORK + (ip[0] & 15) * 4
            return cls(to_mapped(ip[12:16]), to_mapped(ip[16:20]), ip[9], at)
        if frame[12:14] == b"\x86\xdd" and len(ip) >= 40:
            return cls(ip[8:24], ip[24:40], *_behind(frame, ip[6], _NETWORK + 40))
        return None


def _behind(frame: bytes, protocol: int, at: int) -> tuple[int, int]:
    for _ in range(_MOST_EXTENSIONS):
        if protocol not in _EXTENSIONS:
            return protocol, at
        head = frame[at : at + 8]
        if len(head) < 8:
            break
        if protocol == _FRAGMENT:
            return head[0], 0 if head[2] | head[3] & 0xF8 else at + 8
        protocol, at = head[0], at + 8 + head[1] * 8
    return protocol, 0

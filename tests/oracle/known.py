# SPDX-License-Identifier: Apache-2.0
"""Divergences that are known and not mended yet: the oracle says what the contracts say, the data plane does otherwise.

Each has a test in test_divergences.py, marked as failing, and a name here so that the search goes on behind it. Whoever
mends one takes both away.
"""

from __future__ import annotations

from mizar.oracle.outcome import Outcome, Step, Verdict
from mizar.oracle.tables import Droplet

IPV6, UDP, ICMPV6 = b"\x86\xdd", 17, 58
SOLICITATION = 135
MAPPED = bytes(10) + b"\xff\xff"
NO_ADDRESS = bytes(16)


def divergence(here: Droplet, door: str, frame: bytes, said: Outcome, seen: Outcome) -> str:
    """The name of the known divergence that explains why the two differ, or nothing."""
    if door == "transit" and said.verdict is seen.verdict is Verdict.PASS:
        foreign = frame[30:34] != here.address and not said.reason
        if foreign and seen.reason in ("OUTER_IP_HEADER", "OUTER_TRUNCATED"):
            return "foreign-packet-is-judged"
    answers = said.verdict is seen.verdict is Verdict.SEND and said.step in (Step.ROUTER, None)
    without_df = door == "transit" and frame[20] & 0xC0 != 0x40
    if answers and without_df and without_flags(said.frame) == without_flags(seen.frame):
        return "answer-without-df"
    inner = frame + bytes(80) if door == "agent" else inner_of(frame)
    if inner[12:14] != IPV6:
        return ""
    if door == "agent":
        sender = here.agents.get(1)
        if sender and sender.ipv4 is None and inner[38:54] == NO_ADDRESS:
            return "unspecified-address-is-a-gateway"
    if inner[20] == ICMPV6 and inner[54] == SOLICITATION:
        if inner[22:38] == NO_ADDRESS and said.reason in ("ND_MALFORMED", "UNKNOWN_VNI") and seen.reason in (
            "SPOOFED_ND", "DUPLICATE_ADDRESS_PROBE",
        ):  # fmt: skip
            return "probe-that-is-malformed"
        if door == "transit" and inner[62:74] == MAPPED:
            return "solicitation-for-a-mapped-address"
    return ""


def without_flags(frame: bytes) -> bytes:
    """All but the outer header's flags and checksum."""
    return frame[:20] + frame[22:24] + frame[26:]


def inner_of(frame: bytes) -> bytes:
    """The inner frame of a tunnel packet, filled up so that any field can be looked at."""
    options = (frame[42] & 0x3F) * 4 if len(frame) > 42 and frame[36:38] == b"\x17\xc1" else 0
    return frame[50 + options :] + bytes(80)

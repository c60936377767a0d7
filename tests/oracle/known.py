# SPDX-License-Identifier: Apache-2.0
"""Divergences that are known and not mended yet: the oracle says what the contracts say, the data plane does otherwise.

Each has a test in test_divergences.py, marked as failing, and a name here so that the search goes on behind it. Whoever
mends one takes both away.
"""

from __future__ import annotations

from mizar.oracle.outcome import Outcome, Step, Verdict
from mizar.oracle.tables import Droplet

IPV6, UDP, ICMPV6 = b"\x86\xdd", 17, 58
MAPPED_TARGET = bytes(10) + b"\xff\xff"


def divergence(here: Droplet, door: str, frame: bytes, said: Outcome) -> str:
    """The name of the known divergence that this packet runs into, or nothing."""
    if door == "agent":
        sender = here.agents.get(1)
        if sender and sender.ipv4 is None and frame[12:14] == IPV6 and frame[38:54] == bytes(16):
            return "unspecified-address-is-a-gateway"
        if probe_that_rfc_4861_refuses(frame, said):
            return "probe-with-source-mac"
        return ""
    if len(frame) >= 34 and frame[23] == UDP and frame[30:34] != here.address:
        return "foreign-packet-is-judged"
    if said.verdict is Verdict.SEND and said.step in (Step.ROUTER, None) and frame[20] & 0xC0 != 0x40:
        return "answer-without-df"
    if said.reason in ("ND_UNANSWERED", "UNKNOWN_VNI") and MAPPED_TARGET in frame:
        return "solicitation-for-a-mapped-address"
    start = 50 + (frame[42] & 0x3F) * 4 if len(frame) > 42 and frame[36:38] == b"\x17\xc1" else 50
    if probe_that_rfc_4861_refuses(frame[start:], said):
        return "probe-with-source-mac"
    return ""


def probe_that_rfc_4861_refuses(inner: bytes, said: Outcome) -> bool:
    """A solicitation from the unspecified address that RFC 4861 7.1.1 calls malformed for that reason alone."""
    probe = inner[12:14] == IPV6 and inner[20:21] == bytes([ICMPV6]) and inner[22:38] == bytes(16)
    return probe and said.reason in ("ND_MALFORMED", "UNKNOWN_VNI")

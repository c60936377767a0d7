# SPDX-License-Identifier: Apache-2.0
"""Why a packet is invalid or is not translated, and what operators are told.

The names are those of contracts/gateway_reasons.toml.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from mizar.pipeline.interpreter.connection import Flow


class Reason(StrEnum):
    """One name for each."""

    TCP_WITHOUT_CONNECTION = "TCP_WITHOUT_CONNECTION"
    REPLY_WITHOUT_QUERY = "REPLY_WITHOUT_QUERY"
    ERROR_WITHOUT_CONNECTION = "ERROR_WITHOUT_CONNECTION"
    FRAGMENT_BEFORE_FIRST = "FRAGMENT_BEFORE_FIRST"
    FRAGMENT_WITHOUT_CONNECTION = "FRAGMENT_WITHOUT_CONNECTION"
    NO_RULE = "NO_RULE"
    PORTS_EXHAUSTED = "PORTS_EXHAUSTED"
    QUOTA_EXCEEDED = "QUOTA_EXCEEDED"
    TABLE_FULL = "TABLE_FULL"
    END_TAKEN = "END_TAKEN"


TOLD = (Reason.PORTS_EXHAUSTED, Reason.QUOTA_EXCEEDED, Reason.TABLE_FULL)
"""Reasons that are events as well: an operator has to do something."""


@dataclass(frozen=True, slots=True)
class Event:
    """A connection that was refused for want of room."""

    time_ns: int
    reason: Reason
    tenant: int
    flow: Flow

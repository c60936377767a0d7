# SPDX-License-Identifier: Apache-2.0
"""What the data plane would make of a frame: by the connection that it knows, or by the one that would begin.

Called by the gateway's process, for traces. The tables are read as they are, and new connections are chosen in the
order in which every engine tries them; it changes nothing, so that what it tells holds until somebody else begins one.
"""

from __future__ import annotations

from dataclasses import dataclass

from mizar.gateway.entries import GONE
from mizar.gateway.flow_table import FlowTable
from mizar.gateway.queue_worker import choices
from mizar.kernel.layout import constant
from mizar.model.errors import InvalidError
from mizar.pipeline.interpreter.connection import Flow, Seen, read
from mizar.pipeline.interpreter.nat_reason import Reason
from mizar.pipeline.interpreter.nat_rules import Fixed, destination_of, source_of
from mizar.pipeline.interpreter.translate import translated
from mizar.pipeline.nat import Mapping, NatRules

UNREADABLE = "NO_CONNECTION_PARSED"
"""Of contracts/gateway_reasons.toml, as `reason`."""


@dataclass(frozen=True, slots=True)
class Foretold:
    """`frame`: translated, with the metadata `meta`; empty where it is not, for a `reason`. `known`: the connection is
    there already."""

    frame: bytes = b""
    meta: int = 0
    known: bool = False
    reason: str = ""


def foretell(table: FlowTable, nat: NatRules, frame: bytes, meta: int) -> Foretold:
    """What becomes of a frame that comes with this metadata. Raises InvalidError for what nobody can tell."""
    seen = read(frame, meta)
    if seen is None:
        return Foretold(reason=UNREADABLE)
    if seen.later:
        raise InvalidError("a later fragment follows its first one, which is not in the frame: trace the first one")
    becomes = _known(table, seen.flow)
    if becomes is not None:
        return Foretold(translated(frame, seen, becomes), becomes.meta, known=True)
    found = _begun(table, nat, seen.flow) if seen.may_begin else _without(seen)
    if isinstance(found, Reason):
        return Foretold(reason=found.value)
    return Foretold(translated(frame, seen, found), found.meta)


def _known(table: FlowTable, flow: Flow) -> Flow | None:
    """What a connection makes of a flow, in either direction; None where none lives."""
    found = table.find(flow)
    if found is None or found.flags & GONE or not table.alive(found, table.limits(), table.clock()):
        return None
    return found.becomes if flow == found.original else found.original.reversed()


def _begun(table: FlowTable, nat: NatRules, flow: Flow) -> Flow | Reason:
    source = source_of(nat, flow)
    inner = destination_of(nat, flow) if source is None else None
    if source is None and inner is None:
        return Reason.NO_RULE
    if any(rule.mapping is Mapping.ENDPOINT_INDEPENDENT for rule in nat.masquerade):
        raise InvalidError("new connections cannot be foretold where a mapping is endpoint-independent")
    tenant = table.tables.nat_tenants.get(flow.meta if inner is None else inner.meta)
    if tenant is not None and tenant["quota"] != constant("QUOTA_NONE") and tenant["in_use"] >= tenant["quota"]:
        return Reason.QUOTA_EXCEEDED
    for becomes in choices(nat, flow):
        twin = becomes.reversed()
        if twin != flow and _known(table, twin) is None:
            return becomes
    return Reason.END_TAKEN if source is None or isinstance(source, Fixed) else Reason.PORTS_EXHAUSTED


def _without(seen: Seen) -> Reason:
    """Why a packet that may begin nothing is invalid where there is no connection."""
    if seen.is_error:
        return Reason.ERROR_WITHOUT_CONNECTION
    return Reason.TCP_WITHOUT_CONNECTION if seen.flow.protocol == "tcp" else Reason.REPLY_WITHOUT_QUERY

# SPDX-License-Identifier: Apache-2.0
"""POST /v1/traces: the way of a packet, explained. Registered by mizar.api.app."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address
from typing import Any, Literal

from pydantic import Field

from mizar.api.caller import Caller
from mizar.api.replies import Shape
from mizar.api.turns import Turns
from mizar.manager.manager import Manager
from mizar.model.errors import InvalidError, Problem
from mizar.model.resources import Ref
from mizar.trace.packet import MOST_BYTES, Asked
from mizar.trace.question import Question

MOST_TRACES, TRACES_OF_TENANT = 32, 4
"""At the same time; of tenants, and of administrators. There are 255 marks."""


class EndpointName(Shape):
    """An endpoint."""

    tenant: str = Field(min_length=1, max_length=63)
    name: str = Field(min_length=1, max_length=63)


class TraceRequest(Shape):
    """Which packet."""

    source: EndpointName | str = Field(
        description="An endpoint; or as text an address outside of all VPCs: the destination is a public address."
    )
    destination: EndpointName | str | None = Field(
        default=None, description="An endpoint, or an address as text. Left out: as the frame says."
    )
    protocol: Literal["icmp", "tcp", "udp"] = "icmp"
    source_port: int = Field(default=40000, ge=0, le=65535)
    destination_port: int = Field(default=80, ge=0, le=65535)
    size: int = Field(default=0, ge=0, le=MOST_BYTES, description="Bytes of the IP packet; 0: a short one.")
    frame: str = Field(default="", max_length=2 * 65550, description="Hex: a whole frame that the source is to send.")
    droplet: str = Field(default="", max_length=63, description="From outside: the droplet that takes the packet.")
    live: bool = Field(default=False, description="Send it, and compare what happens with what was predicted.")


def question_of(request: TraceRequest) -> Question:
    """The question that a request asks. Raises InvalidError."""
    if request.droplet and not isinstance(request.source, str):
        raise InvalidError(Problem("only what comes from outside is asked of a droplet", field="droplet"))
    to: Ref | bytes | None
    if isinstance(request.destination, EndpointName):
        to = Ref("Endpoint", request.destination.tenant, request.destination.name)
    else:
        to = _address(request.destination, "destination") if request.destination else None
    try:
        frame = bytes.fromhex(request.frame)
    except ValueError as error:
        raise InvalidError(Problem("expected a frame in hex", field="frame")) from error
    if to is None and not frame:
        raise InvalidError(Problem("expected an endpoint, an address or a frame", field="destination"))
    if frame and len(frame) < 14:
        raise InvalidError(Problem("a frame has at least 14 bytes", field="frame"))
    asked = Asked(request.protocol, request.source_port, request.destination_port, request.size)
    if isinstance(request.source, str):
        source: Ref | bytes = _address(request.source, "source")
    else:
        source = Ref("Endpoint", request.source.tenant, request.source.name)
    return Question(source, to, asked, frame, request.live, request.droplet)


def _address(text: str, field: str) -> bytes:
    try:
        return ip_address(text).packed
    except ValueError as error:
        raise InvalidError(Problem(f"{text!r} is no address", field=field)) from error


def answer(manager: Manager) -> Callable[[TraceRequest, Caller], Any]:
    """What becomes of a request."""
    turns = Turns("traces", MOST_TRACES, TRACES_OF_TENANT)

    async def ask(request: TraceRequest, caller: Caller) -> dict[str, Any]:
        with turns.taken(caller.tenant):
            found = await manager.tracing.trace(question_of(request), caller.sees)
        return found.as_json()

    return ask

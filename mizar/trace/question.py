# SPDX-License-Identifier: Apache-2.0
"""What is asked: which packet, from whom, to whom. Values; made by the API."""

from __future__ import annotations

from dataclasses import dataclass

from mizar.model.resources import Ref
from mizar.trace.packet import Asked


@dataclass(frozen=True, slots=True)
class Question:
    """`source`: an endpoint; or an address outside of all VPCs, and then `destination` is a public address.
    `destination`: an endpoint, or an address. `frame`: of a capture, as the source is to have sent it; else `asked`.

    `live`: a packet is really sent, and what the data plane reports of it is compared with what was predicted.
    """

    source: Ref | bytes
    destination: Ref | bytes | None
    asked: Asked
    frame: bytes = b""
    live: bool = False
    droplet: str = ""
    """Where what comes from outside comes in; empty: at any that attracts the address."""

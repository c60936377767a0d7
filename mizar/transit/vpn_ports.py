# SPDX-License-Identifier: Apache-2.0
"""The UDP ports of a droplet that tenants' tunnels may have: what whoever runs the host leaves to them. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from mizar.model.errors import InvalidError

DEFAULT = "4500-4755,51820-52075"
"""From the port of IKE with ESP in UDP, and from that of WireGuard, 256 each."""
_LEAST, _MOST = 1024, 65535
_OVERLAY = (4789, 6081)


@dataclass(frozen=True, slots=True)
class VpnPorts:
    """Ranges of ports, both ends included. None: the droplet carries no tunnel."""

    ranges: tuple[tuple[int, int], ...]

    def __contains__(self, port: int) -> bool:
        return any(first <= port <= last for first, last in self.ranges)

    def __str__(self) -> str:
        return ",".join(f"{first}-{last}" for first, last in self.ranges) or "none"


def parse(text: str) -> VpnPorts:
    """Such as "4500-4755,51820", or "none". Raises InvalidError."""
    if text == "none":
        return VpnPorts(())
    found = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d{1,5})(?:-(\d{1,5}))?", part.strip())
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if not _LEAST <= first <= last <= _MOST:
            raise InvalidError(
                f"expected ranges of UDP ports from {_LEAST} on, such as {DEFAULT}, or none; found {text!r}"
            )
        if own := [port for port in _OVERLAY if first <= port <= last]:
            raise InvalidError(f"UDP port {own[0]} is the overlay's; expected ranges without it, found {text!r}")
        found.append((first, last))
    return VpnPorts(tuple(found))

# SPDX-License-Identifier: Apache-2.0
"""The kinds of functions that a daemon can run. Owns the list; each kind has a file of its own beside this one."""

from collections.abc import Mapping

from mizar.transit.engines.engine import Kind
from mizar.transit.engines.http_balancer import HTTP
from mizar.transit.engines.nat_gateway import NAT

KINDS: Mapping[str, Kind] = {"http": HTTP, "nat": NAT}
"""By the name of the engine in contracts/transit.proto."""

# SPDX-License-Identifier: Apache-2.0
"""The kinds of functions that a daemon can run. Owns the list; each kind has a file of its own beside this one."""

from collections.abc import Mapping

from mizar.transit.engines.engine import Kind
from mizar.transit.engines.http_balancer import HTTP
from mizar.transit.engines.nat_gateway import NAT
from mizar.transit.engines.public_balancer import PUBLIC

KINDS: Mapping[str, Kind] = {"http": HTTP, "nat": NAT, "public": PUBLIC}
"""By the name of the engine in contracts/transit.proto."""

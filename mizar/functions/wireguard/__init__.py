# SPDX-License-Identifier: Apache-2.0
"""WireGuard: a tunnel as values, how its engine is told of it, and how it is. Called by mizar.transit.vpns."""

# SPDX-License-Identifier: Apache-2.0
"""IPsec: a tunnel as values, and strongSwan, which carries it, over vici. Called by mizar.transit.vpns."""

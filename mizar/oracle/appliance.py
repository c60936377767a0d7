# SPDX-License-Identifier: Apache-2.0
"""The way by an appliance, an endpoint that forwards packets which are neither for it nor from it."""

from __future__ import annotations

from mizar.model.addresses import APPLIANCE_MAC
from mizar.oracle.frames import Inner
from mizar.oracle.locate import Route
from mizar.oracle.outcome import Packet, RefusedError, Step
from mizar.oracle.routes import action_for
from mizar.oracle.tables import Agent, Droplet, in_prefix
from mizar.oracle.trap import is_link_local


def is_by_mac(frame: bytes) -> bool:
    """Whether a frame between droplets is for the appliance with its destination MAC."""
    return frame[6:12] == APPLIANCE_MAC


def find_appliance(here: Droplet, packet: Packet, mac: bytes, *, local: bool) -> Route:
    """By its MAC. Droplets on the way want one that lives here: who sends to an appliance has been told its host."""
    endpoint = here.appliances.get((packet.vni, mac))
    if endpoint is None or (local and not endpoint.ifindex):
        raise RefusedError("APPLIANCE_GONE")
    packet.vpc_known, packet.by_mac = True, True
    packet.step = Step.DELIVER if endpoint.ifindex else Step.BOUNCE
    return Route(packet.step, endpoint.host, endpoint.network, endpoint)


def is_from_itself(inner: Inner, sender: Agent) -> bool:
    """Whether the source is an address that the endpoint was given."""
    return inner.source in [leg.address for leg in (sender.ipv4, sender.ipv6) if leg]


def check_foreign_source(inner: Inner, sender: Agent) -> None:
    """What an appliance sends from another's address: its table of sources has to say that it may."""
    if is_martian(inner.source) or action_for(sender.sources, inner.source) != "vpc":
        raise RefusedError("FOREIGN_SOURCE")


def is_martian(source: bytes) -> bool:
    """What no router forwards from."""
    if len(source) == 4:
        return source[0] in (0, 127) or source[0] >= 224
    return source[0] == 0xFF or is_link_local(source) or in_prefix(source, bytes(16), 127)

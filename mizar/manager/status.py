# SPDX-License-Identifier: Apache-2.0
"""What is told of an object: its phase, and why it is in it.

Called by mizar.manager.manager whenever something about an object changed, and when it is shown. Pure: it looks at the
item and at the links, and must never change either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from mizar.manager.droplet_link import Link
from mizar.manager.registry import Item
from mizar.model.resources import Droplet, Endpoint, Phase, dump

Links = Callable[[str], Link | None]
_NAMED = 5


def phase_of(item: Item, links: Links) -> Phase:
    """Where the object is on its way."""
    if item.deleting:
        return Phase.DELETING
    if _without_target(item) or _without_carrier(item):
        return Phase.FAILED
    if item.troubles:
        return Phase.FAILED  # also while it is tried again: the reason tells which
    if item.waiting or _daemon_away(item, links):
        return Phase.INIT
    return Phase.PROVISIONED


def explain(item: Item, links: Links, children: int) -> tuple[str, str]:
    """Reason (one word) and message (a sentence) for the phase; both empty when there is nothing to explain."""
    if _without_target(item):
        return "NoTarget", "there is no target that grants it; it is out of service until there is one"
    if _without_carrier(item):
        return "NoCarrier", "no droplet with a daemon can carry it"
    for name, trouble in sorted(item.troubles.items(), key=lambda pair: not pair[1].permanent):
        again = "" if trouble.permanent else " (it is tried again)"
        return "Refused" if trouble.permanent else "Retrying", f"droplet {name}: {trouble.message}{again}"
    away = [(name, link) for name in sorted(item.waiting) if (link := links(name)) is None or not link.connected]
    if away:
        more = f", and {len(away) - 1} more" if len(away) > 1 else ""
        name, link = away[0]
        hint = (
            "; if it will never answer again, delete it with force"
            if item.deleting and item.ref.kind == "Droplet"
            else ""
        )
        reason = link.reason if link else "it has no connection"
        return "Unreachable", f"droplet {name} is unreachable{more}: {reason}{hint}"
    if item.waiting:
        return "Waiting", f"waits for droplets {_names(sorted(item.waiting))}"
    if item.deleting and children:
        return "Waiting", f"waits until {children} objects inside of it are gone"
    if _daemon_away(item, links):
        link = links(item.resource.name)
        return "Unreachable", f"the daemon is unreachable: {link.reason if link else 'it has no connection'}"
    return "", ""


def view(
    item: Item,
    links: Links,
    down_by: Callable[[str], list[str]],
    children: Callable[[], int],
    cut_off: Callable[[str], bool] = lambda _: False,
) -> dict[str, Any]:
    """The object as the API shows it. `cut_off`: whether there are droplets that a droplet cannot reach."""
    found = dump(item.resource)
    reason, message = explain(item, links, children() if item.deleting else 0)
    if not reason and (host := _host_of(item)) and cut_off(host):
        reason, message = (
            "CutOff",
            f"droplet {host} shares no address family with others, and none with both joins them",
        )
    news = {"phase": phase_of(item, links).value, "observedGeneration": item.resource.metadata.generation}
    found["status"] = {**item.status(), **news, "reason": reason, "message": message}
    if isinstance(item.resource, Droplet):
        link = links(item.resource.name)
        info = link.info if link is not None else None
        found["status"] |= {
            "connected": info is not None,
            "health": health_of(link, down_by(item.resource.name)),
            "downBy": down_by(item.resource.name),
            "version": info.version if info else "",
            "xdpMode": info.xdp_mode if info else "",
            "limitsMode": info.limits_mode if info else "",
            "limitsReason": info.limits_reason if info else "",
            "vpnPorts": info.vpn_ports if info else "",
            "processLimits": info.process_limits if info else "",
            "uplinkOffloads": info.uplink_offloads if info else "",
        }
    return found


def _without_target(item: Item) -> bool:
    resource = item.resource
    if not isinstance(resource, Endpoint) or resource.spec.type != "proxied" or item.deleting:
        return False
    return not resource.status.target


def _without_carrier(item: Item) -> bool:
    resource = item.resource
    if not isinstance(resource, Endpoint) or resource.spec.type == "scaled":
        return False
    return not resource.status.host and not item.deleting


def health_of(link: Link | None, down_by: list[str]) -> str:
    """ "dead" needs two witnesses: peers that get no answer to their probes, and the manager."""
    if link is None:
        return ""
    if down_by:
        return "down" if link.connected else "dead"
    return "up" if link.connected else "unreachable"


def _host_of(item: Item) -> str:
    """The droplet whose reach the object depends on; empty when there is none."""
    match item.resource:
        case Droplet():
            return item.resource.name
        case Endpoint():
            return item.resource.status.host or item.resource.spec.droplet or ""
    return ""


def count_members(status: dict[str, Any], members: int) -> None:
    """What the status of a group says of its members; that there are none is no fault, and is said."""
    status["members"] = members
    if not members and status["phase"] == Phase.PROVISIONED.value:
        status["reason"], status["message"] = "Empty", "no endpoint of the VPC is in it"


def _daemon_away(item: Item, links: Links) -> bool:
    if not isinstance(item.resource, Droplet) or not item.resource.spec.has_daemon:
        return False
    link = links(item.resource.name)
    return link is None or not link.connected


def _names(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - _NAMED} more" if len(listed) > _NAMED else ""
    return ", ".join(listed[:_NAMED]) + more

# SPDX-License-Identifier: Apache-2.0
"""From what daemons tell to what people are told: names for numbers, and to each tenant its own alone.

Called by mizar.manager.monitor. The outer headers and interfaces are the operator's; a tenant is shown the packets of
its own VPCs as their endpoints sent or would have got them. Pure but for the registry that it reads.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Any

from mizar._built import transit_pb2 as pb
from mizar.manager.names import Names
from mizar.manager.policy_names import PolicyNames, sentence
from mizar.manager.protection_events import MEASURES, source_of
from mizar.manager.registry import Item
from mizar.model import drop_reasons
from mizar.model.ddos import DdosProtection
from mizar.model.resources import Ref
from mizar.planner.policy import rule_of

Sighting = dict[str, Any]
"""What is told, as JSON values."""

TYPES = ("drop", "verdict", "trap", "path", "endpoint", "droplet", "link", "protection")
"""What can be watched."""

ALLOWED_PLACE = 191
"""EVENT_ALLOWED_PLACE of contracts/dataplane.h: of what a rule that logs allows."""
_OUTCOMES = {pb.Drop.ALLOWED: "allowed", pb.Drop.AUDITED: "audited"}
_ASKED = {"dhcp4": "DHCPv4", "dhcp6": "DHCPv6", "router": "router solicitation"}
_PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp", 58: "icmpv6", 132: "sctp"}


@dataclass(frozen=True, slots=True)
class Wish:
    """What a watcher wants to see; None and empty: everything. Of `uid` and `vpc` the names were looked up."""

    types: frozenset[str] = frozenset(TYPES)
    tenant: str | None = None
    vpc: Ref | None = None
    endpoint: Ref | None = None
    droplet: str | None = None
    reasons: frozenset[int] = frozenset()
    address: IPv4Network | IPv6Network | None = None
    policy: Ref | None = None

    @property
    def of_tenants(self) -> bool:
        """Whether it asks for something that has a VPC."""
        return any(one is not None for one in (self.tenant, self.vpc, self.endpoint, self.address, self.policy))


class Teller:
    """Tells one watcher. `sees`: what it may see; `operator`: whether that is everything."""

    def __init__(
        self, names: Names, wish: Wish, sees: Callable[[Ref], bool], operator: bool, policies: PolicyNames
    ) -> None:
        self._names = names
        self._policies = policies
        self._wish = wish
        self._sees = sees
        self._operator = operator

    @property
    def operator(self) -> bool:
        """Whether it may see everything."""
        return self._operator

    def tell(self, droplet: str, event: pb.Event) -> Sighting | None:
        """What to say of an event of a droplet; None when it is not wanted, or not for these eyes."""
        match event.WhichOneof("event"):
            case "drop":
                found = self._drop(event.drop)
            case "suppressed":
                found = self._suppressed(event.suppressed)
            case "trapped":
                found = self._trapped(event.trapped)
            case "path_changed":
                found = self._path(event.path_changed)
            case "endpoint_changed":
                found = self._endpoint(event.endpoint_changed)
            case "droplet_changed":
                found = self._droplet(event.droplet_changed)
            case "link_changed":
                found = self._link(event.link_changed)
            case "ddos_status":
                found = self._protection(event.ddos_status)
            case _:
                found = None
        if found is None:
            return None
        return {"type": found.pop("type"), "time": _time(event.time_unix_ns), "droplet": droplet, **found}

    # ---- one method for each type

    def _drop(self, drop: pb.Drop) -> Sighting | None:
        vpc = self._names.vpc(drop.vni) if drop.vpc_known else None
        sender = self._names.endpoint(drop.uid)
        source = self._end(vpc, drop.source, drop.source_port)
        destination = self._end(vpc, drop.destination, drop.destination_port)
        named = {one.ref for one in (sender, *self._at(vpc, drop.source, drop.destination)) if one is not None}
        kind = "drop" if drop.outcome == pb.Drop.REFUSED else "verdict"
        if not self._wanted(kind, vpc, named, (drop.source, drop.destination), drop.reason):
            return None
        if self._wish.policy is not None and not self._is_of_policy(drop):
            return None
        return {
            "type": kind,
            "program": drop.hook,
            **({"outcome": _OUTCOMES[drop.outcome]} if kind == "verdict" else {}),
            **_reason(drop.reason if drop.reason or kind == "drop" else ALLOWED_PLACE),
            **self._policed(drop),
            **self._by_function(drop),
            "vpc": _name(vpc),
            "vni": drop.vni,
            "sender": self._shown(sender),
            "source": source,
            "destination": destination,
            "protocol": _PROTOCOLS.get(drop.protocol, str(drop.protocol)) if drop.inner and drop.protocol else None,
            "length": drop.length,
            "interface": drop.interface if self._operator else None,
            "frame": self._frame(drop),
        }

    def _policed(self, drop: pb.Drop) -> Sighting:
        """Whose policy has spoken, and by which rule, in words; nothing of a VPC that the watcher may not see: a
        packet may have crossed into a peer's."""
        if drop.rule and not drop.policed and drop.reason in _OF_ACLS:
            return self._ruled(drop)
        endpoint = self._names.endpoint(drop.policed)
        vpc = self._names.vpc_of(endpoint)
        if vpc is None or not self._sees(vpc.ref):
            return {}
        if drop.limit:
            return {"limited": self._shown(endpoint), "limit": self._limit(drop, endpoint, vpc)}
        said = sentence(self._policies, vpc, drop.policed, drop.rule, egress=self._is_sender(drop))
        policy = self._policies.policy(vpc, drop.rule)
        return {"policed": self._shown(endpoint), "policy": self._shown(policy), "rule": said}

    def _limit(self, drop: pb.Drop, endpoint: Item | None, vpc: Item) -> str:
        """The object whose limit it was, and the limit. What an interface carries is the operator's alone."""
        match drop.limit_of:
            case "uplink":
                return "the droplet's interface" + (f", {drop.limit}" if self._operator else "")
            case "network":
                owner = self._names.network_of(endpoint)
            case "vpc":
                owner = vpc
            case _:
                owner = endpoint
        return f"{drop.limit_of} {self._shown(owner) or ''}".rstrip() + f", {drop.limit}"

    def _ruled(self, drop: pb.Drop) -> Sighting:
        """Which network's ACL has spoken. What leaves a VPC for a peer's is told of in the peer's, and not by whom."""
        vpc = self._names.vpc(drop.vni) if drop.vpc_known else None
        acl = self._policies.acl(vpc, drop.rule)
        _, egress, _ = rule_of(drop.rule)
        if acl is None or not self._sees(acl.ref) or (egress and self._names.endpoint_at(vpc, drop.source) is None):
            return {}
        return {"acl": self._shown(acl), "rule": self._policies.rule(vpc, drop.rule)}

    def _by_function(self, drop: pb.Drop) -> Sighting:
        """Which function has refused it, and its own reason and sentence: functions are the operator's."""
        if not drop.function or not self._operator:
            return {}
        found = {"function": drop.function, "functionReason": drop.function_reason}
        return {**found, "sentence": drop.sentence} if drop.sentence else found

    def _is_sender(self, drop: pb.Drop) -> bool:
        """Whether the policed endpoint has sent the packet."""
        return drop.source in _addresses(self._names.endpoint(drop.policed))

    def _is_of_policy(self, drop: pb.Drop) -> bool:
        vpc, wanted = self._names.vpc_of(self._names.endpoint(drop.policed)), self._wish.policy
        if vpc is None or wanted is None or vpc.resource.tenant != wanted.tenant:
            return False
        if drop.rule:
            policy = self._policies.policy(vpc, drop.rule)
            return policy is not None and policy.ref == wanted
        return wanted.name in self._policies.selecting(vpc, drop.policed, egress=self._is_sender(drop))

    def _frame(self, drop: pb.Drop) -> str | None:
        if self._operator or drop.hook == "agent":
            frame = drop.frame
        else:
            frame = drop.frame[drop.inner_at :] if drop.inner else b""
        return base64.b64encode(frame).decode() if frame else None

    def _suppressed(self, left_out: pb.Suppressed) -> Sighting | None:
        if left_out.events:
            # Of whatever VPC they were: how many, a tenant is not to know.
            return {"type": "missed", "events": left_out.events if self._operator else None}
        vpc = self._names.vpc(left_out.vni)
        wish = self._wish
        if wish.endpoint is not None or wish.address is not None or wish.policy is not None:
            return None  # of whom they were, nobody knows
        kind = "verdict" if left_out.reason == ALLOWED_PLACE else "drop"
        if not self._wanted(kind, vpc, set(), (), left_out.reason):
            return None
        return {"type": "suppressed", **_reason(left_out.reason), "vpc": _name(vpc), "packets": left_out.packets}

    def _trapped(self, trapped: pb.Trapped) -> Sighting | None:
        vpc, endpoint = self._names.vpc(trapped.vni), self._names.endpoint(trapped.uid)
        if not self._wanted("trap", vpc, {endpoint.ref} if endpoint else set(), _addresses(endpoint)):
            return None
        asked = _ASKED.get(trapped.kind, "something else")
        return {
            "type": "trap",
            "vpc": _name(vpc),
            "endpoint": self._shown(endpoint),
            "asked": asked,
            "answered": trapped.answered,
        }

    def _path(self, path: pb.PathChanged) -> Sighting | None:
        vpc = self._names.vpc(path.vni)
        endpoint = self._names.endpoint_at(vpc, path.address)
        if not self._wanted("path", vpc, {endpoint.ref} if endpoint else set(), (path.address,)):
            return None
        to = self._names.droplet_at(path.host) or None
        return {"type": "path", "vpc": _name(vpc), **self._end(vpc, path.address, 0), "to": to}

    def _endpoint(self, change: pb.EndpointChanged) -> Sighting | None:
        endpoint = self._names.endpoint(change.uid)
        if endpoint is None or not self._sees(endpoint.ref) or "endpoint" not in self._wish.types:
            return None
        wish = self._wish
        if (
            wish.reasons
            or wish.policy
            or (wish.tenant is not None and endpoint.resource.tenant != wish.tenant)
            or wish.vpc
        ):
            return None
        if (wish.endpoint is not None and endpoint.ref != wish.endpoint) or not self._near(_addresses(endpoint)):
            return None
        detail = change.detail if self._operator else ""
        return {"type": "endpoint", "endpoint": self._shown(endpoint), "state": change.state, "detail": detail}

    def _droplet(self, change: pb.DropletChanged) -> Sighting | None:
        if not self._for_operators("droplet"):
            return None
        about = self._names.droplet_at(change.address) or _text(change.address)
        return {"type": "droplet", "about": about, "state": "down" if change.down else "up"}

    def _link(self, change: pb.LinkChanged) -> Sighting | None:
        if not self._for_operators("link"):
            return None
        return {"type": "link", "interface": change.interface, "up": change.up, "mtu": change.mtu}

    def _protection(self, status: pb.DdosStatus) -> Sighting | None:
        item = self._names.protection(status.uid) if status.turned else None
        if item is None or not isinstance(item.resource, DdosProtection):
            return None
        vpc = self._names.find(Ref("VPC", item.resource.tenant, item.resource.spec.vpc))
        if not self._wanted("protection", vpc, set(), ()):
            return None
        turned = {measure: getattr(status, name) for measure, (name, _) in MEASURES.items() if name in status.turned}
        return {
            "type": "protection",
            "vpc": _name(vpc),
            "protection": self._shown(item),
            "engaged": [measure for measure, on in turned.items() if on],
            "withdrawn": [measure for measure, on in turned.items() if not on],
            "top": [{"source": source_of(one), "kind": one.kind, "packets": one.packets} for one in status.top[:3]],
        }

    # ---- what is wanted

    def _for_operators(self, kind: str) -> bool:
        return self._operator and kind in self._wish.types and not self._wish.of_tenants and not self._wish.reasons

    def _wanted(
        self, kind: str, vpc: Item | None, named: set[Ref], addresses: tuple[bytes, ...], reason: int = 0
    ) -> bool:
        wish = self._wish
        if wish.policy is not None and kind not in ("drop", "verdict"):
            return False
        if kind not in wish.types or not (self._operator or (vpc is not None and self._sees(vpc.ref))):
            return False
        if wish.tenant is not None and (vpc is None or vpc.resource.tenant != wish.tenant):
            return False
        if wish.vpc is not None and (vpc is None or vpc.ref != wish.vpc):
            return False
        if (wish.endpoint is not None and wish.endpoint not in named) or (wish.reasons and reason not in wish.reasons):
            return False
        return self._near(addresses)

    def _near(self, addresses: tuple[bytes, ...]) -> bool:
        if self._wish.address is None:
            return True
        return any(ip_address(one) in self._wish.address for one in addresses if len(one) in (4, 16))

    # ---- names

    def _at(self, vpc: Item | None, *addresses: bytes) -> list[Item | None]:
        return [self._names.endpoint_at(vpc, address) for address in addresses]

    def _end(self, vpc: Item | None, address: bytes, port: int) -> Sighting:
        return {
            "address": _text(address),
            "port": port or None,
            "endpoint": self._shown(self._names.endpoint_at(vpc, address)),
        }

    def _shown(self, item: Item | None) -> str | None:
        return _name(item) if item is not None and self._sees(item.ref) else None


_OF_ACLS = {0, *(reason.number for reason in drop_reasons.by_name().values() if reason.name.startswith("NETWORK_ACL_"))}
"""0: of what is logged."""


def _reason(number: int) -> Sighting:
    if number == ALLOWED_PLACE:
        return {"reason": "POLICY_ALLOWED", "sentence": "A rule that logs allows it.", "verdict": "allow"}
    known = drop_reasons.by_number().get(number)
    if known is None:
        return {"reason": f"REASON_{number}", "sentence": "A reason that this server does not know.", "verdict": ""}
    return {"reason": known.name, "sentence": known.sentence, "verdict": known.verdict}


def _name(item: Item | None) -> str | None:
    return f"{item.resource.tenant}/{item.resource.name}" if item is not None else None


def _addresses(endpoint: Item | None) -> tuple[bytes, ...]:
    texts = getattr(endpoint.resource.status, "addresses", ()) if endpoint is not None else ()
    return tuple(ip_address(text).packed for text in texts)


def _text(address: bytes) -> str | None:
    return str(ip_address(address)) if len(address) in (4, 16) else None


def _time(unix_ns: int) -> str:
    moment = datetime.fromtimestamp(unix_ns // 10**9, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{unix_ns % 10**9:09d}Z"

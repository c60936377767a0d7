# SPDX-License-Identifier: Apache-2.0
"""Where a packet from outside of all VPCs comes in: whose the public address is, where, and as what it goes on.

Called by mizar.manager.tracing. It only reads. An address of a stranger's is nobody's to the caller.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from ipaddress import ip_address

from mizar.manager import address_pools
from mizar.manager.droplet_link import Link
from mizar.manager.instances import instances_of
from mizar.manager.load_balancers import public_of
from mizar.manager.nat_gateways import carriers_of, forward_of
from mizar.manager.public_nat import is_nat, service_of
from mizar.manager.registry import Item, Registry
from mizar.model.address_pool import AddressPool
from mizar.model.addresses import ROUTER_MAC, parse_address, parse_mac, text_of
from mizar.model.errors import InvalidError, NotFoundError, Problem, TemporaryError
from mizar.model.load_balancer import LoadBalancer
from mizar.model.nat_gateway import NatGateway
from mizar.model.resources import Endpoint, Ref
from mizar.model.scaled import Affinity
from mizar.oracle.tables import in_prefix
from mizar.trace.packet import Asked, build
from mizar.trace.question import Question
from mizar.trace.report import HopReport

CLIENT_MAC = bytes.fromhex("020000000001")
"""Nothing is decided by it."""


@dataclass(frozen=True, slots=True)
class Entrance:
    """`owner`: of the public address. `uid`: of a NAT gateway's endpoint, by which the packet comes into the VPC."""

    owner: Item
    network: str
    droplet: str
    question: Question
    uid: str = ""
    mac: bytes = CLIENT_MAC
    to: bytes = b""
    """The endpoint's address behind a forward."""
    port: int = 0
    table: str = ""
    ending: str = ""
    """Why it comes no further."""
    own: tuple[bytes, ...] = ()
    """Addresses of a load balancer's instance, which connections of mode nat have as their source."""
    arrives: bool = False
    """Nothing is wrong with that: what follows is not for tables of droplets to say."""

    def frame(self, mac: bytes) -> bytes:
        """As the client sends it, to a MAC."""
        client, public = self.question.source, self.question.destination
        assert isinstance(client, bytes)
        assert isinstance(public, bytes)
        found = self.question.frame or build(self.question.asked, CLIENT_MAC, client, public)
        return mac + found[6:]

    def inside(self, mac: bytes) -> bytes:
        """As it goes on: to the droplet with a MAC as it is, or translated by the gateway."""
        if not self.uid:
            return self.frame(mac)
        asked, client = self.question.asked, self.question.source
        assert isinstance(client, bytes)
        there = Asked(asked.protocol, asked.source_port, self.port, asked.size)
        return ROUTER_MAC + build(there, self.mac, client, self.to)[6:]

    def before(self, vpc: str) -> tuple[HopReport, ...]:
        """What a NAT gateway does with it, or the kernel for a load balancer in mode nat."""
        if is_nat(self.owner.resource):
            verdict = "translated" if self.arrives else "dropped"
            return (HopReport(self.droplet, "load balancer", verdict, vpc, table=self.table),)
        if not isinstance(self.owner.resource, NatGateway):
            return ()
        verdict = "dropped" if self.ending else "translated"
        public = self.question.destination
        assert isinstance(public, bytes)
        rewrite = () if self.ending else (f"destination {text_of(public)} → {text_of(self.to)}, port {self.port}",)
        return (HopReport(self.droplet, "NAT gateway", verdict, vpc, table=self.table, rewrite=rewrite),)


def entrance(
    registry: Registry, link: Callable[[str], Link | None], question: Question, visible: Callable[[Ref], bool]
) -> Entrance:
    """Raises NotFoundError, InvalidError or TemporaryError."""
    client, public = question.source, question.destination
    if not isinstance(client, bytes) or not isinstance(public, bytes):
        raise InvalidError(Problem("expected a public address, because the source is one outside", field="destination"))
    if len(client) != len(public):
        raise InvalidError(Problem("expected addresses of one family", field="source"))
    if question.frame:
        raise InvalidError(Problem("a frame of a capture is an endpoint's", field="frame"))
    address = text_of(public)
    owner = registry.holder(address_pools.SCOPE, address)
    if owner is None or not visible(owner.ref):
        message = f"{address} is no public address of a load balancer or NAT gateway"
        raise NotFoundError(Problem(message, field="destination"))
    if question.live and (not isinstance(owner.resource, LoadBalancer) or is_nat(owner.resource)):
        message = f"{owner.ref} translates, and its kernel knows no mark: the way from outside can only be predicted"
        raise InvalidError(Problem(message, field="live"))
    if question.live and not visible(Ref("Droplet", "", "")):
        message = "only an operator may send from outside: a member answers whatever address is said to ask"
        raise InvalidError(Problem(message, field="live"))
    match owner.resource:
        case LoadBalancer() if is_nat(owner.resource):
            return _by_kernel(registry, question, owner, owner.resource)
        case LoadBalancer():
            return _balanced(registry, link, question, owner, owner.resource)
        case NatGateway():
            return _translated(registry, question, owner, owner.resource)
    raise InvalidError(Problem(f"{address} is {owner.ref}'s, whose way cannot be traced", field="destination"))


def _balanced(
    registry: Registry, link: Callable[[str], Link | None], question: Question, owner: Item, balancer: LoadBalancer
) -> Entrance:
    assert balancer.spec.public is not None
    item = registry.find(Ref("AddressPool", "", balancer.spec.public.pool))
    there = item.resource.spec.droplets if item and isinstance(item.resource, AddressPool) else ()
    if question.droplet and question.droplet not in there:
        message = f"expected one that attracts the address ({', '.join(there)}), found {question.droplet}"
        raise InvalidError(Problem(message, field="droplet"))
    connected = (name for name in there if (one := link(name)) is not None and one.connected)
    droplet = question.droplet or next(connected, "")
    if not droplet:
        raise TemporaryError(Problem(f"no droplet that attracts it can be asked: {', '.join(there) or 'none does'}"))
    return Entrance(owner, balancer.spec.network, droplet, question)


def _by_kernel(registry: Registry, question: Question, owner: Item, balancer: LoadBalancer) -> Entrance:
    """Up to the endpoint of a load balancer in mode nat, and the rule of its namespace that is next."""
    carrier = next(reversed(instances_of(registry, owner)), None)
    droplet = carrier.resource.status.host if carrier and isinstance(carrier.resource, Endpoint) else ""
    if question.droplet and question.droplet != droplet:
        message = f"expected the droplet that carries {owner.ref}, {droplet or 'which there is none'}"
        raise InvalidError(Problem(message, field="droplet"))
    there = Entrance(owner, balancer.spec.network, droplet, question)
    if carrier is None or not droplet:
        return replace(there, ending=f"no droplet of the pool carries {owner.ref}")
    asked, client, public = question.asked, question.source, question.destination
    assert isinstance(client, bytes)
    assert isinstance(public, bytes)
    service = service_of(registry, owner)
    fact = public_of(registry, service.resource) if service and isinstance(service.resource, Endpoint) else None
    if fact is not None and any(in_prefix(client, *prefix) for prefix in fact.inside):
        why = f"{text_of(client)} is of the VPC, of a peer or behind its appliances: nobody outside can be it"
        return replace(there, table="first: refused", ending=why)
    ports: dict[tuple[str, int], int] = {
        (one.protocol, one.port): one.target_port or one.port for one in balancer.spec.listeners
    }
    target = ports.get((asked.protocol, asked.destination_port))
    if target is None:
        listed = ", ".join(f"{protocol} {port}" for protocol, port in sorted(ports))
        why = f"no listener of {owner.ref} takes {asked.protocol} {asked.destination_port}"
        return replace(there, table=f"choose: none; there are {listed}", ending=why)
    by = "the client's address" if balancer.spec.affinity is Affinity.CLIENT else "the client's address and port"
    name = f"{carrier.resource.tenant}/{carrier.resource.name}"
    rule = f"{text_of(public)} {asked.protocol} {asked.destination_port} → port {target} of a member, by {by}"
    table = f"choose: {rule}; leave: from {name}'s own address. A connection that is known keeps its member"
    why = (
        f"handed to the kernel of {name} on {droplet}, whose rule (nftables: mizar_balance, chain choose) is next: "
        f"{rule}; trace from {name} to a member for the rest of the way"
    )
    assert isinstance(carrier.resource, Endpoint)
    own = tuple(parse_address(text).packed for text in carrier.resource.status.addresses)
    mac = parse_mac(carrier.resource.status.mac)
    return replace(there, table=table, ending=why, arrives=True, uid=carrier.uid, mac=mac, own=own)


def _translated(registry: Registry, question: Question, owner: Item, gateway: NatGateway) -> Entrance:
    carriers = carriers_of(registry, owner)
    carrier = carriers[0] if carriers else None
    droplet = carrier.resource.status.host if carrier and isinstance(carrier.resource, Endpoint) else ""
    if question.droplet and question.droplet != droplet:
        message = f"expected the droplet that carries {owner.ref}, {droplet or 'which there is none'}"
        raise InvalidError(Problem(message, field="droplet"))
    asked = question.asked
    assert isinstance(question.destination, bytes)
    name = f"{gateway.tenant}/{gateway.name}"
    if carrier is None or not isinstance(carrier.resource, Endpoint) or not droplet:
        why = f"no droplet carries NAT gateway {name}"
        return Entrance(owner, gateway.spec.network, "", question, table="", ending=why)
    mac = parse_mac(carrier.resource.status.mac)
    found = forward_of(registry, gateway, asked.protocol, question.destination, asked.destination_port)
    if found is None:
        why = (
            f"NAT gateway {name} has no forward of {asked.protocol} {asked.destination_port} to an endpoint that is "
            "there: what is no answer to a connection from inside does not pass"
        )
        table = "portForwards: none"
        return Entrance(owner, gateway.spec.network, droplet, question, carrier.uid, mac, table=table, ending=why)
    forward, to = found
    port = forward.target_port or forward.port
    inside = f"{gateway.tenant}/{forward.endpoint}, {ip_address(to)} port {port}"
    table = f"portForwards of {name}: {asked.protocol} {forward.port} → {inside}; answers leave by the same gateway"
    return Entrance(owner, gateway.spec.network, droplet, question, carrier.uid, mac, to, port, table)

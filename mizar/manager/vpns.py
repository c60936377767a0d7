# SPDX-License-Identifier: Apache-2.0
"""VPN connections: what must hold between them and other objects, the routes that follow from them, and what is told.

Asked by intake, facts and appliances, and by mizar.manager.desired for what a droplet must hold. What droplets say of
the tunnels themselves is kept here while the manager runs, and nowhere else. It must never write.
"""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from mizar.manager.draft import Draft
from mizar.manager.instances import Wish, instances_of
from mizar.manager.registry import Item, Registry, vpc_of
from mizar.model import certificates
from mizar.model.addresses import Prefix, parse_address, parse_prefix, within
from mizar.model.errors import ConflictError, ExhaustedError, Problem
from mizar.model.instances import InstanceSpec
from mizar.model.resources import VPC, Droplet, Endpoint, Network, Ref, Resource, VpnConnection
from mizar.model.routes import Route, ViaEndpoint
from mizar.model.vpn import IpsecCertificateSpec, key_bytes
from mizar.planner.entries import IpsecCertificateEntry, IpsecEntry, VpnEntry, WireguardEntry

if TYPE_CHECKING:
    from mizar._built import transit_pb2 as pb

MOST_OF_TENANT, MOST_ON_DROPLET = 64, 16
MOST_NAME = 50
"""Characters of the name of a connection whose endpoint the server makes."""
_STATES = {1: "connecting", 2: "up", 3: "down"}


def problems(new: Resource, draft: Draft) -> list[Problem]:
    """What speaks against a connection as it would be. Raises ConflictError where another one has what it needs."""
    if not isinstance(new, VpnConnection):
        return []
    found: list[Problem] = []
    endpoint = _carrier(draft, new)
    network = draft.find(Ref("Network", new.tenant, new.spec.network)) if new.spec.network else None
    vpc = draft.find(Ref("VPC", new.tenant, new.spec.vpc))
    if isinstance(endpoint, Endpoint) and (why := _unfit(endpoint, new, draft)) is not None:
        found.append(Problem(why, "spec.endpoint", str(new.ref)))
    if isinstance(network, Network):
        found += _network_problems(new, network, draft)
    for place, text in enumerate(new.spec.remote_prefixes):
        prefix, field = parse_prefix(text), f"spec.remotePrefixes[{place}]"
        if isinstance(vpc, VPC) and any(_overlap(prefix, parse_prefix(cidr)) for cidr in vpc.spec.cidrs):
            message = (
                f"expected a prefix that shares no address with {vpc.ref} ({', '.join(vpc.spec.cidrs)}), found {text}"
            )
            found.append(Problem(message, field, str(new.ref)))
        if isinstance(endpoint, Endpoint) and not any(_version(one) == prefix.version for one in _addresses(endpoint)):
            message = f"endpoint {endpoint.name} has no IPv{prefix.version} address for {text}"
            found.append(Problem(message, field, str(new.ref)))
    if new.spec.wireguard is not None and new.spec.wireguard.private_key.known:
        found += _key_problems(new, new.spec.wireguard.peer_public_key)
    if new.spec.ipsec is not None and new.spec.ipsec.certificate is not None:
        found += _certificate_problems(new, new.spec.ipsec.certificate)
    if new.spec.ipsec is not None and isinstance(vpc, VPC) and isinstance(endpoint, Endpoint):
        found += _local_problems(new, vpc, endpoint)
    if new.spec.ipsec is not None and isinstance(network, Network):
        found += _outside_of(new, network.spec.cidrs)
    others = [other for other in draft.of_kind(VpnConnection) if other.ref != new.ref]
    for other in others:
        _refuse_conflict(new, other, endpoint, draft)
    own = sum(other.tenant == new.tenant for other in others)
    if own >= MOST_OF_TENANT:
        raise ExhaustedError(
            f"tenant {new.tenant} has {own} connections, of {MOST_OF_TENANT} at most: each is a process"
        )
    if isinstance(endpoint, Endpoint) and endpoint.spec.droplet:
        _refuse_excess(new, [one for one in others if one.tenant == new.tenant], endpoint.spec.droplet, draft)
    return found


def _refuse_excess(new: VpnConnection, own: list[VpnConnection], droplet: str, draft: Draft) -> None:
    carriers = (_carrier(draft, one) for one in own)
    there = sum(isinstance(one, Endpoint) and one.spec.droplet == droplet for one in carriers)
    if there >= MOST_ON_DROPLET:
        message = (
            f"tenant {new.tenant} has {there} connections on droplet {droplet}, of {MOST_ON_DROPLET} at most there"
        )
        raise ExhaustedError(Problem(message, "spec.endpoint", str(new.ref)))


def _local_problems(new: VpnConnection, vpc: VPC, endpoint: Endpoint) -> list[Problem]:
    """The engine takes packets from an address of its own in what it stands for."""
    assert new.spec.ipsec is not None
    given = [parse_prefix(text) for text in new.spec.ipsec.local_prefixes]
    found = []
    for place, prefix in enumerate(given):
        if not any(within(prefix, parse_prefix(cidr)) for cidr in vpc.spec.cidrs):
            message = f"expected a prefix of {vpc.ref} ({', '.join(vpc.spec.cidrs)}), found {prefix}"
            found.append(Problem(message, f"spec.ipsec.localPrefixes[{place}]", str(new.ref)))
        own = [parse_address(text) for text in _addresses(endpoint)]
        if own and not any(address in prefix for address in own):
            message = f"expected a prefix that holds an address of endpoint {endpoint.name}, found {prefix}"
            found.append(Problem(message, f"spec.ipsec.localPrefixes[{place}]", str(new.ref)))
    for text in new.spec.remote_prefixes if given else ():
        if parse_prefix(text).version not in {prefix.version for prefix in given}:
            message = f"expected a prefix of the same family as {text} among them"
            found.append(Problem(message, "spec.ipsec.localPrefixes", str(new.ref)))
    return found


def _key_problems(new: VpnConnection, peer: str) -> Iterator[Problem]:
    """Engines take both without a word, and never find the other side. The key may be the one that it had before."""
    try:
        own = public_key(new)
    except ImportError:  # in a simulation, which joins nobody
        own = ""
    if peer == own or not any(key_bytes(peer)):
        found = "this side's own" if peer == own else "one of zeros, which is nobody's"
        message = f"expected the public key of the other side, found {found}"
        yield Problem(message, "spec.wireguard.peerPublicKey", str(new.ref))


def _certificate_problems(new: VpnConnection, own: IpsecCertificateSpec) -> Iterator[Problem]:
    """The key may be the one that it had before: only here it is known."""
    try:
        if own.key.known:
            certificates.check_key(own.chain, own.key.reveal())
    except certificates.CertificateError as error:
        yield Problem(str(error), f"spec.ipsec.certificate.{error.field}", str(new.ref))


def _refuse_conflict(new: VpnConnection, other: VpnConnection, endpoint: Resource | None, draft: Draft) -> None:
    if (new.tenant, new.spec.vpc) == (other.tenant, other.spec.vpc):
        both = set(new.spec.remote_prefixes) & set(other.spec.remote_prefixes)
        if both:
            place = new.spec.remote_prefixes.index(min(both))
            message = f"{min(both)} is behind {other.ref} already"
            raise ConflictError(Problem(message, f"spec.remotePrefixes[{place}]", str(new.ref)))
    there = _carrier(draft, other)
    if not isinstance(endpoint, Endpoint) or not isinstance(there, Endpoint):
        return
    if endpoint.ref == there.ref and new.spec.ipsec and other.spec.ipsec:
        assert new.spec.peer is not None
        assert other.spec.peer is not None
        if new.spec.peer.address == other.spec.peer.address:
            message = (
                f"endpoint {there.name} carries {other.ref} to the same address; have its prefixes in one connection"
            )
            raise ConflictError(Problem(message, "spec.peer.address", str(new.ref)))
    if endpoint.spec.droplet == there.spec.droplet and new.spec.own_port == other.spec.own_port:
        owner = str(other.ref) if other.tenant == new.tenant else "somebody else"
        message = f"port {new.spec.own_port} of droplet {endpoint.spec.droplet} is in use by {owner}"
        raise ConflictError(
            Problem(message, f"spec.{'wireguard' if new.spec.wireguard else 'ipsec'}.port", str(new.ref))
        )


def refuse_move(registry: Registry, endpoint: Resource, target: str) -> None:
    """Raises ConflictError where an endpoint's connections would take ports along that others have on a droplet."""
    every = [one.resource for one in registry.of_kind("VpnConnection") if isinstance(one.resource, VpnConnection)]
    carried = [one for one in every if (one.tenant, carrier_name(registry, one)) == (endpoint.tenant, endpoint.name)]
    ports = {one.spec.own_port for one in carried}
    for other in every if ports else ():
        there = carrier_of(registry, other)
        if other in carried or there is None or there.resource.spec.droplet != target:
            continue
        if other.spec.own_port in ports:
            owner = str(other.ref) if other.tenant == endpoint.tenant else "somebody else"
            message = f"port {other.spec.own_port} of droplet {target} is in use by {owner}"
            raise ConflictError(Problem(message, resource=str(endpoint.ref)))


def carrier_of(registry: Registry, one: VpnConnection) -> Item | None:
    """The endpoint that carries a connection: the one that it names, or the last one that was made for it."""
    if one.spec.endpoint:
        return registry.find(Ref("Endpoint", one.tenant, one.spec.endpoint))
    item = registry.find(one.ref)
    return made[-1] if item is not None and (made := instances_of(registry, item)) else None


def carrier_name(registry: Registry, one: VpnConnection) -> str:
    """Its name; while there is none, that which the first one will have."""
    found = carrier_of(registry, one)
    return one.spec.endpoint or (found.resource.name if found else f"{one.name}-1")


def _carrier(draft: Draft, one: VpnConnection) -> Endpoint | None:
    """The same, as it would be."""
    if one.spec.endpoint:
        found = draft.find(Ref("Endpoint", one.tenant, one.spec.endpoint))
        return found if isinstance(found, Endpoint) else None
    made = InstanceSpec(kind=one.kind, name=one.name)
    for planned in draft.planned.values():
        new = planned.resource
        if isinstance(new, Endpoint) and new.tenant == one.tenant and new.spec.instance_of == made:
            return new
    held = carrier_of(draft.registry, one)
    return held.resource if held is not None and isinstance(held.resource, Endpoint) else None


def wish_of(one: VpnConnection, draft: Draft) -> Wish:
    """The endpoint that a connection asks for: where nobody else has its port, nor its tenant too many already."""
    others = [other for other in draft.of_kind(VpnConnection) if other.ref != one.ref]
    places = [(other, there.spec.droplet) for other in others if (there := _carrier(draft, other)) is not None]
    full = Counter(droplet for other, droplet in places if other.tenant == one.tenant)
    refused = {droplet for other, droplet in places if other.spec.own_port == one.spec.own_port}
    refused |= {droplet for droplet, number in full.items() if number >= MOST_ON_DROPLET}
    assert one.spec.network is not None
    return Wish(one.spec.network, 1, one.spec.droplets, refused=frozenset(filter(None, refused)), forwarding=True)


def _network_problems(new: VpnConnection, network: Network, draft: Draft) -> Iterator[Problem]:
    """What speaks against a network in which the server shall make the endpoint, and against droplets."""
    ref = str(new.ref)
    if network.is_group or network.spec.vpc != new.spec.vpc:
        yield Problem(f"expected a subnet of VPC {new.spec.vpc}, found {network.ref}", "spec.network", ref)
    versions = {parse_prefix(text).version for text in network.spec.cidrs}
    for place, text in enumerate(new.spec.remote_prefixes):
        if parse_prefix(text).version not in versions:
            message = f"{network.ref} has no IPv{parse_prefix(text).version} addresses for {text}"
            yield Problem(message, f"spec.remotePrefixes[{place}]", ref)
    for place, name in enumerate(new.spec.droplets):
        droplet = draft.find(Ref("Droplet", "", name))
        if not isinstance(droplet, Droplet) or not droplet.spec.has_daemon:
            yield Problem(f"there is no droplet {name} with a daemon", f"spec.droplets[{place}]", ref)
    if len(new.name) > MOST_NAME:
        message = f"expected at most {MOST_NAME} characters, because its endpoints have a number behind it"
        yield Problem(message, "metadata.name", ref)


def _outside_of(new: VpnConnection, cidrs: Sequence[str]) -> Iterator[Problem]:
    """The engine takes packets from an address of its own in what it stands for, whichever it gets."""
    assert new.spec.ipsec is not None
    for place, text in enumerate(new.spec.ipsec.local_prefixes):
        prefix = parse_prefix(text)
        own = [one for one in map(parse_prefix, cidrs) if one.version == prefix.version]
        if not any(within(one, prefix) for one in own):
            message = f"expected a prefix that holds the network ({', '.join(cidrs)}), found {text}"
            yield Problem(message, f"spec.ipsec.localPrefixes[{place}]", str(new.ref))


def _unfit(endpoint: Endpoint, new: VpnConnection, draft: Draft) -> str | None:
    network, _ = draft.parent(endpoint)
    if network is not None and network.spec.vpc != new.spec.vpc:
        return f"endpoint {endpoint.name} is in VPC {network.spec.vpc}"
    if not endpoint.spec.forwarding:
        return f"endpoint {endpoint.name} does not forward (spec.forwarding)"
    workload = endpoint.spec.workload
    if workload is None or workload.tap or workload.ovs:
        return f"endpoint {endpoint.name} has no workload in a namespace, where the tunnel could end"
    return None


def connections(registry: Registry, vpc: Ref) -> Iterator[VpnConnection]:
    """Those of a VPC that are not being deleted."""
    for item in registry.of_kind("VpnConnection"):
        found = item.resource
        if not isinstance(found, VpnConnection) or item.deleting:
            continue
        if (found.tenant, found.spec.vpc) == (vpc.tenant, vpc.name):
            yield found


def with_vpns(registry: Registry, network: Network) -> Network:
    """A subnet with routes to what is behind its VPC's connections; routes of its own for the same prefix stay."""
    if network.is_group:
        return network
    own = {route.to for route in network.spec.routes}
    more = tuple(
        Route(to=prefix, via=ViaEndpoint(endpoint=carrier_name(registry, one)))
        for one in connections(registry, vpc_of(network))
        for prefix in one.spec.remote_prefixes
        if prefix not in own
    )
    if not more:
        return network
    return network.model_copy(update={"spec": network.spec.model_copy(update={"routes": network.spec.routes + more})})


def entry_of(registry: Registry, item: Item) -> tuple[str, VpnEntry] | None:
    """The droplet that carries a connection, and what it must hold; None while the endpoint is nowhere."""
    one = item.resource
    assert isinstance(one, VpnConnection)
    found = carrier_of(registry, one)
    if found is None or not isinstance(found.resource, Endpoint) or not found.resource.spec.droplet:
        return None
    remote = tuple(_packed(parse_prefix(text)) for text in one.spec.remote_prefixes)
    peer = (ip_address(one.spec.peer.address).packed, one.spec.peer_port) if one.spec.peer else None
    entry = VpnEntry(
        item.uid,
        one.metadata.generation,
        found.uid,
        str(one.ref),
        remote,
        peer,
        _how(registry, one),
        one.spec.down_after_s,
    )
    return found.resource.spec.droplet, entry


def _how(registry: Registry, one: VpnConnection) -> WireguardEntry | IpsecEntry:
    if (spec := one.spec.wireguard) is not None:
        return WireguardEntry(
            spec.private_key, key_bytes(spec.peer_public_key), spec.preshared_key, spec.port, spec.keepalive_s
        )
    ipsec = one.spec.ipsec
    assert ipsec is not None
    vpc = registry.find(Ref("VPC", one.tenant, one.spec.vpc))
    cidrs = vpc.resource.spec.cidrs if vpc is not None and isinstance(vpc.resource, VPC) else ()
    return IpsecEntry(
        ipsec.psk, ipsec.local_id, ipsec.remote_id,
        tuple(_packed(parse_prefix(text)) for text in ipsec.local_prefixes or cidrs),
        ipsec.port, ipsec.ike_proposals, ipsec.esp_proposals, ipsec.rekey_s, ipsec.dpd_s,
        IpsecCertificateEntry(own.chain, own.key, own.authority) if (own := ipsec.certificate) else None,
    )  # fmt: skip


def public_key(one: VpnConnection) -> str:
    """Of this side, for the configuration of the other."""
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey  # simulations have no such library

    if one.spec.wireguard is None:
        return ""
    private = X25519PrivateKey.from_private_bytes(key_bytes(one.spec.wireguard.private_key.reveal()))
    return base64.b64encode(private.public_key().public_bytes_raw()).decode()


class VpnStates:
    """What droplets said last of the connections that they carry."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[str, pb.VpnStatus]] = {}

    def take(self, droplet: str, found: pb.VpnStatus) -> bool:
        """News of a connection; whether it came up or went down by them."""
        before = self._last.get(found.uid)
        self._last[found.uid] = droplet, found
        return before is None or (before[1].state, before[1].detail) != (found.state, found.detail)

    def forget(self, uid: str) -> None:
        """The connection is gone."""
        self._last.pop(uid, None)

    def standing(self, registry: Registry, ref: Ref) -> str:
        """Whether a connection is up, and if not why; empty where nobody has said so yet."""
        item = registry.find(ref)
        told = self.view(registry, item) if item is not None else {}
        return ": ".join(filter(None, (told.get("state", ""), told.get("detail", ""))))

    def view(self, registry: Registry, item: Item) -> dict[str, Any]:
        """What the status of a connection says."""
        one = item.resource
        assert isinstance(one, VpnConnection)
        told: dict[str, Any] = {"publicKey": public_key(one)}
        carrier = carrier_of(registry, one)
        told["endpoint"] = carrier.resource.name if carrier else ""
        if carrier is None and not item.deleting:
            message = f"no droplet can carry it: each has UDP port {one.spec.own_port} in use, or enough connections"
            return told | {"state": "down", "detail": message}
        known = self._last.get(item.uid)
        if known is None or carrier is None or known[0] != carrier.resource.spec.droplet:
            return told  # what a droplet said that carries it no more is of no use
        droplet, found = known
        told |= {"droplet": droplet, "state": _STATES.get(found.state, ""), "detail": found.detail}
        told |= {"engine": found.engine, "sentBytes": found.sent_bytes, "receivedBytes": found.received_bytes}
        if one.spec.ipsec is not None and (own := one.spec.ipsec.certificate) is not None:
            end = certificates.expires(own.chain)
            told["certificateExpires"] = _text(end) if end else ""
        for field, unix_s in (("since", found.since_unix_s), ("lastHandshake", found.handshake_unix_s)):
            if unix_s:
                told[field] = _text(datetime.fromtimestamp(unix_s, UTC))
        return told


def _text(time: datetime) -> str:
    return time.isoformat().replace("+00:00", "Z")


def _packed(prefix: Prefix) -> tuple[bytes, int]:
    return prefix.network_address.packed, prefix.prefixlen


def _overlap(one: Prefix, other: Prefix) -> bool:
    return within(one, other) or within(other, one)


def _version(text: str) -> int:
    return ip_address(text).version


def _addresses(endpoint: Endpoint) -> tuple[str, ...]:
    return endpoint.status.addresses or endpoint.spec.addresses

# SPDX-License-Identifier: Apache-2.0
"""VPN connections: who is told of them and of their keys, which routes follow, and what is refused."""

from __future__ import annotations

import base64
import json
import logging
from ipaddress import ip_address
from typing import Any

import pytest

from mizar._built import transit_pb2 as pb
from mizar.model.errors import ConflictError, ExhaustedError, InvalidError
from mizar.model.resources import Ref
from mizar.model.secret import MASK
from mizar.preview import preview as previews
from tests.unit.manager.test_appliances import firewall
from tests.unit.manager.world import World, endpoint, manifest, network, until

# Of a generator's, and of nobody's.
PRIVATE, PUBLIC = "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=", "HIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8ykw="
ZEROS = base64.b64encode(bytes(32)).decode()
PEER, OTHER = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=", "TrMvSoP4jYQlY6RIzBgbssQqY3vxI2Pi+y71lOWWXX0="


def vpn(name: str = "v", port: int = 51900, key: object = PRIVATE, to: str = "192.168.50.0/24", **spec: Any) -> Any:
    wireguard = {"privateKey": key, "peerPublicKey": PEER, "presharedKey": OTHER, "port": port}
    found = {"vpc": "main", "endpoint": "fw", "remotePrefixes": [to], "wireguard": wireguard}
    return manifest("VpnConnection", name, "red", **{**found, "peer": {"address": "192.0.2.9"}, **spec})


def start(world: World, *more: Any) -> None:
    world.apply(*world.base("red"), network("red", "edge", number=2), firewall(), endpoint("red", "e", "d1"), *more)


def routes(world: World, droplet: str = "d1") -> list[int]:
    """The lengths of the routes that lead to an appliance, on the host of `front`."""
    tables = world.daemons[droplet].tables.networks.values()
    return [route.length for one in tables for route in one.routes if route.HasField("next_hop")]


async def test_its_host_alone_is_told_the_keys_and_all_subnets_get_routes(world: World) -> None:
    """And the end takes both away."""
    start(world, vpn())
    await world.settled()
    (held,) = world.daemons["d2"].tables.vpns.values()
    assert [bool(one.tables.vpns) for one in world.daemons.values()] == [n == "d2" for n in world.daemons]
    assert (len(held.wireguard.private_key), held.peer_port, held.wireguard.port) == (32, 51820, 51900)
    assert 24 in routes(world)
    assert world.status("VpnConnection", "v", "red")["publicKey"] == PUBLIC
    names, vni = world.manager.tracing._names, world.status("VPC", "main", "red")["vni"]
    site = ip_address("192.168.50.9").packed
    for state, detail, told in ((pb.VpnStatus.UP, "", "up"), (pb.VpnStatus.DOWN, "silent", "down: silent")):
        world.daemons["d2"].say(pb.Event(vpn_status=pb.VpnStatus(uid=held.uid, state=state, detail=detail)))
        wanted = f"red/fw, which carries VpnConnection red/v ({told}),"
        await until(lambda wanted=wanted: names.carrier(vni, site) == wanted)  # type: ignore[misc]
    await world.restart()
    await world.settled()
    assert list(world.daemons["d2"].tables.vpns.values()) == [held]
    with pytest.raises(ConflictError, match="still holds VpnConnection red/v"):
        world.manager.delete(Ref("Endpoint", "red", "fw"))
    world.manager.delete(Ref("VpnConnection", "red", "v"))
    await until(lambda: not world.exists("VpnConnection", "v", "red"))
    assert not world.daemons["d2"].tables.vpns
    assert 24 not in routes(world)


async def test_nothing_that_is_shown_has_a_key(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """Objects, previews, audits, errors, logs; and what was shown may be applied again."""
    caplog.set_level(logging.DEBUG)
    start(world, vpn())
    await world.settled()
    shown = world.manager.get(Ref("VpnConnection", "red", "v"))
    assert shown["spec"]["wireguard"]["privateKey"] == MASK == shown["spec"]["wireguard"]["presharedKey"]
    again = {name: shown[name] for name in ("apiVersion", "kind", "metadata", "spec")}
    assert [one.change for one in world.apply(again)] == ["unchanged"]
    from mizar.manager.intake import Submission
    from mizar.model.manifest import parse_resource

    rotated = [Submission(0, parse_resource(vpn(key=OTHER), 0))]
    preview = previews.as_data(previews.preview(world.manager.snapshot(), rotated))
    assert f"{MASK} (another)" in json.dumps(preview)
    with pytest.raises(InvalidError) as refused:
        world.apply(vpn("w", key=PRIVATE[:-4]))
    audit = await world.manager.audit("d2", repair=False)
    state = str(await world.manager.state("d2"))
    fleet = world.manager._fleet
    kept = repr([fleet.wanted("d2"), world.manager._registry.find(Ref("VpnConnection", "red", "v"))])
    read = repr(await world.manager.metrics.read())
    for text in (
        json.dumps(shown),
        json.dumps(preview),
        str(refused.value),
        repr(audit),
        state,
        kept,
        read,
        caplog.text,
    ):
        assert PRIVATE[:-4] not in text
        assert OTHER[:-4] not in text


async def test_another_key_reaches_the_host(world: World) -> None:
    """As another revision of the same tunnel, and of no other."""
    start(world, vpn(), vpn("w", 51901, to="192.168.60.0/24"))
    await world.settled()
    before = dict(world.daemons["d2"].tables.vpns)
    world.apply(vpn(key=OTHER))
    await world.settled()
    after = world.daemons["d2"].tables.vpns
    assert [after[uid].wireguard.private_key != one.wireguard.private_key for uid, one in before.items()].count(
        True
    ) == 1


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"to": "10.0.7.0/24"}, "shares no address"),
        ({"to": "0.0.0.0/0"}, "shares no address"),
        ({"endpoint": "e"}, "does not forward"),
        ({"endpoint": "nobody"}, "there is no Endpoint red/nobody"),
        ({"key": MASK}, "stands for the secret that the object has"),
        ({"key": {"file": "/etc/key"}}, "the server reads no file"),
    ],
)
async def test_what_does_not_fit_is_refused(world: World, spec: dict[str, Any], message: str) -> None:
    """With the field that is wrong, and nothing is kept."""
    start(world)
    with pytest.raises(InvalidError, match=message):
        world.apply(vpn(**spec))
    assert not world.exists("VpnConnection", "v", "red")


async def test_two_cannot_have_the_same(world: World) -> None:
    """Neither a port of a droplet nor what is behind."""
    start(world, vpn())
    with pytest.raises(ConflictError, match="port 51900 of droplet d2 is in use by VpnConnection red/v"):
        world.apply(vpn("w", to="192.168.60.0/24"))
    with pytest.raises(ConflictError, match=r"192.168.50.0/24 is behind VpnConnection red/v already"):
        world.apply(vpn("w", 51901))


@pytest.mark.parametrize(("peer", "message"), [(PUBLIC, "found this side's own"), (ZEROS, "of zeros")])
async def test_a_peers_key_that_can_be_nobodys(world: World, peer: str, message: str) -> None:
    """Refused as long as it is nobody's, also beside a key that was given before and is masked now."""
    start(world)
    wrong = vpn(wireguard={"privateKey": PRIVATE, "peerPublicKey": peer})
    with pytest.raises(InvalidError, match=message):
        world.apply(wrong)
    world.apply(vpn(wireguard={"privateKey": PRIVATE, "peerPublicKey": PEER}))
    with pytest.raises(InvalidError, match=message):
        world.apply(vpn(wireguard={"privateKey": MASK, "peerPublicKey": peer}))


@pytest.mark.parametrize("port", [6081, 4789, 80])
def test_ports_of_others_are_refused(port: int) -> None:
    """Those of droplets' own tunnels, and those that a host keeps for its services."""
    from mizar.model.manifest import parse_resource

    with pytest.raises(InvalidError, match="expected"):
        parse_resource(vpn(port=port), 0)


PSK = "a-key-that-nobody-is-shown"


def ipsec(name: str = "i", to: str = "192.168.70.0/24", **more: Any) -> Any:
    spec = {"psk": PSK, "localId": "green.example", "remoteId": "far.example", **more}
    found = {"vpc": "main", "endpoint": "fw", "remotePrefixes": [to], "ipsec": spec}
    return manifest("VpnConnection", name, "red", **found, peer={"address": "192.0.2.9"})


async def test_ipsec_stands_for_the_vpc_and_shows_no_key(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """Its host gets the key and the VPC's prefixes; nobody else gets anything."""
    caplog.set_level(logging.DEBUG)
    start(world, ipsec())
    await world.settled()
    (held,) = world.daemons["d2"].tables.vpns.values()
    assert (held.ipsec.psk.decode(), held.peer_port, len(held.ipsec.local)) == (PSK, 4500, 2)
    shown = json.dumps(world.manager.get(Ref("VpnConnection", "red", "i")))
    kept = repr(world.manager._fleet.wanted("d2"))
    assert not [text for text in (shown, kept, caplog.text, str(await world.manager.state("d2"))) if PSK in text]
    with pytest.raises(ConflictError, match="carries VpnConnection red/i to the same address"):
        world.apply(ipsec("j", "192.168.80.0/24", port=4600))
    with pytest.raises(InvalidError, match="holds an address of endpoint fw"):
        world.apply(ipsec(localPrefixes=["10.0.1.0/24"]))


@pytest.mark.parametrize("spec", [{"psk": "short"}, {"localId": "a b"}, {"ikeProposals": ["aes; rm"]}])
def test_ipsec_is_checked(spec: dict[str, Any]) -> None:
    """And the refusal repeats no key."""
    from mizar.model.manifest import parse_resource

    with pytest.raises(InvalidError) as refused:
        parse_resource(ipsec(**spec), 0)
    assert PSK not in str(refused.value)


async def test_a_tenant_cannot_have_very_many(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is a process."""
    monkeypatch.setattr("mizar.manager.vpns.MOST_OF_TENANT", 1)
    start(world, vpn())
    with pytest.raises(ExhaustedError, match="tenant red has 1 connections"):
        world.apply(vpn("w", 51901, to="192.168.60.0/24"))


async def test_a_tenant_has_so_many_on_a_droplet(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that others get ports and processors there as well."""
    monkeypatch.setattr("mizar.manager.vpns.MOST_ON_DROPLET", 1)
    start(world, vpn())
    with pytest.raises(ExhaustedError, match="tenant red has 1 connections on droplet d2"):
        world.apply(vpn("w", 51901, to="192.168.60.0/24"))


@pytest.mark.parametrize("port", [4789, 6081])
def test_no_peer_is_at_a_port_of_the_overlay(port: int) -> None:
    """What a tenant has its droplet send would arrive at another one as if it came from the overlay."""
    from mizar.model.manifest import parse_resource

    with pytest.raises(InvalidError, match="droplets' own tunnels"):
        parse_resource(vpn(peer={"address": "172.31.0.12", "port": port}), 0)


async def test_an_endpoint_takes_no_port_along_that_another_tenant_has_there(world: World) -> None:
    """Two programs would want one port, and whoever begins first would have it."""
    start(world, vpn())
    other = endpoint("blue", "fw", "d1", forwarding=True)
    world.apply(*world.base("blue"), other)
    theirs = vpn()
    theirs["metadata"]["tenant"] = "blue"
    world.apply(theirs)
    await world.settled()
    ref = Ref("Endpoint", "blue", "fw")
    with pytest.raises(ConflictError, match="port 51900 of droplet d2 is in use by somebody else"):
        world.manager.move(ref, "d2")
    world.manager.move(ref, "d3")


def test_a_certificate_is_checked() -> None:
    """Its key, the name that it is made out for, and that there is one proof alone; no refusal repeats a key."""
    from mizar.model.manifest import parse_resource
    from tests.lab.far_site import signed

    authority, found = signed("green.example", "far.example")
    (chain, own), (_, other) = found["green.example"], found["far.example"]
    fits = {"chain": chain, "key": own, "authority": authority}
    assert parse_resource(ipsec(psk=None, certificate=fits), 0)
    for changes, message in (
        ({"certificate": fits | {"key": other}}, "not the key of this certificate"),
        ({"certificate": fits | {"chain": own}}, "expected certificates in PEM"),
        ({"certificate": fits | {"authority": "nobody"}}, "expected certificates in PEM"),
        ({"certificate": fits, "localId": "blue.example"}, "made out for"),
        ({"certificate": fits, "psk": PSK}, "expected one of psk and certificate"),
        ({}, "expected one of psk and certificate"),
    ):
        with pytest.raises(InvalidError, match=message) as refused:
            parse_resource(ipsec(**({"psk": None} | changes)), 0)
        assert own.splitlines()[1] not in str(refused.value)


def roaming(name: str = "r", port: int = 51900, to: str = "192.168.90.0/24", **spec: Any) -> Any:
    """One whose endpoint the server makes."""
    found = vpn(name, port, to=to, network="edge", **spec)
    del found["spec"]["endpoint"]
    return found


async def test_the_server_finds_a_droplet_and_another_when_that_dies(world: World) -> None:
    """With its routes, its keys and a free port; the connection's end takes the endpoint along."""
    start(world, vpn())
    world.apply(roaming())
    await world.settled()

    def carrier() -> tuple[str, str]:
        name = world.status("VpnConnection", "r", "red")["endpoint"]
        return name, world.manager.get(Ref("Endpoint", "red", name))["spec"]["droplet"]

    def holders() -> list[str]:
        item = world.manager._registry.find(Ref("VpnConnection", "red", "r"))
        assert item is not None
        return [name for name, one in world.daemons.items() if item.uid in one.tables.vpns]

    name, first = carrier()
    assert name == "r-1"
    assert first != "d2"  # which has the port in use
    assert holders() == [first]
    assert world.manager.get(Ref("Endpoint", "red", name))["spec"]["forwarding"]
    with pytest.raises(ConflictError, match="it is an endpoint of VpnConnection red/r"):
        world.manager.delete(Ref("Endpoint", "red", name))
    world.apply(roaming("s", 51901, "192.168.91.0/24"))
    await world.settled()
    world.manager.delete(Ref("VpnConnection", "red", "s"))
    await until(lambda: not world.exists("VpnConnection", "s", "red") and not world.exists("Endpoint", "s-1", "red"))
    await world.daemons[first].stop()
    world.manager._died(first)
    await until(lambda: carrier()[1] not in ("d2", first))
    await until(lambda: carrier()[1] in holders())
    assert carrier()[0] == "r-2"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"endpoint": "fw"}, "one of endpoint and network"),
        ({"droplets": ["nowhere"]}, "there is no droplet nowhere with a daemon"),
        ({"network": "none"}, "there is no Network red/none"),
    ],
)
async def test_a_place_that_cannot_be_is_refused(world: World, spec: dict[str, Any], message: str) -> None:
    """And nothing is made."""
    start(world)
    found = roaming()
    found["spec"] |= spec
    with pytest.raises(InvalidError, match=message):
        world.apply(found)
    assert not world.exists("Endpoint", "r-1", "red")


async def test_where_every_droplet_has_the_port_in_use_nobody_carries_it(world: World) -> None:
    """Said in the status; the others stay as they are."""
    start(world, vpn())
    world.apply(roaming(droplets=["d2"]))
    await world.settled()
    status = world.status("VpnConnection", "r", "red")
    assert (status["state"], status["endpoint"]) == ("down", "")
    assert "has UDP port 51900 in use" in status["detail"]

# SPDX-License-Identifier: Apache-2.0
"""Functions of the operator's: which droplets are told of them, when, and what becomes of one that is refused."""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from mizar._built import transit_pb2 as pb
from mizar.functions.build import build
from mizar.manager import functions, protection_messages, protections
from mizar.model import function_object
from mizar.model.errors import ExhaustedError, InvalidError, NotFoundError
from mizar.model.prefix_list import PrefixList, count_packed
from mizar.model.resources import VPC, Ref
from mizar.oracle.checksum import checksum
from tests.unit.manager.test_groups import WEB, group
from tests.unit.manager.world import World, endpoint, manifest, until

SOURCE = """
#include "mizar_function.h"
MIZAR_MAP(BPF_MAP_TYPE_HASH, ports, uint32_t, uint64_t, 16, 0);
MIZAR_ENDPOINT_VALUES;
const volatile uint32_t parameters SEC(".rodata.parameters") = 1;
MIZAR_FUNCTION(NAME, MIZAR_STAGE(ENDPOINT_INGRESS_STAGE) | MIZAR_STAGE(ON_XDP_TX))
{
	uint32_t key = VERSION + parameters;

	return bpf_map_lookup_elem(&ports, &key) ? FUNCTION_PASS : FUNCTION_CONTINUE;
}
"""


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Two versions of one function, and another."""
    found, folder = {}, tmp_path_factory.mktemp("functions")
    for name, version in (("first", 1), ("first", 2), ("second", 1)):
        source = folder / f"{name}{version}.c"
        source.write_text(SOURCE.replace("NAME", name).replace("VERSION", str(version)))
        found[f"{name}{version}"] = build(source).read_bytes()
    return found


def function(data: bytes, name: str = "first", **spec: Any) -> dict[str, Any]:
    return manifest("Function", name, object="base64:" + base64.b64encode(data).decode(), **spec)


def at(world: World, name: str = "first") -> set[str]:
    """The daemons that have it."""
    return {droplet for droplet, daemon in world.daemons.items() if name in daemon.functions}


def scopes(world: World, droplet: str, name: str = "first") -> list[str]:
    return sorted(str(one.WhichOneof("scope")) for one in world.daemons[droplet].functions[name].scopes)


RED = {"tenant": "red", "name": "main"}


async def test_it_is_loaded_where_its_scopes_have_something_and_nowhere_else(
    world: World, objects: dict[str, bytes]
) -> None:
    """Each kind of scope; the object goes where it is missing, once. Without attachments it is nowhere."""
    data = objects["first1"]
    world.apply(*world.base("red"), endpoint("red", "e1", "d2"), group("web", selector=WEB))
    await world.settled()
    status = world.status("Network", "front", "red"), world.status("VPC", "main", "red")
    knowing = {"d2", *status[0]["bouncers"], *status[1]["dividers"]}
    world.apply(function(data))
    await world.settled()
    assert at(world) == set()
    for attach, wanted, kind in (
        ({"droplet": "d4"}, {"d4"}, "droplet"),
        ({"droplet": "all"}, {"d1", "d2", "d3", "d4"}, "droplet"),
        ({"vpc": RED}, knowing, "vni"),
        ({"network": {"tenant": "red", "name": "front"}}, knowing, "network"),
        ({"group": {"tenant": "red", "name": "web"}}, knowing, "group"),
        ({"endpoint": {"tenant": "red", "name": "e1"}}, {"d2"}, "uid"),
        ({"network": {"tenant": "red", "name": "web"}}, set(), ""),
        ({"vpc": {"tenant": "red", "name": "other"}}, set(), ""),
    ):
        (result,) = world.apply(function(data, attach=[attach]))
        await world.settled()
        await until(lambda wanted=wanted: at(world) == wanted)  # type: ignore[misc]
        assert world.status("Function", "first")["droplets"] == sorted(wanted)
        assert all(scopes(world, name) == [kind] for name in wanted)
        assert bool(result.warnings) == (not wanted)
    assert scopes(world, next(iter(wanted)), "first") == [kind] if wanted else True


async def test_it_follows_what_it_is_for(world: World, objects: dict[str, bytes]) -> None:
    """An endpoint of the VPC comes to another droplet, and goes; the VPC comes after the function."""
    world.apply(*(world.droplet(name) for name in world.daemons))
    world.apply(function(objects["first1"], attach=[{"endpoint": {"tenant": "red", "name": "e1"}}]))
    await world.settled()
    assert at(world) == set()
    world.apply(*world.base("red"), endpoint("red", "e1", "d3"))
    await until(lambda: at(world) == {"d3"})
    world.manager.delete(Ref("Endpoint", "red", "e1"))
    await until(lambda: at(world) == set())
    await world.settled()


async def test_order_stages_parameters_and_maps_are_told(world: World, objects: dict[str, bytes]) -> None:
    """Parameters make another object; a map is told whole, a scope with its value."""
    one = function(objects["first1"], attach=[{"droplet": "d1", "value": 9}], order=7, stages=["ON_XDP_TX"])
    one["spec"] |= {"maps": {"ports": [{"key": 5, "value": 6}]}}
    world.apply(world.droplet("d1"), one)
    await world.settled()
    told = world.daemons["d1"].functions["first"]
    assert (told.order, list(told.stages), told.maps[0].name) == (7, [0], "ports")
    assert [(one.droplet, one.value) for one in told.scopes] == [(True, 9)]
    assert told.maps[0].entries[0] == pb.FunctionEntry(key=b"\5\0\0\0", value=b"\6" + bytes(7))
    with pytest.raises(InvalidError, match="parameters"):
        world.apply(function(objects["first1"], parameters={"most": 2}))
    calls = world.daemons["d1"].calls.count("SetFunctions")
    assert [result.change for result in world.apply(one)] == ["unchanged"]
    await world.settled()
    assert world.daemons["d1"].calls.count("SetFunctions") == calls


async def test_its_maps_are_asked_of_its_droplet(world: World, objects: dict[str, bytes]) -> None:
    """What they are, and what one holds, as many entries as are asked for; nothing of what is not the operator's."""
    world.apply(world.droplet("d1"), function(objects["first1"], attach=[{"droplet": "d1"}]))
    await world.settled()
    shape = {"name": "seen", "type": "HASH", "entries": 16, "keySize": 4, "valueSize": 8}
    assert await world.manager.function_maps("d1", "first") == [shape]
    (held,) = await world.manager.function_maps("d1", "first", "seen", 7)
    assert held == {**shape, "rows": [{"key": {"port": 53}, "value": 7}], "more": True}
    with pytest.raises(NotFoundError, match="droplet d1: there is no first other"):
        await world.manager.function_maps("d1", "first", "other")
    for droplet, name in (("d1", "ddos-protection"), ("d7", "first")):
        with pytest.raises(NotFoundError, match="there is no such object"):
            await world.manager.function_maps(droplet, name)


async def test_one_that_is_refused_costs_no_other(world: World, objects: dict[str, bytes]) -> None:
    """The version before it stays where it was; the words of the droplet are its status, until it is mended."""
    both = [{"droplet": "d1"}, {"droplet": "d2"}]
    world.apply(world.droplet("d1"), world.droplet("d2"), function(objects["first1"], attach=both))
    await world.settled()
    before = world.daemons["d1"].functions["first"].digest
    world.daemons["d1"].unwanted = lambda one: one.name == "first" and one.digest != before
    world.apply(function(objects["first2"], attach=both), function(objects["second1"], "second", attach=both))
    await until(lambda: world.phase("Function", "first") == "Failed" and at(world, "second") == {"d1", "d2"})
    status = world.status("Function", "first")
    assert status["refused"] == [{"droplet": "d1", "reason": "function first: it may never end"}]
    assert (status["droplets"], status["reason"]) == (["d2"], "Refused")
    assert world.daemons["d1"].functions["first"].digest == before
    assert world.daemons["d2"].functions["first"].digest != before
    assert world.phase("Function", "second") == "Provisioned"
    world.apply(function(objects["first1"], attach=both))
    await world.settled()
    assert world.status("Function", "first")["droplets"] == ["d1", "d2"]
    world.daemons["d1"].unwanted = lambda one: one.name == "second"
    world.apply(function(objects["second1"], "second", attach=both, order=5))
    await until(lambda: world.phase("Function", "second") == "Failed")
    world.manager.delete(Ref("Function", "", "second"))
    await until(lambda: not world.exists("Function", "second"))
    assert at(world, "second") == set()


async def test_daemons_and_servers_come_and_go(world: World, objects: dict[str, bytes], tmp_path: Path) -> None:
    """One that was away is told when it is back; a deletion waits for it, also over a restart of the server."""
    world.apply(
        *(world.droplet(name) for name in ("d1", "d2")), function(objects["first1"], attach=[{"droplet": "all"}])
    )
    await world.settled()
    await world.daemons["d2"].stop()
    world.apply(function(objects["first2"], attach=[{"droplet": "all"}]))
    digest = world.daemons["d2"].functions["first"].digest
    await until(lambda: world.daemons["d1"].functions["first"].digest != digest)
    assert world.phase("Function", "first") == "Init"
    await world.daemons["d2"].start()
    await world.settled()
    assert world.daemons["d2"].functions["first"].digest != digest
    await world.daemons["d2"].stop()
    world.manager.delete(Ref("Function", "", "first"))
    await until(lambda: at(world) == {"d2"})
    await world.restart()
    assert world.phase("Function", "first") == "Deleting"
    await world.daemons["d2"].start()
    await until(lambda: not world.exists("Function", "first"))
    assert at(world) == set()


async def test_an_upgrade_loses_no_function(
    world: World, objects: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that cannot read a stored object begins all the same, tells droplets of it as before, and its status
    says which of them have a stand-in."""
    attach = [{"droplet": "all"}]
    world.apply(world.droplet("d1"), function(objects["first1"], attach=attach, maps={"ports": [{"key": 7}]}))
    await world.settled()
    monkeypatch.setattr(function_object, "ABI", function_object.ABI + 1)
    world.daemons["d1"].lost = {"first": "it was built for another version"}
    await world.restart()
    await until(lambda: world.phase("Function", "first") == "Failed")
    assert world.status("Function", "first")["refused"] == [
        {"droplet": "d1", "reason": "it was built for another version"}
    ]
    assert at(world) == {"d1"}
    assert not world.daemons["d1"].functions["first"].fail_open
    monkeypatch.undo()
    world.daemons["d1"].lost = {}
    world.apply(function(objects["first2"], attach=attach, onFailure="open"))
    await world.settled()
    assert world.daemons["d1"].functions["first"].fail_open


async def test_a_digest_stands_for_the_object_that_the_server_has(world: World, objects: dict[str, bytes]) -> None:
    world.apply(world.droplet("d1"), function(objects["first1"]))
    shown = world.manager.get(Ref("Function", "", "first"))
    again = {**shown, "spec": {**shown["spec"], "order": 3}}
    assert [result.change for result in world.apply(again)] == ["changed"]
    assert world.manager.get(Ref("Function", "", "first"))["spec"]["order"] == 3
    for code, words in (("sha256:" + "0" * 64, "no object with that digest"), ("f.o", "reads no file")):
        with pytest.raises(InvalidError, match=words):
            world.apply({**shown, "spec": {"object": code}})


async def test_a_droplet_that_is_full_of_protections_says_so(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the status of the one that is left out, as long as it is."""
    monkeypatch.setattr(protection_messages, "MOST", 1)
    world.apply(*world.base("red"), endpoint("red", "e1", "d2"))
    await world.settled()
    for name in ("first", "second"):
        world.apply(manifest("DdosProtection", name, "red", vpc="main", endpoints=["e1"], block=["198.51.100.0/24"]))
        await world.settled()
    assert world.status("DdosProtection", "first", "red")["refused"] == []
    (refused,) = world.status("DdosProtection", "second", "red")["refused"]
    assert refused["droplet"] == "d2"
    assert "takes no more" in refused["reason"]
    world.manager.delete(Ref("DdosProtection", "red", "first"))
    await until(lambda: world.status("DdosProtection", "second", "red")["refused"] == [])


async def test_a_protection_for_nobody_is_told(world: World) -> None:
    """A name that was mistyped would protect nobody, without a word. It is taken: what is named may come later."""
    world.apply(*world.base("red"), endpoint("red", "e1", "d2"))
    spec = {"vpc": "main", "block": ["198.51.100.0/24"]}
    (right,) = world.apply(manifest("DdosProtection", "right", "red", **spec, endpoints=["e1"], droplets=["d2"]))
    named = {"endpoints": ["e1", "e2"], "networks": ["frnt"], "groups": ["web"], "droplets": ["d22"]}
    (wrong,) = world.apply(manifest("DdosProtection", "wrong", "red", **spec, **named))
    assert right.warnings == ()
    names = ("Endpoint red/e2", "Network red/frnt", "Network red/web", "Droplet d22")
    assert [one.partition(" (yet)")[0] for one in wrong.warnings] == [f"there is no {name}" for name in names]


async def test_a_protection_is_for_what_is_on_its_droplets(world: World) -> None:
    """And nowhere else; there it counts before one that means the same everywhere. Its status says at which stages."""
    world.apply(*world.base("red"))
    for name, droplet in (("e1", "d2"), ("e2", "d3")):
        world.apply(endpoint("red", name, droplet))
    block = {"vpc": "main", "block": ["198.51.100.0/24"]}
    world.apply(manifest("DdosProtection", "all", "red", **block))
    world.apply(manifest("DdosProtection", "here", "red", **block, droplets=["d3"], reflection={}))
    await world.settled()
    plans = world.manager._functions._plans()
    for droplet, named, wanted in (("d2", {"red/all"}, "red/all"), ("d3", {"red/all", "red/here"}, "red/here")):
        protections = plans[droplet].protections
        (scope,) = plans[droplet].messages["ddos-protection"].scopes
        assert protections.keys() == named
        assert protections[wanted].number == scope.value
    (row,) = world.status("DdosProtection", "here", "red")["droplets"]
    assert (row["droplet"], row["stages"]) == ("d3", ["ENDPOINT_INGRESS", "ENDPOINT_EGRESS"])


async def test_a_protection_says_for_whom_it_makes_no_cookies(world: World) -> None:
    """And why, where it was asked for them."""
    protections = world.manager._functions._protections
    world.apply(*world.base("red"), endpoint("red", "e1", "d2"))
    for name, spec in (("with", {"synCookies": {}}), ("without", {"block": ["198.51.100.0/24"]})):
        world.apply(manifest("DdosProtection", name, "red", vpc="main", endpoints=["e1"], **spec))
        await world.settled()
        item = world.manager._registry.find(Ref("DdosProtection", "red", name))
        assert item is not None
        protections.take("d2", pb.DdosStatus(uid=item.uid, endpoints=3, cookie_endpoints=1))
        found = protections.view(world.manager._registry, item, ["d2"], [])["droplets"][0].get("withoutCookies", "")
        assert found.startswith("2 of 3 endpoints: ") == (name == "with")


async def test_a_trace_says_what_a_protection_does_with_a_packet(world: World) -> None:
    """By the oracle, with what the droplet has told of its measures; what it cannot know it says as a condition."""
    functions = world.manager._functions
    world.apply(*world.base("red"), endpoint("red", "e1", "d2"))
    spec = {
        "block": ["198.51.100.0/24"],
        "synCookies": {},
        "reflection": {"ports": [53]},
        "perSource": {"packetsPerS": 9},
    }
    world.apply(manifest("DdosProtection", "shield", "red", vpc="main", endpoints=["e1"], **spec))
    elsewhere = {"vpc": "main", "endpoints": ["e1"], "droplets": ["d1"], "allow": ["::/0", "0.0.0.0/0"]}
    world.apply(manifest("DdosProtection", "elsewhere", "red", **elsewhere, perTarget={"packetsPerS": 9}))
    await world.settled()
    item = world.manager._registry.find(Ref("DdosProtection", "red", "shield"))
    found = world.manager._registry.find(Ref("VPC", "red", "main"))
    assert item is not None
    assert found is not None
    vpc = found.resource
    assert isinstance(vpc, VPC)
    target = world.status("Endpoint", "e1", "red")["addresses"][0]

    def said(source: str, protocol: int, body: bytes, uid: str = "") -> str:
        addresses = ip_address(source).packed + ip_address(target).packed
        head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 1, 0, 64, protocol, 0) + addresses
        (sentence,) = functions.judged("d2", vpc, bytes(12) + b"\x08\x00" + head + body, uid)
        return sentence

    pseudo = ip_address("10.9.9.9").packed + ip_address(target).packed + struct.pack("!II", 20, 6)
    syn = struct.pack("!HHIIBBHHH", 4000, 80, 1, 0, 5 << 4, 2, 1024, 0, 0)
    syn = syn[:16] + struct.pack("!H", checksum(syn + pseudo)) + syn[18:]
    ack = syn[:13] + b"\x10" + syn[14:]
    datagram = struct.pack("!4H", 53, 9, 8, 0)
    assert "drops it: SOURCE_BLOCKED" in said("198.51.100.1", 17, datagram)
    quiet = said("10.9.9.9", 6, syn)
    assert "lets it pass" in quiet
    assert "synCookies engages at 1000 SYNs/s" in quiet
    assert "a source is limited to 9 packets/s" in quiet
    functions._protections.take(
        "d2", pb.DdosStatus(uid=item.uid, cookies=True, filter=True, endpoints=1, cookie_endpoints=1)
    )
    assert "answers it in the endpoint's stead, with a SYN cookie:" in said("10.9.9.9", 6, syn)
    member = world.manager._registry.find(Ref("Endpoint", "red", "e1"))
    assert member is not None
    assert "with a SYN cookie" in said("10.9.9.9", 6, syn, member.uid)
    assert "drops it: NO_SUCH_CONNECTION, unless" in said("10.9.9.9", 6, ack)
    assert "drops it: SYN_MALFORMED" in said("10.9.9.8", 6, syn)
    assert "drops it: REFLECTED, unless" in said("10.9.9.9", 17, datagram)
    functions._protections.take("d2", pb.DdosStatus(uid=item.uid, cookies=True, endpoints=1))
    assert "with what its sender has to refuse or" in said("10.9.9.9", 6, syn)


async def test_no_tenant_fills_a_droplet_with_its_protections(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no room for all, each tenant has one before any has two; who has to go is told."""
    monkeypatch.setattr(protection_messages, "MOST", 2)
    for tenant in ("red", "blue"):
        world.apply(*world.base(tenant), endpoint(tenant, "e1", "d2"))
    await world.settled()
    block = {"vpc": "main", "endpoints": ["e1"], "block": ["198.51.100.0/24"]}
    for tenant, name in (("red", "first"), ("red", "second"), ("red", "third"), ("blue", "only")):
        world.apply(manifest("DdosProtection", name, tenant, **block))
        await world.settled()

    def lacking() -> set[str]:
        rows = {("red", "first"), ("red", "second"), ("red", "third"), ("blue", "only")}
        return {name for tenant, name in rows if world.status("DdosProtection", name, tenant)["refused"]}

    assert lacking() == {"second", "third"}
    world.manager.delete(Ref("DdosProtection", "red", "first"))
    await until(lambda: world.status("DdosProtection", "second", "red")["refused"] == [])
    assert world.status("DdosProtection", "only", "blue")["refused"] == []


async def test_lists_that_are_too_long_for_one_message_come_in_several(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the droplet refuses them, and whoever has such lists keeps the protections of others from it."""
    found = {name: [f"198.51.{place}.{host}" for host in range(200)] for place, name in enumerate("abc")}
    world.apply(*world.base("red"), endpoint("red", "e1", "d2"))
    for name, block in found.items():
        world.apply(manifest("DdosProtection", name, "red", vpc="main", endpoints=["e1"], block=block))
    await world.settled()
    manager = world.manager._functions
    plan = manager._plans()["d2"]
    monkeypatch.setattr(functions, "MOST_LISTS", 1)
    held: set[bytes] = set()
    sent: list[list[str]] = []

    class Droplet:
        name = "d2"

        def stub(self) -> Droplet:
            return self

        async def SetFunctions(self, request: pb.SetFunctionsRequest, timeout: float) -> pb.SetFunctionsReply:  # noqa: N802
            needed = {one.block_digest for one in request.protections if not one.block}
            if needed - held:
                return pb.SetFunctionsReply(missing=needed - held)
            assert sum(bool(one.block) for one in request.protections) <= 1
            held.update(one.block_digest for one in request.protections)
            sent.append(sorted(one.name for one in request.protections))
            return pb.SetFunctionsReply()

    await manager._tell(Droplet(), plan.messages.values(), plan)  # type: ignore[arg-type]
    assert sent == [["red/a"], ["red/a", "red/b"], ["red/a", "red/b", "red/c"]]
    await manager._tell(Droplet(), plan.messages.values(), plan)  # type: ignore[arg-type]
    assert len(sent) == 4


async def test_droplets_hear_of_no_function_that_is_not_kept(
    world: World, objects: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of all else: each is told when the disk has it."""
    world.apply(*world.base("red"))
    await world.settled()
    manager, turns = world.manager._functions, list[str]()
    kept, told = manager._kept, manager._set

    async def keeping() -> None:
        await kept()
        turns.append("kept")

    async def telling(*args: Any) -> Any:
        turns.append("told")
        return await told(*args)

    monkeypatch.setattr(manager, "_kept", keeping)
    monkeypatch.setattr(manager, "_set", telling)
    world.apply(function(objects["first1"], attach=[{"droplet": "d1"}]))
    await until(lambda: at(world) == {"d1"})
    assert turns[:2] == ["kept", "told"]


async def test_lists_of_a_tenant_take_so_much_together(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """And no more, with the longest twice, because old and new are there while it is replaced: who asks for more is
    told how much, nothing is changed, and another tenant has as much."""
    alone = 2 * 2 * 4096  # of each family a table of few prefixes: a page, and one of the kernel's
    monkeypatch.setattr(protections, "MOST_LISTS_BYTES", 3 * alone)
    for tenant in ("red", "blue"):
        world.apply(*world.base(tenant), endpoint(tenant, "e1", "d2"))
    shield = {"vpc": "main", "endpoints": ["e1"], "perSource": {"packetsPerS": 9}}
    packed = base64.b64encode(PrefixList(((1 << 24, 8),), ((0, 128),)).packed).decode()
    world.apply(manifest("DdosProtection", "long", "red", **shield, blockList=f"packed:{packed}"))
    world.apply(manifest("DdosProtection", "short", "red", **shield, block=["198.51.100.0/24"]))
    for name, more in (("short", [f"10.0.{host}.1" for host in range(250)]), ("new", ["::/64"])):
        with pytest.raises(ExhaustedError, match=r"red/\w+ may take 0\.0 MiB .* of tenant red 0\.0 MiB.* replaced"):
            world.apply(manifest("DdosProtection", name, "red", **shield, allow=more))
    world.apply(manifest("DdosProtection", "short", "red", **shield, allow=["10.0.0.0/8", "192.0.2.0/24"]))
    world.apply(manifest("DdosProtection", "long", "blue", **shield, blockList=f"packed:{packed}"))


async def test_lists_that_are_there_stay_whatever_they_may_take_by_now(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that counts them otherwise than the one before takes the same manifest again, and a shorter list."""
    world.apply(*world.base("red"), endpoint("red", "e1", "d2"))
    shield = {"vpc": "main", "endpoints": ["e1"]}
    many = manifest("DdosProtection", "shield", "red", **shield, block=[f"10.0.{host}.1" for host in range(250)])
    world.apply(many)
    monkeypatch.setattr(protections, "MOST_LISTS_BYTES", 1)
    (again,) = world.apply(many)
    (shorter,) = world.apply(manifest("DdosProtection", "shield", "red", **shield, block=["10.0.0.1"]))
    assert (again.change, shorter.change) == ("unchanged", "changed")
    with pytest.raises(ExhaustedError):
        world.apply(many)


async def test_a_list_that_was_replaced_is_not_kept(world: World) -> None:
    """Else whoever replaces one again and again fills the server."""
    world.apply(*world.base("red"), endpoint("red", "e1", "d2"))
    for host in range(3):
        block = [f"198.51.100.{host}"]
        world.apply(manifest("DdosProtection", "shield", "red", vpc="main", endpoints=["e1"], block=block))
        await world.settled()
    assert len(world.manager._functions._protections._lists) == 1


@pytest.mark.parametrize("spoilt", [lambda data: data + b"more", lambda data: data[:-2]])
def test_a_packed_list_has_nothing_behind_it_and_is_whole(spoilt: Callable[[bytes], bytes]) -> None:
    """What is behind it would be stored and sent to droplets, and looked at by nobody."""
    data = PrefixList(((1 << 24, 8),)).packed
    assert count_packed(data) == 1
    with pytest.raises(InvalidError):
        count_packed(spoilt(data))


async def test_a_protection_tells_when_measures_were_engaged_and_what_they_kept_away(world: World) -> None:
    """In its status: the source of most, and how much meanwhile; not what was kept away before."""
    protections = world.manager._functions._protections
    world.apply(*world.base("red"), endpoint("red", "e1", "d2"))
    world.apply(manifest("DdosProtection", "shield", "red", vpc="main", endpoints=["e1"], synCookies={}))
    await world.settled()
    item = world.manager._registry.find(Ref("DdosProtection", "red", "shield"))
    target = world.manager._registry.find(Ref("Endpoint", "red", "e1"))
    assert item is not None
    assert target is not None
    top = [pb.DdosTop(address=bytes((10, 0, 0, 9)), length=32, kind="synsAnswered", packets=90, endpoint=target.uid)]
    for cookies, packets in ((False, 10), (True, 30), (True, 50), (False, 100)):
        counts = [pb.DdosCount(kind="synsAnswered", packets=packets), pb.DdosCount(kind="seen", packets=10**6)]
        told = pb.DdosStatus(uid=item.uid, cookies=cookies, counts=counts, top=top)
        told.cookies_since_unix_ms, told.cookies_until_unix_ms = 1000, 61_000
        protections.take("d2", told)
    who = {"droplet": "d2", "measure": "synCookies", "source": "10.0.0.9", "target": "e1"}
    assert world.status("DdosProtection", "shield", "red")["events"] == [
        {**who, "event": "engaged", "time": "1970-01-01T00:00:01.000Z"},
        {**who, "event": "withdrawn", "time": "1970-01-01T00:01:01.000Z", "packets": 90},
    ]

# SPDX-License-Identifier: Apache-2.0
"""Live events and counters by the API: names for numbers, to each tenant its own alone, filters, and no longer than
they are wanted."""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import ip_address
from typing import Any

import pytest

from mizar._built import transit_pb2 as pb
from mizar.api.client import Client
from mizar.model.errors import ExhaustedError, InvalidError, NotFoundError
from mizar.model.manifest import parse_resource
from mizar.planner.policy import rule_number
from tests.api.conftest import Site, aside
from tests.lab.conftest import wait_until
from tests.unit.manager.world import endpoint, manifest, network, tenant, vpc

SPOOFED, UNKNOWN_SENDER, TOO_BIG = 62, 4, 100
OUTER, INNER = b"o" * 50, b"i" * 60


@contextmanager
def set_up(site: Site) -> Iterator[tuple[Client, dict[str, Any]]]:
    """Two tenants with one endpoint each at the same address, on d1."""
    with site.client() as admin:
        admin.apply(site.droplets())
        objects = [f(o) for o in ("red", "blue") for f in (tenant, vpc, network)]
        admin.apply([*objects, *(endpoint(o, "e1", "d1") for o in ("red", "blue"))])
        wait_until(lambda: all(one["status"]["phase"] == "Provisioned" for one in admin.list("Endpoint")), 30)
        yield admin, {one["metadata"]["tenant"]: one for one in admin.list("Endpoint")}


def number(admin: Client, owner: str) -> int:
    return int(admin.get("VPC", "main", owner)["status"]["number"])


def drop(admin: Client, owner: str, at: dict[str, Any], **fields: Any) -> pb.Event:
    address = ip_address(at[owner]["status"]["addresses"][0]).packed
    base: dict[str, Any] = {
        "reason": SPOOFED,
        "vni": number(admin, owner),
        "vpc_known": True,
        "hook": "agent",
        "uid": at[owner]["metadata"]["uid"],
        "source": address,
        "destination": bytes((10, 9, 9, 9)),
        "inner": True,
        "protocol": 6,
        "source_port": 4001,
        "destination_port": 80,
        "frame": INNER,
        "length": 60,
        "interface": "mz1",
    }
    return pb.Event(time_unix_ns=1_750_000_000_000_000_001, drop=pb.Drop(**(base | fields)))


class Listener:
    """One watcher, read on a thread of its own. `wanted` is how many sightings it waits for."""

    def __init__(self, client: Client, **wish: Any) -> None:
        self.seen: list[dict[str, Any]] = []
        self.ready = threading.Event()
        self._client = client
        self._lines = client.events(wish)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._stop = False
        self._thread.start()
        assert self.ready.wait(30)

    def _read(self) -> None:
        for one in self._lines:
            if one["type"] == "ready":
                self.ready.set()
            elif one["type"] != "alive":
                self.seen.append(one)
            if self._stop:
                break
        self._lines.close()  # type: ignore[attr-defined]

    def stop(self) -> None:
        """Reads the next line, which comes within a second, and no more."""
        self._stop = True

    def end(self) -> list[dict[str, Any]]:
        """All that was seen."""
        self.stop()
        self._thread.join(30)
        return self.seen


async def test_an_administrator_sees_who_it_was(site: Site) -> None:
    """Names of sender, ends, VPC and droplet, the sentence, and the frame as it was captured."""

    def look() -> None:
        with set_up(site) as (admin, at), site.client() as other:
            listener = Listener(other)
            assert [daemon.asked[-1].drops for daemon in site.daemons] == [True, True]
            site.daemons[0].say(drop(admin, "red", at, frame=OUTER + INNER, inner_at=50, hook="transit"))
            site.daemons[1].say(pb.Event(suppressed=pb.Suppressed(reason=SPOOFED, vni=number(admin, "red"), packets=7)))
            wait_until(lambda: len(listener.seen) == 2, 30)
            seen, left_out = sorted(listener.end(), key=lambda one: one["droplet"])
            assert (seen["droplet"], seen["program"], seen["reason"]) == ("d1", "transit", "SPOOFED_ADDRESS")
            assert (seen["vpc"], seen["sender"], seen["protocol"]) == ("red/main", "red/e1", "tcp")
            assert seen["source"]["endpoint"] == "red/e1"
            assert seen["destination"] == {"address": "10.9.9.9", "port": 80, "endpoint": None}
            assert seen["sentence"] == "The endpoint sent from an IP address that is not its own."
            assert base64.b64decode(seen["frame"]) == OUTER + INNER
            assert seen["time"] == "2025-06-15T15:06:40.000000001Z"
            assert (left_out["type"], left_out["packets"], left_out["vpc"]) == ("suppressed", 7, "red/main")

    await aside(look)


async def test_a_tenant_sees_its_own_alone(site: Site) -> None:
    """Neither another's packets, nor what no VPC is charged for, nor the outer headers, interfaces and droplets."""

    def look() -> None:
        with set_up(site) as (admin, at), site.certified("tenant-red") as red:
            shields = [manifest("DdosProtection", "shield", o, vpc="main", synCookies={}) for o in ("red", "blue")]
            admin.apply([parse_resource(one) for one in shields])
            listener = Listener(red)
            first = site.daemons[0]
            vni = number(admin, "red")
            first.say(drop(admin, "blue", at))
            first.say(drop(admin, "red", at, vpc_known=False))  # the frame says so, and may be anybody's
            first.say(pb.Event(suppressed=pb.Suppressed(reason=SPOOFED, vni=number(admin, "blue"), packets=1)))
            first.say(pb.Event(suppressed=pb.Suppressed(reason=UNKNOWN_SENDER, packets=1)))
            first.say(pb.Event(droplet_changed=pb.DropletChanged(address=bytes((172, 31, 0, 12)), down=True)))
            first.say(pb.Event(link_changed=pb.LinkChanged(interface="eth0", up=False)))
            for owner in ("blue", "red"):
                uid = at[owner]["metadata"]["uid"]
                asked = pb.Trapped(uid=uid, vni=number(admin, owner), kind="dhcp4", answered=True)
                first.say(pb.Event(trapped=asked))
                path = pb.PathChanged(vni=number(admin, owner), address=bytes((10, 0, 0, 2)))
                first.say(pb.Event(path_changed=path))
                first.say(pb.Event(endpoint_changed=pb.EndpointChanged(uid=uid, state="lost", detail="eth7 is gone")))
                shield = admin.get("DdosProtection", "shield", owner)["metadata"]["uid"]
                top = [pb.DdosTop(address=bytes((10, 9, 9, 0)), length=24, kind="synsAnswered", packets=80)]
                for turned in (["cookies"], []):  # what is only counted on is told to nobody
                    status = pb.DdosStatus(uid=shield, cookies=True, turned=turned, top=top)
                    first.say(pb.Event(ddos_status=status))
            first.say(drop(admin, "red", at, reason=TOO_BIG, hook="transit", frame=OUTER + INNER, inner_at=50))
            first.say(drop(admin, "red", at, hook="transit", frame=OUTER + INNER, inner_at=50, inner=False, uid=""))
            first.say(pb.Event(suppressed=pb.Suppressed(events=5)))  # of whomever they were
            first.say(pb.Event(suppressed=pb.Suppressed(reason=SPOOFED, vni=vni, packets=9)))
            wait_until(lambda: listener.seen and listener.seen[-1]["type"] == "suppressed", 30)
            seen = listener.end()
            assert seen.pop(-2) == {"type": "missed", "time": seen[-1]["time"], "droplet": "d1", "events": None}
            kinds = [one["type"] for one in seen]
            assert kinds == ["trap", "path", "endpoint", "protection", "drop", "drop", "suppressed"]
            engaged = seen.pop(3)
            assert (engaged["protection"], engaged["engaged"], engaged["withdrawn"]) == (
                "red/shield",
                ["synCookies"],
                [],
            )
            assert engaged["top"] == [{"source": "10.9.9.0/24", "kind": "synsAnswered", "packets": 80}]
            assert {one["vpc"] for one in seen if "vpc" in one} == {"red/main"}
            assert seen[2]["detail"] == ""
            assert base64.b64decode(seen[3]["frame"]) == INNER
            assert seen[4]["frame"] is None
            assert [one["interface"] for one in seen[3:5]] == [None, None]

    await aside(look)


FILTERS: tuple[tuple[dict[str, Any], list[str]], ...] = (
    ({"tenant": "blue"}, ["blue"]),
    ({"vpc": "red/main"}, ["red", "red-big"]),
    ({"endpoint": "red/e1", "reason": ["PACKET_TOO_BIG"]}, ["red-big"]),
    ({"reason": ["packet-too-big"]}, ["red-big"]),
    ({"address": "10.9.0.0/16", "droplet": "d1"}, ["blue", "red", "red-big"]),
    ({"address": "10.8.8.8"}, []),
    ({"droplet": "d2"}, []),
    ({"type": ["trap"]}, []),
)


async def test_filters(site: Site) -> None:
    """By tenant, VPC, endpoint, reason, address, droplet and type."""

    def look() -> None:
        with set_up(site) as (admin, at), ExitStack() as stack:
            listeners = [Listener(stack.enter_context(site.client()), **wish) for wish, _ in FILTERS]
            for owner, reason in (("blue", SPOOFED), ("red", SPOOFED), ("red", TOO_BIG)):
                site.daemons[0].say(drop(admin, owner, at, reason=reason))
            for listener, (_, expected) in zip(listeners, FILTERS, strict=True):
                wait_until(lambda: len(listener.seen) >= len(expected), 30)  # noqa: B023 - called at once
            for listener in listeners:
                listener.stop()
            names = {("blue", "SPOOFED_ADDRESS"): "blue", ("red", "SPOOFED_ADDRESS"): "red"}
            for listener, (wish, expected) in zip(listeners, FILTERS, strict=True):
                seen = [names.get((one["vpc"][:-5], one["reason"]), "red-big") for one in listener.end()]
                assert seen == expected, wish

    await aside(look)


async def test_what_cannot_be_watched_is_said(site: Site) -> None:
    """Unknown names, and another tenant's, in the same words; too many watchers."""

    def look() -> None:
        with set_up(site), site.certified("tenant-red") as red:
            wrong: list[tuple[type[Exception], str, dict[str, Any]]] = [
                (NotFoundError, "no such", {"vpc": "blue/main"}),
                (NotFoundError, "no such", {"endpoint": "blue/nothing"}),
                (NotFoundError, "no such", {"droplet": "d9"}),
                (InvalidError, "neither an address", {"address": "10.0.0"}),
                (InvalidError, "no drop reason", {"reason": ["BAD_LUCK"]}),
                (InvalidError, "there are drop", {"type": ["weather"]}),
                (InvalidError, "which tenant", {"vpc": "main"}),
            ]
            for kind, words, wish in wrong:
                with pytest.raises(kind, match=words):
                    next(red.events(wish))
            watching = [red.events({}) for _ in range(8)]
            for lines in watching:
                next(lines)
            with pytest.raises(ExhaustedError, match="too many"):
                next(red.events({}))
            for lines in watching:
                lines.close()  # type: ignore[attr-defined]

    await aside(look)


async def test_daemons_are_watched_while_somebody_looks(site: Site) -> None:
    """A call for each droplet that matters, which ends with the watcher; one that ends, and comes back, is told of."""
    first, second = site.daemons

    def begin() -> tuple[Listener, Client, Callable[[], None]]:
        with set_up(site):
            other = site.client()
            before = first.watchers
            listener = Listener(other)
            assert first.watchers == before + 1
            return listener, other, lambda: wait_until(lambda: first.watchers <= before, 30)

    listener, other, ended = await aside(begin)
    await second.stop()
    await aside(lambda: wait_until(lambda: {"away"} <= {one["type"] for one in listener.seen}, 30))
    await second.start()
    await aside(lambda: wait_until(lambda: {"back"} <= {one["type"] for one in listener.seen}, 30))
    assert {one["droplet"] for one in listener.seen if one["type"] in ("away", "back")} == {"d2"}
    await aside(listener.end)
    other.close()
    await aside(ended)


async def test_traffic_of_all_droplets(site: Site) -> None:
    """Summed up under names; a tenant is shown its own, and no droplets; who does not answer is said to be away."""

    def look() -> None:
        with set_up(site) as (admin, _), site.certified("tenant-red") as red:
            found = admin.traffic()
            assert [(one["name"], one["health"], one["problem"]) for one in found["droplets"]] == [
                ("d1", "up", ""),
                ("d2", "up", ""),
            ]
            assert {(one["tenant"], one["name"]) for one in found["vpcs"]} == {("red", "main"), ("blue", "main")}
            assert [(one["tenant"], one["droplet"]) for one in sorted(found["endpoints"], key=str)] == [
                ("blue", "d1"),
                ("red", "d1"),
            ]
            (drops,) = found["drops"]
            assert (drops["reason"], drops["packets"], drops["bytes"]) == ("SPOOFED_ADDRESS", 4, 240)
            own = red.traffic()
            assert own["droplets"] == own["drops"] == []
            assert {one["tenant"] for one in (*own["vpcs"], *own["endpoints"])} == {"red"}

    await aside(look)
    await site.daemons[1].stop()

    def again() -> None:
        with site.client() as admin:
            wait_until(lambda: admin.traffic()["droplets"][1]["problem"], 30)
            assert admin.traffic()["droplets"][0]["problem"] == ""

    await aside(again)


async def test_what_a_policy_decides_is_told_with_its_rule_to_its_tenant_alone(site: Site) -> None:
    """Refused, allowed and audited packets; by default that no rule of which policies allows it; filtered by policy."""

    def look() -> None:
        with set_up(site) as (admin, at), site.certified("tenant-red") as red, site.certified("tenant-blue") as blue:
            rules = [{"action": "deny", "log": True}]
            made = [manifest("Policy", name, "red", vpc="main", ingress=rules) for name in ("front", "other")]
            admin.apply([parse_resource(one) for one in made])
            number_of = admin.get("Policy", "front", "red")["status"]["id"]
            mine, all_red, strange = Listener(red, policy="red/front"), Listener(red), Listener(blue)
            say, policed = site.daemons[0].say, at["red"]["metadata"]["uid"]
            ends = {"uid": "", "hook": "transit", "policed": policed, "source": bytes((10, 9, 9, 9))}
            ends["destination"] = ip_address(at["red"]["status"]["addresses"][0]).packed
            front = rule_number(number_of, False, 0)
            say(drop(admin, "red", at, **ends, reason=118, rule=front))
            say(drop(admin, "red", at, **ends, reason=119, rule=0))
            say(drop(admin, "red", at, **ends, reason=0, rule=front, outcome=pb.Drop.ALLOWED))
            say(drop(admin, "red", at, **ends, reason=118, rule=front + 65536, outcome=pb.Drop.AUDITED))
            wait_until(lambda: len(all_red.seen) == 4 and len(mine.seen) == 3, 30)
            denied, default, allowed, audited = all_red.end()
            assert (denied["type"], denied["policy"], denied["policed"]) == ("drop", "red/front", "red/e1")
            assert denied["rule"] == "policy front ingress rule 1 (priority 1000)"
            assert (default["rule"], default["policy"]) == ("no rule of policies front, other", None)
            assert (allowed["type"], allowed["outcome"], allowed["reason"]) == ("verdict", "allowed", "POLICY_ALLOWED")
            assert (audited["outcome"], audited["policy"]) == ("audited", "red/other")
            assert mine.end() == [denied, default, allowed]
            assert strange.end() == []
            with pytest.raises(NotFoundError):
                next(iter(blue.events({"policy": "red/front"})))

    await aside(look)

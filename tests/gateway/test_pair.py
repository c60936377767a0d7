# SPDX-License-Identifier: Apache-2.0
"""Two gateways as a pair: one dies under load, the other has the wire from then on, and connections go on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from mizar.gateway import process
from mizar.gateway.options import Options
from mizar.kernel import interfaces, namespaces
from mizar.model.errors import InvalidError
from mizar.pki import authority
from tests.gateway.rig import HOST, PEER, PORT, WORLD4, WORLD6, Rig, UdpEcho, heard_from, nat, rig
from tests.gateway.running import Running, description, running
from tests.gateway.scrape import scrape
from tests.gateway.talk import bulk, stream
from tests.gateway.waiting import wait_for
from tests.peers.foreign import command

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]
ONE, OTHER = "198.18.0.1", "198.18.0.2"


@dataclass(frozen=True)
class Twins:
    """Two gateways, and what has the wire lead to the second."""

    one: Running
    other: Running
    swap: Callable[[], None]


@contextmanager
def twins(folder: Path) -> Iterator[Twins]:
    """Both hosts have the same address and MAC; the wire of one of them is up."""
    pki = folder / "pki"
    authority.initialise(pki, [ONE, OTHER])
    with ExitStack() as stack:
        first = stack.enter_context(rig())
        second = replace(first, prefix=f"{first.prefix}b", host=_second_host(stack, first))
        made = []
        for own, here, there in ((first, ONE, OTHER), (second, OTHER, ONE)):
            place = folder / own.prefix
            place.mkdir()
            options = ["--pki", str(pki), "--lead", f"{here}:7799", "--follow", f"{there}:7799"]
            options += ["--metrics", f"unix://{place / 'metrics'}"]
            text = description("in line", own.prefix, nat())
            made.append(stack.enter_context(running(own, text, place, *options)))
        yield Twins(made[0], made[1], lambda: _swap(f"{first.prefix}-peers"))


def _second_host(stack: ExitStack, first: Rig) -> namespaces.Namespace:
    one, other, peers = f"{first.prefix}-host", f"{first.prefix}b-host", f"{first.prefix}-peers"
    host = stack.enter_context(namespaces.scratch(other))
    queues = ["numtxqueues", "1", "numrxqueues", "1"]
    peer = ["peer", "name", "wire2", *queues, "netns", peers]
    command("ip", "link", "add", "wire", *queues, "type", "veth", *peer, namespace=other)
    command("ip", "link", "add", "pair", "type", "veth", "peer", "name", "pair", "netns", other, namespace=one)
    for namespace, interface, address in ((one, "pair", ONE), (other, "pair", OTHER), (other, "wire", HOST)):
        command("ip", "-n", namespace, "addr", "add", f"{address}/24", "dev", interface)
    command("ip", "-n", other, "link", "set", "wire", "address", "02:00:00:00:02:09")
    command("ip", "-n", peers, "link", "set", "wire2", "address", "02:00:00:00:02:02")
    for namespace, interface in ((one, "pair"), (other, "pair"), (other, "wire"), (other, "lo")):
        command("ip", "-n", namespace, "link", "set", interface, "up")
    command("ip", "-n", peers, "link", "set", "wire2", "up")
    with namespaces.Namespace.by_name(peers) as behind:
        for there, interface in ((host, "wire"), (behind, "wire2")):
            there.run(lambda interface=interface: interfaces.set_tx_checksum(interface, on=False))  # type: ignore[misc]
            there.run(lambda interface=interface: interfaces.set_gro(interface, on=True))  # type: ignore[misc]
    return host


def _swap(peers: str) -> None:
    command("ip", "-n", peers, "link", "set", "wire", "down")
    command("ip", "-n", peers, "addr", "del", f"{PEER}/24", "dev", "wire")
    command("ip", "-n", peers, "addr", "add", f"{PEER}/24", "dev", "wire2")


def test_connections_go_on_when_a_gateway_dies_under_load(tmp_path: Path) -> None:
    """TCP in full flow over both families, and what UDP's outer end was, outlive the gateway that translated them."""
    with twins(tmp_path) as found, ExitStack() as stack:
        ends = found.one.rig.ends
        for address in (WORLD4, WORLD6):
            stack.enter_context(UdpEcho(ends["world"], address))
        before = [heard_from(ends["green"], address, source_port=4000) for address in (WORLD6,)]
        streams = [
            stack.enter_context(stream(ends["blue"], ends["world"], address, PORT)) for address in (WORLD4, WORLD6)
        ]
        for near, far in streams:
            bulk(near, far)
        for one in (found.one, found.other):
            wait_for(lambda one=one: one.show()["pair"]["following"] == "all of it is here")  # type: ignore[misc]
        wait_for(lambda: len(found.other.connections()) == len(found.one.connections()) == 3)
        _in_metrics(found.one, found.other)
        loads = [threading.Thread(target=bulk, args=(near, far, 1 << 23)) for near, far in streams]
        for load in loads:
            load.start()
        found.one.kill()
        found.swap()
        for load in loads:
            load.join(200)
        assert not any(load.is_alive() for load in loads)
        for near, far in streams:
            bulk(near, far)
        assert [heard_from(ends["green"], address, source_port=4000) for address in (WORLD6,)] == before
        assert "cannot follow" in found.other.show()["pair"]["following"]
        found.one.begin()  # it comes back and learns what happened meanwhile
        wait_for(lambda: found.one.show()["pair"]["following"] == "all of it is here")


def _in_metrics(*pair: Running) -> None:
    """Each leads and follows; somebody told somebody of what lives."""
    told = [scrape(one.folder / "metrics") for one in pair]
    for now in told:
        assert now["mizar_gateway_followers", {}] == 1
        states = {
            state: now["mizar_gateway_following", {"state": state}] for state in ("apart", "catching_up", "whole")
        }
        assert states == {"apart": 0, "catching_up": 0, "whole": 1}
    assert told[1]["mizar_gateway_told_connections_total", {}] >= 3
    assert told[1]["mizar_gateway_adopted_connections_total", {}] >= 3


@pytest.mark.parametrize(("lead", "says"), [("192.0.2.1:7799", "needs certificates"), ("192.0.2.1", "host:port")])
def test_options_that_make_no_pair_are_refused(lead: str, says: str, tmp_path: Path) -> None:
    """In a sentence, before anything is done."""
    file = tmp_path / "gateway.yaml"
    file.write_text(description("in line", "none", nat()))
    with pytest.raises(InvalidError, match=says):
        process.run(Options(file, "nowhere", lead=lead))

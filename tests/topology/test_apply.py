# SPDX-License-Identifier: Apache-2.0
"""Topologies in the real kernel: made as described, once; drift repaired; others left alone; taken away whole."""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest

from mizar.kernel import namespaces, topology_links
from mizar.kernel.netlink import Netlink
from mizar.kernel.topology_facts import GROUP, VLAN_FILTERING, Found, Mark, Vxlan
from mizar.kernel.topology_features import missing
from mizar.kernel.topology_links import TopologyLinks
from mizar.model.errors import ConflictError, MizarError, TemporaryError
from mizar.topology import host
from mizar.topology.compare import State
from mizar.topology.steps import MakeLink, SetLink
from tests.topology.conftest import HEAD, TEXT, Host

pytestmark = pytest.mark.root

KEYS = {
    ("", "br0"), ("b", "br1"), ("", "vx0"), ("", "vx1"), ("", "vx2"), ("", "v0-br"), ("a", "eth0"), ("", "v1-br"),
    ("b", "eth0"), ("a", "eth1"), ("b", "v2-br"),
}  # fmt: skip


def same_interfaces(before: dict[tuple[str, str], Found], after: dict[tuple[str, str], Found]) -> set[tuple[str, str]]:
    """Those that are the same ones, not made anew."""
    return {key for key in before if key in after and before[key].index == after[key].index}


def test_a_topology_is_made_as_described(gateway: Host) -> None:
    """Everything that was asked for, read back from the kernel; each thing carries its mark."""
    gateway.apply()
    links = gateway.links()
    assert set(links) == KEYS
    assert gateway.names() == ["a", "b"]
    assert all(found.link.up and found.group == GROUP for found in links.values())
    bridge = links["", "br0"].link
    assert (bridge.kind, bridge.mtu, set(bridge.addresses)) == ("bridge", 1450, {"10.0.0.254/24"})
    assert links["", "br0"].mark == Mark("gw", "bridge br0")
    assert links["", "vx0"].link.vxlan == Vxlan(7, False, False, "192.0.2.1", 4790, True)
    assert links["", "vx1"].link.vxlan == Vxlan(0, True, True, "2001:db8::1", 4789, False)
    assert links["", "vx1"].link.vnis == {*range(100, 200), 300}
    assert [links["", name].link.master for name in ("vx0", "vx1", "vx2", "v0-br")] == ["br0", "br0", "", "br0"]
    assert links["b", "v2-br"].link.master == "br1"
    inner = links["a", "eth0"]
    assert (inner.link.mtu, set(inner.link.addresses)) == (1450, {"10.0.0.1/24", "fd00::1/64"})
    assert inner.link.peer == ("", "v0-br")
    assert links["", "v0-br"].link.peer == (f"{gateway.prefix}-a", "eth0")
    assert links["a", "eth1"].link.peer == (f"{gateway.prefix}-b", "v2-br")
    assert {row.state for row in gateway.show()} == {State.AS_WANTED}


def test_packets_pass_the_bridge(gateway: Host) -> None:
    """From one namespace to the other and to the host's address."""
    gateway.apply()
    for address in ("10.0.0.2", "10.0.0.254"):
        command = ["ip", "netns", "exec", f"{gateway.prefix}-a", "ping", "-c", "1", "-W", "5", address]
        assert subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_a_second_apply_has_nothing_to_do(gateway: Host) -> None:
    """No step, and the same interfaces."""
    assert gateway.apply().steps
    before = gateway.links()
    assert gateway.apply().steps == []
    assert gateway.links() == before


def test_a_dry_run_changes_nothing(gateway: Host) -> None:
    """It tells the steps that an apply does."""
    planned = gateway.apply(dry_run=True)
    assert gateway.links() == {}
    assert gateway.names() == []
    assert gateway.apply().steps == planned.steps
    assert gateway.delete(dry_run=True).steps
    assert set(gateway.links()) == KEYS


@pytest.mark.parametrize(
    ("commands", "remade"),
    [
        ([("", "link set br0 mtu 1300")], set()),
        ([("", "link set vx1 down")], set()),
        ([("", "link set v0-br nomaster")], set()),
        ([("a", "addr flush dev eth0")], set()),
        ([("a", "link set eth0 down")], set()),  # the kernel takes the IPv6 address away
        ([("a", "addr add 10.9.9.9/24 dev eth0")], set()),
        ([("", "link set br0 alias br0-of-somebody group 0"), ("", "link set br0 alias x")], None),
        ([("", "link del v0-br")], {("", "v0-br"), ("a", "eth0")}),
        ([("a", "link del eth1")], {("a", "eth1"), ("b", "v2-br")}),
        ([("", "link del br0")], {("", "br0")}),
        ([("", "link del vx1"), ("", "link add vx1 group 19796 type vxlan id 5 dstport 9")], {("", "vx1")}),
        ([("a", "link set eth0 netns NS-b name moved")], {("", "v0-br"), ("a", "eth0")}),
        ([("b", "link set br1 down"), ("b", "link set br1 name br9")], {("b", "br1")}),
    ],
    ids=lambda value: "; ".join(command for _, command in value) if isinstance(value, list) else "",
)
def test_drift_is_repaired(gateway: Host, commands: list[tuple[str, str]], remade: set[tuple[str, str]] | None) -> None:
    """With steps for what was changed only: what was not touched stays the same interface."""
    gateway.apply()
    before = gateway.links()
    for namespace, command in commands:
        gateway.ip(*command.replace("NS", gateway.prefix).split(), namespace=namespace)
    assert {row.state for row in gateway.show()} != {State.AS_WANTED}
    if remade is None:
        with pytest.raises(ConflictError, match="br0 is there, and somebody else made it"):
            gateway.apply()
        return
    assert gateway.apply().steps
    after = gateway.links()
    assert set(after) == KEYS
    assert KEYS - same_interfaces(before, after) == remade
    assert gateway.apply().steps == []
    assert {row.state for row in gateway.show()} == {State.AS_WANTED}


def test_changed_vnis_are_changed_in_place(gateway: Host) -> None:
    """The device stays; only the VNIs that differ come and go."""
    gateway.apply()
    before = gateway.links()
    changed = TEXT.replace("[100-199, 300]", "[150-260]").replace("vnis: [200]", "vnis: [400]")
    assert [str(step) for step in gateway.apply(changed).steps] == [
        "set VNIs of vx1: 100-199, 300 -> 150-199",
        "set VNIs of vx2: 200 -> none",  # before vx1 takes it
        "set VNIs of vx1: 150-199 -> 150-260",
        "set VNIs of vx2: none -> 400",
    ]
    after = gateway.links()
    assert after["", "vx1"].link.vnis == {*range(150, 261)}
    assert same_interfaces(before, after) == KEYS
    assert gateway.apply(changed).steps == []


def test_a_step_that_fails_half_way_is_undone(gateway: Host) -> None:
    """The kernel adds VNIs one by one: those before the one that somebody has are taken away again."""
    gateway.apply()
    somebody_s = "link add taken type vxlan external vnifilter dstport 4789 local 2001:db8::1"
    gateway.ip(*somebody_s.split())
    subprocess.run(["bridge", "-n", gateway.name, "vni", "add", "dev", "taken", "vni", "250"], check=True)
    gateway.ip("link", "set", "taken", "up")
    before = gateway.links()
    with pytest.raises(MizarError, match="VNIs"):
        gateway.apply(TEXT.replace("[100-199, 300]", "[110-199, 240-260]"))
    assert gateway.links() == before


def test_a_removed_namespace_is_made_again(gateway: Host) -> None:
    """With what was in it."""
    gateway.apply()
    subprocess.run(["ip", "netns", "del", f"{gateway.prefix}-a"], check=True)
    gateway.apply()
    assert set(gateway.links()) == KEYS
    assert gateway.apply().steps == []


def test_what_is_no_longer_described_goes(gateway: Host) -> None:
    """And what is described stays the same."""
    gateway.apply()
    gateway.ip("link", "add", "stranger", "type", "bridge")
    before = gateway.links()
    smaller = HEAD + "  bridges: [{name: br0, mtu: 1450, addresses: [10.0.0.254/24]}]\n"
    gateway.apply(smaller)
    after = gateway.links()
    assert set(after) == {("", "br0"), ("", "stranger")}
    assert same_interfaces(before, after) == set(after)
    assert gateway.names() == []


def test_delete_removes_only_what_was_made(gateway: Host) -> None:
    """Strangers stay, and so does another topology."""
    other = (HEAD + "  bridges: [{name: br7}]\n").replace("name: gw", "name: other")
    gateway.ip("link", "add", "stranger", "type", "bridge")
    gateway.apply(other)
    before = gateway.links()
    gateway.apply()
    gateway.delete()
    assert gateway.links() == before
    assert gateway.names() == []
    assert gateway.delete().steps == []


def test_things_of_others_are_a_conflict_and_nothing_changes(gateway: Host) -> None:
    """A stranger's interface, a stranger's namespace, another topology's interface: all at once, by name."""
    gateway.ip("link", "add", "br0", "mtu", "1400", "type", "bridge")
    gateway.apply((HEAD + "  bridges: [{name: vx0}]\n").replace("name: gw", "name: other"))
    subprocess.run(["ip", "netns", "add", f"{gateway.prefix}-a"], check=True)
    before = gateway.links()
    with pytest.raises(ConflictError) as refused:
        gateway.apply()
    told = str(refused.value)
    assert "br0 is there, and somebody else made it" in told
    assert "vx0 is there, and topology other made it" in told
    assert f"namespace {gateway.prefix}-a is there, and somebody else made it" in told
    assert gateway.links() == before
    assert gateway.names() == ["a"]
    gateway.delete()
    assert gateway.links() == before


def test_a_namespace_with_somebody_s_interface_is_not_deleted(gateway: Host) -> None:
    """The whole deletion is refused: nothing is half gone."""
    gateway.apply()
    gateway.ip("link", "add", "guest", "type", "veth", "peer", "name", "guest-far", namespace="a")
    before = gateway.links()
    with pytest.raises(ConflictError, match="guest"):
        gateway.delete()
    assert gateway.links() == before
    gateway.ip("link", "del", "guest", namespace="a")
    gateway.delete()
    assert gateway.links() == {}


def test_a_failure_in_the_middle_is_undone(gateway: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """New things are gone, changed ones are as before, removed ones are back; the error names what failed."""
    gateway.apply()
    gateway.ip("link", "set", "br0", "mtu", "1300")
    before = gateway.links()
    changed = TEXT.replace("port: 4790", "port: 4791").replace("{name: vx2,", "{name: vx9,")
    changed += "    - {name: v9, mtu: 100, ends: [{interface: v9, addresses: ['fd00:9::1/64']}, {interface: w9}]}\n"
    with pytest.raises(MizarError) as failed:  # IPv6 refuses an MTU of 100
        gateway.apply(changed)
    assert "veth v9" in str(failed.value)
    assert "steps before it were undone: the host is as it was" in str(failed.value)
    after = gateway.links()
    assert {key: found.link for key, found in after.items()} == {key: found.link for key, found in before.items()}
    assert {key: found.alias for key, found in after.items()} == {key: found.alias for key, found in before.items()}
    assert gateway.apply().steps
    assert gateway.apply().steps == []


def test_what_cannot_be_undone_is_told(gateway: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what stands."""
    text = HEAD + "  bridges: [{name: br0}]\n  vteps: [{name: vx0, bridge: br0, id: 7}]\n"

    def broken(_: TopologyLinks, key: tuple[str, str]) -> None:
        raise TemporaryError(f"{key[1]} does not want to go")

    monkeypatch.setattr(topology_links.TopologyLinks, "remove", broken)
    gateway.ip("link", "add", "taken", "type", "vxlan", "external", "dstport", "4789")
    gateway.ip("link", "set", "taken", "up")  # the port is in use, which shows when vx0 comes up
    with pytest.raises(MizarError) as failed:
        gateway.apply(text)
    assert "br0 does not want to go" in str(failed.value)
    assert "the host is as it was" not in str(failed.value)


def test_killed_between_making_and_marking(gateway: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """What carries the group alone is finished by the next apply, and goes with a deletion."""
    mark = topology_links.TopologyLinks.mark

    def dies(links: TopologyLinks, key: tuple[str, str], group: int, alias: str) -> None:
        if key[1] == "eth0":
            raise KeyboardInterrupt
        mark(links, key, group, alias)

    monkeypatch.setattr(topology_links.TopologyLinks, "mark", dies)
    monkeypatch.setattr(topology_links.TopologyLinks, "remove", lambda *_: None)  # as when killed: nothing is undone
    with pytest.raises(KeyboardInterrupt):
        gateway.apply()
    monkeypatch.undo()
    assert gateway.links()["a", "eth0"].mark == Mark("", "")
    gateway.apply()
    assert set(gateway.links()) == KEYS
    assert gateway.apply().steps == []


def test_an_interface_is_taken_to_a_namespace_and_given_back(gateway: Host) -> None:
    """A veth stands for the port of a NIC: it is not made, and not removed."""
    text = (
        HEAD + "  namespaces: [{name: NS-d}]\n  eswitches: [{namespace: NS-d, ports: [{name: p, interface: nic0}]}]\n"
    )
    with pytest.raises(MizarError, match="there is no interface nic0"):
        gateway.apply(text)
    gateway.ip("link", "add", "nic0", "type", "veth", "peer", "name", "cable")
    before = gateway.links()
    gateway.apply(text)
    assert set(gateway.links()) == {("d", "nic0"), ("", "cable")}
    assert gateway.links()["d", "nic0"].link.up
    assert gateway.apply(text).steps == []
    gateway.delete(text)
    after = gateway.links()
    assert gateway.names() == []
    assert set(after) == set(before)
    assert (after["", "nic0"].group, after["", "nic0"].alias) == (0, "")


def test_an_existing_namespace_is_used_and_left(gateway: Host) -> None:
    """Somebody else makes it; what the topology made in it goes, the namespace stays."""
    text = HEAD + "  namespaces: [{name: NS-e, existing: true}]\n  bridges: [{name: br0, namespace: NS-e}]\n"
    with pytest.raises(MizarError, match="existing: true"):
        gateway.apply(text)
    subprocess.run(["ip", "netns", "add", f"{gateway.prefix}-e"], check=True)
    gateway.apply(text)
    assert set(gateway.links()) == {("e", "br0")}
    gateway.delete(text)
    assert gateway.links() == {}
    assert gateway.names() == ["e"]


def test_vlan_filtering_is_refused_by_name_where_the_kernel_lacks_it(gateway: Host) -> None:
    """Never a bridge that does not filter; nothing is changed."""
    if not missing({VLAN_FILTERING}):
        pytest.skip("this kernel has bridge VLAN filtering: see test_vlans")
    text = HEAD + "  bridges: [{name: br0, vlanFiltering: true}, {name: br1}]\n"
    with pytest.raises(MizarError, match="lacks bridge VLAN filtering"):
        gateway.apply(text)
    assert gateway.links() == {}


def test_two_at_once_are_kept_apart(gateway: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second waits for the first, and is told to try again when that takes too long."""
    with host._locked(), monkeypatch.context() as patch:
        patch.setattr(host, "LOCK_S", 0.0)
        with pytest.raises(TemporaryError, match="another topology"):
            gateway.apply()
    with ThreadPoolExecutor() as pool:
        with host._locked():
            waiting = pool.submit(gateway.apply)
            with pytest.raises(TimeoutError):
                waiting.result(0.3)
        waiting.result(30)
    assert gateway.links()


def test_namespaces_that_come_and_go_do_not_disturb(gateway: Host) -> None:
    """A name without a namespace behind it, as a crash leaves it, is somebody's."""
    (folder := namespaces.FOLDER / f"{gateway.prefix}-x").touch()
    try:
        gateway.apply()
        with pytest.raises(ConflictError, match=f"namespace {gateway.prefix}-x is there"):
            gateway.apply(HEAD + "  namespaces: [{name: NS-x}]\n")
    finally:
        folder.unlink()


def test_steps_are_told_as_they_are_done(gateway: Host) -> None:
    """In their order."""
    told: list[object] = []
    done = gateway.apply(done=told.append)
    assert told == done.steps
    assert [type(step) for step in told[2:]] == [MakeLink] * 8
    assert not [step for step in told if isinstance(step, SetLink)]


def test_a_host_without_the_socket_is_left_alone(gateway: Host) -> None:
    """A namespace that is the host's own, under a name, is nothing to make or to enter."""
    with Netlink(gateway.namespace):
        text = HEAD + f"  namespaces: [{{name: {gateway.name}}}]\n"
        with pytest.raises(ConflictError, match="somebody else made it"):
            gateway.apply(text)

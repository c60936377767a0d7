# SPDX-License-Identifier: Apache-2.0
"""What survives a daemon, what a new one makes of it, and what is left when it is told to detach."""

import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest
from pyroute2 import IPRoute

from mizar._built import transit_pb2 as pb
from mizar.kernel import bpffs
from mizar.kernel.attach import attached
from mizar.kernel.bpffs import Pins
from mizar.kernel.endpoint_link import EndpointLink
from mizar.kernel.links import Links
from mizar.kernel.namespaces import Namespace
from tests.marks import first_of
from tests.transit.rig import FRONT, Droplet, Rig, endpoint, local, put_droplet, put_network, put_vpc, until
from tests.transit.test_traffic import two_droplets
from tests.transit.traffic import ping


def alone(made: Rig, *uids: str) -> tuple[Droplet, list[str]]:
    """One droplet that is everything, with endpoints attached by name."""
    one = made.add_droplet()
    one.start()
    one.apply(put_droplet(one), put_vpc(one), put_network(FRONT, one))
    places = [made.make_namespace(f"e{number}") for number in range(1, len(uids) + 1)]
    wanted = [local(uid, endpoint(k, FRONT, one), name=places[k - 1]) for k, uid in enumerate(uids, 1)]
    one.attach_whole(*wanted)
    return one, places


class Stream(threading.Thread):
    """Numbered datagrams from one namespace to another, and which of them arrived."""

    def __init__(self, source: str, target: str, address: str) -> None:
        super().__init__(daemon=True)
        self.sent = 0
        self.received: set[int] = set()
        self._end = threading.Event()
        with Namespace.by_name(source) as entered:
            self._out = entered.run(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        with Namespace.by_name(target) as entered:
            self._in = entered.run(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self._in.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        self._in.bind((address, 7000))
        self._in.setblocking(False)
        self._address = address

    def run(self) -> None:
        while not self._end.wait(0.0005):
            self._out.sendto(self.sent.to_bytes(4, "big"), (self._address, 7000))
            self.sent += 1
            self._take()

    def _take(self) -> None:
        try:
            while True:
                self.received.add(int.from_bytes(self._in.recv(64), "big"))
        except BlockingIOError:
            pass

    def missing(self) -> set[int]:
        """End, and tell which numbers never came."""
        self._end.set()
        self.join(5)
        end = time.monotonic() + 2
        while len(self.received) < self.sent and time.monotonic() < end:
            self._take()
        self._in.close()
        self._out.close()
        return set(range(self.sent)) - self.received


def running(droplet: Droplet) -> set[tuple[str, int]]:
    """Links at work, and the numbers of their programs."""
    found = ((pin, attached(pin)) for pin in Pins.of(droplet.name).links.iterdir())
    return {(pin.name, link.program_id) for pin, link in found if link is not None}


@pytest.mark.parametrize("upgraded", [False, True])
def test_no_packet_is_lost_when_a_daemon_is_killed_and_replaced(made: Rig, upgraded: bool) -> None:
    """SIGKILL to both daemons, new ones take over: a stream of datagrams arrives whole, and the state is the same.
    Those of the same build go on with the programs that are there, those of another replace them all."""
    one, two, first, second = two_droplets(made)
    until(lambda: ping(second, "10.0.1.11") is not None, "the first answer")
    before = [droplet.state() for droplet in (one, two)]
    for state in before:
        for known in state.droplets:
            known.name = ""  # not kept across a restart
    stream = Stream(second, first, "10.0.1.11")
    stream.start()
    until(lambda: one.pins() and two.pins(), "agents are attached for good")
    ran = running(one) | running(two)
    for droplet in (one, two):
        droplet.stop(signal.SIGKILL)
        if upgraded:
            droplet.upgrade()
    so_far = stream.sent
    until(lambda: stream.sent > so_far + 50, "traffic goes on without daemons")
    made.start_all()
    so_far = stream.sent
    until(lambda: stream.sent > so_far + 50, "traffic goes on with the new ones")
    assert stream.missing() == set()
    runs = running(one) | running(two)
    assert len(runs - ran) == (len(runs) if upgraded else 0)
    assert [droplet.state() for droplet in (one, two)] == before
    one.apply(pb.Change(delete_endpoint=pb.EndpointKey(vni=7, addresses=endpoint(2, FRONT, two).addresses)))
    assert not one.state().endpoints


def test_sigterm_ends_the_daemon_soon_and_leaves_all_running(made: Rig) -> None:
    """A watcher that is still there does not hold the daemon up: it would for as long as it watches."""
    one, (first, _second) = alone(made, "uid-1", "uid-2")
    watching = one.client.WatchEvents(pb.WatchEventsRequest(drops=True))
    assert one.stop() == 0
    watching.cancel()
    assert ping(first, "10.0.1.12") is not None
    assert not one.socket.exists()


def test_detach_on_exit_leaves_nothing(made: Rig) -> None:
    """Programs, pins and veths are gone after SIGTERM."""
    one, _ = alone(made, "uid-1")
    one.stop()
    one.start("--detach-on-exit")
    assert one.links()
    assert one.stop() == 0
    assert one.links() == []
    assert one.name not in bpffs.instances()
    with IPRoute(netns=one.namespace) as ip:
        xdp = ip.link("get", ifname="sub0")[0].get_attr("IFLA_XDP")
    assert not xdp or not xdp.get_attr("IFLA_XDP_ATTACHED")


def test_detached_endpoint_leaves_nothing(made: Rig) -> None:
    """No veth, no pin, no entry; and again is no error."""
    one, _ = alone(made, "uid-1", "uid-2")
    until(lambda: len(one.links()) == len(one.pins()) == 2, "both are made, and their agents attached for good")
    assert [result.error for result in one.detach("uid-1", "uid-2", "uid-never")] == ["", "", ""]
    until(lambda: one.links() == one.pins() == [], "the kernel has ended the interfaces")
    assert not one.state().local_endpoints
    assert one.detach("uid-1")[0].error == ""
    one.apply(pb.Change(delete_network=pb.NetworkKey(vni=7, id=FRONT)), pb.Change(delete_vpc=7))


def test_new_daemon_removes_what_is_half_made(made: Rig) -> None:
    """A veth without entries, entries without a veth, and a pin of a dead interface are gone after the start."""
    one, (first, second) = alone(made, "uid-1", "uid-2")
    one.stop(signal.SIGKILL)
    kept, gone = sorted(one.links())
    with IPRoute(netns=one.namespace) as ip:
        alias = {str(link.get_attr("IFLA_IFNAME")): link.get_attr("IFLA_IFALIAS") for link in ip.get_links()}
        ip.link("del", index=ip.link_lookup(ifname=gone)[0])
    (survivor,) = [uid for uid in ("uid-1", "uid-2") if uid in alias[kept]]
    third = made.make_namespace("e3")
    with Namespace.by_name(one.namespace) as host, Namespace.by_name(third) as workload:
        links = Links(host)
        mac = bytes((2, 0, 0, 0, 1, 3))
        links.ensure_endpoint(EndpointLink(one.name, "uid-3", "mz0123456789ab", "eth0", mac, 1400, (), ()), workload)
        links.ensure_endpoint(EndpointLink("other", "uid-4", "mz0123456789ac", "eth1", mac, 1400, (), ()), workload)
        links.close()
    one.start()
    assert sorted(one.links()) == sorted([kept, "mz0123456789ac"]), "what another daemon made is left alone"
    assert [found.local.uid for found in one.state().local_endpoints] == [survivor]
    assert one.pins() == [f"agent_{kept}"]
    assert ping(first if survivor == "uid-1" else second, "10.0.1.1") is not None


def test_endpoint_whose_namespace_lost_its_name_has_a_problem(made: Rig) -> None:
    """The namespace lives on in a process, so the endpoint does; its state says what is missing."""
    one, (first,) = alone(made, "uid-1")
    holder = subprocess.Popen(["nsenter", f"--net=/run/netns/{first}", "tail", "-f", "/dev/null"])
    try:
        until(lambda: _same_namespace(holder.pid, first), "the process is in the namespace")
        made.remove_namespace(first)
        (found,) = one.state().local_endpoints
        assert "has vanished" in found.problem
    finally:
        holder.kill()
        holder.wait()
    until(lambda: not one.state().local_endpoints, "with its last process the namespace ends, and the endpoint")


def _same_namespace(pid: int, name: str) -> bool:
    return Path(f"/proc/{pid}/ns/net").stat().st_ino == Path(f"/run/netns/{name}").stat().st_ino


def test_second_daemon_of_an_instance_is_refused(made: Rig) -> None:
    """In one sentence, with exit code 1."""
    one, _ = alone(made)
    second = subprocess.run(one.command(), capture_output=True, text=True, timeout=60, check=False)
    assert second.returncode == 1
    assert "another daemon of instance" in second.stderr
    assert "Traceback" not in second.stderr
    one.state()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--interface", "absent"], "there is no interface absent"),
        (["--interface", "lo"], "no Ethernet address"),
        (["--interface", "sub0", "--listen", "172.30.9.1:7443"], "needs certificates"),
        (["--interface", "sub0", "--listen", "nonsense"], "no address to listen on"),
        (["--interface", "sub0", "--name", "a/b"], "cannot name an instance"),
    ],
)
def test_daemon_that_cannot_start_says_why(made: Rig, arguments: list[str], sentence: str) -> None:
    """One sentence on stderr, exit code 1, nothing attached."""
    one = made.add_droplet()
    command = [*one.command()[:6], *arguments]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert found.returncode == 1
    assert sentence in " ".join(found.stderr.split())
    assert "Traceback" not in found.stderr


def test_attached_program_follows_the_interface(made: Rig) -> None:
    """A daemon whose interface vanishes ends with a sentence instead of pretending."""
    one, _ = alone(made, "uid-1")
    with IPRoute(netns=one.namespace) as ip:
        ip.link("del", index=ip.link_lookup(ifname="sub0")[0])
    assert one.process is not None
    assert one.process.wait(30) == 1
    assert "vanished" in one.log.read_text()
    assert put_droplet(one)


@pytest.mark.parametrize("after_s", first_of([0.05, 0.0, 0.02, 0.1, 0.2]))
def test_daemon_killed_while_it_attaches_leaves_whole_endpoints_only(made: Rig, after_s: float) -> None:
    """Whenever it dies, the next one holds endpoints that work, and nothing besides; repeating the request helps."""
    one, _ = alone(made)
    places = [made.make_namespace(f"e{number}") for number in range(1, 9)]
    wanted = [local(f"uid-{k}", endpoint(k, FRONT, one), name=places[k - 1]) for k in range(1, 9)]
    request = one.client.Attach.future(pb.AttachRequest(endpoints=wanted))
    threading.Event().wait(after_s)  # the moment of death is what is varied
    one.stop(signal.SIGKILL)
    request.cancel()
    one.start()
    held = one.state().local_endpoints
    assert sorted(one.links()) == sorted(found.host_interface for found in held)
    assert one.pins() == sorted(f"agent_{found.host_interface}" for found in held)
    assert [found.problem for found in held] == [""] * len(held)
    for found in held:
        assert ping(found.local.workload.name, "10.0.1.1") is not None
    one.attach_whole(*wanted)
    assert [ping(place, "10.0.1.11") is not None for place in places[1:]] == [True] * 7

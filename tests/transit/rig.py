# SPDX-License-Identifier: Apache-2.0
"""Droplets for tests: network namespaces joined by a bridge, a real daemon process in each, and a client to it.

The plan of addresses: the substrate is 172.30.9.0/24, droplet N has .N (DROPLET_N). Tenants' networks are 10.0.1.0/24
and fd00:10:0:1::/64 ("front", id 1) and 10.0.2.0/24, fd00:10:0:2::/64 ("back", id 2), gateways .1 and ::1, endpoint K
of a network has .1K and ::1K and the MAC 02:00:00:00:NN:KK. The VNI is 7.
"""

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import TypeVar

import grpc
from pyroute2 import IPRoute

from mizar._built import transit_pb2 as pb
from mizar._built import transit_pb2_grpc
from mizar.kernel import builds, namespaces
from mizar.kernel.bpffs import Pins
from mizar.transit import daemon
from mizar.transit.options import Options

T = TypeVar("T")

VNI, FRONT, BACK = 7, 1, 2
UPLINK = "sub0"
LIMIT_S = 40.0
RUN = f"mzt{os.getpid() % 100000}"
_numbers = itertools.count(1)


def packed(text: str) -> bytes:
    """Address of a message."""
    return ip_address(text).packed


def until(condition: Callable[[], T], what: str, limit_s: float = LIMIT_S) -> T:
    """The first true result of a condition that becomes true."""
    end = time.monotonic() + limit_s
    while True:
        result = condition()
        if result:
            return result
        assert time.monotonic() < end, f"waited {limit_s} s in vain: {what}"
        time.sleep(0.01)


class Droplet:
    """One droplet: a namespace on the substrate, its daemon process and a client."""

    def __init__(self, name: str, number: int, namespace: str, folder: Path, mtu: int) -> None:
        self.name = name
        self.mtu = mtu
        self.number = number
        self.namespace = namespace
        self.address = packed(f"172.30.9.{number}")
        self.socket = folder / f"{name}.sock"
        self.log = folder / f"{name}.log"
        self.process: subprocess.Popen[bytes] | None = None
        self._channel: grpc.Channel | None = None
        self.arguments = ["--interface", "sub0", "--name", name, "--listen", f"unix://{self.socket}"]

    def command(self, *more: str) -> list[str]:
        """The daemon's command line, in the droplet's namespace and the mounts of the test."""
        mizar = [sys.executable, "-m", "mizar.cli.main", "daemon", *self.arguments, *more]
        return ["nsenter", f"--net=/run/netns/{self.namespace}", *mizar]

    def start(self, *more: str) -> None:
        """Start the daemon and wait until it answers."""
        self.launch(*more)
        self.wait()

    def launch(self, *more: str) -> None:
        """Start the daemon."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command(*more), stdout=log, stderr=log)

    def wait(self, limit_s: float = LIMIT_S) -> None:
        """Wait until the daemon answers."""
        until(self._answers, f"the daemon of {self.name} answers; its log: {self.log.read_text()}", limit_s)

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()
        if not self.socket.exists():
            return False
        self.close_client()
        try:
            self.client.GetInfo(pb.GetInfoRequest(), timeout=5)
        except grpc.RpcError:
            return False
        return True

    @property
    def client(self) -> transit_pb2_grpc.TransitStub:
        """A client of the daemon."""
        if self._channel is None:
            self._channel = grpc.insecure_channel(f"unix:{self.socket}")
        return transit_pb2_grpc.TransitStub(self._channel)

    def close_client(self) -> None:
        """Forget the channel: a channel that saw a daemon die waits before it tries again."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def stop(self, number: int = signal.SIGTERM, limit_s: float = 30) -> int:
        """End the daemon; returns its exit code."""
        assert self.process is not None
        self.close_client()
        self.process.send_signal(number)
        return self.process.wait(limit_s)

    def state(self) -> pb.State:
        """The whole state in one message."""
        whole = pb.State()
        for chunk in self.client.GetState(pb.GetStateRequest(), timeout=30):
            whole.MergeFrom(chunk)
        return whole

    def apply(self, *changes: pb.Change, generation: int = 1) -> int:
        """Apply a batch; returns how many changes were new."""
        return self.client.Apply(pb.ApplyRequest(generation=generation, changes=changes), timeout=30).changed

    def attach(self, *endpoints: pb.LocalEndpoint) -> list[pb.AttachResult]:
        """Attach endpoints; returns the results."""
        return list(self.client.Attach(pb.AttachRequest(endpoints=endpoints), timeout=30).results)

    def attach_whole(self, *endpoints: pb.LocalEndpoint) -> None:
        """Attach endpoints that must succeed."""
        for result in self.attach(*endpoints):
            assert not result.error, result

    def detach(self, *uids: str) -> list[pb.AttachResult]:
        """Detach endpoints; returns the results."""
        return list(self.client.Detach(pb.DetachRequest(uids=uids), timeout=30).results)

    def drops(self) -> dict[str, int]:
        """Packets dropped, by reason."""
        return {drop.name: drop.packets for drop in self.client.GetCounters(pb.GetCountersRequest()).drops}

    def counters(self, vni: int = VNI) -> pb.VpcCounters:
        """The counters of a VPC."""
        found = self.client.GetCounters(pb.GetCountersRequest()).vpcs
        return next(one for one in found if one.vni == vni)

    def links(self) -> list[str]:
        """Names of the host sides of endpoints' veths in the droplet's namespace; not the device of `--xdp off`."""
        with IPRoute(netns=self.namespace) as ip:
            names = [str(link.get_attr("IFLA_IFNAME")) for link in ip.get_links()]
        return [name for name in names if name.startswith("mz") and not name.startswith("mzgro")]

    def pins(self) -> list[str]:
        """Names of the pinned links of agents."""
        return sorted(pin.name for pin in Path(f"/sys/fs/bpf/mizar/{self.name}/links").glob("agent_*"))

    def upgrade(self) -> None:
        """The next daemon takes the programs that are here for those of another build."""
        folder = Pins.of(self.name).progs
        for pin in list(folder.iterdir()):
            builds.forget(folder, builds.program_of(pin))

    def clean(self) -> None:
        """End the daemon and remove what it made, as `mizar daemon --cleanup` does in a process of its own."""
        self._kill()
        options = Options(interface="sub0", name=self.name, listen=f"unix://{self.socket}")
        with namespaces.Namespace.by_name(self.namespace) as host:
            host.run(lambda: daemon.cleanup(options))

    def _kill(self) -> None:
        self.close_client()
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(30)

    def cleanup(self) -> subprocess.Popen[bytes]:
        """End the daemon and remove what it made by `mizar daemon --cleanup`: the process."""
        self._kill()
        return subprocess.Popen(self.command("--cleanup"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


class Rig:
    """A substrate with droplets, and namespaces for workloads."""

    def __init__(self, folder: Path, run: str = RUN) -> None:
        self.folder = folder
        self.prefix = f"{run}-{next(_numbers)}"
        self.droplets: list[Droplet] = []
        self.wire = {"near": 1, "far": 1, "mtu": 1500}
        self._namespaces: list[str] = []
        self.switch = self.make_namespace("sw")
        with IPRoute(netns=self.switch) as ip:
            ip.link("add", ifname="br0", kind="bridge")
            ip.link("set", index=ip.link_lookup(ifname="br0")[0], state="up")

    def make_namespace(self, name: str) -> str:
        """A namespace of this rig; returns its full name."""
        full = f"{self.prefix}-{name}"
        namespaces.create(full).close()
        self._namespaces.append(full)
        return full

    def remove_namespace(self, full: str) -> None:
        """End a namespace."""
        self._namespaces.remove(full)
        namespaces.remove(full)

    def add_droplet(self) -> Droplet:
        """A droplet on the substrate, whose daemon is not started yet."""
        number = len(self.droplets) + 1
        namespace = self.make_namespace(f"d{number}")
        droplet = Droplet(f"{self.prefix}-d{number}", number, namespace, self.folder, self.wire["mtu"])
        self.droplets.append(droplet)
        self.join(droplet)
        return droplet

    def join(self, droplet: Droplet) -> None:
        """Give a droplet its way to the others: a port of the bridge."""
        port = f"p{droplet.number}"
        with IPRoute(netns=self.switch) as ip:
            near, far, mtu = (self.wire[name] for name in ("near", "far", "mtu"))
            peer = {"ifname": UPLINK, "net_ns_fd": droplet.namespace, "num_tx_queues": near, "num_rx_queues": near}
            ip.link("add", ifname=port, kind="veth", num_tx_queues=far, num_rx_queues=far, peer=peer)
            index = ip.link_lookup(ifname=port)[0]
            ip.link("set", index=index, master=ip.link_lookup(ifname="br0")[0], mtu=mtu, state="up")
        self.raise_uplink(droplet)

    def raise_uplink(self, droplet: Droplet) -> None:
        """The droplet's end of its wire, by the plan of addresses."""
        with IPRoute(netns=droplet.namespace) as ip:
            index = ip.link_lookup(ifname=UPLINK)[0]
            ip.addr("add", index=index, address=f"172.30.9.{droplet.number}", prefixlen=24)
            ip.link("set", index=index, mtu=self.wire["mtu"], state="up")
            ip.link("set", index=ip.link_lookup(ifname="lo")[0], state="up")

    def start_all(self, *more: str) -> None:
        """Start all daemons at once."""
        for droplet in self.droplets:
            droplet.launch(*more)
        for droplet in self.droplets:
            droplet.wait()

    def close(self) -> None:
        """Remove everything."""
        with contextlib.ExitStack() as stack:
            for name in self._namespaces:
                stack.callback(namespaces.remove, name)
            for droplet in self.droplets:
                stack.callback(droplet.clean)


@contextmanager
def rig(folder: Path) -> Iterator[Rig]:
    """A rig for the length of a block."""
    made = Rig(folder)
    try:
        yield made
    finally:
        made.close()


# ---- messages by the plan


def put_droplet(droplet: Droplet) -> pb.Change:
    """A droplet is known."""
    return pb.Change(put_droplet=pb.Droplet(address=droplet.address, name=droplet.name, mtu=droplet.mtu))


def put_vpc(*dividers: Droplet, vni: int = VNI) -> pb.Change:
    """The VPC and its dividers."""
    return pb.Change(put_vpc=pb.Vpc(vni=vni, dividers=[one.address for one in dividers]))


def put_network(number: int, *bouncers: Droplet, vni: int = VNI) -> pb.Change:
    """A dual-stack network and its bouncers."""
    prefixes = [
        pb.Prefix(address=packed(f"10.0.{number}.0"), length=24, gateway=packed(f"10.0.{number}.1")),
        pb.Prefix(address=packed(f"fd00:10:0:{number}::"), length=64, gateway=packed(f"fd00:10:0:{number}::1")),
    ]
    members = [one.address for one in bouncers]
    return pb.Change(put_network=pb.Network(vni=vni, id=number, prefixes=prefixes, bouncers=members))


def endpoint(
    number: int, network: int, host: Droplet, tunnel: "pb.TunnelProtocol.ValueType" = pb.GENEVE, vni: int = VNI
) -> pb.Endpoint:
    """Endpoint `number` of a network."""
    return pb.Endpoint(
        vni=vni,
        network_id=network,
        addresses=[packed(f"10.0.{network}.1{number}"), packed(f"fd00:10:0:{network}::1{number}")],
        mac=bytes((2, 0, 0, 0, network, number)),
        host=host.address,
        tunnel=tunnel,
    )


def local(uid: str, where: pb.Endpoint, **namespace: str | int) -> pb.LocalEndpoint:
    """An endpoint with its workload: name=, path= or pid=."""
    workload = pb.Workload(interface="eth0", **namespace)  # type: ignore[arg-type]
    return pb.LocalEndpoint(uid=uid, endpoint=where, workload=workload)

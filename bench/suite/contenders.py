# SPDX-License-Identifier: Apache-2.0
"""Ways from endpoint to endpoint over two hosts, all on one substrate: ours, and what users pick instead.

Each host is a namespace whose interface `sub0` leads to one bridge (tests/transit/rig.py), or is one end of a cable to
the other host of its pair. All of them get what makes them fast: GRO at the host's interface, and no `bridge-nf-call`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sysconfig
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from pyroute2 import IPRoute

from mizar._built import transit_pb2 as pb
from tests.peers.foreign import command
from tests.transit.rig import FRONT, UPLINK, Droplet, Rig, endpoint, local, put_droplet, put_network, put_vpc, until
from tests.transit.traffic import ping

ADDRESSES = {4: "10.0.1.12", 6: "fd00:10:0:1::12"}
GENEVE, VXLAN = "Geneve", "VXLAN"
VNI = 77
REDIRECTS = Path(__file__).with_name("redirects.c")
OVERHEAD = {"routing": 0, "vxlan": 50, "ovs": 58}


@dataclass(frozen=True)
class Pair:
    """Two endpoints: namespace of the sender, of the receiver, its addresses. `ports`: namespace and name of the
    interfaces from which the wire leads into the hosts."""

    source: str
    target: str
    addresses: dict[int, str]
    ports: tuple[tuple[str, str], ...]


def ip(namespace: str, *words: str) -> None:
    """One `ip` command, in a namespace."""
    command("ip", "-n", namespace, *words)


def tso(pair: Pair, on: bool) -> None:
    """Whether the wire into the hosts takes unsegmented data."""
    for namespace, port in pair.ports:
        command("ethtool", "-K", port, "tso", "on" if on else "off", namespace=namespace)


class Cables(Rig):
    """A rig without a bridge: the first droplet has a cable to the second one, the third to the fourth, and so on."""

    def join(self, droplet: Droplet) -> None:
        """The second end of a pair brings the cable."""
        if droplet.number % 2:
            return
        near, far = self.droplets[-2].namespace, droplet.namespace
        with IPRoute(netns=near) as made:
            made.link("add", ifname=UPLINK, kind="veth", peer={"ifname": UPLINK, "net_ns_fd": far})
        for one in self.droplets[-2:]:
            self.raise_uplink(one)


def _hosts(made: Rig) -> list[Droplet]:
    """Two hosts of a contender, tuned."""
    hosts = [made.add_droplet() for _ in range(2)]
    for host in hosts:
        quiet_bridges(host.namespace)
        command("ethtool", "-K", "sub0", "gro", "on", namespace=host.namespace)
    return hosts


def quiet_bridges(namespace: str) -> None:
    """A bridge calls no firewall: in fresh namespaces it does, where the module is there."""
    for name in ("iptables", "ip6tables", "arptables"):
        line = f"f=/proc/sys/net/bridge/bridge-nf-call-{name}; [ ! -e $f ] || echo 0 > $f"
        command("sh", "-c", line, namespace=namespace)


def _endpoint(made: Rig, host: Droplet, name: str, mtu: int) -> str:
    """A namespace whose eth0 leads to `port` in its host."""
    inside = made.make_namespace(name)
    ip(host.namespace, "link", "add", "port", "type", "veth", "peer", "name", "eth0", "netns", inside)
    ip(host.namespace, "link", "set", "port", "mtu", str(mtu), "up")
    ip(inside, "link", "set", "eth0", "mtu", str(mtu), "up")
    ip(inside, "link", "set", "lo", "up")
    return inside


def _ports(made: Rig, hosts: Sequence[Droplet]) -> tuple[tuple[str, str], ...]:
    if isinstance(made, Cables):
        return tuple((host.namespace, UPLINK) for host in hosts)
    return tuple((made.switch, f"p{host.number}") for host in hosts)


def one_veth(made: Rig) -> Pair:
    """No hosts at all: what two sockets take that have one veth between them."""
    inside = [made.make_namespace(f"bare{place}") for place in range(2)]
    ip(inside[0], "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", inside[1])
    for there in inside:
        ip(there, "link", "set", "eth0", "mtu", str(made.wire["mtu"]), "up")
        ip(there, "link", "set", "lo", "up")
    _same_subnet(inside)
    return Pair(inside[0], inside[1], ADDRESSES, ())


def redirects(made: Rig, folder: Path) -> Pair:
    """Programs that redirect and do nothing else (redirects.c), where an overlay's would be: a limit of them all."""
    hosts, inside = _hosts(made), []
    macs = [f"02:00:00:00:fe:0{place + 1}" for place in range(2)]
    for place, host in enumerate(hosts):
        there = _endpoint(made, host, f"redirect{place}", made.wire["mtu"])
        inside.append(there)
        ip(there, "link", "set", "eth0", "address", macs[place])
        with IPRoute(netns=host.namespace) as netlink:
            wire, port = (netlink.link_lookup(ifname=name)[0] for name in (UPLINK, "port"))
        for device, section, to in (("port", "send", wire), (UPLINK, "hand", port)):
            made_object = folder / f"{section}{place}.o"
            include = f"-I/usr/include/{sysconfig.get_config_var('MULTIARCH')}"
            options = ["-O2", "-target", "bpf", f"-DTO={to}", include, "-c", str(REDIRECTS), "-o", str(made_object)]
            command("clang", *options, namespace=host.namespace)
            command("tc", "qdisc", "add", "dev", device, "clsact", namespace=host.namespace)
            program = ["bpf", "da", "obj", str(made_object), "sec", section]
            command("tc", "filter", "add", "dev", device, "ingress", *program, namespace=host.namespace)
    _same_subnet(inside)
    for place, there in enumerate(inside):
        for far in (f"10.0.1.1{2 - place}", f"fd00:10:0:1::1{2 - place}"):
            ip(there, "neigh", "replace", far, "lladdr", macs[1 - place], "dev", "eth0")
    return Pair(inside[0], inside[1], ADDRESSES, _ports(made, hosts))


def routing(made: Rig) -> Pair:
    """No overlay: the hosts route. The limit of what an overlay can reach."""
    hosts, inside = _hosts(made), []
    substrate = ("172.30.9", "fd00:30::")
    for place, host in enumerate(hosts):
        there = _endpoint(made, host, f"routing{place}", made.wire["mtu"])
        inside.append(there)
        other = hosts[1 - place]
        ip(host.namespace, "addr", "add", f"{substrate[1]}{host.number:x}/64", "dev", "sub0", "nodad")
        for gateway, own, far, via in (
            (f"10.0.{place + 1}.1", f"10.0.{place + 1}.12", f"10.0.{2 - place}.0/24", f"172.30.9.{other.number}"),
            (f"fd00:10:0:{place + 1}::1", f"fd00:10:0:{place + 1}::12", f"fd00:10:0:{2 - place}::/64",
             f"{substrate[1]}{other.number:x}"),
        ):  # fmt: skip
            bits, flags = ("64", ["nodad"]) if ":" in own else ("24", [])
            ip(host.namespace, "addr", "add", f"{gateway}/{bits}", "dev", "port", *flags)
            ip(host.namespace, "route", "add", far, "via", via)
            ip(there, "addr", "add", f"{own}/{bits}", "dev", "eth0", *flags)
            ip(there, "route", "add", "default", "via", gateway)
        for family in ("ipv4", "ipv6"):
            path = f"/proc/sys/net/{family}/conf/all/forwarding"
            command("sh", "-c", f"echo 1 > {path}", namespace=host.namespace)
    return Pair(inside[0], inside[1], {4: "10.0.2.12", 6: "fd00:10:0:2::12"}, _ports(made, hosts))


def _same_subnet(inside: list[str]) -> None:
    for place, there in enumerate(inside):
        ip(there, "addr", "add", f"10.0.1.1{place + 1}/24", "dev", "eth0")
        ip(there, "addr", "add", f"fd00:10:0:1::1{place + 1}/64", "dev", "eth0", "nodad")


def vxlan(made: Rig) -> Pair:
    """The kernel's vxlan device and a bridge at each host."""
    hosts, inside = _hosts(made), []
    mtu = made.wire["mtu"] - OVERHEAD["vxlan"]
    for place, host in enumerate(hosts):
        inside.append(_endpoint(made, host, f"vxlan{place}", mtu))
        near, far = (f"172.30.9.{one.number}" for one in (host, hosts[1 - place]))
        ends = ["id", str(VNI), "local", near, "remote", far, "dstport", "4789", "dev", "sub0"]
        ip(host.namespace, "link", "add", "vx", "mtu", str(mtu), "type", "vxlan", *ends)
        ip(host.namespace, "link", "add", "name", "br0", "type", "bridge")
        for port in ("vx", "port"):
            ip(host.namespace, "link", "set", port, "master", "br0", "up")
        ip(host.namespace, "link", "set", "br0", "up")
    _same_subnet(inside)
    return Pair(inside[0], inside[1], ADDRESSES, _ports(made, hosts))


def ovs(made: Rig, stack: ExitStack, folder: Path) -> Pair:
    """Open vSwitch in user space, Geneve, one flow each way."""
    hosts, inside = _hosts(made), []
    for place, host in enumerate(hosts):
        inside.append(_endpoint(made, host, f"ovs{place}", made.wire["mtu"] - OVERHEAD["ovs"]))
        for where, port in ((inside[-1], "eth0"), (host.namespace, "sub0")):
            # Its ports are packet sockets: they take no checksum that is left to hardware, nor unsegmented data.
            command("ethtool", "-K", port, "tx", "off", "tso", "off", "gso", "off", "gro", "off", namespace=where)
        _switch(host, stack, folder / f"ovs{place}", f"172.30.9.{hosts[1 - place].number}")
    for namespace, wire in _ports(made, hosts):
        command("ethtool", "-K", wire, "tx", "off", namespace=namespace)
    _same_subnet(inside)
    return Pair(inside[0], inside[1], ADDRESSES, _ports(made, hosts))


def _switch(host: Droplet, stack: ExitStack, folder: Path, remote: str) -> None:
    """One Open vSwitch, with the tunnel's address on the bridge that has the wire."""
    folder.mkdir()
    env = dict.fromkeys(("OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR"), str(folder))
    database = f"unix:{folder}/db.sock"

    def run(*argv: str) -> None:
        command(*argv, namespace=host.namespace, env=env)

    def configure(*argv: str) -> None:
        run("ovs-vsctl", f"--db={database}", "--timeout=20", *argv)

    run("ovsdb-tool", "create", f"{folder}/conf.db", "/usr/share/openvswitch/vswitch.ovsschema")
    for program, *arguments in (
        ("ovsdb-server", f"{folder}/conf.db", f"--remote=p{database}"),
        ("ovs-vswitchd", database, f"--log-file={folder}/switch.log"),
    ):
        pidfile = folder / f"{program}.pid"
        run(program, *arguments, f"--pidfile={pidfile}", "--detach")
        stack.callback(end, pidfile)
        if program == "ovsdb-server":
            run("ovs-vsctl", f"--db={database}", "--no-wait", "init")
    user = "datapath_type=netdev"
    ip(host.namespace, "addr", "flush", "dev", "sub0")
    configure("add-br", "brup", "--", "set", "bridge", "brup", user, "--", "add-port", "brup", "sub0")
    ip(host.namespace, "addr", "add", f"172.30.9.{host.number}/24", "dev", "brup")
    ip(host.namespace, "link", "set", "brup", "up")
    configure("add-br", "brin", "--", "set", "bridge", "brin", user, "fail-mode=secure")
    tunnel = ["type=geneve", f"options:remote_ip={remote}", f"options:key={VNI}", "ofport_request=1"]
    configure("add-port", "brin", "tunnel", "--", "set", "interface", "tunnel", *tunnel)
    configure("add-port", "brin", "port", "--", "set", "interface", "port", "ofport_request=2")
    for one, other in ((1, 2), (2, 1)):
        run("ovs-ofctl", "add-flow", f"unix:{folder}/brin.mgmt", f"in_port={one},actions=output:{other}")


def end(pidfile: Path) -> None:
    """Ends a process by the file that names it, and waits."""
    process = int(pidfile.read_text())
    os.kill(process, signal.SIGTERM)
    subprocess.run(["tail", f"--pid={process}", "-f", "/dev/null"], timeout=20, check=False)  # noqa: S603, S607


def mizar(made: Rig, *options: str) -> dict[str, Pair]:
    """Two droplets, and a third that bounces their network; a pair of endpoints for each tunnel. The path is direct.
    On a cable there is no third one: both bounce it, and know each other's endpoints."""
    droplets = [made.add_droplet() for _ in range(2 if isinstance(made, Cables) else 3)]
    for droplet in droplets:
        droplet.start(*options)
    bouncers = droplets[2:] or droplets
    for droplet in droplets:
        droplet.apply(*map(put_droplet, droplets), put_vpc(*bouncers), put_network(FRONT, *bouncers))
    pairs = {}
    for tunnel, protocol, numbers in ((GENEVE, pb.GENEVE, (1, 2)), (VXLAN, pb.VXLAN, (3, 4))):
        inside = [made.make_namespace(f"m{droplets[0].number}e{number}") for number in numbers]
        wanted = [endpoint(number, FRONT, host, protocol) for number, host in zip(numbers, droplets, strict=False)]
        for bouncer in bouncers:
            bouncer.apply(*(pb.Change(put_endpoint=one) for one in wanted if one.host != bouncer.address))
        for number, host, one, there in zip(numbers, droplets, wanted, inside, strict=False):
            host.attach_whole(local(f"uid-{number}", one, name=there))
        far = numbers[1]
        addresses = {4: f"10.0.1.1{far}", 6: f"fd00:10:0:1::1{far}"}
        pairs[tunnel] = Pair(inside[0], inside[1], addresses, _ports(made, droplets[:2]))
    return pairs


def ready(pair: Pair) -> None:
    """Both families get through."""
    for address in pair.addresses.values():
        until(lambda to=address: ping(pair.source, to, 0.5) is not None, f"an answer of {address}", 30)  # type: ignore[misc]

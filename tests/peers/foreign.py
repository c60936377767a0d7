# SPDX-License-Identifier: Apache-2.0
"""Tunnel ends that are none of ours: an Open vSwitch in user space (Geneve) and a kernel vxlan device.

Each stands in a namespace of its own on a lab's substrate, registered with the server as a droplet without a daemon,
and has one endpoint behind it. Everything is made with the foreign system's own tools.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from mizar.kernel import interfaces, namespaces
from mizar.kernel.namespaces import Namespace
from mizar.lab.names import LabName

VNI = 4242
MAC = "02:00:5e:00:53:01"
ROUTER4, ROUTER6 = "10.0.1.1", "fd00:10:0:1::1"


@dataclass(frozen=True, slots=True)
class Foreign:
    """A foreign tunnel end. `endpoint` is the namespace of the workload behind it."""

    endpoint: Namespace
    bouncer: str


def command(*argv: str, namespace: str | None = None, env: dict[str, str] | None = None) -> str:
    """Runs a tool, in a network namespace by name when given. Its failure is the test's."""
    enter = ["nsenter", f"--net=/run/netns/{namespace}"] if namespace else []
    done = subprocess.run(
        [*enter, *argv], env={**os.environ, **(env or {})}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{' '.join(argv)}: {done.stderr or done.stdout}"
    return done.stdout


@contextmanager
def plugged(lab: LabName, name: str) -> Iterator[str]:
    """A namespace on the lab's substrate whose interface is `wire`. Yields the namespace's name.

    It carries the lab's prefix, so that `lab down` takes it along whatever happens here.
    """
    own = f"{lab.namespace_prefix}peer_{name}"
    with namespaces.create(own) as namespace:
        queues = ["numtxqueues", "1", "numrxqueues", "1"]
        peer = ["peer", "name", "wire", *queues, "netns", own]
        command("ip", "link", "add", name, *queues, "type", "veth", *peer, namespace=lab.substrate_namespace)
        command("ip", "link", "set", name, "master", "bridge", "up", namespace=lab.substrate_namespace)
        command("ip", "-n", own, "link", "set", "wire", "up")
        # A wire carries complete checksums; a veth would carry partial ones.
        namespace.run(lambda: interfaces.set_tx_checksum("wire", on=False))
        try:
            yield own
        finally:
            namespaces.remove(own)


@contextmanager
def kernel_vxlan(lab: LabName, bouncer: str, address: str, addresses: Sequence[str]) -> Iterator[Foreign]:
    """A vxlan device that sends everything to the bouncer; the device itself is the endpoint."""
    with plugged(lab, "vxpeer") as own:
        on_wire(own, "wire", address)
        kind = ["type", "vxlan", "id", str(VNI), "local", address, "remote", bouncer, "dstport", "4789", "nolearning"]
        if ":" in address:  # a droplet leaves the outer checksum zero (RFC 6935), which has to be allowed
            kind += ["udp6zerocsumrx"]
        command("ip", "-n", own, "link", "add", "vx", "address", MAC, "mtu", mtu(address, 1450), *kind)
        _configure(own, "vx", addresses)
        with Namespace.by_name(own) as endpoint:
            yield Foreign(endpoint, bouncer)


@contextmanager
def open_vswitch(lab: LabName, bouncer: str, address: str, addresses: Sequence[str], folder: Path) -> Iterator[Foreign]:
    """A switch in user space with a flow-based Geneve port; a namespace on one of its ports is the endpoint.

    It attaches a Geneve option of its own (class 0x0102, not critical) to all that it sends.
    """
    with ExitStack() as stack:
        own = stack.enter_context(plugged(lab, "ovspeer"))
        workload = f"{lab.namespace_prefix}peer_workload"
        endpoint = stack.enter_context(namespaces.create(workload))
        stack.callback(namespaces.remove, workload)
        command("ip", "-n", own, "link", "add", "port", "type", "veth", "peer", "name", "eth0", "netns", workload)
        command("ip", "-n", own, "link", "set", "port", "up")
        command("ip", "-n", workload, "link", "set", "eth0", "address", MAC, "mtu", mtu(address, 1442))
        endpoint.run(lambda: interfaces.set_tx_checksum("eth0", on=False))
        _configure(workload, "eth0", addresses)

        env = dict.fromkeys(("OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR"), str(folder))
        database = f"unix:{folder}/db.sock"

        def run(*argv: str) -> None:
            command(*argv, namespace=own, env=env)

        schema = "/usr/share/openvswitch/vswitch.ovsschema"
        run("ovsdb-tool", "create", f"{folder}/conf.db", schema)
        run("ovsdb-server", f"{folder}/conf.db", f"--remote=p{database}", f"--pidfile={folder}/db.pid", "--detach")
        stack.callback(_end, folder / "db.pid")
        run("ovs-vsctl", f"--db={database}", "--no-wait", "init")
        run("ovs-vswitchd", database, f"--pidfile={folder}/switch.pid", "--detach", f"--log-file={folder}/switch.log")
        stack.callback(_end, folder / "switch.pid")

        def configure(*argv: str) -> None:
            run("ovs-vsctl", f"--db={database}", "--timeout=20", *argv)

        # The address of the tunnel stands on the bridge that has the uplink, as the netdev datapath wants it.
        configure(
            "add-br", "brup", "--", "set", "bridge", "brup", "datapath_type=netdev", "--", "add-port", "brup", "wire"
        )
        on_wire(own, "brup", address)
        command("ip", "-n", own, "link", "set", "brup", "up")
        configure("add-br", "brin", "--", "set", "bridge", "brin", "datapath_type=netdev", "fail-mode=secure")
        port = ["type=geneve", "options:remote_ip=flow", "options:key=flow", "ofport_request=1"]
        configure("add-port", "brin", "tunnel", "--", "set", "interface", "tunnel", *port)
        configure("add-port", "brin", "port", "--", "set", "interface", "port", "ofport_request=2")
        socket = f"unix:{folder}/brin.mgmt"
        run("ovs-ofctl", "add-tlv-map", socket, "{class=0x102,type=1,len=4}->tun_metadata0")
        to = "tun_ipv6_dst" if ":" in bouncer else "tun_dst"
        send = f"set_field:{bouncer}->{to},set_field:{VNI}->tun_id,set_field:0x11223344->tun_metadata0,output:1"
        run("ovs-ofctl", "add-flow", socket, f"in_port=2,actions={send}")
        run("ovs-ofctl", "add-flow", socket, f"in_port=1,tun_id={VNI},actions=output:2")
        yield Foreign(endpoint, bouncer)


def on_wire(namespace: str, interface: str, address: str) -> None:
    """Gives a tunnel end its address on the substrate."""
    more = ["nodad"] if ":" in address else []
    command("ip", "-n", namespace, "addr", "add", f"{address}/{64 if more else 24}", "dev", interface, *more)


def mtu(address: str, over_ipv4: int) -> str:
    """Of the endpoint behind a tunnel end: over IPv6, headers take 20 bytes more."""
    return str(over_ipv4 - (20 if ":" in address else 0))


def available() -> bool:
    """Whether Open vSwitch is installed."""
    return shutil.which("ovs-vswitchd") is not None


def _configure(namespace: str, interface: str, addresses: Sequence[str]) -> None:
    for address in addresses:
        command("ip", "-n", namespace, "addr", "add", address, "dev", interface, *(["nodad"] if ":" in address else []))
    command("ip", "-n", namespace, "link", "set", interface, "up")
    command("ip", "-n", namespace, "route", "add", "10.0.0.0/16", "via", ROUTER4)
    command("ip", "-n", namespace, "route", "add", "fd00:10::/48", "via", ROUTER6)


def _end(pidfile: Path) -> None:
    os.kill(int(pidfile.read_text()), signal.SIGTERM)

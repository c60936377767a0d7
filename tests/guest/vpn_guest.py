# SPDX-License-Identifier: Apache-2.0
"""Run in a guest whose kernel has WireGuard and ESP: a droplet's engine on one side, and a peer by hand on the other.

`python -m tests.guest.vpn_guest FOLDER`. Prints what it found as JSON. A droplet, an endpoint's namespace on it and a
far gateway; the droplet is this namespace.
"""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path
from typing import Any

from mizar.functions.ipsec.values import IpsecTunnel
from mizar.functions.wireguard.values import Tunnel
from mizar.kernel import interfaces, tunnel_kernel
from mizar.kernel.interfaces import Interface
from mizar.kernel.namespaces import Namespace
from mizar.kernel.netlink import Netlink
from mizar.transit.vpn_engines import Engine, Found, engine_of
from mizar.transit.vpn_values import Vpn
from mizar.transit.workloads import InNamespace, NamespaceBy

FAR, PORT, LIMIT_S = "10.9.0.2", 4510, 60.0
REKEY_S = 6
"""Keys change some times while datagrams go."""
GREEN, LAN = "10.0.9.0/24", "192.168.50.0/24"
INNER, HOST = "10.0.9.5", "192.168.50.1"
PSK = b"quite-a-secret-of-this-test"
SITE = f"""
connections {{ c {{ version = 2
 remote_addrs = %any
 local {{ auth = psk
 id = far }}
 remote {{ auth = psk
 id = green }}
 children {{ c {{ local_ts = {LAN}
 remote_ts = {GREEN} }} }} }} }}
secrets {{ ike-1 {{ id = green
 secret = "{PSK.decode()}" }} }}
"""


class Droplet:
    """What an engine asks."""

    def __init__(self) -> None:
        self.own: dict[int, IPv4Address | IPv6Address] = {4: ip_address("10.9.0.1")}
        self.uplink: Callable[[], Interface] = _uplink


def _uplink() -> Interface:
    with Netlink() as netlink:
        return interfaces.get(netlink, "up0")


def sh(words: str) -> str:
    done = subprocess.run(words.split(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{words}: {done.stderr}")
    return done.stdout


def wired() -> None:
    """Droplet and far gateway on a wire; the endpoint's namespace with its interface."""
    for name in ("far", "ep"):
        sh(f"ip netns add {name}")
        sh(f"ip -n {name} link set lo up")
    sh("ip link add up0 type veth peer name wan netns far")
    sh("ip addr add 10.9.0.1/24 dev up0")
    sh("ip link set up0 up")
    sh(f"ip -n far addr add {FAR}/24 dev wan")
    sh("ip -n far link set wan up")
    sh(f"ip -n far addr add {HOST}/32 dev lo")
    sh("ip link add epx type veth peer name eth0 netns ep")
    sh("ip link set epx up")
    sh(f"ip -n ep addr add {INNER}/24 dev eth0")
    sh("ip -n ep link set eth0 up")


def up(engine: Engine, place: InNamespace) -> Found:
    """Looked at until it is up."""
    end = time.monotonic() + LIMIT_S
    found = Found("connecting")
    with Namespace.by_name("ep") as namespace:
        while found.state != "up" and time.monotonic() < end:
            engine.settle(place, namespace)
            found = engine.look()
            time.sleep(0.2)
    return found


def lost(count: int = 100) -> int:
    """Of so many datagrams through the tunnel, from the endpoint's address and back, once one has come through.

    One more is sent, which is not counted: ping(8) ends without the last answer where that takes more than twice as
    long as any before it. That this was what a run lacked once, one of 400, is a guess: the number was not kept.
    """
    end = time.monotonic() + LIMIT_S
    first = ["ip", "netns", "exec", "ep", "ping", "-q", "-c1", "-W1", "-I", INNER, HOST]
    while subprocess.run(first, capture_output=True, check=False).returncode:
        assert time.monotonic() < end
    words = f"ip netns exec ep ping -c{count + 1} -i0.05 -I {INNER} {HOST}"
    said = subprocess.run(words.split(), capture_output=True, text=True, check=False).stdout
    answered = {int(one) for one in re.findall(r"icmp_seq=(\d+) ttl", said)}
    return len(set(range(1, count + 1)) - answered)


def wireguard(folder: Path, place: InNamespace) -> dict[str, Any]:
    keys = {}
    for name in ("near", "far"):
        secret = sh("wg genkey").strip()
        public = subprocess.run(["wg", "pubkey"], input=secret, capture_output=True, text=True, check=True).stdout
        keys[name] = secret, public.strip()
    (folder / "far.key").write_text(keys["far"][0])
    sh("ip -n far link add wg0 type wireguard")
    sh(f"ip netns exec far wg set wg0 private-key {folder}/far.key listen-port 51999 peer {keys['near'][1]}"
       f" allowed-ips {GREEN}")  # fmt: skip
    sh("ip -n far link set wg0 up")
    sh(f"ip -n far route add {GREEN} dev wg0 src {HOST}")

    def raw(text: str) -> bytes:
        return base64.b64decode(text)

    peer = (IPv4Address(FAR), 51999)
    tunnel = Tunnel(raw(keys["near"][0]), raw(keys["far"][1]), b"", PORT, 1, (ip_network(LAN),), peer)
    engine = engine_of(Droplet(), folder / "wg", Vpn("w1", 1, "e", "w", tunnel, 30))
    assert engine.program(place) is None
    found = up(engine, place)
    told = {"engine": engine.name, "state": found.state, "lost": lost(), "received": engine.look().received_bytes}
    engine.clear()
    told["left"] = "mzvpn" in sh("ip -n ep -o link")
    sh("ip -n far link del wg0")
    return told


def ipsec(folder: Path, place: InNamespace) -> dict[str, Any]:
    (folder / "far.conf").write_text(
        f"charon-systemd {{\n port = 0\n port_nat_t = 4500\n"
        f" plugins {{ vici {{ socket = unix://{folder}/far.sock }}\n kernel-libipsec {{ load = no }} }}\n"
        f" filelog {{ f {{ path = {folder}/far.log\n flush_line = yes\n default = 1\n }} }}\n}}\n"
    )
    (folder / "swanctl.conf").write_text(SITE)
    argv = ["ip", "netns", "exec", "far", "env", f"STRONGSWAN_CONF={folder}/far.conf", "charon-systemd"]
    site = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    peer = (IPv4Address(FAR), 4500)
    tunnel = IpsecTunnel(
        PSK, "green", "far", (ip_network(GREEN),), (ip_network(LAN),), PORT, peer, (), (), REKEY_S, 10
    )  # fmt: skip
    engine = engine_of(Droplet(), folder / "near", Vpn("i1", 1, "e", "i", tunnel, 30))
    program = engine.program(place)
    assert program is not None
    with Namespace.by_name("ep") as namespace:
        engine.settle(place, namespace)
    near = subprocess.Popen(program.command(), cwd=program.folder, stdout=sys.stderr, stderr=sys.stderr)
    end = time.monotonic() + LIMIT_S
    while not ((folder / "near/own/vici.sock").exists() and (folder / "far.sock").exists()):
        assert time.monotonic() < end
        time.sleep(0.2)
    sh(f"swanctl --load-all --clear --file {folder}/swanctl.conf --uri unix://{folder}/far.sock")
    engine.configure()
    found = up(engine, place)
    told: dict[str, Any] = {"engine": engine.name, "state": found.state, "detail": found.detail}
    changes = _changes(folder)
    told["lost"] = lost(500)
    told["changes"] = _changes(folder) - changes
    told["refused"] = _refused()
    states = sh("ip -n ep xfrm state")
    told["kernel"] = [line.split()[0] for line in states.splitlines() if "proto esp" in line or "encap" in line]
    status = Path(f"/proc/{near.pid}/status").read_text()
    told["user"] = [line.split()[1] for line in status.splitlines() if "Uid" in line]
    for one in (near, site):
        one.terminate()
        one.wait(10)
    engine.clear()
    return told


def _changes(folder: Path) -> int:
    """How often keys of ESP have been agreed on."""
    return (folder / "far.log").read_text().count("inbound CHILD_SA")


def _refused() -> dict[str, int]:
    """What the kernel counts of ESP on either side that it could not send or take."""
    lines = [
        line.split()
        for name in ("ep", "far")
        for line in sh(f"ip netns exec {name} cat /proc/net/xfrm_stat").splitlines()
    ]
    return {what: int(number) for what, number in lines if int(number)}


def main() -> None:
    folder = Path(sys.argv[1])
    wired()
    place = InNamespace(NamespaceBy.NAME, "ep", "eth0")
    found: dict[str, Any] = {"has": [tunnel_kernel.has_wireguard(), tunnel_kernel.has_esp()]}
    found["wireguard"] = wireguard(folder, place)
    found["ipsec"] = ipsec(folder, place)
    print(json.dumps(found))


if __name__ == "__main__":
    main()

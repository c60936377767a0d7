# SPDX-License-Identifier: Apache-2.0
"""What a daemon is told when it is started.

Made by the command line and by tests; frozen. Defaults live here and nowhere else.
"""

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Literal

from mizar.kernel.attach import TcMode, XdpMode
from mizar.transit import vpn_ports
from mizar.transit.access import TcpListen, UnixListen, parse_listen
from mizar.transit.state import Limits
from mizar.transit.vpn_ports import VpnPorts

RUN_FOLDER = Path("/run/mizar")
LOG_FOLDER = Path("/var/log/mizar")


@dataclass(frozen=True, slots=True)
class ProbeTiming:
    """How soon a silent droplet is probed, and after how many probes without an answer it is down."""

    interval_s: float = 0.1
    count: int = 3


@dataclass(frozen=True, slots=True)
class Options:
    """One droplet: its interface, its name on this host, where it listens, how large its tables are.

    `addresses`: of the droplet, at most one of each family; none: the interface's first IPv4 address, else its first of
    IPv6. `pool`: how many namespaces are prepared for workloads that want one from there. `ovsdb` is where the database
    of an Open vSwitch on this host answers, should there be one. `metrics` is where
    Prometheus reads; empty: nowhere. `xdp` and `tc` are the modes that programs must run
    in; None: the best that the interface and the kernel have; `xdp` "off":
    Transit runs at tc ingress. `uplink_offloads`: over a veth, checksums and
    superpackets are left to the other ends of the wire.
    """

    interface: str
    name: str = ""
    listen: str = ""
    pki: Path | None = None
    addresses: tuple[IPv4Address | IPv6Address, ...] = ()
    limits: Limits = field(default_factory=Limits)
    xdp: XdpMode | Literal["off"] | None = None
    tc: TcMode | None = None
    uplink_offloads: bool = False
    probes: ProbeTiming = field(default_factory=ProbeTiming)
    detach_on_exit: bool = False
    pool: int = 8
    ovsdb: str = "unix:/var/run/openvswitch/db.sock"
    metrics: str = ""
    vpn_ports: VpnPorts = field(default_factory=lambda: vpn_ports.parse(vpn_ports.DEFAULT))
    run_folder: Path = RUN_FOLDER
    engine_logs: Path = LOG_FOLDER

    @property
    def instance(self) -> str:
        """The name of pins, lock and socket: given, or the interface's (a dot cannot be in a pin's name)."""
        return self.name or self.interface.replace(".", "_")

    @property
    def listening(self) -> UnixListen | TcpListen:
        """Where requests come in. Raises InvalidError."""
        if not self.listen:
            return UnixListen(self.run_folder / f"{self.instance}.sock")
        return parse_listen(self.listen)

    @property
    def engines_folder(self) -> Path:
        """What engines have here: processes, and what they were told."""
        return self.run_folder / f"{self.instance}.engines"

    @property
    def logs_folder(self) -> Path:
        """Where functions of this instance log."""
        return self.engine_logs / self.instance

    @property
    def vpn_folder(self) -> Path:
        """What is kept of tunnels, keys included."""
        return self.run_folder / f"{self.instance}.vpn"

    @property
    def ddos_file(self) -> Path:
        """What the daemon was told of protections, with their lists, for the one after it."""
        return self.run_folder / f"{self.instance}.ddos"

    @property
    def functions_file(self) -> Path:
        """What the daemon was told of network functions, for the one after it."""
        return self.run_folder / f"{self.instance}.functions"

    @property
    def lock_file(self) -> Path:
        """Held by the running daemon of this instance."""
        return self.run_folder / f"{self.instance}.lock"

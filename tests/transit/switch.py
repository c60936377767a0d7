# SPDX-License-Identifier: Apache-2.0
"""A real Open vSwitch in a droplet's namespace: its database, its switch in user space, workloads behind a bridge."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

from mizar.kernel import interfaces
from mizar.kernel.namespaces import Namespace
from tests.transit.rig import until

SCHEMA = "/usr/share/openvswitch/vswitch.ovsschema"


def available() -> bool:
    """Whether Open vSwitch is installed."""
    return shutil.which("ovs-vswitchd") is not None


class Switch:
    """Both processes, without systemd; files in a folder of its own. Its bridges forward in user space."""

    def __init__(self, namespace: str, folder: Path) -> None:
        folder.mkdir()
        self.namespace, self.folder = namespace, folder
        self.target = f"unix:{folder}/db.sock"
        self._run("ovsdb-tool", "create", f"{folder}/conf.db", SCHEMA)
        self.start_database()
        self._run("ovs-vsctl", f"--db={self.target}", "--no-wait", "init")
        self.start_switch()

    def start_database(self) -> None:
        """ovsdb-server."""
        pid = f"--pidfile={self.folder}/db.pid"
        self._run("ovsdb-server", f"{self.folder}/conf.db", f"--remote=p{self.target}", pid, "--detach")

    def start_switch(self) -> None:
        """ovs-vswitchd."""
        files = (f"--pidfile={self.folder}/switch.pid", f"--log-file={self.folder}/switch.log")
        self._run("ovs-vswitchd", self.target, *files, "--detach")

    def end(self, name: str) -> None:
        """End "db" or "switch"."""
        pidfile = self.folder / f"{name}.pid"
        if pidfile.exists():
            pid = int(pidfile.read_text())
            os.kill(pid, signal.SIGTERM)
            until(lambda: not Path(f"/proc/{pid}").exists(), f"{name} has ended")

    def close(self) -> None:
        """End both."""
        self.end("switch")
        self.end("db")

    def configure(self, *words: str) -> str:
        """ovs-vsctl, in the operator's place."""
        return self._run("ovs-vsctl", f"--db={self.target}", "--timeout=20", *words)

    def ports(self, bridge: str) -> list[str]:
        """Ports of a bridge."""
        return self.configure("list-ports", bridge).split()

    def plug(self, bridge: str, port: str, workload: str, mac: str, *addresses: str, vlan: int = 0) -> None:
        """A namespace on a port of the bridge: what the endpoint behind the bridge is."""
        far = ["peer", "name", "eth0", "netns", workload]
        self._run("ip", "link", "add", port, "type", "veth", *far)
        self._run("ip", "link", "set", port, "up")
        inside = ["ip", "-n", workload]
        self._run(*inside, "link", "set", "eth0", "address", mac, "mtu", "1450", "up")
        for address in addresses:
            self._run(*inside, "addr", "add", address, "dev", "eth0", *(["nodad"] if ":" in address else []))
        self._run(*inside, "route", "add", "default", "via", "10.0.1.1")
        with Namespace.by_name(workload) as entered:  # a switch in user space understands no partial checksum
            entered.run(lambda: interfaces.set_tx_checksum("eth0", on=False))
        self.configure("add-port", bridge, port, *([f"tag={vlan}"] if vlan else []))

    def _run(self, *argv: str) -> str:
        names = ("OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR")
        env = {**os.environ, **dict.fromkeys(names, str(self.folder))}
        enter = ["nsenter", f"--net=/run/netns/{self.namespace}"]
        done = subprocess.run([*enter, *argv], env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{' '.join(argv)}: {done.stderr or done.stdout}"
        return done.stdout

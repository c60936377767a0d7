# SPDX-License-Identifier: Apache-2.0
"""A host of its own for each test: a namespace, and names under /run/netns that begin with this run's prefix."""

from __future__ import annotations

import fcntl
import itertools
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest

from mizar.kernel import namespaces
from mizar.kernel.namespaces import Namespace
from mizar.kernel.topology_facts import Found
from mizar.kernel.topology_links import TopologyLinks
from mizar.topology import host
from mizar.topology.compare import Row
from mizar.topology.description import HostTopology
from mizar.topology.present import Plan
from mizar.topology.reading import parse_topologies

T = TypeVar("T")
_numbers = itertools.count()

HEAD = "apiVersion: mizar/v1\nkind: HostTopology\nmetadata: {name: gw}\nspec:\n"

# Two bridges, a plain and two filtering external vteps, veths to a namespace and between namespaces.
TEXT = (
    HEAD
    + """
  namespaces: [{name: NS-a}, {name: NS-b}]
  bridges:
    - {name: br0, mtu: 1450, addresses: [10.0.0.254/24]}
    - {name: br1, namespace: NS-b}
  vteps:
    - {name: vx0, bridge: br0, id: 7, local: 192.0.2.1, port: 4790}
    - {name: vx1, bridge: br0, external: true, vnifilter: true, vnis: [100-199, 300], local: "2001:db8::1"}
    - {name: vx2, external: true, vnifilter: true, vnis: [200], local: "2001:db8::1"}
  veths:
    - name: v0
      mtu: 1450
      ends:
        - {interface: v0-br, bridge: br0}
        - {interface: eth0, namespace: NS-a, addresses: [10.0.0.1/24, "fd00::1/64"]}
    - name: v1
      mtu: 1450
      ends: [{interface: v1-br, bridge: br0}, {interface: eth0, namespace: NS-b, addresses: [10.0.0.2/24]}]
    - {name: v2, ends: [{interface: eth1, namespace: NS-a}, {interface: v2-br, bridge: br1}]}
"""
)


@pytest.fixture(scope="module", autouse=True)
def _alone() -> Iterator[None]:
    """One file at a time: their hosts share /run/netns, where what a topology made is known by its name."""
    with (Path(tempfile.gettempdir()) / "mizar-tests-topology.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture(autouse=True)
def _as_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root (CAP_NET_ADMIN and CAP_SYS_ADMIN)")


@dataclass
class Host:
    """A namespace that plays the host."""

    name: str
    namespace: Namespace
    prefix: str
    environment: dict[str, str] = field(default_factory=lambda: {**os.environ, "COLUMNS": "200"})

    def topology(self, text: str = TEXT) -> HostTopology:
        """A description; NS in it is this test's prefix."""
        return parse_topologies(text.replace("NS", self.prefix), "test")[0]

    def apply(self, text: str = TEXT, **options: Any) -> Plan:
        return self.run(lambda: host.apply(self.topology(text), **options))

    def delete(self, text: str = TEXT, **options: Any) -> Plan:
        return self.run(lambda: host.delete(self.topology(text), **options))

    def show(self, text: str = TEXT) -> list[Row]:
        return self.run(lambda: host.show(self.topology(text)))

    def run(self, call: Callable[[], T]) -> T:
        """Calls in this host."""
        return self.namespace.run(call)

    def ip(self, *arguments: str, namespace: str = "") -> None:
        """Somebody else changes something, on the host or in a namespace of this test."""
        name = f"{self.prefix}-{namespace}" if namespace else self.name
        subprocess.run(["ip", "-n", name, *arguments], check=True)

    def mizar(self, *arguments: str, text: str = TEXT) -> subprocess.CompletedProcess[str]:
        """The command line on this host, with a description on stdin."""
        command = ["nsenter", f"--net=/run/netns/{self.name}", sys.executable, "-m", "mizar.cli.main", "topology"]
        return subprocess.run(
            [*command, *arguments],
            input=text.replace("NS", self.prefix),
            capture_output=True,
            text=True,
            check=False,
            env=self.environment,
        )

    def links(self) -> dict[tuple[str, str], Found]:
        """Interfaces of the host and of this test's namespaces, which have their names without the prefix."""

        def read() -> list[Found]:
            with TopologyLinks() as links:
                places = ("", *(name for name in namespaces.names() if name.startswith(f"{self.prefix}-")))
                return [found for found in links.read().links if found.link.namespace in places]

        found = self.run(read)
        return {(item.link.namespace.removeprefix(f"{self.prefix}-"), item.link.name): item for item in found}

    def names(self) -> list[str]:
        """This test's namespaces, without the prefix."""
        mine = [name for name in namespaces.names() if name.startswith(f"{self.prefix}-")]
        return [name.removeprefix(f"{self.prefix}-") for name in mine]


@pytest.fixture
def gateway() -> Iterator[Host]:
    """A host without anything but `lo`."""
    prefix = f"tp{os.getpid()}x{next(_numbers)}"
    with namespaces.scratch(prefix) as namespace:
        yield Host(prefix, namespace, prefix)
        for name in namespaces.names():
            if name.startswith(f"{prefix}-"):
                namespaces.remove(name)

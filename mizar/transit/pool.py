# SPDX-License-Identifier: Apache-2.0
"""Namespaces with an interface and its agent in them, prepared before anybody asks: for functions, which start often.

Called by the installer. A prepared namespace has no name, its agent's link no pin: all of it is held by file
descriptors of this process alone, so that it ends with the process, however that ends. A namespace and not an interface
is what is handed out, because moving an interface into a namespace makes the kernel wait for its readers (15 ms).
"""

import contextlib
import os
import secrets
import threading
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from mizar.kernel import attach, libbpf, namespaces
from mizar.kernel.endpoint_link import EndpointLink, OwnedLink, alias_of
from mizar.kernel.interfaces import Interface
from mizar.kernel.links import Links
from mizar.kernel.namespaces import Namespace
from mizar.model.errors import MizarError

INNER = "eth0"
"""Name of the interface in a prepared namespace."""

POOL = "pool:"
"""How the alias of a link begins to say that the daemon brought the namespace; its name follows."""

_NOBODY = "-"
_NO_MAC = bytes.fromhex("024d5a000002")  # until it is an endpoint's


@dataclass(frozen=True, slots=True)
class Prepared:
    """A namespace, the host side of its link, and the agent's link (None: it has to be attached when it is used)."""

    namespace: Namespace
    host: Interface
    agent: int | None

    def close(self) -> None:
        """Let go of it. What has got no name by now ends."""
        if self.agent is not None:
            os.close(self.agent)
        self.namespace.close()


class Pool:
    """`size` namespaces, of the daemon `instance`. `tcx`: whether agents may be attached before they are needed."""

    def __init__(self, size: int, instance: str, agent_fd: int, tcx: bool) -> None:
        self._size = size
        self._instance = instance
        self._agent_fd = agent_fd
        self._tcx = tcx
        self._ready: deque[Prepared] = deque()
        self._lock = threading.Lock()

    @property
    def short(self) -> bool:
        """Whether some are lacking."""
        return len(self._ready) < self._size

    def refill(self, links: Links, mtu: int) -> None:
        """Prepare one more."""
        made = self._prepare(links, mtu)
        with self._lock:
            self._ready.append(made)

    def take(self, links: Links, mtu: int) -> Prepared:
        """One that is ready, else one that is made now. The caller closes it."""
        with self._lock:
            if self._ready:
                return self._ready.popleft()
        return self._prepare(links, mtu, at_once=True)

    def close(self) -> None:
        """All that nobody took ends."""
        with self._lock:
            while self._ready:
                self._ready.popleft().close()

    def _prepare(self, links: Links, mtu: int, at_once: bool = False) -> Prepared:
        name = f"pool{secrets.token_hex(4)}"
        link = EndpointLink(self._instance, _NOBODY, name, INNER, _NO_MAC, mtu, (), ())
        namespace = namespaces.anonymous()
        try:
            host = links.prepare(link, namespace, alias_of(self._instance, _NOBODY, _NOBODY, POOL))
            agent = None
            if self._tcx and not at_once:
                with contextlib.suppress(MizarError):  # a kernel without tcx: then by a filter, when it is used
                    agent = attach.create_link(self._agent_fd, host.index, "tcx")
        except BaseException:
            namespace.close()
            raise
        return Prepared(namespace, host, agent)


def hand_out(links: Links, prepared: Prepared, name: str, link: EndpointLink, pin: Path) -> Interface:
    """Make a prepared namespace the one called `name`, its interface the endpoint's; returns the host side.

    First the alias, then the name: whoever finds the one after a crash knows what to do with the other.
    """
    stale = links.held(link.host_name, link.instance, link.uid)
    if stale is not None:  # its namespace has lost its name
        links.delete_interface(stale.interface)
    host = links.rename(
        prepared.host, link.host_name, alias_of(link.instance, link.uid, link.inner_name, f"{POOL}{name}")
    )
    if prepared.agent is not None:
        libbpf.pin(prepared.agent, pin)
    namespaces.publish(prepared.namespace, name)
    return host


def retire(links: Links, link: OwnedLink) -> bool:
    """Take away the name of a namespace that the daemon brought, if it is still the one that the link leads to."""
    if not link.spec.startswith(POOL):
        return False
    with contextlib.suppress(MizarError), Namespace.open_spec(link.spec) as namespace:
        if links.holds(link.interface, namespace):
            namespaces.remove(link.spec.removeprefix(POOL))
            return True
    return False


def retire_all(host: Namespace) -> int:
    """Take away the names of all namespaces that daemons brought whose links begin in this one; returns how many.

    For a host that ends without its daemons: afterwards nobody would know whose they were.
    """
    links = Links(host)
    try:
        brought = [link for link in links.owned() if link.spec.startswith(POOL)]
        return sum(retire(links, link) for link in brought)
    finally:
        links.close()

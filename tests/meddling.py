# SPDX-License-Identifier: Apache-2.0
"""Somebody who changes a droplet's maps and interfaces behind its daemon's back, as bpftool and ip would."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from pyroute2 import IPRoute

from mizar.kernel import libbpf
from mizar.kernel.bpffs import Pins
from mizar.kernel.libbpf import lib
from mizar.kernel.tables import Tables


@contextmanager
def maps_of(instance: str) -> Iterator[Tables]:
    """The pinned maps of an instance."""
    pins = Pins.of(instance)
    fds = {path.name: libbpf.open_pin(path) for path in pins.maps.iterdir()}
    try:
        yield Tables.of({name: fd for name, fd in fds.items() if fd is not None})
    finally:
        for fd in fds.values():
            if fd is not None:
                os.close(fd)


def detach_agent(instance: str, host_interface: str) -> None:
    """The agent of an endpoint runs no more; its pin stays."""
    fd = libbpf.open_pin(Pins.of(instance).links / f"agent_{host_interface}")
    assert fd is not None
    try:
        libbpf.check(lib().bpf_link_detach(fd), "detach the agent")
    finally:
        os.close(fd)


def set_mtu(namespace: str, interface: str, mtu: int) -> None:
    with IPRoute(netns=namespace) as ip:
        ip.link("set", index=ip.link_lookup(ifname=interface)[0], mtu=mtu)


def flush(namespace: str, interface: str) -> None:
    """The interface loses its addresses."""
    with IPRoute(netns=namespace) as ip:
        ip.flush_addr(index=ip.link_lookup(ifname=interface)[0])

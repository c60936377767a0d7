# SPDX-License-Identifier: Apache-2.0
"""Scratch objects for tests that need root: namespaces without names, pins under a name of this run, real programs."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator

import pytest

from mizar.kernel import namespaces
from mizar.kernel.bpffs import Pins
from mizar.kernel.configuration import configuration
from mizar.kernel.links import Links
from mizar.kernel.namespaces import Namespace
from mizar.kernel.programs import Programs, load

SMALL = {
    "endpoints": 64,
    "networks": 64,
    "vpcs": 64,
    "identities": 64,
    "hop_sets": 64,
    "droplets": 64,
    "droplet_slots": 64,
    "agents": 64,
    "agent_options": 64,
    "group_sets": 64,
    "endpoint_counters": 64,
    "vpc_counters": 64,
}
CONFIG = configuration([b"\xc0\x00\x02\x01"], b"\x02\0\0\0\0\1", 1, send_by_tc=False)

_numbers = itertools.count()


@pytest.fixture(autouse=True)
def _as_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root (CAP_NET_ADMIN, CAP_SYS_ADMIN and CAP_BPF)")


@pytest.fixture
def host() -> Iterator[Namespace]:
    """The namespace of a droplet."""
    with namespaces.anonymous() as namespace:
        yield namespace


@pytest.fixture
def workload() -> Iterator[Namespace]:
    """The namespace of a workload."""
    with namespaces.anonymous() as namespace:
        yield namespace


@pytest.fixture
def links(host: Namespace) -> Iterator[Links]:
    """Links with their host side in `host`."""
    found = Links(host)
    yield found
    found.close()


@pytest.fixture
def pins() -> Iterator[Pins]:
    """Folders of pins that nobody else uses."""
    found = Pins.of(f"test_kernel_{os.getpid()}_{next(_numbers)}")
    found.make()
    yield found
    found.remove()


@pytest.fixture
def programs() -> Iterator[Programs]:
    """The real programs with small maps, without pins."""
    with load(CONFIG, max_entries=SMALL) as loaded:
        yield loaded

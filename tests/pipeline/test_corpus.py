# SPDX-License-Identifier: Apache-2.0
"""The corpus is what it says: it reaches every end of the shipped pipelines, and names tell its frames apart."""

from __future__ import annotations

import pytest

from mizar.pipeline.interpreter.frame import shape
from mizar.pipeline.interpreter.machine import Machine
from tests.pipeline.corpus import MAX_FRAME, corpus, hostile, whole
from tests.unit.pipeline import frames as f


def test_names_are_unique_and_frames_fit() -> None:
    """A failure names one frame; every frame fits into one buffer of a usual NIC."""
    assert len({name for name, _ in corpus()}) == len(corpus())
    assert all(0 < len(frame) <= MAX_FRAME for _, frame in corpus())
    assert 500 < len(corpus()) < 2000
    assert len(whole()) + len(hostile()) < len(corpus())


def test_every_kind_of_header_is_there() -> None:
    """Nothing that patterns can ask for is missing."""
    kinds = {kind for _, frame in corpus() for kind in shape(frame)}
    assert kinds >= {"eth", "vlan", "arp", "ipv4", "ipv6", "tcp", "udp", "icmp4", "icmp6", "nd", "vxlan", "geneve"}


@pytest.mark.parametrize("name", ["gateway-trap", "gateway-queue"])
def test_the_shipped_pipelines_end_in_every_way(name: str) -> None:
    """Without a connection nothing is established: the kernel or the queue, and drops with different reasons."""
    machine = Machine(f.shipped(name))
    found = {(one.verdict.value, one.reason) for one in (machine.run(frame, 1) for _, frame in corpus())}
    assert {verdict for verdict, _ in found} == {"drop", "kernel" if name == "gateway-trap" else "queue"}
    assert {reason for _, reason in found} >= {"Decap: no case", "NAT: no case", "no Ethernet header"}

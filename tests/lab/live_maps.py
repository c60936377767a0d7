# SPDX-License-Identifier: Apache-2.0
"""The maps of a droplet of a lab, for tests that break them behind its daemon's back."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from ipaddress import ip_address

from mizar.kernel import libbpf
from mizar.kernel.bpffs import Pins
from mizar.kernel.layout import U32, Fields, struct_codec
from mizar.kernel.maps import Table
from mizar.lab.names import LabName
from mizar.model.addresses import to_mapped


@contextlib.contextmanager
def open_endpoints(lab: LabName, droplet: str) -> Iterator[Table[Fields, Fields]]:
    """`endpoints` of a droplet."""
    with _pinned(lab, droplet, "endpoints") as fd:
        yield Table("endpoints", fd, struct_codec("endpoint_key"), struct_codec("endpoint"))


@contextlib.contextmanager
def open_droplets(lab: LabName, droplet: str) -> Iterator[Table[int, Fields]]:
    """`droplets` of a droplet."""
    with _pinned(lab, droplet, "droplets") as fd:
        yield Table("droplets", fd, U32, struct_codec("droplet"))


@contextlib.contextmanager
def open_policy_verdicts(lab: LabName, droplet: str) -> Iterator[Table[Fields, Fields]]:
    """`policy_verdicts` of a droplet."""
    with _pinned(lab, droplet, "policy_verdicts") as fd:
        yield Table("policy_verdicts", fd, struct_codec("policy_verdict_key"), struct_codec("policy_verdict"))


@contextlib.contextmanager
def open_policy_flows(lab: LabName, droplet: str) -> Iterator[Table[Fields, Fields]]:
    """`policy_flows` of a droplet."""
    with _pinned(lab, droplet, "policy_flows") as fd:
        yield Table("policy_flows", fd, struct_codec("policy_flow_key"), struct_codec("policy_flow"))


def endpoint_key(vni: int, address: str) -> Fields:
    """The key of an endpoint."""
    return {"vni": vni, "addr": to_mapped(ip_address(address).packed)}


@contextlib.contextmanager
def _pinned(lab: LabName, droplet: str, name: str) -> Iterator[int]:
    fd = libbpf.open_pin(Pins.of(lab.instance(droplet)).maps / name)
    assert fd is not None, f"{droplet} has no map {name}"
    try:
        yield fd
    finally:
        os.close(fd)

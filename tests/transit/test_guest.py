# SPDX-License-Identifier: Apache-2.0
"""Workloads that configure themselves: dhclient and the kernel's own router discovery, against a real daemon."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from mizar._built import transit_pb2 as pb
from mizar.kernel.namespaces import Namespace
from tests.transit.rig import (
    FRONT,
    Droplet,
    Rig,
    endpoint,
    local,
    put_droplet,
    put_network,
    put_vpc,
    until,
)
from tests.transit.traffic import ping

pytestmark = pytest.mark.skipif(shutil.which("dhclient") is None, reason="needs dhclient (isc-dhcp-client)")

SCRIPT = """#!/bin/sh
env > "$(dirname "$0")/$reason"
case "$reason" in
BOUND|REBOOT|RENEW|REBIND)
    ip address replace "$new_ip_address/24" dev "$interface"
    ip link set "$interface" mtu "$new_interface_mtu"
    ip route replace default via "$new_routers" dev "$interface";;
BOUND6|RENEW6|REBIND6) ip -6 address replace "$new_ip6_address/128" dev "$interface";;
esac
"""


def self_configured(made: Rig) -> tuple[Droplet, str, str]:
    """Endpoint 1 configures itself; endpoint 2 of another droplet is given its addresses."""
    one, two = made.add_droplet(), made.add_droplet()
    first, second = made.make_namespace("e1"), made.make_namespace("e2")
    made.start_all()
    for droplet in (one, two):
        droplet.apply(put_droplet(one), put_droplet(two), put_vpc(one), put_network(FRONT, one))
    alone = local("uid-1", endpoint(1, FRONT, one), name=first)
    alone.workload.self_configured = True
    one.attach_whole(alone)
    two.attach_whole(local("uid-2", endpoint(2, FRONT, two), name=second))
    one.apply(pb.Change(put_endpoint=endpoint(2, FRONT, two)))
    until(lambda: ping(second, "10.0.1.1") is not None, "the gateway's answer")
    return one, first, second


def inside(namespace: str, *command: str) -> str:
    """What a command in a namespace prints."""
    with Namespace.by_name(namespace) as entered:
        done = entered.run(lambda: subprocess.run(command, capture_output=True, text=True, check=True, timeout=60))
    return done.stdout


def dhclient(namespace: str, folder: Path, family: str) -> dict[str, str]:
    """What a client is told; its addresses and routes are set. It does not stay."""
    script = folder / "script"
    script.write_text(SCRIPT)
    script.chmod(0o755)
    pid = folder / f"pid{family}"
    files = ["-sf", str(script), "-lf", str(folder / f"leases{family}"), "-pf", str(pid)]
    inside(namespace, "dhclient", family, "-1", "-cf", "/dev/null", *files, "eth0")
    # It is its child that writes the file, at some time after it has ended itself.
    for running in until(lambda: pid.read_text() if pid.exists() else "", "the client's number").split():
        subprocess.run(["kill", running], check=False)
    told = (folder / ("BOUND" if family == "-4" else "BOUND6")).read_text()
    return dict(line.split("=", 1) for line in told.splitlines() if "=" in line)


def test_an_endpoint_configures_itself_by_dhcpv4(made: Rig, tmp_path: Path) -> None:
    """Nothing is set but MAC and MTU; dhclient gets the allotted address, router, mask and MTU, and traffic flows."""
    one, first, second = self_configured(made)
    assert "inet 10.0" not in inside(first, "ip", "address", "show", "dev", "eth0")
    assert ping(second, "10.0.1.11", 0.3) is None
    told = dhclient(first, tmp_path, "-4")
    assert told["new_ip_address"] == "10.0.1.11"
    assert (told["new_routers"], told["new_subnet_mask"]) == ("10.0.1.1", "255.255.255.0")
    assert (told["new_interface_mtu"], told["new_dhcp_lease_time"]) == ("1450", "3600")
    assert told["new_dhcp_server_identifier"] == "10.0.1.1"
    assert ping(second, "10.0.1.11") is not None
    assert ping(first, "10.0.1.12") is not None
    held = one.state().local_endpoints[0]
    assert (held.local.workload.self_configured, held.problem) == (True, "")


def test_an_endpoint_configures_itself_by_router_discovery_and_dhcpv6(made: Rig, tmp_path: Path) -> None:
    """The kernel takes fe80::1 as its router; addresses come by DHCPv6, and none is made from the prefix."""
    _, first, second = self_configured(made)
    until(lambda: "fe80::1" in inside(first, "ip", "-6", "route", "show", "default"), "the kernel's default route")
    routes = inside(first, "ip", "-6", "route", "show")
    assert "fd00:10:0:1::/64" in routes
    until(
        lambda: "tentative" not in inside(first, "ip", "-6", "address", "show", "dev", "eth0"), "a link-local address"
    )
    assert "inet6 fd00" not in inside(first, "ip", "-6", "address", "show", "dev", "eth0")
    told = dhclient(first, tmp_path, "-6")
    assert told["new_ip6_address"] == "fd00:10:0:1::11"
    until(lambda: ping(second, "fd00:10:0:1::11", 0.5) is not None, "an answer of the endpoint that configured itself")
    assert ping(first, "fd00:10:0:1::12") is not None


def test_a_new_daemon_leaves_what_the_workload_set(made: Rig, tmp_path: Path) -> None:
    """The interface's alias keeps that the endpoint configures itself; attaching it once more changes nothing."""
    one, first, second = self_configured(made)
    dhclient(first, tmp_path, "-4")
    before = one.state().local_endpoints[0].local
    one.stop()
    one.start()
    assert one.state().local_endpoints[0].local == before
    one.attach_whole(before)
    assert ping(second, "10.0.1.11") is not None
    assert dhclient(first, tmp_path, "-4")["new_ip_address"] == "10.0.1.11"

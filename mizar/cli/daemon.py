# SPDX-License-Identifier: Apache-2.0
"""`mizar daemon`: the transit daemon of one droplet; thin over mizar.transit.

Called by mizar.cli.main, which turns MizarError into a message and an exit code.
"""

from __future__ import annotations

import logging
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Annotated, Literal

import typer

from mizar.kernel.attach import TcMode, XdpMode
from mizar.model.errors import InvalidError
from mizar.transit import daemon as transit_daemon
from mizar.transit.limit_values import UNLIMITED, Rate
from mizar.transit.logs import to_stderr
from mizar.transit.options import Options, ProbeTiming
from mizar.transit.state import Limits
from mizar.transit.vpn_ports import DEFAULT as _VPN_PORTS
from mizar.transit.vpn_ports import parse as parse_ports

_SIZES = Limits()
_PROBES = ProbeTiming()
_MEMBERS = _SIZES.members // _SIZES.services
"""For each scaled endpoint there is room, on the average."""


class _Xdp(StrEnum):
    AUTO = "auto"
    DRIVER = "driver"
    GENERIC = "generic"
    OFF = "off"


class _Tc(StrEnum):
    AUTO = "auto"
    TCX = "tcx"
    CLSACT = "clsact"


_XDP: dict[_Xdp, XdpMode | Literal["off"] | None] = {
    _Xdp.AUTO: None,
    _Xdp.DRIVER: "driver",
    _Xdp.GENERIC: "generic",
    _Xdp.OFF: "off",
}
_TC: dict[_Tc, TcMode | None] = {_Tc.AUTO: None, _Tc.TCX: "tcx", _Tc.CLSACT: "clsact"}


def daemon(
    interface: Annotated[str, typer.Option(help="The droplet's interface: its ingress belongs to Mizar.")],
    name: Annotated[str, typer.Option(help="Name of this daemon on its host; default: the interface.")] = "",
    listen: Annotated[str, typer.Option(help="unix:///path or host:port; default: unix:///run/mizar/NAME.sock.")] = "",
    pki: Annotated[
        Path | None, typer.Option(help="Folder with ca.crt, daemon.crt, daemon.key, needed for host:port.")
    ] = None,
    address: Annotated[
        list[str] | None,
        typer.Option(
            help="Of the droplet; once, or once for each family. Default: the interface's first, IPv4 before IPv6."
        ),
    ] = None,
    xdp: Annotated[
        _Xdp,
        typer.Option(
            help="How Transit is attached; auto: XDP, driver, else generic; off: tc ingress alone, for veths."
        ),
    ] = _Xdp.AUTO,
    tc: Annotated[_Tc, typer.Option(help="How tc programs are attached; auto: tcx, else clsact.")] = _Tc.AUTO,
    max_droplets: Annotated[int, typer.Option(min=2, help="Size of the table.")] = _SIZES.droplets,
    max_vpcs: Annotated[int, typer.Option(min=2, help="Size of the table.")] = _SIZES.vpcs,
    max_networks: Annotated[int, typer.Option(min=2, help="Size of the table.")] = _SIZES.networks,
    max_endpoints: Annotated[int, typer.Option(min=2, help="Addresses of endpoints known here.")] = _SIZES.endpoints,
    max_local_endpoints: Annotated[int, typer.Option(min=2, help="Endpoints that live here.")] = _SIZES.local_endpoints,
    max_proxies: Annotated[int, typer.Option(min=2, help="Proxied endpoints carried here.")] = _SIZES.proxies,
    max_proxy_flows: Annotated[
        int, typer.Option(min=2, help="Flows that one proxied endpoint may have.")
    ] = _SIZES.proxy_flows,
    max_services: Annotated[
        int, typer.Option(min=2, help="Scaled endpoints known here; one with colocated members counts twice.")
    ] = _SIZES.services,
    max_policy_sets: Annotated[
        int, typer.Option(min=2, help="Sets of rules of policies.", rich_help_panel="Sizes of tables")
    ] = _SIZES.policy_sets,
    max_policy_rows: Annotated[
        int, typer.Option(min=2, help="Peers, or verdicts, of all these sets.", rich_help_panel="Sizes of tables")
    ] = _SIZES.policy_rows,
    max_policy_flows: Annotated[
        int, typer.Option(min=2, help="Flows of policed endpoints.", rich_help_panel="Sizes of tables")
    ] = _SIZES.policy_flows,
    max_flows: Annotated[
        int, typer.Option(min=2, help="Flows of scaled endpoints, shared evenly by their VPCs.")
    ] = _SIZES.flows,
    max_learned: Annotated[
        int, typer.Option(min=2, help="Addresses beyond those, found out for the direct path.")
    ] = _SIZES.learned,
    probe_interval: Annotated[
        int, typer.Option(min=10, max=60000, help="Milliseconds of a droplet's silence until it is probed.")
    ] = round(_PROBES.interval_s * 1000),
    probe_count: Annotated[
        int, typer.Option(min=1, max=100, help="Probes without an answer until a droplet is passed over.")
    ] = _PROBES.count,
    pool: Annotated[
        int, typer.Option(min=0, max=1024, help="Namespaces with an interface to keep prepared, for functions.")
    ] = 8,
    ovsdb: Annotated[
        str, typer.Option(help="Database of this host's Open vSwitch, for endpoints on its bridges.")
    ] = "unix:/var/run/openvswitch/db.sock",
    metrics: Annotated[
        str, typer.Option(help="Where Prometheus reads: unix:///path or address:port; beyond loopback --pki is needed.")
    ] = "",
    uplink_rate: Annotated[
        str, typer.Option(help="Bits a second that endpoints may send by the interface together, such as 10G.")
    ] = "",
    uplink_offloads: Annotated[
        bool,
        typer.Option(
            "--uplink-offloads",
            help="Over a veth, leave checksums and superpackets to the wire: no XDP on it may rewrite what they cover.",
        ),
    ] = False,
    vpn_ports: Annotated[
        str, typer.Option(help="UDP ports of this host that tenants' tunnels may have, or none.")
    ] = _VPN_PORTS,
    detach_on_exit: Annotated[
        bool, typer.Option("--detach-on-exit", help="On SIGTERM, remove programs, pins and endpoints.")
    ] = False,
    cleanup: Annotated[
        bool, typer.Option("--cleanup", help="Remove what an earlier daemon of this name left, and end.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log everything.")] = False,
) -> None:
    """Run the transit daemon of one droplet, until SIGTERM. Traffic goes on without it."""
    to_stderr(logging.DEBUG if verbose else logging.INFO)
    options = Options(
        interface=interface,
        name=name,
        listen=listen,
        pki=pki,
        addresses=_addresses(address or []),
        limits=Limits(
            max_droplets,
            max_vpcs,
            max_networks,
            max_endpoints,
            max_local_endpoints,
            max_proxies,
            max_proxy_flows,
            services=max_services,
            members=_MEMBERS * max_services,
            flows=max_flows,
            policy_sets=max_policy_sets,
            policy_rows=max_policy_rows,
            policy_flows=max_policy_flows,
            learned=max_learned,
            uplink=_rate(uplink_rate),
        ),
        xdp=_XDP[xdp],
        tc=_TC[tc],
        uplink_offloads=uplink_offloads,
        probes=ProbeTiming(probe_interval / 1000, probe_count),
        detach_on_exit=detach_on_exit,
        pool=pool,
        ovsdb=ovsdb,
        metrics=metrics,
        vpn_ports=parse_ports(vpn_ports),
    )
    if cleanup:
        transit_daemon.cleanup(options)
    else:
        transit_daemon.run(options)


def _rate(text: str) -> Rate:
    if not text:
        return UNLIMITED
    from pydantic import ValidationError  # which the daemon does not need otherwise

    from mizar.model.qos import RateSpec

    try:
        found = RateSpec.model_validate({"bitsPerSecond": text})
    except ValidationError as error:
        raise InvalidError(f"--uplink-rate {text!r}: {error.errors()[0]['msg']}") from error
    return Rate(bits_per_second=found.bits_per_second or 0, burst_bytes=found.most_bytes)


def _addresses(texts: list[str]) -> tuple[IPv4Address | IPv6Address, ...]:
    try:
        found = tuple(map(ip_address, texts))
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--address") from error
    if len({address.version for address in found}) < len(found):
        raise typer.BadParameter("expected at most one of each family", param_hint="--address")
    return found

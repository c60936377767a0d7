# SPDX-License-Identifier: Apache-2.0
"""Flows, connections and events in words and as plain values, for logs and the command line."""

from __future__ import annotations

import tomllib
from functools import cache
from importlib.resources import files
from ipaddress import IPv6Address, ip_address
from typing import Any

from mizar.gateway.entries import NAMES, Connection
from mizar.gateway.judge import address_of
from mizar.kernel.gateway_tables import tick
from mizar.kernel.layout import Fields, constant
from mizar.pipeline.interpreter.connection import Flow


def flow_words(flow: Flow) -> str:
    """`0x5 tcp 10.0.0.5:4000 > 198.51.100.9:80`."""
    source, destination = (_end(flow.version, one) for one in (flow.source, flow.destination))
    ends = f"{source}:{flow.source_port} > {destination}:{flow.destination_port}"
    return f"{flow.meta:#x} {flow.protocol} {ends}"


def plain_flow(flow: Flow) -> dict[str, Any]:
    """As JSON has it."""
    return {
        "meta": flow.meta,
        "protocol": flow.protocol,
        "source": str(address_of(flow.version, flow.source)),
        "sourcePort": flow.source_port,
        "destination": str(address_of(flow.version, flow.destination)),
        "destinationPort": flow.destination_port,
    }


def plain(connection: Connection) -> dict[str, Any]:
    """A connection as JSON has it."""
    idle_ticks = min((tick() - stamp) & 0xFFFFFFFF for stamp in connection.stamps)
    return {
        "tenant": connection.tenant,
        "state": connection.state,
        "original": plain_flow(connection.original),
        "becomes": plain_flow(connection.becomes),
        "idleSeconds": (idle_ticks << constant("GATEWAY_TICK_SHIFT")) // 1_000_000_000,
    }


def words(event: Fields) -> str:
    """What came, of an event of the data plane."""
    source, destination = (_mapped(event[name]) for name in ("src", "dst"))
    protocol = NAMES.get(event["protocol"], str(event["protocol"]))
    ports = [int.from_bytes(event[name].to_bytes(2, "little"), "big") for name in ("src_port_be", "dst_port_be")]
    return f"{event['meta']:#x} {protocol} {source}:{ports[0]} > {destination}:{ports[1]}"


@cache
def reasons() -> dict[int, str]:
    """Names of contracts/gateway_reasons.toml by number."""
    return {one["number"]: one["name"] for one in _reasons()}


@cache
def sentences() -> dict[str, str]:
    """What each reason of contracts/gateway_reasons.toml says, by name."""
    return {one["name"]: one["sentence"] for one in _reasons()}


def _reasons() -> list[dict[str, Any]]:
    text = (files("mizar._built") / "contracts" / "gateway_reasons.toml").read_text(encoding="utf-8")
    found: list[dict[str, Any]] = tomllib.loads(text)["reason"]
    return found


def _end(version: int, address: int) -> str:
    return str(address_of(version, address)) if version == 4 else f"[{address_of(version, address)}]"


def _mapped(address: bytes) -> str:
    found = ip_address(address)
    inner = found.ipv4_mapped if isinstance(found, IPv6Address) else None
    return str(inner) if inner is not None else f"[{found}]"

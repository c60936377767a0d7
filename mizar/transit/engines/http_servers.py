# SPDX-License-Identifier: Apache-2.0
"""The servers of an HTTP load balancer, changed in the worker of HAProxy that runs: no connection notices.

Called by `http_balancer`. What a server is to be is said in the words of the configuration (`http_config`), so that a
worker that reads this has the same servers. Blocks; raises OSError where HAProxy does not answer.

A server that is wanted no more gets no new requests (maintenance), and what it serves goes on; `sweep` deletes it once
nothing does. It must never take what HAProxy answers for done: what it has afterwards is compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from ipaddress import ip_address
from pathlib import Path

from mizar._built import transit_pb2 as pb
from mizar.transit.engines import http_config
from mizar.transit.engines.http_socket import ask, command

_Held = Mapping[tuple[str, str], Mapping[str, str]]
"""By proxy and name, as `show servers state` has it (Management Guide 9.3)."""
_Wanted = Mapping[tuple[str, str], tuple[http_config.Served, bool]]
"""By the same, with whether it is checked."""
_IN_MAINTENANCE, _CHECK_ENABLED = 0x01, 0x04
"""SRV_ADMF_FMAINT and CHK_ST_ENABLED (include/haproxy/server-t.h, check-t.h of 2.6)."""


def put(path: Path, http: pb.HttpBalancer) -> bool:
    """Has the worker serve by just these; False: it does not, and has to read its configuration."""
    wanted, held = _wanted(http), _held(path)
    command(path, _commands(held, wanted))
    return not _differ(_held(path), wanted)


def sweep(path: Path, http: pb.HttpBalancer) -> bool:
    """Deletes those that are wanted no more and serve nobody any more; whether some are left."""
    leaving = _held(path).keys() - _wanted(http).keys()
    command(path, (f"del server {proxy}/{name}" for proxy, name in leaving))
    return bool(leaving) and bool(_held(path).keys() - _wanted(http).keys())


def _commands(held: _Held, wanted: _Wanted) -> Iterator[str]:
    for proxy, name in held.keys() - wanted.keys():
        yield f"set server {proxy}/{name} state maint"
    for (proxy, name), (server, checked) in wanted.items():
        row, at = held.get((proxy, name)), f"{proxy}/{name}"
        if row is None:
            yield f"add server {proxy}/{server.words}"
            if checked:
                yield f"enable health {at}"
            yield f"enable server {at}"
            continue
        if not _is_at(row, server):
            yield f"set server {at} addr {ip_address(server.address)} port {server.port}"
        if int(row["srv_uweight"]) != server.weight:
            yield f"set server {at} weight {server.weight}"
        if int(row["srv_admin_state"]):
            yield f"set server {at} state ready"


def _differ(held: _Held, wanted: _Wanted) -> bool:
    if any(not int(held[one]["srv_admin_state"]) & _IN_MAINTENANCE for one in held.keys() - wanted.keys()):
        return True
    return any(
        (row := held.get(at)) is None
        or not _is_at(row, server)
        or int(row["srv_admin_state"]) != 0
        or (int(row["srv_uweight"]), int(row["srv_id"])) != (server.weight, server.number)
        or bool(int(row["srv_check_state"]) & _CHECK_ENABLED) != checked
        for at, (server, checked) in wanted.items()
    )


def _wanted(http: pb.HttpBalancer) -> _Wanted:
    return {
        (f"to-{backend.name}", name): (server, bool(backend.check.interval_ms))
        for backend in http.backends
        for name, server in http_config.served(backend).items()
    }


def _is_at(row: Mapping[str, str], server: http_config.Served) -> bool:
    return ip_address(row["srv_addr"]) == ip_address(server.address) and row["srv_port"] == str(server.port)


def _held(path: Path) -> _Held:
    lines = ask(path, "show servers state").splitlines()
    names = next((line[2:].split() for line in lines if line.startswith("# ")), [])
    rows = (line.split() for line in lines if line and not line.startswith("#"))
    found = (dict(zip(names, row, strict=True)) for row in rows if len(row) == len(names))
    return {(row["be_name"], row["srv_name"]): row for row in found if row["be_name"].startswith("to-")}

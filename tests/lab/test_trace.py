# SPDX-License-Identifier: Apache-2.0
"""`mizar trace` in a lab with real daemons: faults that were put there by hand are found and named."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mizar.api.client import Client
from mizar.lab import lab as labs
from mizar.lab.names import LabName
from tests.lab.conftest import manifests
from tests.lab.live_maps import endpoint_key, open_endpoints


def ask(client: Client, destination: object, **more: Any) -> dict[str, Any]:
    """Traces from blue's web server."""
    source = {"tenant": "blue", "name": "blue-web"}
    return client.trace({"source": source, "destination": destination, **more})


def addresses(client: Client, tenant: str, name: str) -> list[str]:
    """Those of an endpoint."""
    found: list[str] = client.get("Endpoint", name, tenant)["status"]["addresses"]
    return found


@contextlib.contextmanager
def forgotten(lab: LabName, key: dict[str, Any]) -> Iterator[None]:
    """An endpoint's entry is gone from all droplets: the host may be a hop of the sender's that needs no bouncer."""
    with contextlib.ExitStack() as stack:
        tables = [stack.enter_context(open_endpoints(lab, droplet)) for droplet in ("d1", "d2")]
        held = [(table, entry) for table in tables if (entry := table.get(key)) is not None]
        for table, _ in held:
            table.delete(key)
        yield
        for table, entry in held:
            table.put(key, entry)


def test_an_entry_that_was_deleted_by_hand_is_named(lab: LabName, tmp_path: Path) -> None:
    """Droplets have forgotten an endpoint: where, whose and in which table; on the screen, in JSON, and drawn."""
    labs.up(manifests(lab))
    db = {"tenant": "blue", "name": "db"}
    with Client(lab.server_url) as client:
        for address in addresses(client, "blue", "db"):
            found = ask(client, address)
            assert found["ok"], found
            assert found["hops"][-1]["droplet"] == "d2"
        vpc = client.get("VPC", "main", "blue")["status"]
        bouncer = client.get("Network", "back", "blue")["status"]["bouncers"][0]
        address = addresses(client, "blue", "db")[0]
        with forgotten(lab, endpoint_key(vpc["number"], address)):
            broken = ask(client, db)
            assert not broken["ok"]
            text = str(broken["hops"][-1])
            assert "ENDPOINT_UNKNOWN" in text
            assert f"{address} is blue/db, but its entry is missing in the tables of {bouncer}" in text
            picture = tmp_path / "way.svg"
            argv = [sys.executable, "-m", "mizar.cli.main", "trace", "blue/blue-web", "blue/db", "--svg", str(picture)]
            done = subprocess.run(
                [*argv, "--server", lab.server_url], capture_output=True, text=True, timeout=60, check=False
            )
            assert done.returncode == 1, done
            assert "its entry is missing in the tables" in done.stdout
            assert picture.read_text().startswith("<svg")
        assert ask(client, db)["ok"]
        for address in addresses(client, "blue", "db"):
            live = ask(client, address, live=True)
            assert live["ok"], live
            assert all(hop["seen"] for hop in live["hops"]), live
        spoofed = ask(client, None, frame=(b"\x02MZ\0\0\1" + b"\2" * 6 + b"\x08\0\x45" + bytes(40)).hex())
        assert not spoofed["ok"], "a frame that no endpoint may send, as one of a capture may be"
        nobody = ask(client, "10.0.2.250")
        assert not nobody["ok"]
        assert "blue/back has no endpoint with the address 10.0.2.250" in nobody["ending"]
        same = ask(client, {"tenant": "red", "name": "db"})  # an administrator may name it; no way leads there
        assert not same["ok"]
        assert "which is not red/db" in same["ending"]

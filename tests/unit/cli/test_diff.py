# SPDX-License-Identifier: Apache-2.0
"""`mizar diff` and `mizar apply --dry-run`: what they ask, what they print, how they end."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mizar.model.errors import InvalidError, Problem, TemporaryError
from tests.unit.cli.conftest import Done, FakeClient

Run = Callable[..., Done]

ALL_WAYS = ["icmp4", "udp4", "tcp4", "icmp6", "udp6", "tcp6"]
FOUND: dict[str, Any] = {
    "changes": True,
    "objects": [
        {"kind": "Endpoint", "tenant": "red", "name": "e3", "change": "created", "asked": True, "fields": []},
        {
            "kind": "Network",
            "tenant": "red",
            "name": "back",
            "change": "changed",
            "asked": True,
            "fields": [
                {"field": "spec.routes[]", "before": None, "after": {"to": "10.0.1.0/24", "via": "blackhole"}},
                {"field": "spec.bouncers", "before": 1, "after": 2},
            ],
        },
        {"kind": "Tenant", "tenant": None, "name": "red", "change": "unchanged", "asked": True, "fields": []},
    ],
    "droplets": [
        {
            "name": "d3",
            "add": 2,
            "change": 1,
            "delete": 0,
            "steps": [{"wave": "learn", "action": "add", "entry": "VPC red/main, 1 dividers"}],
        }
    ],
    "reach": {
        "pairs": 6,
        "lookedAt": 6,
        "gained": [{"from": "red/e3", "to": "red/e1", "ways": ALL_WAYS}],
        "lost": [
            {"from": "red/e1", "to": "red/e2", "ways": ["icmp4", "udp4"], "reason": "d2: …", "drop": "ROUTE_BLACKHOLE"}
        ],
    },
    "flows": [
        {"endpoint": "red/db", "what": "all its flows: it leaves its carrier", "certain": True, "flows": 3},
        {"endpoint": "red/e2", "what": "flows from red/e1 (icmp4), if there are any", "certain": False, "flows": None},
    ],
    "notes": ["d4 is new: taken for one whose daemon answers"],
}


@pytest.fixture
def manifest(tmp_path: Path) -> str:
    path = tmp_path / "m.yaml"
    path.write_text("{apiVersion: mizar/v1, kind: Tenant, metadata: {name: red}}")
    return str(path)


def test_a_difference_is_shown_and_is_exit_code_1(mizar: Run, client: FakeClient, manifest: str) -> None:
    """Objects by field, droplets by counts, reach by family, flows as fact or estimate."""
    client.previewed = FOUND
    done = mizar("diff", "-f", manifest)
    assert (done.code, client.asked) == (1, [("preview", ["Tenant red"])])
    for line in (
        "+ Endpoint red/e3",
        "~ Network red/back",
        '    spec.routes[]: + {"to": "10.0.1.0/24", "via": "blackhole"}',
        "    spec.bouncers: 1 → 2",
        "REACH: 6 pairs, all that the change may matter to, by ICMP, UDP and TCP",
        "+ red/e3 → red/e1  IPv4, IPv6",
        "- red/e1 → red/e2  IPv4 by icmp, udp  ROUTE_BLACKHOLE",
        "  red/db: all its flows: it leaves its carrier (3 now)  [fact]",
        "  red/e2: flows from red/e1 (icmp4), if there are any  [estimate]",
        "note: d4 is new: taken for one whose daemon answers",
        "objects: 1 created, 1 changed; pairs that gain reach: 1, that lose it: 1. Nothing was changed.",
    ):
        assert line in done.out.splitlines()
    assert ["d3", "2", "1", "0"] in [line.split() for line in done.out.splitlines()]
    assert "learn" not in done.out
    assert "Tenant red" not in done.out


def test_verbose_shows_every_step(mizar: Run, client: FakeClient, manifest: str) -> None:
    """With its wave."""
    client.previewed = FOUND
    assert "  learn   add    VPC red/main, 1 dividers" in mizar("diff", "-v", "-f", manifest).out.splitlines()


def test_no_difference_is_exit_code_0(mizar: Run, client: FakeClient, manifest: str) -> None:
    """And one line."""
    client.previewed = FOUND | {"changes": False}
    done = mizar("diff", "-f", manifest)
    assert (done.code, done.out) == (0, "nothing would change: all 3 objects are as they are wanted\n")


@pytest.mark.parametrize("error", [InvalidError(Problem("no such thing", field="spec.x")), TemporaryError("not now")])
def test_trouble_is_exit_code_2(mizar: Run, client: FakeClient, manifest: str, error: Exception) -> None:
    """With the words of the server, as for an apply."""
    client.error = error
    done = mizar("diff", "-f", manifest)
    assert (done.code, done.out) == (2, "")
    assert "no such thing" in done.err or "not now" in done.err
    assert mizar("diff", "-f", "/nowhere.yaml").code == 2


def test_a_dry_run_shows_the_same(mizar: Run, client: FakeClient, manifest: str) -> None:
    """`apply --dry-run` asks for the preview and applies nothing; its exit code says that it could be applied."""
    client.previewed = FOUND
    done = mizar("apply", "--dry-run", "-f", manifest, "-o", "json")
    assert (done.code, json.loads(done.out)) == (0, FOUND)
    assert client.asked == [("preview", ["Tenant red"])]


def test_long_parts_are_cut_and_say_so(mizar: Run, client: FakeClient, manifest: str) -> None:
    """Twenty lines of each part, and how many more there are."""
    gained = [{"from": f"red/n{number}", "to": "red/e1", "ways": ALL_WAYS} for number in range(50)]
    client.previewed = FOUND | {"reach": {"pairs": 900, "lookedAt": 300, "gained": gained, "lost": []}}
    done = mizar("diff", "-f", manifest)
    assert "  … and 30 more lines (-v shows all)" in done.out
    assert "300 of the 900 pairs that the change may matter to were looked at" in done.out
    assert "red/n49" in mizar("diff", "-v", "-f", manifest).out

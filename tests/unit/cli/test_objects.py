# SPDX-License-Identifier: Apache-2.0
"""apply, get, describe, delete and counters: what they ask of the server, what they print, how they end."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from mizar.model.errors import ConflictError, Problem, TemporaryError
from tests.unit.cli.conftest import Done, FakeClient

Run = Callable[..., Done]

TENANT_AND_VPC = """
{apiVersion: mizar/v1, kind: Tenant, metadata: {name: blue}}
---
apiVersion: mizar/v1
kind: VPC
metadata: {name: main, tenant: blue}
spec: {cidrs: [10.0.0.0/16]}
"""

ENDPOINT = {
    "kind": "Endpoint",
    "metadata": {"name": "web", "tenant": "blue"},
    "spec": {"network": "front", "droplet": "d1"},
    "status": {"phase": "Provisioned", "message": "", "addresses": ["10.0.1.2", "fd00::2"], "mac": "02:00:00:00:00:01"},
}


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    path = tmp_path / "m.yaml"
    path.write_text(TENANT_AND_VPC)
    return path


def test_apply_sends_all_objects_at_once(mizar: Run, client: FakeClient, manifest: Path) -> None:
    """One request carries every object of every file, in their order."""
    done = mizar("apply", "-f", str(manifest))
    assert done.code == 0
    assert client.asked == [("apply", ["Tenant blue", "VPC blue/main"], False)]
    assert [line.split() for line in done.out.splitlines()[1:]] == [
        ["Tenant", "blue", "created"],
        ["VPC", "blue/main", "created"],
    ]


def test_apply_waits_when_told_to(mizar: Run, client: FakeClient, manifest: Path) -> None:
    """--wait follows the objects until they are provisioned."""
    assert mizar("apply", "-f", str(manifest), "--wait", "--timeout", "7").code == 0
    assert client.asked[1] == ("wait", ["Tenant blue", "VPC blue/main"], 7.0, "Provisioned")


def test_apply_tells_every_error_of_every_file(mizar: Run, client: FakeClient, tmp_path: Path) -> None:
    """All problems come in one block with file and line, nothing is sent, and the exit code is 1."""
    for name, text in (("one.yaml", "kind: Unheard\n"), ("two.yaml", "kind: Tenant\nmetadata: {name: NO}\n")):
        (tmp_path / name).write_text(f"apiVersion: mizar/v1\n{text}")
    done = mizar("apply", "-f", str(tmp_path / "one.yaml"), "-f", str(tmp_path / "two.yaml"))
    assert done.code == 1
    assert "one.yaml:" in done.err
    assert "two.yaml:" in done.err
    assert done.out == ""
    assert client.asked == []


def test_a_file_that_is_not_there_is_one_line(mizar: Run, client: FakeClient) -> None:
    """A missing file is told in one line."""
    done = mizar("apply", "-f", "/nowhere.yaml")
    assert (done.code, len(done.err.splitlines())) == (1, 1)
    assert "/nowhere.yaml" in done.err


def test_a_conflict_is_one_block_on_stderr(mizar: Run, client: FakeClient, manifest: Path) -> None:
    """Each problem has its line; stdout stays empty for programs."""
    client.error = ConflictError([Problem("the VNI 7 is taken", "spec.vni", "VPC blue/main"), Problem("so is 8")])
    done = mizar("apply", "-f", str(manifest), "-o", "json")
    assert done.code == 1
    assert done.out == ""
    assert done.err.splitlines() == [
        "mizar: conflict: ",
        f"  {manifest}:7: VPC blue/main: spec.vni: the VNI 7 is taken",
        "  so is 8",
    ]


@pytest.mark.parametrize("spelling", ["endpoint", "endpoints", "ep", "Endpoint"])
def test_get_takes_every_spelling_of_a_kind(mizar: Run, client: FakeClient, spelling: str) -> None:
    """Kinds are known by name, plural and short name."""
    client.objects = [ENDPOINT]
    done = mizar("get", spelling)
    assert done.code == 0
    assert "blue/web" in done.out
    assert "10.0.1.2, fd00::2" in done.out


def test_get_prints_json_and_yaml(mizar: Run, client: FakeClient) -> None:
    """-o json and -o yaml carry the whole object."""
    client.objects = [ENDPOINT]
    assert json.loads(mizar("get", "ep", "blue/web", "-o", "json").out) == ENDPOINT
    assert yaml.safe_load(mizar("get", "ep", "web", "-t", "blue", "-o", "yaml").out) == ENDPOINT
    assert json.loads(mizar("get", "ep", "-o", "json").out) == [ENDPOINT]


def test_a_table_on_a_narrow_terminal_cuts_nothing(
    mizar: Run, client: FakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Addresses that do not fit are folded; a column without a word in it is left out."""
    monkeypatch.setattr("mizar.cli.output.WIDE", 50)
    client.objects = [copy.deepcopy(ENDPOINT)]
    client.objects[0]["status"] |= {"addresses": ["10.0.1.2", "fd00:10:0:1:aaaa:bbbb:cccc:dddd"], "message": ""}
    out = mizar("get", "ep").out
    assert "…" not in out
    assert "MESSAGE" not in out
    client.objects[0]["status"]["message"] = "word " * 20
    out = mizar("get", "ep").out
    assert out.split().count("word") == 20


def test_what_is_misused_exits_2(mizar: Run, client: FakeClient) -> None:
    """Unknown kinds, kinds that no server stores, a tenant's object without its tenant, unknown options: 2."""
    for words in (
        ("get", "cars"),
        ("get", "labs"),
        ("get", "ep", "web"),
        ("get", "ep", "-x"),
        ("delete", "ep"),
        ("no",),
    ):
        done = mizar(*words)
        assert done.code == 2, words
        assert done.out == ""
    assert client.asked == []


def test_what_is_not_there_exits_1(mizar: Run, client: FakeClient) -> None:
    """An unknown object is a failure, not a misuse."""
    done = mizar("describe", "ep", "blue/web")
    assert done.code == 1
    assert "not found" in done.err


def test_describe_shows_every_field(mizar: Run, client: FakeClient) -> None:
    """describe leaves nothing out."""
    client.objects = [ENDPOINT]
    out = mizar("describe", "ep", "blue/web").out
    for word in ("web", "blue", "front", "d1", "Provisioned", "10.0.1.2", "02:00:00:00:00:01"):
        assert word in out


def test_describe_tells_what_is_empty(mizar: Run, client: FakeClient) -> None:
    """An empty list of rules allows nothing: it is not shown as if nobody had said anything."""
    spec = {"vpc": "main", "ingress": [], "subjects": {"names": [], "endpoints": {"matchLabels": {}}}, "log": False}
    client.objects = [{**ENDPOINT, "spec": spec}]
    lines = [line.strip() for line in mizar("describe", "ep", "blue/web").out.splitlines()]
    assert {"ingress: none", "names: none", "matchLabels: none", "log: false"} <= set(lines)


def test_delete_of_a_file_begins_with_what_depends(mizar: Run, client: FakeClient, manifest: Path) -> None:
    """Objects go in the reverse order of their dependence, and --wait waits until they are gone."""
    assert mizar("delete", "-f", str(manifest), "--wait").code == 0
    assert client.asked == [
        ("delete", "VPC", "main", "blue", False, False),
        ("delete", "Tenant", "blue", None, False, False),
        ("wait", ["VPC blue/main", "Tenant blue"], 60.0, "gone"),
    ]


def test_delete_of_a_file_passes_by_what_is_gone(mizar: Run, client: FakeClient, manifest: Path) -> None:
    """A deletion that was interrupted can be repeated; by name, what is not there is an error."""
    client.missing = {"main"}
    done = mizar("delete", "-f", str(manifest), "--wait")
    assert done.code == 0
    assert [line.split()[-2:] for line in done.out.splitlines()[1:]] == [["not", "there"], ["blue", "gone"]]
    assert client.asked[-1] == ("wait", ["Tenant blue"], 60.0, "gone")
    assert mizar("delete", "vpc", "blue/main").code == 1


def test_a_file_without_objects_is_a_failure(mizar: Run, client: FakeClient, tmp_path: Path) -> None:
    """Most likely it is not the file that was meant."""
    empty = tmp_path / "empty.yaml"
    empty.write_text("# nothing\n---\n")
    done = mizar("apply", "-f", str(empty))
    assert (done.code, client.asked) == (1, [])
    assert "there is no object in" in done.err


def test_a_server_that_is_away_is_named(mizar: Run, client: FakeClient) -> None:
    """A temporary error says so."""
    client.error = TemporaryError("no server answers")
    done = mizar("get", "tenants")
    assert done.code == 1
    assert "not possible now: no server answers" in done.err


def test_counters_of_all_droplets_with_a_daemon(mizar: Run, client: FakeClient) -> None:
    """Droplets without a daemon cannot be asked and are left out."""
    client.objects = [
        {"kind": "Droplet", "metadata": {"name": "d1"}, "spec": {"daemon": "unix:///d1"}, "status": {}},
        {"kind": "Droplet", "metadata": {"name": "ovs"}, "spec": {"daemon": "none"}, "status": {}},
        {"kind": "VPC", "metadata": {"name": "main", "tenant": "blue"}, "spec": {}, "status": {"vni": 7, "number": 7}},
    ]
    out = mizar("counters").out
    assert out.splitlines()[1].split()[:3] == ["d1", "blue/main", "12"]
    assert "ovs" not in out

# SPDX-License-Identifier: Apache-2.0
"""`mizar topology` as people and programs use it: output, exit codes, pictures."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

from mizar.kernel.topology_features import devices
from tests.topology.conftest import HEAD, Host

pytestmark = pytest.mark.root

REPRESENTORS = Path(__file__).parents[2] / "examples" / "topologies" / "representors.yaml"
SMALL = HEAD + "  namespaces: [{name: NS-a}]\n  bridges: [{name: br0, mtu: 1400}]\n"


def test_apply_show_and_delete(gateway: Host) -> None:
    """Exit 1 as long as something is not as wanted; what is done is told on stderr, the result on stdout."""
    absent = gateway.mizar("show", "-f", "-", text=SMALL)
    assert absent.returncode == 1
    assert "absent" in absent.stdout
    applied = gateway.mizar("apply", "-f", "-", text=SMALL)
    assert (applied.returncode, applied.stdout) == (0, "2 steps done\n")
    assert "make bridge br0 (MTU 1400)" in applied.stderr
    again = gateway.mizar("apply", "-f", "-", text=SMALL)
    assert (again.returncode, again.stdout, again.stderr) == (0, "everything is as wanted\n", "")
    gateway.ip("link", "set", "br0", "mtu", "1300")
    drifted = gateway.mizar("show", "-f", "-", text=SMALL)
    assert drifted.returncode == 1
    assert "MTU 1300, wanted 1400" in drifted.stdout
    deleted = gateway.mizar("delete", "-f", "-", "-o", "json", text=SMALL)
    assert [step["object"] for step in json.loads(deleted.stdout)["steps"]] == [
        "bridge br0",
        f"namespace {gateway.prefix}-a",
    ]
    assert gateway.links() == {}
    assert gateway.mizar("delete", "-f", "-", text=SMALL).stdout == "nothing is there to remove\n"


def test_programs_read_json_and_yaml(gateway: Host) -> None:
    """One row for each object; a plan says whether anything was changed."""
    planned = json.loads(gateway.mizar("apply", "-f", "-", "--dry-run", "-o", "json", text=SMALL).stdout)
    assert (planned["topology"], planned["changed"], planned["conflicts"]) == ("gw", False, [])
    assert [step["object"] for step in planned["steps"]] == [f"namespace {gateway.prefix}-a", "bridge br0"]
    rows = list(yaml.safe_load_all(gateway.mizar("show", "-f", "-", "-o", "yaml", text=SMALL).stdout))
    assert [(row["object"], row["state"]) for row in rows][1:] == [("bridge br0", "absent")]
    assert json.loads(gateway.mizar("apply", "-f", "-", "-o", "json", text=SMALL).stdout)["changed"]


def test_a_conflict_shows_the_plan_and_changes_nothing(gateway: Host) -> None:
    """Exit 1; the reason on stderr."""
    gateway.ip("link", "add", "br0", "type", "bridge")
    refused = gateway.mizar("apply", "-f", "-", text=SMALL)
    assert refused.returncode == 1
    assert f"make namespace {gateway.prefix}-a" in refused.stdout
    assert "br0 is there, and somebody else made it" in refused.stderr
    assert "nothing was changed" in refused.stderr
    assert gateway.names() == []
    assert gateway.mizar("apply", "-f", "-", "--dry-run", text=SMALL).returncode == 1


def test_mistakes_in_a_file_are_told_with_their_lines(gateway: Host, tmp_path: Path) -> None:
    """All at once, exit 1; without a file exit 2."""
    wrong = gateway.mizar("apply", "-f", "-", text=HEAD + "  bridges:\n    - {name: a b}\n    - {nam: c}\n")
    assert wrong.returncode == 1
    assert "stdin:6: HostTopology gw: spec.bridges[0].name" in wrong.stderr
    assert "stdin:7: HostTopology gw: spec.bridges[1].nam: unknown field (did you mean name?)" in wrong.stderr
    assert gateway.mizar("apply").returncode == 2
    assert "cannot be read" in gateway.mizar("show", "-f", str(tmp_path / "none.yaml")).stderr


def test_without_devlink_the_plan_is_printed_and_refused(gateway: Host) -> None:
    """Every step of the shipped description, and why none was done."""
    if devices()[0]:
        pytest.skip("devlink knows a device on this host")
    text = REPRESENTORS.read_text().replace("netns}", "NS-n}")
    refused = gateway.mizar("apply", "-f", "-", text=text)
    assert refused.returncode == 1
    for words in ("switchdev mode", "virtual functions", "kernel-rep", f"kernel-sriov in {gateway.prefix}-n", "veth3"):
        assert words in refused.stdout
    assert "eswitch eswitch: " in refused.stderr
    assert "devlink" in refused.stderr
    assert gateway.links() == {}
    assert gateway.names() == []


def test_pictures_mark_what_is_absent_on_this_host(gateway: Host, tmp_path: Path) -> None:
    """As PlantUML on stdout, as SVG in a file; `--described` does not look."""
    gateway.mizar("apply", "-f", "-", text=SMALL)
    more = SMALL + "  vteps: [{name: vx0, bridge: br0, id: 7}]\n"
    drawn = gateway.mizar("draw", "-f", "-", text=more).stdout
    assert 'rectangle "br0" as bridge_br0 {' in drawn
    assert 'rectangle "vx0\\nVNI 7\\n(absent)" as port_vx0 $absent' in drawn
    file = tmp_path / "picture.svg"
    assert gateway.mizar("draw", "-f", "-", "--as", "svg", "--to", str(file), text=more).returncode == 0
    words = [item.text for item in ElementTree.parse(file).iter("{http://www.w3.org/2000/svg}text")]
    assert "(absent)" in words
    assert "(absent)" not in gateway.mizar("draw", "-f", "-", "--as", "svg", "--described", text=more).stdout
    unwritable = gateway.mizar("draw", "-f", "-", "--to", str(tmp_path / "no" / "x"), text=more)
    assert unwritable.returncode == 1
    assert "cannot be written" in unwritable.stderr

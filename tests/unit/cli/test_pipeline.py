# SPDX-License-Identifier: Apache-2.0
"""`mizar pipeline`: each command in each form, refusals, and that nothing but the model is loaded for it."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

from tests.unit.cli.conftest import Done

Run = Callable[..., Done]
TRAP = str(Path(__file__).parents[3] / "examples" / "pipelines" / "gateway-trap.yaml")


@pytest.fixture
def broken(tmp_path: Path) -> str:
    """A description with two mistakes."""
    path = tmp_path / "broken.yaml"
    path.write_text(Path(TRAP).read_text().replace("goto: Decap", "goto: Decapp").replace("- pop_vlan", "- popvlan"))
    return str(path)


def test_check(mizar: Run, broken: str) -> None:
    """What is right is said in a line; everything that is wrong at once, with exit code 1."""
    done = mizar("pipeline", "check", TRAP)
    assert (done.code, done.out.strip()) == (0, "gateway-trap: 5 groups, 4 switches, no problem")
    assert json.loads(mizar("pipeline", "check", TRAP, "-o", "json").out)["problems"] == 0
    assert yaml.safe_load(mizar("pipeline", "check", TRAP, "-o", "yaml").out)["groups"] == 5
    done = mizar("pipeline", "check", broken)
    assert done.code == 1
    assert done.out == ""
    assert "broken.yaml:42:" in done.err
    assert "did you mean Decap?" in done.err
    assert "did you mean pop_vlan?" in done.err


def test_draw(mizar: Run) -> None:
    """SVG is XML; PlantUML is PlantUML; JSON has either as text."""
    ElementTree.fromstring(mizar("pipeline", "draw", TRAP).out)
    assert mizar("pipeline", "draw", TRAP, "--format", "plantuml").out.startswith("@startuml")
    assert json.loads(mizar("pipeline", "draw", TRAP, "-o", "json").out)["picture"].startswith("<svg")


STATELESS = """
pipeline: stateless
groups:
  - name: In
    steps:
      - switch: parse
        cases:
          - when: eth / vlan != 2
            steps: [set_meta: {from: vlan, add: 0x02000000}, pop_vlan, stop]
"""


def test_xdp(mizar: Run, tmp_path: Path) -> None:
    """C with the rules' words, as JSON with what the maps mean, and an object file; `build` compiles alone."""
    path, object_file = tmp_path / "stateless.yaml", tmp_path / "stateless.o"
    path.write_text(STATELESS)
    text = mizar("pipeline", "xdp", str(path)).out
    assert "case 1: /* eth / vlan != 2 */" in text
    assert "/* set metadata f(vlan) */" in text
    found = json.loads(mizar("pipeline", "xdp", str(path), "-o", "json").out)
    assert found["text"] == text
    assert "In: no case" in found["counters"]
    done = mizar("pipeline", "build", str(path), "--object", str(object_file), "-o", "json")
    assert json.loads(done.out)["bytes"] == object_file.stat().st_size
    assert object_file.read_bytes()[:4] == b"\x7fELF"
    assert mizar("pipeline", "build", str(path), "--object", str(tmp_path / "no" / "where.o")).code == 1


def test_report(mizar: Run) -> None:
    """A table says that its figures are estimates; JSON has every rule."""
    done = mizar("pipeline", "report", TRAP, "--tenant", "0x01000005")
    assert "NAT, case 1, case 2: established | related" in done.out
    assert "Estimates are of one packet on one core" in done.out
    rows = json.loads(mizar("pipeline", "report", TRAP, "-o", "json").out)
    assert len(rows) == 11
    assert {one["target"] for one in rows[0]["judgements"]} == {"xdp", "tc", "rte_flow", "interpreter"}


def test_rte_flow(mizar: Run) -> None:
    """Commands, one a line, remarks behind #; JSON has rules and an example of a connection's."""
    done = mizar("pipeline", "rte-flow", TRAP, "--uplink", "4", "--kernel", "5", "--tenant", "16777221")
    lines = [line for line in done.out.splitlines() if not line.startswith("#")]
    assert {line.split()[0] for line in lines} == {"set", "add", "create", "flow"}
    assert any("ethdev_port_id 5" in line for line in lines)
    assert all(line.split()[2] == "4" for line in lines if line.startswith("flow"))
    found = json.loads(mizar("pipeline", "rte-flow", TRAP, "-o", "json").out)
    assert len(found["exampleConnection"]) == 4
    assert found["rules"][0]["actions"] == [{"type": "jump", "conf": {"group": 1}}]


def test_tc(mizar: Run) -> None:
    """Lines for `tc -batch`, remarks behind #; JSON has filters, counters and zones; a strange interface is misuse."""
    named = ("pipeline", "tc", TRAP, "--interface", "eth0", "--kernel", "slow0", "--tenant", "0x1000005")
    done = mizar(*named)
    lines = [line for line in done.out.splitlines() if not line.startswith("#")]
    assert {line.split()[0] for line in lines} == {"qdisc", "actions", "filter"}
    assert "qdisc add dev eth0 ingress_block 7 clsact" in lines
    assert "# first: ip route replace 192.0.2.9/32 dev slow0 src 192.0.2.1" in done.out
    found = json.loads(mizar(*named, "-o", "json").out)
    assert 0x1000005 in [one["meta"] for one in found["zones"]]
    assert {one["name"] for one in found["limits"]} == {"new rate", "established rate", "neighbours"}
    assert any(one["tc"] in lines for one in found["filters"])
    assert mizar("pipeline", "tc", TRAP, "--interface", "a/b").code == 2
    assert mizar(*named, "--apply", "--remove").code == 2
    done = mizar("pipeline", "tc", TRAP.replace("trap", "queue"), "--tenant", "0x1000005")
    assert (done.code, "tc has no queue 0" in done.err) == (1, True)


def test_rte_flow_of_a_connection(mizar: Run) -> None:
    """As the section nat translates it; what it does not translate, or no such text, is a refusal."""
    asked = ["--connection", "0x01000005 udp 10.0.0.9:4000 198.51.100.7:53"]
    out = mizar("pipeline", "rte-flow", TRAP, *asked).out
    assert "# 0x1000005 udp 10.0.0.9:4000 198.51.100.7:53 becomes 0x2ff0064 udp 203.0.113.9:4000" in out
    assert "set_ipv4_src ipv4_addr 203.0.113.9 / set_meta" in out
    found = json.loads(mizar("pipeline", "rte-flow", TRAP, *asked, "-o", "json").out)["connections"]
    assert [len(one["rules"]) for one in found] == [4]
    for text, why in (("7 udp 10.0.0.9:4000 198.51.100.7:53", "NO_RULE"), ("x", "expected META")):
        done = mizar("pipeline", "rte-flow", TRAP, "--connection", text)
        assert (done.code, why in done.err) == (1, True)


def test_stdin_and_what_cannot_be_read(mizar: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """- is stdin; a file that is not there is a refusal; a tenant that is no number is misuse."""
    monkeypatch.setattr(sys, "stdin", io.StringIO(Path(TRAP).read_text()))
    assert mizar("pipeline", "check", "-").code == 0
    done = mizar("pipeline", "check", str(tmp_path / "none.yaml"))
    assert (done.code, "none.yaml cannot be read" in done.err) == (1, True)
    for wrong in ("many", "-1", str(1 << 32)):
        assert mizar("pipeline", "report", TRAP, "--tenant", wrong).code == 2


def test_only_the_model_is_loaded() -> None:
    """No kernel, no server, no gRPC for a description."""
    script = (
        f"import sys\nfrom mizar.cli import main\nsys.argv = ['mizar', 'pipeline', 'check', {TRAP!r}]\n"
        "try:\n    main.main()\nexcept SystemExit:\n    pass\n"
        "print([name for name in ('grpc', 'fastapi', 'pyroute2', 'mizar.kernel') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"

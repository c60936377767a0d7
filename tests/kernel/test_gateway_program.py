# SPDX-License-Identifier: Apache-2.0
"""A gateway's program on an interface: the next one takes over its maps and its link, without a gap."""

from __future__ import annotations

import pytest

from mizar.kernel import libbpf
from mizar.kernel.attach import attach_xdp, attached
from mizar.kernel.bpffs import Pins
from mizar.kernel.clang import compile_program
from mizar.kernel.gateway_program import GatewayProgram, load_gateway
from mizar.kernel.links import Links
from mizar.kernel.namespaces import Namespace
from mizar.kernel.test_run import run_xdp
from mizar.pipeline.reader import read_pipeline
from mizar.pipeline.xdp.generate import Program, generate
from tests.unit.pipeline import frames as f

from .test_links import LINK

pytestmark = pytest.mark.root
FIRST = """
pipeline: first
groups:
  - name: In
    steps:
      - switch: parse
        cases:
          - when: eth / vlan
            steps: [set_meta: {from: vlan}, count: {name: each, per: meta}, count: all, pop_vlan, stop]
"""


def loaded(text: str, before: Program | None, pins: Pins) -> tuple[Program, GatewayProgram]:
    """The program of a description, with pinned maps."""
    program = generate(read_pipeline(text, "test.yaml"), before)
    sizes = {"gateway_meta_counters": 256}
    made = load_gateway(compile_program(program.text, program.pipeline), program.pipeline, pins=pins, max_entries=sizes)
    return program, made


def counted(program: Program, made: GatewayProgram) -> dict[str, int]:
    """Packets by name, but for those of no case: where a program is attached, the interface's own pass it, too."""
    found = {program.counters[number]: packets for number, (packets, _) in made.counters.items()}
    return {name: packets for name, packets in found.items() if not name.endswith(": no case")}


def test_the_next_program_takes_over(host: Namespace, workload: Namespace, links: Links, pins: Pins) -> None:
    """The link stays and has the new program; counters go on under their names, though others stand before them."""
    index = links.ensure_endpoint(LINK, workload)[0].index
    frame = f.in_vlan(f.udp(), 7)
    before, first = loaded(FIRST, None, pins)
    made = host.run(lambda: attach_xdp(first.fd, index, pins.links / "uplink"))
    assert (made.mode, made.updated) == ("driver", False)
    assert run_xdp(first.fd, frame).frame == frame[:12] + frame[16:]
    assert counted(before, first).items() >= {"all": 1}.items()  # the kernel speaks on a new link, too (MLD)
    first.close()

    changed = FIRST.replace("steps: [set_meta", "steps: [count: more, set_meta").replace("name: In", "name: Into")
    after, second = loaded(changed, before, pins)
    made = host.run(lambda: attach_xdp(second.fd, index, pins.links / "uplink"))
    assert (made.mode, made.updated) == ("driver", True)
    link = attached(pins.links / "uplink")
    assert link is not None
    assert link.program_id == libbpf.info("prog", second.fd).id
    run_xdp(second.fd, frame)
    assert counted(after, second).items() >= {"all": 2, "more": 1}.items()
    assert second.meta_counters is not None
    assert second.meta_counters.get((after.counters.index("each"), 7)) == (2, 2 * len(frame))
    second.close()

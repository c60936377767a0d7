# SPDX-License-Identifier: Apache-2.0
"""Pictures: everything of a description is in them, what is absent is marked, and nothing covers anything."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from mizar.topology import plantuml, svg
from mizar.topology.compare import compare
from mizar.topology.picture import ELSEWHERE, Picture, Shape, picture, shapes
from mizar.topology.plan import plan
from mizar.topology.reading import parse_topologies
from mizar.topology.wishes import wishes
from tests.unit.topology.world import HEAD, SMALL, World, described

EXAMPLES = sorted(Path(__file__).parents[3].glob("examples/topologies/*.yaml"))
RECT = "{http://www.w3.org/2000/svg}rect"


def example(path: Path) -> Picture:
    return picture(parse_topologies(path.read_text(), path.name)[0], None)


def everything(drawn: Picture) -> list[Shape]:
    return [shape for row in drawn.rows for top in row for shape in shapes(top)]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_wire_ends_at_shapes_and_goes_down(path: Path) -> None:
    """Ids are unique; both ends of a wire are drawn, the upper one first."""
    drawn = example(path)
    ids = [shape.id for shape in everything(drawn)]
    assert len(set(ids)) == len(ids)
    level = {shape.id: place for place, row in enumerate(drawn.rows) for top in row for shape in shapes(top)}
    level[ELSEWHERE] = -1
    assert drawn.wires
    assert all(level[upper] <= level[lower] for upper, lower in drawn.wires)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_no_shape_of_an_svg_covers_another(path: Path) -> None:
    """Two boxes are apart, or one is inside of the other; everything is within the drawing."""
    root = ElementTree.fromstring(svg.written(example(path)))
    boxes = [
        tuple(float(rect.attrib[key]) for key in ("x", "y", "width", "height"))
        for rect in root.iter(RECT)
        if "x" in rect.attrib
    ]
    assert len(boxes) > 10
    for place, (x, y, w, h) in enumerate(boxes):
        assert x >= 0
        assert x + w <= float(root.attrib["width"])
        assert y + h <= float(root.attrib["height"])
        for ox, oy, ow, oh in boxes[:place]:
            apart = x + w <= ox or ox + ow <= x or y + h <= oy or oy + oh <= y
            inside = ox <= x and oy <= y and x + w <= ox + ow and y + h <= oy + oh
            assert apart or inside


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_pictures_in_the_documentation_are_these(path: Path) -> None:
    """Else: mizar topology draw -f examples/topologies/X.yaml --as svg --described --to docs/topologies/X.svg."""
    shown = path.parents[2] / "docs" / "topologies" / f"{path.stem}.svg"
    assert shown.read_text() == svg.written(example(path))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_plantuml_names_every_shape_once(path: Path) -> None:
    """And every wire; braces close."""
    drawn = example(path)
    text = plantuml.written(drawn)
    assert text.startswith("@startuml\n!pragma teoz true\n")
    assert text.endswith("\n@enduml\n")
    assert re.findall(r'^\t+rectangle ".*" as (\w+)', text, re.MULTILINE) == [shape.id for shape in everything(drawn)]
    for upper, lower in drawn.wires:
        assert f"\n{upper} -- {lower}\n" in text
    assert text.count("{") == text.count("}")


def test_the_shipped_pictures_show_what_the_design_shows() -> None:
    """Representors are in the eswitch, the kernel's function beside the bridge, DPDK's ports in its namespace."""
    drawn = {path.stem: {shape.id: shape for shape in everything(example(path))} for path in EXAMPLES}
    inside = {shape.label.split("\n")[0] for shape in shapes(drawn["representors"]["eswitch_eswitch"])}
    assert inside == {"eswitch", "physical port 1", "physical port 2", "user-rep", "kernel-rep"}
    netns = [shape.label.split("\n")[0] for shape in shapes(drawn["representors"]["namespace_netns"])]
    assert netns[:4] == ["netns netns", "kernel-sriov", "bridge0", "vtep"]
    dpdk = [shape.label.split("\n")[0] for shape in shapes(drawn["dpdk"]["namespace_dpdk_netns"])]
    assert dpdk == ["netns dpdk_netns", "eswitch", "physical port 1", "physical port 2", "DPDK", "veth.dpdk"]


def test_what_is_absent_is_marked_and_what_is_there_is_not() -> None:
    """On an empty host everything that is made; on a host as wanted nothing; unlooked nothing."""
    topology, world = described(), World()
    wanted = wishes(topology)
    empty = picture(topology, compare(wanted, world.present()))
    assert {shape.id for shape in everything(empty) if shape.absent} == {shape.id for shape in everything(empty)}
    assert "(absent)" in svg.written(empty)
    assert "$absent" in plantuml.written(empty).split("rectangle host")[1]
    world.do(plan(wanted, world.present()).steps)
    whole = picture(topology, compare(wanted, world.present()))
    assert not [shape for shape in everything(whole) if shape.absent]
    world.change(("", "br0"), mtu=1300)
    drifted = picture(topology, compare(wanted, world.present()))
    assert [shape.id for shape in everything(drifted) if shape.absent] == ["bridge_br0"]
    assert "(differs)" in svg.written(drifted)
    assert not [shape for shape in everything(picture(topology, None)) if shape.absent]


def test_hostile_text_stays_text() -> None:
    """Quotes, angle brackets and line ends in names and remarks."""
    text = (
        HEAD
        + """
  namespaces: [{name: "a", processes: ['<script>"x"', "two\\nlines"]}]
  boxes: [{name: 'a"b'}, {name: 'a''b'}]
  notes: [{about: a, text: "]]> & <b>"}, {about: a, text: "end note"}]
"""
    )
    drawn = picture(described(text), None)
    root = ElementTree.fromstring(svg.written(drawn))
    words = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert '<script>"x"' in words
    assert "]]> & <b>" in words
    assert '"a\'b"' in plantuml.written(drawn)
    assert plantuml.written(drawn).count("end note") == 2
    assert len({shape.id for shape in everything(drawn)}) == len(everything(drawn))


def test_small_description_has_all_parts() -> None:
    """Labels carry what people look for."""
    text = svg.written(picture(described(SMALL), None))
    for word in ("br0", "vnifilter 7, 100-103", "eth0", "10.0.0.1/24", "netns a"):
        assert word in text

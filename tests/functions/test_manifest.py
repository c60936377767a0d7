# SPDX-License-Identifier: Apache-2.0
"""Kind Function in a manifest: what is refused, by line and field, and how its object travels and is shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from mizar.cli.objects import read_manifests
from mizar.model.errors import InvalidError
from mizar.model.function import Function
from mizar.model.manifest import parse_resource
from mizar.model.resources import dump
from tests.functions.conftest import Compile
from tests.functions.test_object import SOURCE

HEAD = "apiVersion: mizar/v1\nkind: Function\nmetadata: {name: two-words}\nspec:\n"


def read(folder: Path, spec: str) -> Function:
    """The function of a manifest beside its object."""
    path = folder / "f.yaml"
    path.write_text(HEAD + "".join(f"  {line}\n" for line in spec.splitlines()))
    (found,) = read_manifests([str(path)]).resources
    assert isinstance(found, Function)
    return found


def test_an_object_travels_and_is_shown_by_its_digest(compiled: Compile, tmp_path: Path) -> None:
    """By source or by object it is the same; applying what is shown asks for no file."""
    data = compiled(SOURCE)
    (tmp_path / "f.o").write_bytes(data)
    by_object = read(tmp_path, "object: f.o\nparameters: {most: 5}\nmaps: {seen: [{key: 3, value: {count: 1}}]}")
    shown, sent = dump(by_object), dump(by_object, secrets=True)
    assert shown["spec"]["object"].startswith("sha256:")
    assert parse_resource(sent) == by_object
    assert parse_resource(shown).spec == by_object.spec
    assert b"\5\0\0\0" in by_object.spec.code
    assert by_object.spec.code != data
    assert len(by_object.spec.code) == len(data)
    ((key, value),) = by_object.spec.entries["seen"]
    assert (key, value[:8], len(value)) == (b"\3\0\0\0", b"\1" + bytes(7), 40)
    by_source = read(tmp_path, "source: tried.c\nparameters: {most: 5}\nmaps: {seen: [{key: 3, value: {count: 1}}]}")
    assert by_source.spec.about.name == "two-words"
    assert "source" not in dump(by_source)["spec"]


@pytest.mark.parametrize(
    ("spec", "line", "field", "words"),
    [
        ("order: 5", 4, "spec", "expected one of source and object"),
        ("source: gone.c", 5, "spec.source", "there is no such file"),
        ("object: gone.o", 5, "spec.object", "cannot be read"),
        ("object: f.yaml", 5, "spec.object", "no ELF object"),
        ("order: 1\nstages: [ON_XDP_DROP]\nobject: f.o", 7, "spec.object", "not made for ON_XDP_DROP"),
        ("object: f.o\nstages: [ON_XDP]", 6, "spec.stages[0]", "expected"),
        ("object: f.o\nattach: [{vpc: {tenant: a, name: b}, droplet: d1}]", 6, "spec.attach[0]", "one of droplet"),
        ("object: f.o\nattach: [{droplet: d1}, {droplet: d1}]", 6, "spec.attach", "each scope once"),
        ("object: f.o\nattach: [{droplet: d1, value: 1}, {droplet: d1}]", 6, "spec.attach", "each scope once"),
        ("object: f.o\nattach: [{droplet: d1, value: 0}]", 6, "spec.attach[0].value", "greater than or equal to 1"),
        ("object: f.o\nattach: [{droplet: d1, value: 1}]", 6, "spec.attach", "takes no values"),
        ("object: f.o\nparameters: {least: 5}", 6, "spec.parameters", "parameters.least: unexpected"),
        ("object: f.o\nmaps: {other: []}", 6, "spec.maps", "no map other; it has"),
        ("object: f.o\nmaps:\n  seen: [{key: 1}, {key: 1}]", 6, "spec.maps", "stands there already"),
        ("object: f.o\nmaps: {seen: [{key: x}]}", 6, "spec.maps", "seen[0].key: expected 4 bytes"),
        ("object: f.o\ncolour: 1", 6, "spec.colour", "unknown field"),
    ],
)
def test_what_is_wrong_is_told_by_line_and_field(
    compiled: Compile, tmp_path: Path, spec: str, line: int, field: str, words: str
) -> None:
    (tmp_path / "f.o").write_bytes(compiled(SOURCE))
    with pytest.raises(InvalidError) as refused:
        read(tmp_path, spec)
    (problem,) = refused.value.problems
    assert words in problem.message
    assert (problem.line, problem.field) == (line, field)
    assert problem.file.endswith("f.yaml")


def test_a_name_is_the_objects(compiled: Compile, tmp_path: Path) -> None:
    (tmp_path / "f.o").write_bytes(compiled(SOURCE.replace("two_words", "another")))
    with pytest.raises(InvalidError, match="the object is function another, and the Function is called two-words"):
        read(tmp_path, "object: f.o")

# SPDX-License-Identifier: Apache-2.0
"""The two pages that list things list all of them: the fields of manifests, and the commands with their options."""

from __future__ import annotations

import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic.alias_generators import to_camel
from typer.main import get_command

from mizar.cli.main import app
from mizar.model.peering import VPCPeering
from mizar.model.resources import VPC, Droplet, Endpoint, Lab, Network, Resource, Tenant
from mizar.model.substrate import SubstrateRoute

DOCS = Path(__file__).parents[3] / "docs"
KINDS = (Tenant, VPC, VPCPeering, Network, Endpoint, Droplet, SubstrateRoute, Lab)


def parts(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models in a field's type, however deep in tuples and unions."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in typing.get_args(annotation):
        yield from parts(inner)


def fields(model: type[BaseModel]) -> Iterator[str]:
    """Names of the fields of a model and of all below it, as manifests have them."""
    for name, field in model.model_fields.items():
        yield field.alias or to_camel(name)
        for part in parts(field.annotation):
            yield from fields(part)


def commands(group: Any, path: str = "") -> Iterator[tuple[str, list[str]]]:
    """Each command with the long names of its options."""
    if not hasattr(group, "list_commands"):
        yield path.strip(), [name for found in group.params for name in found.opts if name.startswith("--")]
        return
    for name in group.list_commands(None):
        yield from commands(group.get_command(None, name), f"{path} {name}")


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_manifests_lists_every_field(kind: type[Resource]) -> None:
    """Somewhere between backticks."""
    page = (DOCS / "manifests.md").read_text()
    listed = {word for text in re.findall(r"`([^`\n]+)`", page) for word in re.findall(r"\w+", text)}
    assert sorted(set(fields(kind)) - listed) == []
    assert f"## {kind.__name__}\n" in page


def test_cli_lists_every_command_and_option() -> None:
    """Of those that all commands share, once."""
    page = (DOCS / "cli.md").read_text()
    options, lacking = set(re.findall(r"--[a-z-]*[a-z]", page)), []
    for command, own in commands(get_command(app)):
        first, _, second = command.partition(" ")
        if f"`mizar {first}" not in page or (second and f"`{second}`" not in page and f"{first} {second}" not in page):
            lacking.append(command)
        lacking += [f"{command} {option}" for option in own if option not in options]
    assert lacking == []

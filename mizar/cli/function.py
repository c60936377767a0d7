# SPDX-License-Identifier: Apache-2.0
"""`mizar function`: begins, builds and tests a network function; thin over mizar.functions.

Registered by mizar.cli.main. What needs no server is here; the rest is in function_server.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from mizar.cli import function_maps, function_server
from mizar.cli.output import FAILED, Format, Output, emit
from mizar.model.errors import InvalidError

app = typer.Typer(help="Network functions: programs of the operator's in the packet's way.", no_args_is_help=True)

for _name, _command in (
    ("load", function_server.load),
    ("attach", function_server.attach),
    ("order", function_server.order),
    ("detach", function_server.detach),
    ("unload", function_server.unload),
    ("list", function_server.functions),
    ("show", function_server.show),
    ("maps", function_maps.maps),
):
    app.command(_name)(_command)

Where = Annotated[
    Path, typer.Argument(help="The function's folder, or its source: NAME.c.", show_default="the current folder")
]
Into = Annotated[Path, typer.Option("--directory", "-C", help="Where to make the folder.", file_okay=False)]


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="What it is called, on droplets and in manifests.")],
    directory: Into = Path(),
    output: Output = Format.TABLE,
) -> None:
    """Begin a function: a folder with a source that works, its test, and a manifest."""
    from mizar.functions import template

    made = [str(path) for path in template.new(name, directory)]
    emit(made, output, lambda: Text("\n".join(made)))


@app.command()
def build(where: Where = Path(), output: Output = Format.TABLE) -> None:
    """Compile a function against the header that came with mizar; needs clang."""
    from mizar.model.function_object import read_object

    path = built(source_of(where))
    found = read_object(path.read_bytes())
    said = {
        "object": str(path),
        "function": found.name,
        "stages": list(found.stages),
        "reasons": [reason.name for reason in found.reasons],
        "maps": list(found.maps),
        "shared": list(found.shared),
        "digest": found.digest,
        "bytes": path.stat().st_size,
    }
    emit(said, output, lambda: Text(f"{path}: function {found.name}, at {', '.join(found.stages)}"))


@app.command()
def test(
    where: Where = Path(),
    file: Annotated[Path | None, typer.Option("--test", help="Its test; default: NAME.test.yaml beside it.")] = None,
    output: Output = Format.TABLE,
) -> None:
    """Compile a function and run its test: frames in, frames out, in the kernel but without a droplet."""
    from mizar.functions import cases, harness

    source = source_of(where)
    path = file or source.with_suffix(".test.yaml")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise InvalidError(f"the test {path} cannot be read: {why}") from error
    result = harness.run(built(source).read_bytes(), cases.parse(text, str(path)))
    rows = [
        {
            "name": one.case.name,
            "stage": one.case.stage,
            "hook": one.case.hook,
            "verdict": one.verdict,
            **({"reason": one.reason} if one.reason else {}),
            "frame": one.frame.hex(),
            "problems": list(one.problems),
        }
        for one in result.ran
    ]
    said = {
        "function": result.function.name,
        "cases": rows,
        "instructions": result.instructions,
        "failed": result.failed,
    }
    emit(said, output, lambda: _told(said))
    if result.failed:
        raise typer.Exit(FAILED)


def source_of(where: Path) -> Path:
    """The source of a function: a file, or the one of a folder."""
    if where.is_file():
        return where
    if not where.is_dir():
        raise InvalidError(f"{where}: there is no such file or folder; `mizar function new NAME` makes one")
    named = where / f"{where.resolve().name}.c"
    found = [named] if named.is_file() else sorted(where.glob("*.c"))
    if len(found) != 1:
        raise InvalidError(f"{where} holds {len(found)} sources: name one, as {where / 'NAME.c'}")
    return found[0]


def built(source: Path) -> Path:
    """Its object, compiled anew."""
    from mizar.functions.build import build as compiled

    return compiled(source)


def _told(said: dict[str, Any]) -> Text:
    text = Text()
    for row in said["cases"]:
        good = not row["problems"]
        text.append("ok      " if good else "FAILED  ", style="green" if good else "bold red")
        reason = f" {row['reason']}" if "reason" in row else ""
        text.append(f"{row['stage']} {row['hook']}: {row['name']}: {row['verdict']}{reason}\n")
        for problem in row["problems"]:
            text.append(f"          {problem}\n")
    looked = ", ".join(f"{at} {count}" for at, count in said["instructions"].items())
    text.append(
        f"{len(said['cases']) - said['failed']} of {len(said['cases'])} as expected; instructions verified: {looked}"
    )
    return text

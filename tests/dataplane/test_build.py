# SPDX-License-Identifier: Apache-2.0
"""The build: quick when nothing has changed, complete, and clear when something is missing."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
OF_DROPLETS = {
    f"{name}.o" for name in ("agent", "transit", "deliver", "proxy", "substrate", "shaped", "xsk", "vtep")
} | {
    f"{name}.o"
    for name in ("function_end", "function_end_tc", "function_missing", "ddos_protection", "transit_tc", "deliver_tc")
}
"""Programs that are made from dataplane/lib."""
OF_GATEWAYS = {"gateway_keeper.o", "gateway_sweep.o"}


@pytest.fixture(scope="module")
def build() -> ModuleType:
    """dataplane/build.py, which is no part of the package."""
    spec = importlib.util.spec_from_file_location("dataplane_build", ROOT / "dataplane" / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def quick(build: ModuleType) -> type[Any]:
    """A build whose compiler takes no time: what clang makes of the programs is seen in this tree, which is built."""

    class Quick(build.Build):  # type: ignore[misc, name-defined]
        def compile_c(self, source: Path, output: Path) -> None:
            output.write_bytes(source.read_bytes())

    return Quick


@pytest.fixture(scope="module")
def built(quick: type[Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the build needs, built once."""
    root = copied(tmp_path_factory.mktemp("clone"))
    assert len(rebuilt(quick, root)) == len(quick(root).products())
    return root


def copied(root: Path) -> Path:
    """What the build needs, there alone."""
    ignore = shutil.ignore_patterns("drop_reasons.h", "reasons.h")
    for folder in ("contracts", "dataplane", "examples"):
        shutil.copytree(ROOT / folder, root / folder, ignore=ignore)
    return root


def rebuilt(kind: type[Any], root: Path) -> set[str]:
    said: list[str] = []
    kind(root).run(said.append)
    return {line.removeprefix("building ") for line in said}


def complete(build: ModuleType, root: Path) -> None:
    """Every product is there, and every program is an ELF object."""
    assert all(output.exists() for product in build.Build(root).products() for output in product.outputs)
    for program in build.PROGRAMS:
        assert (root / "mizar/_built/objects" / f"{program}.o").read_bytes()[:4] == b"\x7fELF"
    assert "from mizar._built import transit_pb2" in (root / "mizar/_built/transit_pb2_grpc.py").read_text()


def test_everything_is_there(build: ModuleType) -> None:
    """In this tree, which `./run` has built."""
    complete(build, ROOT)


@pytest.mark.long
def test_a_new_clone_is_built_whole(build: ModuleType, tmp_path: Path) -> None:
    assert len(rebuilt(build.Build, copied(tmp_path))) == len(build.Build(tmp_path).products())
    complete(build, tmp_path)


def test_nothing_changed_nothing_built(quick: type[Any], built: Path) -> None:
    assert rebuilt(quick, built) == set()


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ("dataplane/deliver.c", {"deliver.o", "deliver_tc.o"}),
        ("dataplane/lib/parse.h", OF_DROPLETS),
        ("dataplane/gateway/layout.h", {"the gateway's headers", *OF_GATEWAYS}),
        ("contracts/dataplane.h", {"the contracts", "the functions' headers", *OF_GATEWAYS, *OF_DROPLETS}),
        ("contracts/gateway.h", {"the contracts", "the gateway's headers", *OF_GATEWAYS, *OF_DROPLETS}),
        ("contracts/transit.proto", {"the gRPC stubs"}),
    ],
)
def test_a_change_builds_what_depends_on_it(quick: type[Any], built: Path, changed: str, expected: set[str]) -> None:
    path = built / changed
    path.write_text(path.read_text() + "\n// changed\n")
    assert rebuilt(quick, built) == expected
    assert rebuilt(quick, built) == set()


def test_a_lost_output_is_made_again(quick: type[Any], built: Path) -> None:
    (built / "mizar/_built/objects/agent.o").unlink()
    assert rebuilt(quick, built) == {"agent.o"}


def test_without_clang_one_sentence_says_so(build: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(build.BuildError, match=r"^The build needs clang 14 or newer: install clang\.$"):
        build.find_clang()


def test_an_error_in_the_source_is_shown(build: ModuleType, built: Path) -> None:
    source = built / "dataplane" / "deliver.c"
    good = source.read_text()
    source.write_text(good + "\nnonsense\n")
    with pytest.raises(build.BuildError, match=r"(?s)^clang refused deliver\.c:.*nonsense"):
        build.Build(built).run(lambda line: None)
    source.write_text(good)


def test_two_reasons_with_one_number_are_refused(build: ModuleType, built: Path, tmp_path: Path) -> None:
    reasons = tmp_path / "drop_reasons.toml"
    entry = '[[reason]]\nnumber = 1\nname = "{}"\nverdict = "drop"\nsentence = "No."\n'
    reasons.write_text(entry.format("A") + entry.format("B"))
    with pytest.raises(build.BuildError, match="number of its own"):
        build.Build(built).write_reasons(reasons)

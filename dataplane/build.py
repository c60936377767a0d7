# SPDX-License-Identifier: Apache-2.0
"""Makes everything generated: the kernel's programs, the gRPC stubs and the contracts that Python reads at run time.

Owns mizar/_built/, dataplane/lib/drop_reasons.h and dataplane/gateway/reasons.h. Called by `python dataplane/build.py`
in a clone and by hatch when it packs a wheel, so that an installed mizar needs no compiler. A product is made again
only when the content of what it is made from has changed. Must never import mizar (it runs before there is one)
nor touch any other folder.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import platform
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

HATCH = "hatchling.builders.hooks.plugin.interface"
# Outside of hatch, as a command, hatchling need not be installed.
HatchHook: Any = importlib.import_module(HATCH).BuildHookInterface if importlib.util.find_spec("hatchling") else object

CLANG_AT_LEAST = 14
DROPLET = ("agent", "transit", "deliver", "proxy", "substrate", "shaped", "function_end", "function_end_tc")
AT_TC = {"transit_tc": "transit.c", "deliver_tc": "deliver.c"}
"""Programs compiled for tc ingress too, and their sources."""
PROGRAMS = (*DROPLET, *AT_TC, "ddos_protection", "xsk", "vtep", "gateway_keeper", "gateway_sweep", "function_missing")
CONTRACTS_ALONE = "--contracts"
READ_AT_RUN_TIME = ("the package", "the contracts", "the demo's manifest")
C_FLAGS = ("-O2", "-g", "-target", "bpf", "-mcpu=v3", "-ffreestanding", "-fno-strict-aliasing")
C_WARNINGS = ("-Wall", "-Wextra", "-Werror")


class BuildError(Exception):
    """Something that the build needs is missing or wrong; the message is one sentence for the person who builds."""


class Product(NamedTuple):  # no dataclass: hatch loads this file without a place in sys.modules, which one needs
    """Files made together by one step, and the files that they are made from."""

    name: str
    sources: tuple[Path, ...]
    outputs: tuple[Path, ...]
    make: Callable[[], object]

    def digest(self) -> str:
        """What the outputs depend on: names and content of the sources, and this script."""
        state = hashlib.sha256(Path(__file__).read_bytes())
        for source in self.sources:
            state.update(source.name.encode() + b"\0" + source.read_bytes())
        return state.hexdigest()


class Build:
    """One clone or unpacked source distribution, by its root folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.built = root / "mizar" / "_built"
        self.contracts = root / "contracts"
        self.dataplane = root / "dataplane"
        self.reasons_header = self.dataplane / "lib" / "drop_reasons.h"
        self.gateway_reasons_header = self.dataplane / "gateway" / "reasons.h"
        self.stamp = self.built / ".made-from.json"

    def run(self, say: Callable[[str], None], only: tuple[str, ...] = ()) -> None:
        """Bring every product up to date, or those of these names. Raises BuildError."""
        made: dict[str, str] = json.loads(self.stamp.read_text()) if self.stamp.exists() else {}
        for product in self.products():
            if only and product.name not in only:
                continue
            digest = product.digest()
            if made.get(product.name) == digest and all(output.exists() for output in product.outputs):
                continue
            say(f"building {product.name}")
            for output in product.outputs:
                output.parent.mkdir(parents=True, exist_ok=True)
            product.make()
            made[product.name] = digest
            self.stamp.write_text(json.dumps(made, indent=1))

    def products(self) -> list[Product]:
        """All products, each after those that it is made from."""
        reasons, gateway_reasons = (self.contracts / f"{name}.toml" for name in ("drop_reasons", "gateway_reasons"))
        headers_read = (self.contracts / f"{name}.h" for name in ("dataplane", "gateway", "function"))
        read = (*headers_read, reasons, gateway_reasons)
        proto = self.contracts / "transit.proto"
        stubs = [self.built / f"transit_pb2{end}" for end in (".py", ".pyi", "_grpc.py", "_grpc.pyi")]
        package, copies = self.built / "__init__.py", self.built / "contracts"
        example = self.root / "examples" / "two-tenants.yaml"
        shown = self.built / "examples" / example.name
        # A pipeline's program is compiled on the host that runs it, with these.
        headers = {*self.dataplane.glob("gateway/*.h"), self.gateway_reasons_header, self.contracts / "gateway.h"}
        copied = {header: self.built / "c" / "gateway" / header.name for header in sorted(headers)}
        made_from = tuple(gateway_reasons if header == self.gateway_reasons_header else header for header in copied)
        # And functions by their developers.
        headers = {self.dataplane / "mizar_function.h", self.contracts / "dataplane.h", self.contracts / "function.h"}
        shared = {header: self.built / "c" / "function" / header.name for header in sorted(headers)}
        return [
            Product("the package", (), (package,), lambda: self.write_package(package)),
            Product("drop_reasons.h", (reasons,), (self.reasons_header,), lambda: self.write_reasons(reasons)),
            Product(
                "the gateway's reasons.h",
                (gateway_reasons,),
                (self.gateway_reasons_header,),
                lambda: self.write_gateway_reasons(gateway_reasons),
            ),
            Product(
                "the contracts", read, tuple(copies / one.name for one in read), lambda: self.copy_contracts(*read)
            ),
            Product("the demo's manifest", (example,), (shown,), lambda: shutil.copyfile(example, shown)),
            Product("the gateway's headers", made_from, tuple(copied.values()), lambda: copy_all(copied)),
            Product("the functions' headers", tuple(shared), tuple(shared.values()), lambda: copy_all(shared)),
            Product("the gRPC stubs", (proto,), tuple(stubs), self.compile_proto),
            *(self.program(name) for name in PROGRAMS),
        ]

    def program(self, name: str) -> Product:
        """The object file of one program of the data plane."""
        source, output = self.dataplane / f"{name}.c", self.built / "objects" / f"{name}.o"
        folder = "gateway" if name.startswith("gateway") else "lib"
        headers = {*self.dataplane.glob(f"{folder}/*.h"), self.reasons_header, *self.contracts.glob("*.h")}
        if name == "ddos_protection":
            headers |= {self.dataplane / "mizar_function.h", *self.dataplane.glob("ddos/*.h")}
        headers |= {self.dataplane / AT_TC[name]} if name in AT_TC else set()
        headers |= {self.gateway_reasons_header} if folder == "gateway" else set()
        # A generated header's own source stands for it: it may not exist yet.
        lists = {
            self.reasons_header: self.contracts / "drop_reasons.toml",
            self.gateway_reasons_header: self.contracts / "gateway_reasons.toml",
        }
        headers = {lists.get(header, header) for header in headers}
        return Product(f"{name}.o", (source, *sorted(headers)), (output,), lambda: self.compile_c(source, output))

    @staticmethod
    def write_package(path: Path) -> None:
        """Make mizar/_built importable."""
        path.write_text('"""Generated by dataplane/build.py; everything here is made again from its sources."""\n')

    def copy_contracts(self, *contracts: Path) -> None:
        """Lay the contracts that Python reads at run time into the package."""
        for contract in contracts:
            shutil.copyfile(contract, self.built / "contracts" / contract.name)

    def write_gateway_reasons(self, toml: Path) -> None:
        """Turn the list of a gateway's reasons into an enum."""
        reasons = read_reasons(toml)
        names = "".join(f"\tGATEWAY_{r['name']} = {r['number']},\t/* {r['sentence']} */\n" for r in reasons)
        self.gateway_reasons_header.write_text(
            "/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */\n"
            "/* Generated by dataplane/build.py from contracts/gateway_reasons.toml. */\n"
            "#ifndef MIZAR_GATEWAY_REASONS_H\n#define MIZAR_GATEWAY_REASONS_H\n\n"
            f"enum gateway_reason {{\n\tGATEWAY_REASON_NONE = 0,\t/* success */\n{names}"
            f"\tGATEWAY_REASON_LIMIT = {max(r['number'] for r in reasons) + 1},\n}};\n#endif\n"
        )

    def write_reasons(self, toml: Path) -> None:
        """Turn the list of drop reasons into an enum, and the question which of them pass into a function."""
        reasons = read_reasons(toml)
        numbers = [reason["number"] for reason in reasons]
        names = "".join(f"\tREASON_{r['name']} = {r['number']},\t/* {r['sentence']} */\n" for r in reasons)
        passing = "".join(f"\tcase REASON_{r['name']}:\n" for r in reasons if r["verdict"] == "pass")
        dropping = "".join(f"\tcase REASON_{r['name']}:\n" for r in reasons if r["verdict"] == "drop")
        self.reasons_header.write_text(
            "/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */\n"
            "/* Generated by dataplane/build.py from contracts/drop_reasons.toml. */\n"
            "#ifndef MIZAR_DROP_REASONS_H\n#define MIZAR_DROP_REASONS_H\n#include <stdbool.h>\n\n"
            f"enum drop_reason {{\n\tREASON_NONE = 0,\t/* success */\n{names}"
            f"\tREASON_LIMIT = {max(numbers) + 1},\n}};\n\n"
            "/* Whether Transit XDP leaves such a packet to the host's stack. */\n"
            "static inline bool reason_passes(enum drop_reason reason)\n{\n\tswitch (reason) {\n"
            f"{passing}\t\treturn true;\n\tcase REASON_NONE:\n{dropping}\tcase REASON_LIMIT:\n\t\treturn false;\n"
            "\t}\n\treturn false;\n}\n#endif\n"
        )

    def compile_proto(self) -> None:
        """Make the stubs of the daemon's service, typed."""
        try:
            protoc = importlib.import_module("grpc_tools.protoc")
        except ImportError as error:
            raise BuildError("The build needs the Python package grpcio-tools.") from error
        plugins = []
        for plugin in ("protoc-gen-mypy", "protoc-gen-mypy_grpc"):
            beside = Path(sys.executable).parent / plugin
            found = str(beside) if beside.exists() else shutil.which(plugin)
            if found is None:
                raise BuildError(f"The build needs {plugin} of the Python package mypy-protobuf.")
            plugins.append(f"--plugin={plugin}={found}")
        # The virtual path makes the stubs import one another as modules of mizar._built.
        arguments = ["protoc", f"-Imizar/_built={self.contracts}", f"-I{Path(str(protoc.__file__)).parent / '_proto'}"]
        kinds = ("python_out=", "grpc_python_out=", "mypy_out=quiet:", "mypy_grpc_out=quiet:")
        arguments += [*plugins, *(f"--{kind}{self.root}" for kind in kinds), "mizar/_built/transit.proto"]
        if protoc.main(arguments) != 0:
            raise BuildError("protoc refused contracts/transit.proto; its reasons are above.")

    def compile_c(self, source: Path, output: Path) -> None:
        """Compile one program for the kernel, without the DWARF that nobody reads (BTF stays)."""
        clang = find_clang()
        if not Path("/usr/include/bpf/bpf_helpers.h").exists():
            raise BuildError("The build needs libbpf's headers: install libbpf-dev (Fedora: libbpf-devel).")
        includes = [f"-I{self.dataplane}", f"-I{self.contracts}", *system_includes()]
        run(
            [clang, *C_FLAGS, *C_WARNINGS, *includes, "-c", str(source), "-o", str(output)],
            f"clang refused {source.name}",
        )
        strip = shutil.which(clang.replace("clang", "llvm-strip")) or shutil.which("llvm-strip")
        if strip is not None:
            run([strip, "-g", str(output)], f"llvm-strip refused {output.name}")


def read_reasons(toml: Path) -> list[dict[str, Any]]:
    """A list of reasons. Raises BuildError unless each has a number of its own."""
    reasons: list[dict[str, Any]] = tomllib.loads(toml.read_text())["reason"]
    numbers = [reason["number"] for reason in reasons]
    if len(set(numbers)) != len(numbers) or min(numbers) < 1:
        raise BuildError(f"{toml.name}: every reason needs a number of its own above 0.")
    return reasons


def copy_all(files: dict[Path, Path]) -> None:
    """Copy files, each to where it belongs."""
    for source, target in files.items():
        shutil.copyfile(source, target)


def find_clang() -> str:
    """The newest clang at hand. Raises BuildError when there is none that is new enough."""
    names = ["clang", *(f"clang-{version}" for version in range(30, CLANG_AT_LEAST - 1, -1))]
    for name in names:
        path = shutil.which(name)
        if path is None:
            continue
        macros = run([path, "-dM", "-E", "-x", "c", "/dev/null"], f"{name} does not run")
        major = next(line.split()[2] for line in macros.splitlines() if line.startswith("#define __clang_major__"))
        if int(major) >= CLANG_AT_LEAST:
            return path
    raise BuildError(f"The build needs clang {CLANG_AT_LEAST} or newer: install clang.")


def system_includes() -> list[str]:
    """Where asm/types.h lives: Debian keeps it in a folder per architecture, which -target bpf does not search."""
    include = Path("/usr/include")
    if (include / "asm" / "types.h").exists():
        return []
    for header in sorted(include.glob(f"{platform.machine()}-*/asm/types.h")) or sorted(include.glob("*/asm/types.h")):
        return ["-idirafter", str(header.parent.parent)]
    raise BuildError("The build needs the kernel's headers: install linux-libc-dev (Fedora: kernel-headers).")


def run(command: list[str], failure: str) -> str:
    """Run a compiler and return what it printed. Raises BuildError that ends with what it complained about."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode != 0:
        raise BuildError(f"{failure}:\n{done.stderr.strip()}")
    return done.stdout


class CustomBuildHook(HatchHook):  # type: ignore[misc]
    """What hatch calls before it packs a wheel (pyproject.toml, tool.hatch.build.targets.wheel.hooks.custom)."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build everything into the tree that is about to be packed."""
        _ = version, build_data
        Build(Path(self.root)).run(say=print)


def main(arguments: list[str]) -> int:
    """Build everything into this clone; with `--contracts` what a simulation reads, which needs no compiler."""
    if arguments not in ([], [CONTRACTS_ALONE]):
        print(f"usage: {Path(__file__).name} [{CONTRACTS_ALONE}]", file=sys.stderr)
        return 2
    try:
        Build(Path(__file__).resolve().parent.parent).run(say=print, only=READ_AT_RUN_TIME if arguments else ())
    except (BuildError, OSError) as error:
        print(f"mizar build: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

# SPDX-License-Identifier: Apache-2.0
"""Rulesets of nftables, applied whole through libnftables.

Owns the binding (cffi's ABI mode: no compiler, no process for each call). Called by the gateway's kernel slow path. A
ruleset is one transaction: the kernel takes all of it, or nothing changes.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from typing import Any

import cffi

from mizar.kernel.namespaces import Namespace, anonymous
from mizar.model.errors import InvalidError, MizarError

_ffi: Any = cffi.FFI()
_ffi.cdef("""
struct nft_ctx;
struct nft_ctx *nft_ctx_new(uint32_t flags);
void nft_ctx_free(struct nft_ctx *ctx);
int nft_ctx_buffer_error(struct nft_ctx *ctx);
void nft_ctx_output_set_flags(struct nft_ctx *ctx, unsigned int flags);
int nft_ctx_buffer_output(struct nft_ctx *ctx);
const char *nft_ctx_get_error_buffer(struct nft_ctx *ctx);
const char *nft_ctx_get_output_buffer(struct nft_ctx *ctx);
int nft_run_cmd_from_buffer(struct nft_ctx *ctx, const char *buf);
""")
_LIBRARY = "libnftables.so.1"
_STATELESS, _JSON = 1 << 1, 1 << 4  # NFT_CTX_OUTPUT_STATELESS, NFT_CTX_OUTPUT_JSON


def apply(ruleset: str, namespace: Namespace) -> None:
    """Carries out commands in nft's language in a namespace, in one transaction. Raises InvalidError with nft's words
    when it refuses them, MizarError when the library is missing."""
    _run(ruleset, namespace)


def listing(family: str, table: str, namespace: Namespace) -> dict[str, tuple[str, ...]]:
    """The lines of each block of a table, without what it has counted; nothing where there is no such table."""
    tables = _run("list tables", namespace).splitlines()
    if f"table {family} {table}" not in tables:
        return {}
    found: dict[str, list[str]] = {}
    block: list[str] = []
    counted = False
    for line in _run(f"list table {family} {table}", namespace, _STATELESS).splitlines()[1:-1]:
        words = line.strip()
        if line.startswith("\t") and not line.startswith("\t\t") and words.endswith("{"):
            block = found[words.removesuffix("{").strip()] = []
            counted = words.startswith("counter ")  # its values are told all the same
        elif words not in ("", "}") and not counted:
            block.append(words)
    return {name: tuple(lines) for name, lines in found.items()}


@functools.lru_cache(maxsize=64)
def made(family: str, table: str, ruleset: str) -> Mapping[str, tuple[str, ...]]:
    """What the kernel makes of a ruleset, as `listing` tells it: in an empty namespace."""
    with anonymous() as empty:
        apply(ruleset, empty)
        return listing(family, table, empty)


def altered(family: str, table: str, ruleset: str, namespace: Namespace) -> Iterator[tuple[str, str, str]]:
    """Where a table is not as a ruleset makes it: the block, what is missing in it, and what is foreign. Both are
    compared as the kernel tells them, beside an empty namespace that has what is wanted."""
    should = made(family, table, ruleset)
    there = listing(family, table, namespace)
    for block in sorted(should.keys() | there.keys()):
        before, now = should.get(block, ()), there.get(block, ())
        if before != now or (block in should) != (block in there):
            missing = "; ".join(line for line in before if line not in now)
            foreign = "; ".join(line for line in now if line not in before)
            if block not in there or block not in should:
                yield (
                    block,
                    missing or ("there" if block in should else ""),
                    foreign or ("there" if block in there else ""),
                )
            elif missing or foreign:
                yield block, missing, foreign
            else:
                yield block, "; ".join(before), "; ".join(now)  # in another order, or twice


def without(family: str, table: str) -> str:
    """What stands before a ruleset that is to replace all that a table has, in the same transaction."""
    return f"add table {family} {table}\ndelete table {family} {table}\n"


def packets(family: str, table: str, namespace: Namespace) -> dict[str, int]:
    """What the named counters of a table have counted. Raises as apply does."""
    said = json.loads(_run(f"list counters table {family} {table}", namespace, _JSON))
    found = (row["counter"] for row in said["nftables"] if "counter" in row)
    return {one["name"]: int(one["packets"]) for one in found}


def _run(commands: str, namespace: Namespace, flags: int = 0) -> str:
    """What they print."""
    library = _library()

    def run() -> tuple[str, str]:
        context = library.nft_ctx_new(0)
        try:
            library.nft_ctx_buffer_error(context)
            library.nft_ctx_buffer_output(context)
            library.nft_ctx_output_set_flags(context, flags)
            if library.nft_run_cmd_from_buffer(context, commands.encode()) == 0:
                return "", _ffi.string(library.nft_ctx_get_output_buffer(context)).decode(errors="replace")
            said = _ffi.string(library.nft_ctx_get_error_buffer(context)).decode(errors="replace").strip()
            return said or "nftables gave no reason", ""
        finally:
            library.nft_ctx_free(context)

    refused, printed = namespace.run(run)
    if refused:
        raise InvalidError(f"nftables refused the rules for the namespace {namespace.spec}: {refused}")
    return printed


@functools.cache
def _library() -> Any:
    try:
        return _ffi.dlopen(_LIBRARY)
    except OSError as error:
        raise MizarError(f"{_LIBRARY} cannot be loaded ({error}); on Debian: apt install libnftables1") from error

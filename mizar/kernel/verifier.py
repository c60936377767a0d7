# SPDX-License-Identifier: Apache-2.0
"""What the kernel's verifier says of a program that it refuses, as a sentence for who wrote the program.

Called by whoever loads somebody else's program. Text alone: it loads nothing. The last line of the log that is no
statistic is the reason; the line of C before it tells where.
"""

from __future__ import annotations

import re

_STATISTICS = re.compile(
    r"^(processed \d+ insns|verification time|stack depth|max_states|peak_states|mark_read|libbpf:|-- (BEGIN|END))"
)
_STATE = re.compile(
    r"^(\d+: |from \d+ to |; |R\d+=|R\d+_w=|\(\w\w\)|caller:|callee:|arg#\d+ ref|cur state:|old state:)"
)
_SOURCE = re.compile(r"^(?:\d+: )?; (.*?)(?: @ (\S+?):(\d+))?$")
_HEADER = "mizar_function.h"
_PROCESSED = re.compile(r"processed (\d+) insns")

# Words of the verifier → what to do about them. The first that is found decides.
_MEANINGS = (
    (r"invalid access to packet|outside of the packet",
     "it reads or writes the frame where nobody has checked that there are that many bytes: take a pointer "
     "from mizar_bytes(), test it for NULL, and stay within the bytes that were asked for"),
    (r"program is too large|too many instructions|complexity limit|too many (states|jumps)",
     "it is too complex: the verifier gave up following its ways; bound loops by constants, and look at less"),
    (r"infinite loop detected|back-edge|loop(s)? (is|are) not",
     "it may never end: a loop needs a bound that the verifier sees"),
    (r"_or_null",
     "it uses what a lookup gave without asking whether it is NULL"),
    (r"invalid access to map value|outside of the allowed memory range",
     "it reads or writes behind the end of a map's value"),
    (r"cannot write into|write into map forbidden|only read (is )?supported|read-only|cannot write into rdonly",
     "it writes where it may only read: a map of the data plane's, or a constant"),
    (r"invalid (indirect )?read from stack|uninit|!read_ok", "it reads what nobody has written before"),
    (r"invalid stack (type|access|off)|combined stack size|stack limit",
     "it keeps too much on the stack, which has 512 bytes: use a per-CPU map"),
    (r"unknown func|cannot use helper|calling kernel function \S+ is not allowed",
     "it calls a helper that programs of this hook do not have"),
    (r"leaks addr", "it lets an address of the kernel out"),
    (r"invalid mem access", "it follows something that is no pointer to memory that it may use"),
    (r"math between|pointer arithmetic|prohibited",
     "it computes with a pointer in a way that the verifier cannot follow"),
    (r"unbounded",
     "it uses a number as a place or a length that may be of any size: bound it first"),
    (r"unreachable insn", "a part of it is never reached"),
)  # fmt: skip


def explain(log: str) -> str:
    """One sentence: the reason, where in the source, and the verifier's own words."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    said = [line for line in lines if not _STATISTICS.match(line)]
    words = next((line for line in reversed(said) if not _STATE.match(line)), said[-1] if said else "it gave no reason")
    meaning = next((text for pattern, text in _MEANINGS if re.search(pattern, words)), "")
    where = _place(lines)
    return f"{meaning} (the verifier: {words}{where})" if meaning else f"the verifier says: {words}{where}"


def processed(log: str) -> int:
    """How many instructions the verifier has looked at; 0 where the log does not tell."""
    found = _PROCESSED.findall(log)
    return max(map(int, found)) if found else 0


def _place(lines: list[str]) -> str:
    """Of the last line of source that is told; where that is the platform's, also of the last one that is not."""
    told: list[str] = []
    for line in reversed(lines):
        found = _SOURCE.match(line)
        if found and found[1] and not (told and found[2] in (None, _HEADER)):
            told.append(f"at {f'{found[2]}:{found[3]}' if found[2] else 'the source'}: {found[1].strip()}")
            if found[2] != _HEADER:
                break
    return "".join(f"; {text}" for text in (", called ".join(told),) if text)

# SPDX-License-Identifier: Apache-2.0
"""Sources that are compiled for a test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mizar.functions.build import build

Compile = Callable[[str], bytes]
_BUILT: dict[str, bytes] = {}
"""Objects by their text: the same one is compiled once in a run."""


@pytest.fixture
def compiled(tmp_path: Path) -> Compile:
    """Compiles C text that stands behind the include of mizar_function.h."""

    def work(text: str) -> bytes:
        source = tmp_path / "tried.c"
        source.write_text('#include <linux/udp.h>\n#include "mizar_function.h"\n' + text)
        if text not in _BUILT:
            _BUILT[text] = build(source).read_bytes()
        return _BUILT[text]

    return work

# SPDX-License-Identifier: Apache-2.0
"""Sources that are compiled for a test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mizar.functions.build import build

Compile = Callable[[str], bytes]


@pytest.fixture
def compiled(tmp_path: Path) -> Compile:
    """Compiles C text that stands behind the include of mizar_function.h."""

    def work(text: str) -> bytes:
        source = tmp_path / "tried.c"
        source.write_text('#include <linux/udp.h>\n#include "mizar_function.h"\n' + text)
        return build(source).read_bytes()

    return work

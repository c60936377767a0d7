# SPDX-License-Identifier: Apache-2.0
"""What the verifier has to look at stays far below its limit, so that other kernels and the next feature have room."""

from __future__ import annotations

import errno
import re

import pytest

from mizar.kernel import libbpf
from mizar.kernel.configuration import configuration
from mizar.kernel.functions import refuse_size
from mizar.kernel.programs import load
from mizar.model.errors import ExhaustedError

from .conftest import SMALL

pytestmark = pytest.mark.root

ADDRESSES = {"4": b"\xc0\0\x02\x01", "6": bytes.fromhex("20010db8") + bytes(11) + b"\x01"}
MOST = {"agent": 170_000, "transit": 150_000, "proxy": 85_000, "deliver": 20_000, "substrate": 25_000}
MOST |= {"function_end": 2_000, "shaped": 2_000, "function_end_tc": 2_000}
"""Near half more than it is: `python bench/verifier.py` shows the figures, docs/way-of-a-packet.md tells what helps."""


@pytest.mark.parametrize("by_tc", [False, True])
@pytest.mark.parametrize("families", ["4", "6", "46"])
def test_programs_are_simple_enough(families: str, by_tc: bool) -> None:
    """Each of them, in each configuration."""
    config = configuration(
        [ADDRESSES[f] for f in families], b"\x02\0\0\0\0\x01", 1, send_by_tc=by_tc, icmp_errors=100, traps=16
    )
    with load(config, max_entries=SMALL, statistics=True) as programs:
        for name, program in programs.programs.items():
            processed = re.search(r"processed (\d+) insns", program.statistics)
            assert processed, f"the kernel says nothing of {name}"
            assert int(processed[1]) < MOST[name], name


def test_a_program_that_the_verifier_gave_up_is_told_to_be_too_complex() -> None:
    """Its words are not asked for: each try would take as long. What fails for another reason passes."""
    with pytest.raises(ExhaustedError, match="function wide is too complex: the kernel's verifier gave up"):
        refuse_size(libbpf.error_of(errno.E2BIG, "load function wide"), "function wide")
    refuse_size(libbpf.error_of(errno.EINVAL, "load function wide"), "function wide")

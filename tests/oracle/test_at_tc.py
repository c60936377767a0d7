# SPDX-License-Identifier: Apache-2.0
"""Transit as it is compiled for tc ingress does what the oracle says: a share of what test_differential.py asks.

The differences, none of which changes a verdict, a frame or a counter of what both can run:

| | XDP | tc ingress |
|---|---|---|
| frames without a whole IP header | judged | the kernel runs no program: differential.SHORTEST_TEST_RUN |
| the note for `deliver` | in front of the frame | in memory of the CPU: tests/dataplane/ingress.py |
| functions of Transit's stages | run | never: the droplet refuses to have any |
| superpackets | never come | tests/dataplane/test_at_tc.py, tests/lab/test_without_xdp.py |
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from mizar.oracle.outcome import Step
from mizar.oracle.tables import Droplet
from tests.oracle.differential import check, try_cases
from tests.oracle.golden import GENEVE_DELIVERED
from tests.oracle.golden_droplet import droplet, in_every_role
from tests.oracle.real import RealDroplet
from tests.oracle.seeds import octet_by_octet, seeds
from tests.oracle.substrates import SUBSTRATES, loaded

pytestmark = pytest.mark.root
SHARE = 20
"""One of so many altered frames."""
DOORS = ("transit",)


@pytest.fixture(scope="module")
def ingress() -> Iterator[RealDroplet]:
    real = loaded("ipv4", at_tc=True)
    yield real
    real.close()


@in_every_role
def test_frames_that_differ_a_little_from_good_ones(ingress: RealDroplet, here: Callable[[], Droplet]) -> None:
    """The same ones every time."""
    tables, some, seen = here(), random.Random(7), Counter[object]()
    ingress.fill(tables)
    for each in seeds():
        if each.door == "transit":
            altered = [one for one in octet_by_octet(each, frozenset()) if not some.randrange(SHARE)]
            seen.update(outcome.step for outcome in check(ingress, tables, [each, *altered]))
    assert seen[Step.DELIVER] > 10
    assert here is not droplet or seen[Step.BOUNCE] > 10


def test_its_note_is_seen(ingress: RealDroplet) -> None:
    """Or all of the above would compare nothing of what is delivered."""
    ingress.fill(droplet())
    assert ingress.transit(GENEVE_DELIVERED.comes).handover is not None


@pytest.mark.long
@pytest.mark.parametrize("substrate", SUBSTRATES)
def test_any_droplets_and_packets_on_all_substrates(substrate: str) -> None:
    """As many as of XDP's."""
    real = loaded(substrate, at_tc=True)
    try:
        try_cases(real, substrate, 100, DOORS)
    finally:
        real.close()


def test_any_droplets_and_packets(ingress: RealDroplet) -> None:
    """Of test_differential.py's kind, and fewer."""
    seen = try_cases(ingress, "ipv4", 10, DOORS)
    assert {Step.DELIVER, "UNKNOWN_SENDER"} <= seen.keys()

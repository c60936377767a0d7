# SPDX-License-Identifier: Apache-2.0
"""The probes: everything that this kernel has is found, what it lacks is explained, nothing is left behind."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mizar.kernel import features, namespaces
from mizar.kernel.features import probe
from mizar.model.errors import InvalidError
from tests.guest.image import UnavailableError
from tests.guest.rooted import ROOT, Rooted, rooted_image

pytestmark = pytest.mark.root


def test_all_that_is_needed_is_here() -> None:
    """Otherwise the other tests could not run."""
    missing = [feature for feature in probe() if feature.needed and not feature.present]
    assert missing == []


def test_every_feature_tells_its_price_and_its_remedy() -> None:
    """A list of names alone helps nobody."""
    found = probe()
    assert len({feature.name for feature in found}) == len(found)
    assert all(feature.cost_if_missing and feature.how_to_fix and feature.detail for feature in found)


def test_a_failed_attempt_is_a_missing_feature(monkeypatch: pytest.MonkeyPatch) -> None:
    """With what went wrong; the other probes go on."""

    def refuse(*_: object) -> int:
        raise InvalidError("load a program: not today")

    monkeypatch.setattr("mizar.kernel.libbpf.load_program", refuse)
    found = {feature.name: feature for feature in probe()}
    assert not found["bpf programs"].present
    assert found["bpf programs"].detail == "load a program: not today"
    assert found["veth"].present


def test_probing_leaves_nothing_behind() -> None:
    """No named namespace, no mount, no open file. Namespaces of others, which are mounts too, come and go meanwhile."""

    def traces() -> tuple[list[str], int]:
        mounts = [line for line in Path("/proc/self/mounts").read_text().splitlines() if "/netns/" not in line]
        return mounts, len(list(Path("/proc/self/fd").iterdir()))

    probe()
    before = traces()
    probe()
    assert traces() == before
    assert not [name for name in namespaces.names() if "probe" in name]


def test_a_process_without_capabilities_is_told_which(monkeypatch: pytest.MonkeyPatch) -> None:
    """By name."""
    status = "Name:\tx\nCapEff:\t0000000000000000\n"
    monkeypatch.setattr(Path, "read_text", lambda self: status)
    feature = next(row for row in features._PROBES if row[0] == "privileges")
    with pytest.raises(PermissionError, match="CAP_NET_ADMIN, CAP_SYS_ADMIN, CAP_BPF"):
        feature[2]()


@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_kernel_whose_verifier_refuses_the_programs_is_told(tmp_path: Path) -> None:
    """Debian 12's 6.1, in a guest: what it lacks and since when it is there, not the end of a verifier's log."""
    try:
        image = rooted_image()
    except UnavailableError as error:
        pytest.skip(f"no virtual machine here: {error}")
    ask = "from mizar.transit.programs import missing_feature; print(missing_feature())"
    with Rooted(image, tmp_path) as guest:
        said = guest.run(f"cd {ROOT} && {sys.executable} -B -c '{ask}'", 200)
    assert "this machine lacks a verifier that knows what is not 0" in said
    assert "6.8" in said

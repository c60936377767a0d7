# SPDX-License-Identifier: Apache-2.0
"""Which ports of a host tunnels may have: what whoever runs it writes, and what that means."""

from __future__ import annotations

import pytest

from mizar.model.errors import InvalidError
from mizar.transit.vpn_ports import DEFAULT, parse


def test_ranges_hold_their_ends_and_nothing_else() -> None:
    """Also what is said unless told otherwise, and none."""
    ports = parse("2000-2001, 3000")
    assert [port for port in range(1990, 3010) if port in ports] == [2000, 2001, 3000]
    assert str(ports) == "2000-2001,3000-3000"
    assert {4500, 51820} <= {port for port in range(65536) if port in parse(DEFAULT)}
    assert not any(port in parse("none") for port in range(65536))
    assert parse(str(ports)) == ports
    assert parse(str(parse("none"))) == parse("none")


@pytest.mark.parametrize("text", ["", "80-90", "5000-4000", "4000-5000", "70000", "6081", "a-b", "1024-", "5000,,5001"])
def test_what_cannot_be_is_refused(text: str) -> None:
    """Nor do services of the host and the overlay's own tunnels give theirs."""
    with pytest.raises(InvalidError, match=r"port"):
        parse(text)

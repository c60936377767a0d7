# SPDX-License-Identifier: Apache-2.0
"""What `mizar function attach` makes of scopes."""

from __future__ import annotations

from mizar.cli.function_server import attached

VPC, DROPLET = {"vpc": {"tenant": "blue", "name": "main"}}, {"droplet": "all"}


def test_a_scope_gets_a_value_and_keeps_it_until_it_gets_another() -> None:
    """A scope stands there once, whatever its value; what is not named stays as it is."""
    first = attached([], [VPC, DROPLET], None)
    assert first == [VPC, DROPLET]
    second = attached(first, [VPC], 7)
    assert second == [{**VPC, "value": 7}, DROPLET]
    assert attached(second, [VPC, DROPLET], None) == second
    assert attached(second, [VPC], 8) == [{**VPC, "value": 8}, DROPLET]

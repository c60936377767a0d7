# SPDX-License-Identifier: Apache-2.0
"""Who may watch: no tenant keeps another, or an administrator, from it; and what is asked for amiss."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from mizar.manager.monitor import MOST_OF_TENANT, MOST_WATCHERS, Monitor
from mizar.manager.policies import Policies
from mizar.manager.policy_names import PolicyNames
from mizar.manager.registry import Registry
from mizar.model.errors import ExhaustedError, InvalidError


def monitor() -> Monitor:
    return Monitor(Registry(), lambda _: None, PolicyNames(Registry(), Policies(Registry())))


def test_tenants_do_not_take_the_administrators_places() -> None:
    """All of theirs are taken; a fault can be looked for all the same."""
    found = monitor()
    with ExitStack() as stack:
        for number in range(MOST_WATCHERS):
            stack.enter_context(found._place(f"t{number // MOST_OF_TENANT}"))
        with pytest.raises(ExhaustedError), found._place("another"):
            pass
        for _ in range(MOST_WATCHERS):
            stack.enter_context(found._place(None))
        with pytest.raises(ExhaustedError), found._place(None):
            pass
    assert found.watchers == 0


@pytest.mark.parametrize("reason", ["nonsense", "99999", "9" * 5000])
def test_a_reason_that_there_is_not(reason: str) -> None:
    """However long its number is."""
    with pytest.raises(InvalidError, match="no drop reason"):
        monitor().wish(lambda _: True, reasons=[reason])

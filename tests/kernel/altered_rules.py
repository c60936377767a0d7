# SPDX-License-Identifier: Apache-2.0
"""What tests of rules in nftables share: kept again they differ in nothing; altered ones are told and mended."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from mizar.kernel import nftables
from mizar.kernel.namespaces import Namespace


@dataclass(frozen=True)
class Kept:
    """A module that keeps rules in a namespace. `altered`: what differs from what is wanted: block, missing, foreign;
    `keep`: writes what is wanted, also (the last argument) where it believes that it is there."""

    altered: Callable[[Namespace, Any], Iterable[tuple[str, ...]]]
    keep: Callable[[Namespace, Any, bool], object]

    def take_turns(self, namespace: Namespace, rules: Any, *others: Any) -> None:
        """Rules that are kept differ in nothing, however often, and after others, from which they differ."""
        assert list(self.altered(namespace, rules)) == []
        for other in others:
            assert list(self.altered(namespace, other))
            self.keep(namespace, other, False)
            assert list(self.altered(namespace, other)) == []
            assert list(self.altered(namespace, rules))
        self.keep(namespace, rules, False)
        assert list(self.altered(namespace, rules)) == []

    def is_told_and_mended(self, namespace: Namespace, rules: Any, command: str, told: tuple[str, str, int]) -> None:
        """`command`: what somebody does. `told`: the block that differs, a word of it, and whether that is missing (1)
        or foreign (2)."""
        block, word, place = told
        nftables.apply(command, namespace)
        found = {one[0]: one for one in self.altered(namespace, rules)}
        assert word in found[block][place]
        self.keep(namespace, rules, True)
        assert list(self.altered(namespace, rules)) == []

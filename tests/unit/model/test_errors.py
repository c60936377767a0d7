# SPDX-License-Identifier: Apache-2.0
"""Errors: one root, and each says everything that is wrong."""

from __future__ import annotations

import pickle

import pytest

from mizar.model.errors import ConflictError, InvalidError, ManifestErrors, MizarError, Problem


def test_the_tree() -> None:
    assert issubclass(ManifestErrors, InvalidError)
    assert issubclass(ConflictError, MizarError)
    assert not issubclass(ConflictError, InvalidError)


def test_a_text_is_one_problem_and_many_are_many_lines() -> None:
    assert InvalidError("no").problems == (Problem("no"),)
    error = ManifestErrors([Problem("one", "spec.a", "VPC t/a", file="f", line=3), Problem("two")])
    assert str(error) == "f:3: VPC t/a: spec.a: one\ntwo"


def test_an_error_without_a_problem_cannot_be_built() -> None:
    with pytest.raises(ValueError, match="at least one problem"):
        MizarError([])


def test_an_error_survives_the_way_between_processes() -> None:
    error = pickle.loads(pickle.dumps(ConflictError(Problem("taken", "spec.vni", index=2))))
    assert isinstance(error, ConflictError)
    assert error.problems == (Problem("taken", "spec.vni", index=2),)

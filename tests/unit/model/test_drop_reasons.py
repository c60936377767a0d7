# SPDX-License-Identifier: Apache-2.0
"""Drop reasons are those of the contract, each with its number, name, verdict and sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from mizar.model.drop_reasons import by_name, by_number, parse

CONTRACT = Path(__file__).parents[3] / "contracts" / "drop_reasons.toml"


def test_the_built_package_carries_the_contract() -> None:
    pytest.importorskip("mizar._built", reason="dataplane/build.py has not run")
    assert tuple(by_number().values()) == parse(CONTRACT.read_text())
    assert by_name()["ENDPOINT_UNKNOWN"] is by_number()[by_name()["ENDPOINT_UNKNOWN"].number]


def test_numbers_are_ordered_and_never_zero() -> None:
    numbers = [reason.number for reason in parse(CONTRACT.read_text())]
    assert numbers == sorted(numbers)
    assert numbers[0] > 0


@pytest.mark.parametrize(
    "change",
    [
        ('verdict = "drop"', 'verdict = "maybe"'),
        ("number = 2", "number = 1"),
        ("number = 2", "number = 0"),
        ('name = "B"', 'name = "A"'),
        ('sentence = "It is b."', 'sentence = "It is b"'),
    ],
)
def test_an_unsound_list_is_refused(change: tuple[str, str]) -> None:
    text = "".join(
        f'[[reason]]\nnumber = {n}\nname = "{name}"\nverdict = "drop"\nsentence = "It is {name.lower()}."\n'
        for n, name in ((1, "A"), (2, "B"))
    )
    assert len(parse(text)) == 2
    with pytest.raises(ValueError, match="drop reason"):
        parse(text.replace(*change))

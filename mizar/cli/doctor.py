# SPDX-License-Identifier: Apache-2.0
"""`mizar doctor`: what this machine offers, and what each missing piece costs."""

from __future__ import annotations

from dataclasses import asdict

import typer

from mizar.cli.output import FAILED, Format, Output, columns, emit
from mizar.kernel import features


def doctor(output: Output = Format.TABLE) -> None:
    """List the privileges and kernel features that Mizar uses; exit 1 when one is missing that it cannot do without."""
    found = features.probe()
    rows = [
        (
            feature.name,
            feature.present,
            "yes" if feature.needed else "",
            feature.detail if feature.present else f"{feature.cost_if_missing} ({feature.detail})",
            "" if feature.present else feature.how_to_fix,
        )
        for feature in found
    ]
    headings = ("FEATURE", "PRESENT", "NEEDED", "FOUND, OR WHAT ITS LACK COSTS", "HOW TO GET IT")
    emit([asdict(feature) for feature in found], output, lambda: columns(headings, rows))
    if any(feature.needed and not feature.present for feature in found):
        raise typer.Exit(FAILED)

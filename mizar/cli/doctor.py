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
        (feature.name, feature.present, "yes" if feature.required else "", "" if feature.present else feature.cost)
        for feature in found
    ]
    emit(
        [asdict(feature) for feature in found],
        output,
        lambda: columns(("FEATURE", "PRESENT", "REQUIRED", "WITHOUT IT"), rows),
    )
    if any(feature.required and not feature.present for feature in found):
        raise typer.Exit(FAILED)

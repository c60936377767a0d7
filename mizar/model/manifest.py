# SPDX-License-Identifier: Apache-2.0
"""Text of manifests (YAML or JSON, many documents) → resources, or every error at once.

Called by the CLI and lab with files, by the API with documents. Pure: the caller reads the file. Never resolves
anything between objects: that is `checks`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mizar.model.resources import Resource


def parse_manifests(text: str, source: str) -> list[Resource]:
    """All resources of a text, in its order; `source` is the name of the file for messages.

    Raises ManifestErrors with every problem: syntax, unknown kinds and fields, wrong values, duplicate objects.
    """
    raise NotImplementedError


def parse_resource(document: Mapping[str, Any], index: int | None = None) -> Resource:
    """One resource from a JSON object. Raises InvalidError with every problem (`field`, and the given `index`)."""
    raise NotImplementedError

# SPDX-License-Identifier: Apache-2.0
"""The answer to a request that is refused. Made by mizar.api.app and mizar.api.limits; the client reads it back."""

from __future__ import annotations

import json
from collections.abc import Iterable

from starlette.responses import Response

from mizar.model.errors import Problem


class Refusal(Response):
    """The answer that lists what is wrong; ASCII, because it repeats text that may be no valid Unicode."""

    media_type = "application/json"

    def __init__(self, problems: Iterable[Problem], status: int) -> None:
        errors = [{"resource": p.resource, "field": p.field, "message": p.message, "index": p.index} for p in problems]
        super().__init__(json.dumps({"errors": errors}), status)

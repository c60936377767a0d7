# SPDX-License-Identifier: Apache-2.0
"""Errors as they travel: MizarError → HTTP status and {"errors": [...]}, and back.

Called by mizar.api.app when it answers and by mizar.api.client when it is answered, so that both ends hold the same
table. It must never let a stack trace or the text of a foreign exception out.
"""

from __future__ import annotations

from typing import Any

from mizar.model.errors import (
    ConflictError,
    ExhaustedError,
    InvalidError,
    MizarError,
    NotFoundError,
    Problem,
    TemporaryError,
)

_STATUS: tuple[tuple[type[MizarError], int], ...] = (
    (InvalidError, 422),
    (ConflictError, 409),
    (NotFoundError, 404),
    (ExhaustedError, 507),
    (TemporaryError, 503),
)


def status_of(error: MizarError) -> int:
    """The HTTP status that tells what the caller should do next."""
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 500)


def error_for(status: int, body: object) -> MizarError:
    """What a reply that is no success means for the caller."""
    kind = next((kind for kind, known in _STATUS if known == status), None)
    if kind is None:
        kind = InvalidError if 400 <= status < 500 else TemporaryError
    found = body.get("errors") if isinstance(body, dict) else None
    problems = [_problem(entry) for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []
    return kind(problems or f"the server answered with HTTP status {status} and no explanation")


def _problem(entry: dict[str, Any]) -> Problem:
    index = entry.get("index")
    return Problem(
        str(entry.get("message", "")),
        field=str(entry.get("field") or ""),
        resource=str(entry.get("resource") or ""),
        index=index if isinstance(index, int) else None,
    )

# SPDX-License-Identifier: Apache-2.0
"""Whether the server has the object of a Function that is applied. Called by mizar.manager.intake. Pure."""

from __future__ import annotations

from pydantic import ValidationError

from mizar.model.errors import InvalidError, Problem
from mizar.model.function import Function, with_object
from mizar.model.resources import Resource
from mizar.model.validation import path_text, sentence


def with_code(old: Resource | None, new: Resource) -> Resource:
    """The function with its object: the one that came along, or the one that it has and that is named by its digest.

    Raises InvalidError where there is neither, and where the rest of the manifest does not fit the object.
    """
    if not isinstance(new, Function):
        return new
    code = new.spec.object
    if code is None or code.path:
        field = "spec.object" if code else "spec.source"
        raise InvalidError(Problem("the server reads no file of its client: `mizar apply` does", field))
    if code.data is not None:
        return new
    held = old.spec.object if isinstance(old, Function) else None
    if held is None or held != code:
        raise InvalidError(Problem("this server has no object with that digest: give its file", "spec.object"))
    try:
        return with_object(new, held)
    except ValidationError as error:
        found = (sentence(Function, details) for details in error.errors(include_url=False))
        raise InvalidError([Problem(message, path_text(path)) for path, message in found]) from error

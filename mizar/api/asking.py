# SPDX-License-Identifier: Apache-2.0
"""The parameter of each request handler that tells who is asking. Used by mizar.api.app and its parts."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request
from starlette.exceptions import HTTPException

from mizar.api.caller import Caller


async def _caller(request: Request) -> Caller:  # FastAPI would run one that is not in a thread
    caller = getattr(request.state, "caller", None)
    if not isinstance(caller, Caller):
        raise HTTPException(403, "this certificate may not use the API")
    return caller


Asking = Annotated[Caller, Depends(_caller)]

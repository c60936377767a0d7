# SPDX-License-Identifier: Apache-2.0
"""What says that an endpoint is a function's and not a person's. See `resources`."""

from __future__ import annotations

from typing import Annotated

from pydantic import StringConstraints

from mizar.model import fields
from mizar.model.fields import Value


class InstanceSpec(Value):
    """The object, of the same tenant, that has made an endpoint: it changes and ends with it. The server's to write."""

    kind: Annotated[str, StringConstraints(pattern=r"^[A-Za-z]{1,63}$")]
    name: fields.Name

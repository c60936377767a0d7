# SPDX-License-Identifier: Apache-2.0
"""Messages of contracts/transit.proto as JSON for people: numbers as numbers, addresses and MACs as text.

Called by mizar.api.app for what passes through from a daemon. Pure.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message


def as_json(message: Message) -> dict[str, Any]:
    """Every field by its JSON name; fields of a oneof and messages only where they are set."""
    found: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if field.is_repeated:
            found[field.json_name] = [_value(field, item) for item in value]
        elif not field.has_presence or message.HasField(field.name):
            found[field.json_name] = _value(field, value)
    return found


def _value(field: Any, value: Any) -> Any:
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        return as_json(value)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return str(ip_address(value)) if len(value) in (4, 16) else value.hex(":")
    if isinstance(field.enum_type, EnumDescriptor) and value in field.enum_type.values_by_number:
        return field.enum_type.values_by_number[value].name
    return value

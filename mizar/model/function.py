# SPDX-License-Identifier: Apache-2.0
"""Function: a program of the operator's at stages of the data plane, and for whom it is. Owns its shape.

The object file travels and is stored in the manifest (`spec.object`, base64), and is shown as its digest everywhere
else. Whoever applies that digest again keeps the object that is there. A path stands there until `mizar apply` has
read it; `spec.source` names C text, which `mizar apply` compiles.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Field, ValidationInfo, model_validator
from pydantic_core import PydanticCustomError

from mizar.model import elf, fields
from mizar.model.base import Ref, Resource, Scope, Status
from mizar.model.errors import InvalidError
from mizar.model.fields import Value
from mizar.model.file_value import FileValue
from mizar.model.function_object import ENDPOINT_VALUES, MOST_BYTES, STAGES, FunctionObject, read_object

PARAMETERS = ".rodata.parameters"
_MOST_ENTRIES = 4096
StageName = Literal[
    "ON_XDP_TX", "ON_XDP_PASS", "ON_XDP_REDIRECT", "ON_XDP_DROP", "ON_XDP_SCALED_EP", "ENDPOINT_INGRESS",
    "ENDPOINT_EGRESS",
]  # fmt: skip
assert get_args(StageName) == STAGES


class ObjectCode(FileValue):
    """An object file."""

    __slots__ = ()
    WORD, PATH, CONTENT, MOST_TEXT = "base64:", "an object file", "an object", MOST_BYTES * 2


class Named(Value):
    """An object of a tenant's; it need not be there."""

    tenant: fields.Name
    name: fields.Name


class Attachment(Value):
    """For whose packets: one of the five. `droplet: all` is every droplet. `value`: what the function's map
    `endpoint_values` has for endpoints that this is the narrowest scope of."""

    droplet: fields.Name | None = None
    vpc: Named | None = None
    network: Named | None = None
    group: Named | None = None
    endpoint: Named | None = None
    value: Annotated[int, Field(strict=True, ge=1, le=2**32 - 1)] | None = None

    @model_validator(mode="after")
    def _one_of_five(self) -> Self:
        given = [name for name in type(self).model_fields if name != "value" and getattr(self, name) is not None]
        if len(given) != 1:
            found = " and ".join(given) or "none of them"
            raise ValueError(f"expected one of droplet, vpc, network, group and endpoint, found {found}")
        return self

    @property
    def ref(self) -> Ref:
        """The object that is meant; of `droplet: all` none has the name."""
        for kind, named in (("VPC", self.vpc), ("Network", self.network or self.group), ("Endpoint", self.endpoint)):
            if named is not None:
                return Ref(kind, named.tenant, named.name)
        return Ref("Droplet", "", self.droplet or "")

    @property
    def text(self) -> str:
        """In a few words."""
        if self.droplet is not None:
            return "all droplets" if self.droplet == "all" else f"droplet {self.droplet}"
        return f"group {self.ref.tenant}/{self.ref.name}" if self.group else str(self.ref)


class Entry(Value):
    """Of a map of the function's own: a key and its value (without: zeros), as `mizar function test` has them."""

    key: Any
    value: Any = None


def _once(attached: Sequence[Attachment]) -> None:
    whom: set[str] = set()
    for one in attached:
        if one.text in whom:
            raise ValueError(f"expected each scope once, found {one.text} again")
        whom.add(one.text)


def _stored(info: ValidationInfo) -> bool:
    """Whether it was taken once, by this version or another: then it is there, whatever can be said of it now."""
    return bool((info.context or {}).get("stored"))


class FunctionSpec(Value):
    """`source` or `object`: paths beside the manifest. `stages`: of those that it is made for; none: all.

    `order`: at a stage, functions run in the order of (order, name). `maps`: a map that is listed has these keys and
    no others; a value is written when the key comes, and when it is another one than before. `on_failure`: whether
    packets that it is for are refused, or go on, where it was loaded and cannot be any more.
    """

    source: Annotated[str, Field(min_length=1, max_length=4096)] | None = None
    object: ObjectCode | None = None
    stages: Annotated[tuple[StageName, ...], Field(max_length=len(STAGES))] = ()
    order: Annotated[int, Field(strict=True, ge=-(2**31), le=2**31 - 1)] = 100
    attach: Annotated[tuple[Attachment, ...], Field(max_length=1024)] = ()
    on_failure: Literal["closed", "open"] = "closed"
    parameters: Mapping[str, Any] = {}
    maps: Mapping[str, Annotated[tuple[Entry, ...], Field(max_length=_MOST_ENTRIES)]] = {}

    @model_validator(mode="after")
    def _agree(self, info: ValidationInfo) -> Self:
        if (self.source is None) == (self.object is None):
            raise ValueError("expected one of source and object")
        try:
            _once(self.attach)
        except ValueError as error:
            raise PydanticCustomError("fit", str(error).replace("{", "{{"), {"field": "attach"}) from error
        if self.object is not None and self.object.data is not None and not _stored(info):
            checks = (
                ("object", self._read),
                ("parameters", self._pack),
                ("maps", self._entries),
                ("attach", self._say),
            )
            for field, check in checks:
                try:
                    check()
                except InvalidError as error:
                    raise PydanticCustomError("fit", "{why}", {"field": field, "why": str(error)}) from error
        return self

    @cached_property
    def about(self) -> FunctionObject:
        """What the object says of itself; its bytes must be here."""
        assert self.object is not None
        assert self.object.data is not None
        return read_object(self.object.data)

    @property
    def made_for(self) -> tuple[str, ...]:
        """The stages that it is made for; none where its object is of another version of the platform."""
        try:
            return self.about.stages
        except InvalidError:
            return ()

    @cached_property
    def code(self) -> bytes:
        """The object as droplets get it: with its parameters."""
        assert self.object is not None
        assert self.object.data is not None
        packed = self._pack()
        return elf.with_section(self.object.data, PARAMETERS, packed) if packed is not None else self.object.data

    @cached_property
    def entries(self) -> Mapping[str, tuple[tuple[bytes, bytes], ...]]:
        """What the maps that are listed shall hold."""
        return self._entries()

    def _read(self) -> None:
        made_for = self.about.stages
        for stage in self.stages:
            if stage not in made_for:
                raise InvalidError(f"it is not made for {stage}, but for {', '.join(made_for)}")

    def _say(self) -> None:
        if any(one.value is not None for one in self.attach) and ENDPOINT_VALUES not in self.about.maps:
            raise InvalidError(
                f"function {self.about.name} takes no values: expected MIZAR_ENDPOINT_VALUES in its source"
            )

    def _pack(self) -> bytes | None:
        return parameters_of(self.about, self.parameters) if self.parameters else None

    def _entries(self) -> Mapping[str, tuple[tuple[bytes, bytes], ...]]:
        return {name: entries_of(self.about, name, entries) for name, entries in self.maps.items()}


def parameters_of(function: FunctionObject, values: Mapping[str, Any]) -> bytes:
    """What `.rodata.parameters` of a function holds with these values; the others are as they were compiled."""
    variables = function.types.section(PARAMETERS)
    if len(variables) != 1:
        raise InvalidError(
            f"function {function.name} has no parameters: expected one struct, "
            f'`const volatile struct … SEC("{PARAMETERS}")`'
        )
    return function.types.pack(variables[0].type, values, "parameters", function.parameters)


_LISTED = (1, 2, 9, 11)  # HASH, ARRAY, LRU_HASH, LPM_TRIE
_ARRAY = 2


def entries_of(function: FunctionObject, name: str, entries: Sequence[Entry]) -> tuple[tuple[bytes, bytes], ...]:
    """Keys and values of a map of the function's own, as bytes."""
    shape = function.maps.get(name)
    if shape is None:
        raise InvalidError(f"function {function.name} has no map {name}; it has {', '.join(function.maps) or 'none'}")
    if name == ENDPOINT_VALUES:
        raise InvalidError(f"map {name} is written by the droplet: expected the values beside scopes of attach")
    if shape.kind not in _LISTED:
        raise InvalidError(f"map {name} is of a type whose entries no manifest can list")
    if len(entries) > shape.entries:
        raise InvalidError(f"map {name} has room for {shape.entries} entries, found {len(entries)}")
    found: dict[bytes, bytes] = {}
    for place, entry in enumerate(entries):
        where = f"{name}[{place}]"
        key = function.types.pack(shape.key, entry.key, f"{where}.key")
        if key in found:
            raise InvalidError(f"{where}: its key stands there already")
        if shape.kind == _ARRAY and int.from_bytes(key, "little") >= shape.entries:
            raise InvalidError(f"{where}: map {name} has places 0 to {shape.entries - 1}")
        value = entry.value
        found[key] = (
            bytes(shape.value_size) if value is None else function.types.pack(shape.value, value, f"{where}.value")
        )
    return tuple(found.items())


class Refused(Value):
    """A droplet that has not taken the function, and its words."""

    droplet: str
    reason: str


class FunctionStatus(Status):
    """`digest`: of the object. `droplets`: where it is loaded."""

    digest: str = ""
    stages: tuple[str, ...] = ()
    droplets: tuple[str, ...] = ()
    refused: tuple[Refused, ...] = ()


class Function(Resource):
    """A program of the operator's in the packet's way."""

    scope = Scope.CLUSTER
    kind: Literal["Function"] = "Function"
    spec: FunctionSpec
    status: FunctionStatus = FunctionStatus()

    @model_validator(mode="after")
    def _named_as_its_object(self, info: ValidationInfo) -> Self:
        spec = self.spec
        if spec.object is None or spec.object.data is None or _stored(info):
            return self
        if spec.about.name != self.metadata.name:
            message = f"the object is function {spec.about.name}, and the Function is called {self.metadata.name}"
            raise PydanticCustomError("fit", "{why}", {"field": "metadata", "why": message})
        return self


def with_object(function: Function, code: ObjectCode) -> Function:
    """The same function with its object in hand. Raises pydantic's ValidationError as the manifest would."""
    spec = function.spec.model_dump(by_alias=False, exclude={"source", "object"})
    return Function(metadata=function.metadata, spec=FunctionSpec(object=code, **spec), status=function.status)

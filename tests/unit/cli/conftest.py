# SPDX-License-Identifier: Apache-2.0
"""The command line without a server: its client is replaced, everything else is real."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from mizar.cli import main
from mizar.model.errors import NotFoundError
from mizar.model.resources import Ref, Resource

Objects = list[dict[str, Any]]


@dataclass
class FakeClient:
    """Answers from a list of objects, and remembers what was asked."""

    objects: list[dict[str, Any]] = field(default_factory=list)
    asked: list[tuple[Any, ...]] = field(default_factory=list)
    error: Exception | None = None
    missing: set[str] = field(default_factory=set)
    previewed: dict[str, Any] = field(default_factory=dict)

    def __enter__(self) -> FakeClient:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def _note(self, *words: Any) -> None:
        self.asked.append(words)
        if self.error is not None:
            raise self.error

    def list(self, kind: str, tenant: str | None = None) -> Objects:
        self._note("list", kind, tenant)
        return [i for i in self.objects if i["kind"] == kind and tenant in (None, i["metadata"].get("tenant"))]

    def get(self, kind: str, name: str, tenant: str | None = None) -> dict[str, Any]:
        self._note("get", kind, name, tenant)
        for item in self.list(kind, tenant):
            if item["metadata"]["name"] == name:
                return item
        raise NotFoundError(f"no {kind} {name}")

    def apply(self, resources: Sequence[Resource], dry_run: bool = False) -> Objects:
        self._note("apply", [str(resource.ref) for resource in resources], dry_run)
        return [{"kind": r.kind, "tenant": r.tenant or None, "name": r.name, "change": "created"} for r in resources]

    def preview(self, resources: Sequence[Resource]) -> dict[str, Any]:
        self._note("preview", [str(resource.ref) for resource in resources])
        return self.previewed

    def delete(
        self, kind: str, name: str, tenant: str | None = None, *, cascade: bool = False, force: bool = False
    ) -> dict[str, Any]:
        self._note("delete", kind, name, tenant, cascade, force)
        if name in self.missing:
            raise NotFoundError(f"no {kind} {name}")
        return {"kind": kind, "metadata": {"name": name}}

    def wait(self, refs: Sequence[Ref], timeout_s: float, until: str = "Provisioned") -> Objects:
        self._note("wait", [str(ref) for ref in refs], timeout_s, until)
        return []

    def counters(self, droplet: str) -> dict[str, Any]:
        self._note("counters", droplet)
        return {"endpoints": [], "vpcs": [{"vni": 7, "sentPackets": "12"}], "drops": []}


@dataclass(frozen=True)
class Done:
    """How a run of the command line ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> FakeClient:
    """The client that every command gets."""
    fake = FakeClient()
    for module in ("mizar.cli.connection", "mizar.cli.objects", "mizar.cli.counters", "mizar.cli.diff"):
        monkeypatch.setattr(f"{module}.connect", lambda *_: fake)
    return fake


@pytest.fixture
def mizar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Runs `mizar ARGUMENTS` in this process."""

    def run(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["mizar", *arguments])
        monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # main() sets its own: restore it afterwards
        with pytest.raises(SystemExit) as ended:
            main.main()
        captured = capsys.readouterr()
        code = ended.value.code
        return Done(code if isinstance(code, int) else 0, captured.out, captured.err)

    return run

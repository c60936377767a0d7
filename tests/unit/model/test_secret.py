# SPDX-License-Identifier: Apache-2.0
"""A secret is told to nobody who did not ask for it by name, and outlives being masked."""

from __future__ import annotations

import copy
import json
import logging
from typing import Annotated

import pytest
import yaml
from pydantic import AfterValidator, ValidationError

from mizar.cli.secret_files import with_secrets_read
from mizar.model.errors import InvalidError
from mizar.model.fields import Value
from mizar.model.manifest import Manifests, Origin
from mizar.model.resources import Resource, Scope, dump
from mizar.model.secret import MASK, SecretText, keep_secrets, secrets_of
from mizar.model.validation import sentence

SECRET = "wJalrXUtnFEMI-K7MDENG"


def _long(secret: SecretText) -> SecretText:
    if secret.known and len(secret.reveal()) < 4:
        raise ValueError("expected 4 characters or more")
    return secret


class Peer(Value):
    """An item of a list that has a name."""

    name: str
    key: SecretText


class VaultSpec(Value):
    """Secrets alone, in a list, and one that may be absent."""

    key: Annotated[SecretText, AfterValidator(_long)]
    peers: tuple[Peer, ...] = ()
    spare: SecretText | None = None
    note: str = ""


class Vault(Resource):
    """A kind with secrets."""

    scope = Scope.CLUSTER
    kind: str = "Vault"
    spec: VaultSpec


def vault(key: object = SECRET, **spec: object) -> Vault:
    """One of the name v."""
    return Vault.model_validate({"apiVersion": "mizar/v1", "metadata": {"name": "v"}, "spec": {"key": key, **spec}})


def test_no_way_of_printing_shows_it(caplog: pytest.LogCaptureFixture) -> None:
    """repr, str, format, JSON, YAML, a log line, a copy: all have the mask."""
    one = vault(peers=[{"name": "a", "key": SECRET}], spare=SECRET)
    logging.getLogger("test").warning("object=%s key=%s", one, one.spec.key)
    forms = [
        repr(one), str(one), f"{one.spec.key}", repr(copy.deepcopy(one)), json.dumps(dump(one)), one.model_dump_json(),
        yaml.safe_dump(dump(one)), str(one.model_dump()), repr(list(secrets_of(one))), caplog.text,
    ]  # fmt: skip
    assert all(MASK in form for form in forms)
    assert not any(SECRET in form for form in forms)


@pytest.mark.parametrize("wrong", ["abc", {"file": SECRET, "env": SECRET}, [SECRET], 5, "", {SECRET: 1}, {"env": ""}])
def test_no_error_shows_it(wrong: object) -> None:
    """What is refused is not repeated: it may be a secret in the wrong shape."""
    with pytest.raises(ValidationError) as refused:
        vault(wrong)
    for details in refused.value.errors(include_url=False):
        assert SECRET not in sentence(Vault, details)[1]
        assert "expected" in sentence(Vault, details)[1]


def test_a_secret_in_the_wrong_place_is_not_shown() -> None:
    """Where a mapping with secrets belongs."""
    with pytest.raises(ValidationError) as refused:
        Vault.model_validate({"metadata": {"name": "v"}, "spec": SECRET, "apiVersion": "mizar/v1"})
    assert not any(SECRET in sentence(Vault, one)[1] for one in refused.value.errors(include_url=False))


def test_the_store_and_the_server_get_the_text() -> None:
    """Only who asks for it."""
    one = vault(peers=[{"name": "a", "key": SECRET}])
    found = dump(one, secrets=True)
    assert found["spec"]["key"] == SECRET == found["spec"]["peers"][0]["key"]
    assert Vault.model_validate(found) == one


def test_masked_keeps_the_old_one() -> None:
    """By the names of list items, not by their places."""
    peers = [{"name": "a", "key": "key-of-a"}, {"name": "b", "key": "key-of-b"}]
    old = vault(peers=peers, spare="spare")
    again = vault(MASK, peers=[{"name": "b", "key": MASK}, {"name": "a", "key": "other"}], spare=MASK)
    new, problems = keep_secrets(old, again)
    assert not problems
    assert [(peer.name, peer.key.reveal()) for peer in new.spec.peers] == [("b", "key-of-b"), ("a", "other")]
    assert new.spec.key.reveal() == SECRET
    assert new.spec.spare == SecretText("spare")
    assert keep_secrets(old, Vault.model_validate(dump(old)))[0].spec == old.spec


def test_what_cannot_be_kept_is_told() -> None:
    """A new object has none to keep, and a server reads no files of its clients."""
    _, problems = keep_secrets(None, vault(MASK, spare={"file": "/etc/key"}))
    assert [(one.field, one.message.split(":")[0]) for one in problems] == [
        ("spec.key", "missing"),
        ("spec.spare", "the server reads no file of its client"),
    ]


def test_files_and_variables(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    """A file beside the manifest and a variable, without the end of the line; all that are missing are told."""
    (tmp_path / "key").write_text(SECRET + "\n")
    monkeypatch.setenv("MIZAR_TEST_KEY", "from-the-environment")
    one = vault({"file": "key"}, spare={"env": "MIZAR_TEST_KEY"})
    origins = {str(one.ref): Origin(str(tmp_path / "v.yaml"), {(): 0}, (), 1)}
    (read,) = with_secrets_read(Manifests((one,), origins)).resources
    assert read.spec.key.reveal() == SECRET
    assert read.spec.spare.reveal() == "from-the-environment"
    gone = vault({"file": "none"}, spare={"env": "MIZAR_NOT_SET"})
    with pytest.raises(InvalidError) as refused:
        with_secrets_read(Manifests((gone,), origins))
    assert [one.field for one in refused.value.problems] == ["spec.key", "spec.spare"]

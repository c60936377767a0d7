# SPDX-License-Identifier: Apache-2.0
"""Secrets of manifests from where these say that they are: files, and the environment of the command.

Called by mizar.cli.objects for whatever is read from manifests. Must never print what it reads.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from mizar.model.errors import InvalidError, Problem
from mizar.model.manifest import Manifests
from mizar.model.resources import Resource
from mizar.model.secret import MASK, MOST_CHARACTERS, SecretText, with_secrets
from mizar.model.secret import Path as FieldPath
from mizar.model.validation import path_text


def with_secrets_read(manifests: Manifests) -> Manifests:
    """The manifests with the text of each secret that names a file or a variable. InvalidError: all that fail."""
    problems: list[Problem] = []

    def read(resource: Resource) -> Resource:
        origin = manifests.origins[str(resource.ref)]
        folder = Path(origin.file).parent if origin.file != "stdin" else Path()

        def found(path: FieldPath, secret: SecretText) -> SecretText:
            if secret.source is None:
                return secret
            try:
                return SecretText(_read(secret.source, folder))
            except ValueError as error:
                field = path_text(path)
                problems.append(Problem(str(error), field, str(resource.ref), file=origin.file, line=origin.line(path)))
                return secret

        return with_secrets(resource, found)

    resources = tuple(read(resource) for resource in manifests.resources)
    if problems:
        raise InvalidError(problems)
    return replace(manifests, resources=resources)


def _read(source: tuple[str, str], folder: Path) -> str:
    """The text without the line's end at its end. Raises ValueError with what is wrong, never with what was read."""
    how, where = source
    if how == "env":
        text = os.environ.get(where)
        if text is None:
            raise ValueError(f"the environment has no variable {where}")
    else:
        try:
            with (folder / where).open(encoding="utf-8") as file:
                text = file.read(MOST_CHARACTERS + 1)
        except OSError as error:
            raise ValueError(f"{where} cannot be read: {error.strerror or error}") from error
        except UnicodeDecodeError as error:
            raise ValueError(f"{where} is no text in UTF-8") from error
    text = text.rstrip("\r\n")
    if not text or text == MASK or len(text) > MOST_CHARACTERS:
        raise ValueError(f"expected a secret of 1 to {MOST_CHARACTERS} characters in {where}")
    return text

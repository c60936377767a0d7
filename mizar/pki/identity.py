# SPDX-License-Identifier: Apache-2.0
"""What a certificate says about its holder: role and name, kept in the subject as OU and CN.

Called by the API to learn who is asking, and by mizar.pki.authority to write the same. It must never trust a
certificate: whether it was signed by the right authority is what TLS has checked before.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from cryptography import x509
from cryptography.x509.oid import NameOID

from mizar.model.errors import InvalidError

ORGANISATION = "Mizar"
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,61}[a-z0-9])?")


class Role(StrEnum):
    """What the holder of a certificate is."""

    ADMIN = "admin"
    TENANT = "tenant"
    DAEMON = "daemon"
    SERVER = "server"
    GATEWAY = "gateway"


@dataclass(frozen=True, slots=True)
class Identity:
    """A role and the name of who holds it; of a tenant it is the tenant's name."""

    role: Role
    name: str

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise InvalidError(
                f"the name {self.name!r} cannot go into a certificate: expected lower-case letters, digits, '-' and '.'"
            )

    @property
    def subject(self) -> x509.Name:
        """The subject that says so."""
        return x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, ORGANISATION),
                x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, self.role.value),
                x509.NameAttribute(NameOID.COMMON_NAME, self.name),
            ]
        )


def identity_of(subject: x509.Name) -> Identity:
    """Reads a certificate's subject; InvalidError when it is none that mizar.pki wrote."""
    fields: dict[x509.ObjectIdentifier, list[str]] = {}
    for attribute in subject:
        fields.setdefault(attribute.oid, []).append(str(attribute.value))
    roles, names = fields.get(NameOID.ORGANIZATIONAL_UNIT_NAME, []), fields.get(NameOID.COMMON_NAME, [])
    if fields.get(NameOID.ORGANIZATION_NAME) != [ORGANISATION] or len(roles) != 1 or len(names) != 1:
        raise InvalidError("the certificate's subject names no role and holder of Mizar")
    try:
        return Identity(Role(roles[0]), names[0])
    except ValueError as error:
        raise InvalidError(f"the certificate's role {roles[0]!r} is none of {', '.join(Role)}") from error

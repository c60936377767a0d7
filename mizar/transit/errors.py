# SPDX-License-Identifier: Apache-2.0
"""What a daemon refuses, beyond the errors of the model; and how each becomes a status code of contracts/transit.proto.

Owns the one place where errors meet gRPC. Used by the servicer; raised by the planning of batches and by attachment.
"""

import grpc

from mizar.model.errors import (
    ConflictError,
    ExhaustedError,
    InvalidError,
    MizarError,
    NotFoundError,
    TemporaryError,
)


class InUseError(ConflictError):
    """The object is referred to by another one that must go first."""


class DeniedError(InvalidError):
    """The caller may not call."""


class DamagedError(MizarError):
    """A change failed in the middle and could not be taken back: the tables must be read anew."""


_CODES: tuple[tuple[type[MizarError], grpc.StatusCode], ...] = (
    (DeniedError, grpc.StatusCode.PERMISSION_DENIED),
    (InvalidError, grpc.StatusCode.INVALID_ARGUMENT),
    (InUseError, grpc.StatusCode.FAILED_PRECONDITION),
    (ConflictError, grpc.StatusCode.ALREADY_EXISTS),
    (NotFoundError, grpc.StatusCode.FAILED_PRECONDITION),
    (ExhaustedError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (TemporaryError, grpc.StatusCode.UNAVAILABLE),
)


def status_of(error: MizarError) -> grpc.StatusCode:
    """The status code that tells the caller what to do next."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), grpc.StatusCode.INTERNAL)


def is_permanent(error: MizarError) -> bool:
    """Whether repeating the same request cannot succeed, whatever else changes on the droplet."""
    return isinstance(error, InvalidError)

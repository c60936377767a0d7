# SPDX-License-Identifier: Apache-2.0
"""The certificates of an HTTP load balancer: files that HAProxy's own user reads, and the same in the worker that runs,
changed there without a connection noticing.

Called by `http_balancer`. The files are what the next worker reads, each with chain and key, so that any that it finds
is whole. Blocks. Keys must never be anywhere else, in no log and no error.
"""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from mizar._built import transit_pb2 as pb
from mizar.transit.engines.http_socket import MOST_SENT, ask, command
from mizar.transit.told import own_file, own_folder

Contents = Mapping[str, str]
"""Chain and key by the name of the file. The first in order is for who asks for no name that another is for."""


def contents(http: pb.HttpBalancer) -> Contents:
    """What the files are to be: without empty lines: one ends what is sent to HAProxy, and commands follow."""
    return {
        f"{number:04}-{one.name}.pem": "".join(f"{line}\n" for line in _lines(one.chain, one.key))
        for number, one in enumerate(http.certificates)
    }


def _lines(*texts: str) -> Iterator[str]:
    for text in texts:
        yield from (line.rstrip() for line in text.splitlines() if line.strip())


def digests(wanted: Contents) -> dict[str, str]:
    """What they are, in words that tell nothing of a key."""
    return {name: hashlib.sha256(content.encode()).hexdigest() for name, content in wanted.items()}


def write(folder: Path, wanted: Contents, user: int) -> None:
    """A folder of just these, for a trial."""
    shutil.rmtree(folder, ignore_errors=True)
    own_folder(folder, 0o750, group=user)
    for name, content in wanted.items():
        own_file(folder / name, content, user)


def settle(folder: Path, fresh: Path, user: int) -> None:
    """What was tried is what the next worker reads: new files are there before old ones go."""
    own_folder(folder, 0o750, group=user)
    names = {one.name for one in fresh.iterdir()}
    for name in sorted(names):
        (fresh / name).replace(folder / name)
    for old in folder.iterdir():
        if old.name not in names:
            old.unlink()
    fresh.rmdir()


def put(path: Path, folder: Path, wanted: Contents, loaded: Mapping[str, str], *, listens: bool) -> bool:
    """Has the worker behind the socket serve by them, where `loaded` are those that it has read; False: it has to read
    its configuration. `listens`: whether it has read any, for a listener."""
    now = digests(wanted)
    if now == loaded or not listens:
        return True
    changed = [name for name in wanted if name in loaded and loaded[name] != now[name]]
    added = [name for name in wanted if name not in loaded]
    gone = [name for name in loaded if name not in wanted]
    leaves = {name: x509.load_pem_x509_certificate(content.encode()) for name, content in wanted.items()}
    if not loaded or min(wanted, default="") != min(loaded) or _share_a_name(leaves.values()):
        return False
    if any(len(wanted[name]) > MOST_SENT for name in (*changed, *added)):
        return False
    before = _fingerprints(path, folder, changed)
    prints = {name: _fingerprint(leaves[name]) for name in (*changed, *added)}
    if any(before.get(name) == prints[name] for name in changed):  # its chain alone: nobody can see whether it is taken
        return False
    for name in added:
        ask(path, f"new ssl cert {folder / name}")
    for name in (*added, *changed):
        ask(path, f"set ssl cert {folder / name} <<\n{wanted[name]}\n")
        ask(path, f"commit ssl cert {folder / name}")
    command(path, (f"add ssl crt-list {folder} {folder / name}" for name in added))
    command(path, (one for name in gone for one in _deleted(folder, name)))
    return _listed(path, folder) == set(wanted) and _fingerprints(path, folder, prints) == prints


def _deleted(folder: Path, name: str) -> Iterator[str]:
    yield f"del ssl crt-list {folder} {folder / name}"
    yield f"del ssl cert {folder / name}"


def _share_a_name(leaves: Iterable[x509.Certificate]) -> bool:
    """Whether two are for one host: which of them a client gets is decided by the order in which they were read."""
    names = Counter(name for leaf in leaves for name in _names(leaf))
    return any(count > 1 for count in names.values())


def _names(leaf: x509.Certificate) -> set[str]:
    found = {str(one.value).lower() for one in leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME)}
    try:
        alternative = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return found
    return found | {name.lower() for name in alternative.get_values_for_type(x509.DNSName)}


def _fingerprint(leaf: x509.Certificate) -> str:
    return hashlib.sha1(leaf.public_bytes(Encoding.DER), usedforsecurity=False).hexdigest()


def _fingerprints(path: Path, folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Of the certificates that are served, without those that lie behind them."""
    found = {}
    for name in names:
        for line in ask(path, f"show ssl cert {folder / name}").splitlines():
            if line.startswith("SHA1 FingerPrint:"):
                found[name] = line.partition(":")[2].strip().lower()
    return found


def _listed(path: Path, folder: Path) -> set[str]:
    lines = ask(path, f"show ssl crt-list -n {folder}").splitlines()
    return {Path(line.rpartition(":")[0]).name for line in lines if line.startswith("/")}

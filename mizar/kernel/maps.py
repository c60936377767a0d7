# SPDX-License-Identifier: Apache-2.0
"""Reading and writing one bpf map: single entries, batches, per-CPU sums.

Owns the calls and what their errors mean; which map holds what is told by tables.py. Called by the daemon and by
tests through Tables. It must never cache: the maps are the state. A table does not own its file descriptor.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Generic, Literal, TypeVar

from mizar.kernel import libbpf
from mizar.kernel.layout import U32, Codec, Fields
from mizar.kernel.libbpf import ENOTSUPP, ffi, lib
from mizar.model.errors import ExhaustedError, InvalidError

K = TypeVar("K")
V = TypeVar("V")

_BATCH = 4096  # entries per system call
_NO_BATCH = (ENOTSUPP, errno.EOPNOTSUPP, errno.EINVAL)
_UPDATE_FLAGS = {"any": 0, "new": 1, "existing": 2}  # BPF_ANY, BPF_NOEXIST, BPF_EXIST


class MapView(Generic[K, V]):
    """What plain and per-CPU maps have in common. K and V are int or Fields, as the codecs say."""

    def __init__(self, name: str, fd: int, key: Codec[K], value: Codec[V]) -> None:
        """Raises InvalidError when the map's sizes are not those of the codecs."""
        self.name, self.fd, self._key, self._value = name, fd, key, value
        info = libbpf.info("map", fd)
        self.max_entries: int = info.max_entries
        if (info.key_size, info.value_size) != (key.size, value.size):
            raise InvalidError(
                f"map {name} has keys of {info.key_size} and values of {info.value_size} bytes, "
                f"but {key.name} has {key.size} and {value.name} {value.size}"
            )

    def _raw_get(self, key: K, value_size: int) -> bytes | None:
        out = ffi.new("char[]", value_size)
        result = lib().bpf_map_lookup_elem(self.fd, self._key.pack(key), out)
        if result == -errno.ENOENT:
            return None
        libbpf.check(result, f"read {self.name}[{key}]")
        return bytes(ffi.buffer(out))

    def _raw_items(self, value_size: int) -> Iterator[tuple[bytes, bytes]]:
        room = _BATCH
        key_size = self._key.size
        cursor = ffi.NULL
        while True:
            following = ffi.new("char[]", max(key_size, 8))
            keys, values = ffi.new("char[]", room * key_size), ffi.new("char[]", room * value_size)
            count = ffi.new("uint32_t *", room)
            result = lib().bpf_map_lookup_batch(self.fd, cursor, following, keys, values, count, _batch_opts())
            if result == -errno.ENOSPC:  # a hash bucket holds more than there is room for
                room *= 2
                continue
            if cursor == ffi.NULL and -result in _NO_BATCH:
                yield from self._raw_items_singly(value_size)
                return
            if result not in (0, -errno.ENOENT):
                libbpf.check(result, f"read the entries of {self.name}")
            key_bytes, value_bytes = ffi.buffer(keys), ffi.buffer(values)
            for i in range(count[0]):
                yield (
                    key_bytes[i * key_size : (i + 1) * key_size],
                    value_bytes[i * value_size : (i + 1) * value_size],
                )
            if result:  # ENOENT: that was the last batch
                return
            cursor = following

    def _raw_items_singly(self, value_size: int) -> Iterator[tuple[bytes, bytes]]:
        key, following, value = ffi.NULL, ffi.new("char[]", self._key.size), ffi.new("char[]", value_size)
        while lib().bpf_map_get_next_key(self.fd, key, following) == 0:
            if lib().bpf_map_lookup_elem(self.fd, following, value) == 0:
                yield ffi.buffer(following)[:], ffi.buffer(value)[:]
            key, following = following, ffi.new("char[]", self._key.size)


class Table(MapView[K, V]):
    """One plain map."""

    def get(self, key: K) -> V | None:
        """The value of `key`, None when it is not there."""
        data = self._raw_get(key, self._value.size)
        return None if data is None else self._value.unpack(data)

    def put(self, key: K, value: V, *, only: Literal["any", "new", "existing"] = "any") -> None:
        """Writes one entry, atomically for readers. `only="new"` raises ConflictError when the key is there already,
        `only="existing"` NotFoundError when it is not. ExhaustedError when the table is full."""
        data = self._value.pack(value)
        result = lib().bpf_map_update_elem(self.fd, self._key.pack(key), data, _UPDATE_FLAGS[only])
        self._check_write(result, f"write {self.name}[{key}]")

    def delete(self, key: K) -> bool:
        """Removes one entry; False when it was not there. An array has nothing to remove: InvalidError."""
        result = lib().bpf_map_delete_elem(self.fd, self._key.pack(key))
        if result == -errno.ENOENT:
            return False
        libbpf.check(result, f"delete {self.name}[{key}]")
        return True

    def items(self) -> Iterator[tuple[K, V]]:
        """Every entry, an array's empty places included. Entries that come or go meanwhile may be missed or seen."""
        for key, value in self._raw_items(self._value.size):
            yield self._key.unpack(key), self._value.unpack(value)

    def used(self) -> Iterator[tuple[K, V]]:
        """The places of an array that hold anything but zeros; as items()."""
        zeros = bytes(self._value.size)
        for key, value in self._raw_items(self._value.size):
            if value != zeros:
                yield self._key.unpack(key), self._value.unpack(value)

    def put_many(self, entries: Iterable[tuple[K, V]]) -> int:
        """Writes entries in batches; returns how many. After an error any of them may have been written."""
        rest = iter(entries)
        written = 0
        while chunk := list(islice(rest, _BATCH)):
            keys = b"".join(self._key.pack(key) for key, _ in chunk)
            values = b"".join(self._value.pack(value) for _, value in chunk)
            count = ffi.new("uint32_t *", len(chunk))
            result = lib().bpf_map_update_batch(self.fd, keys, values, count, _batch_opts())
            if -result in _NO_BATCH:
                for key, value in chunk:
                    self.put(key, value)
            else:
                self._check_write(result, f"write {len(chunk)} entries of {self.name}")
            written += len(chunk)
        return written

    def delete_many(self, keys: Iterable[K]) -> int:
        """Removes the entries of `keys`; those that are not there are skipped. Returns how many were there."""
        return self._delete_packed([self._key.pack(key) for key in keys])

    def _delete_packed(self, packed: Sequence[bytes]) -> int:
        deleted = start = 0
        while start < len(packed):
            chunk = packed[start : start + _BATCH]
            count = ffi.new("uint32_t *", len(chunk))
            result = lib().bpf_map_delete_batch(self.fd, b"".join(chunk), count, _batch_opts())
            if -result in _NO_BATCH:
                return deleted + sum(self.delete(self._key.unpack(key)) for key in packed[start:])
            if result not in (0, -errno.ENOENT):
                libbpf.check(result, f"delete entries of {self.name}")
            deleted += count[0]
            start += count[0] + (1 if result else 0)  # it stopped at one that was not there
        return deleted

    def raw_items(self) -> Iterator[tuple[bytes, bytes]]:
        """Every entry as bytes, for who reads a large table often; as items()."""
        return self._raw_items(self._value.size)

    def put_raw(self, entries: Sequence[tuple[bytes, bytes]]) -> None:
        """As put_many(), of keys and values as bytes."""
        for start in range(0, len(entries), _BATCH):
            chunk = entries[start : start + _BATCH]
            keys, values = b"".join(key for key, _ in chunk), b"".join(value for _, value in chunk)
            count = ffi.new("uint32_t *", len(chunk))
            result = lib().bpf_map_update_batch(self.fd, keys, values, count, _batch_opts())
            if -result in _NO_BATCH:
                for key, value in chunk:
                    self._check_write(lib().bpf_map_update_elem(self.fd, key, value, 0), f"write {self.name}")
            else:
                self._check_write(result, f"write {len(chunk)} entries of {self.name}")

    def delete_raw(self, keys: Iterable[bytes]) -> int:
        """As delete_many(), of keys that raw_items() gave."""
        return self._delete_packed(list(keys))

    def _check_write(self, result: int, what: str) -> None:
        if -result in (errno.E2BIG, errno.ENOSPC):  # ENOSPC is how a trie says that it is full
            raise ExhaustedError(f"{what}: the table is full ({self.max_entries} entries)")
        libbpf.check(result, what)


class CounterTable(MapView[int, Fields]):
    """A PERCPU_ARRAY of a struct that consists of uint64_t only; read as the sum over CPUs."""

    def __init__(self, name: str, fd: int, value: Codec[Fields]) -> None:
        super().__init__(name, fd, U32, value)
        self._cpus = libbpf.possible_cpus()
        self._numbers = value.size // 8
        self._form = struct.Struct(f"={self._numbers * self._cpus}Q")

    def get(self, key: int) -> Fields | None:
        """The sums of one slot; None when the array has no such slot."""
        data = self._raw_get(key, self._form.size)
        return None if data is None else self._sum(data)

    def items(self) -> Iterator[tuple[int, Fields]]:
        """Slots that have counted anything."""
        zero = bytes(self._form.size)
        for key, value in self._raw_items(self._form.size):
            if value != zero:
                yield U32.unpack(key), self._sum(value)

    def zero(self, slots: Iterable[int]) -> None:
        """Starts slots from zero again, before they get a new owner."""
        for slot in slots:
            result = lib().bpf_map_update_elem(self.fd, U32.pack(slot), bytes(self._form.size), 0)
            libbpf.check(result, f"zero {self.name}[{slot}]")

    def _sum(self, data: bytes) -> Fields:
        numbers = self._form.unpack(data)
        sums = [sum(numbers[at :: self._numbers]) & 0xFFFF_FFFF_FFFF_FFFF for at in range(self._numbers)]
        return self._value.unpack(struct.pack(f"={self._numbers}Q", *sums))


class PerCpuTable(MapView[int, Fields]):
    """A PERCPU_ARRAY of any struct, read as it is on each CPU."""

    def __init__(self, name: str, fd: int, value: Codec[Fields]) -> None:
        super().__init__(name, fd, U32, value)
        self._cpus = libbpf.possible_cpus()
        self._stride = (value.size + 7) // 8 * 8  # as the kernel lays the CPUs' values out

    def items(self) -> Iterator[tuple[int, list[Fields]]]:
        """Slots in which any CPU has anything, with one value for each CPU."""
        zero, size = bytes(self._stride * self._cpus), self._value.size
        for key, data in self._raw_items(len(zero)):
            if data != zero:
                places = range(0, len(data), self._stride)
                yield U32.unpack(key), [self._value.unpack(data[at : at + size]) for at in places]


def _batch_opts() -> Any:
    return ffi.new("struct batch_opts *", {"sz": ffi.sizeof("struct batch_opts")})

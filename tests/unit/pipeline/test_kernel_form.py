# SPDX-License-Identifier: Apache-2.0
"""The `kernel:` section: read, written back, refused with line and rule."""

from __future__ import annotations

import pytest

from mizar.model.errors import InvalidError
from mizar.pipeline.reader import read_pipeline
from mizar.pipeline.writer import write_pipeline

TEXT = """pipeline: small
tunnels:
  fabric:
    source: 192.0.2.1
    destination: 192.0.2.2
    source_mac: "02:00:00:00:02:01"
    destination_mac: "02:00:00:00:02:02"
kernel:
  namespace: gw-nat
  mtu: 1400
  ports:
    - meta: 0x01000005
      to: fabric
      mac: "02:00:5e:00:53:01"
      addresses: [10.0.0.1/24, "fd00:10::1/64"]
      routes: [{to: 10.0.0.0/8, via: 10.0.0.254}, {to: "fd00:20::/64"}]
groups:
  - name: All
    steps: [stop]
"""


def test_it_is_read_back_as_it_was_written() -> None:
    read = read_pipeline(TEXT, "gw.yaml")
    assert read.kernel is not None
    port = read.kernel.ports[0]
    assert (port.vni, read.kernel.mtu, str(port.addresses[1])) == (5, 1400, "fd00:10::1/64")
    assert read_pipeline(write_pipeline(read), "again.yaml") == read


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[10.0.0.1/24,", "[10.0.0.1,", "expected an address with its prefix length"),
        ("via: 10.0.0.254", 'via: "fd00::1"', "expected an address of the family"),
        ("0x01000005", "0x01000000", "whose low 24 are not 0"),
        ("mtu: 1400", "mtu: 100", "expected 1280 to 65535"),
        ("namespace: gw-nat", "namespace: a/b", "expected a name of letters"),
        ('mac: "02:00:5e', 'mac: "03:00:5e', "station"),
    ],
)
def test_mistakes_are_told_with_their_line(old: str, new: str, message: str) -> None:
    with pytest.raises(InvalidError, match=message) as refused:
        read_pipeline(TEXT.replace(old, new), "gw.yaml")
    assert str(refused.value).startswith("gw.yaml:")

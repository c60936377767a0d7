# SPDX-License-Identifier: Apache-2.0
"""The oracle: the way of a packet in plain Python, bytes to bytes. docs/oracle.md tells how it is read and used.

Written from contracts/wire.md and contracts/drop_reasons.toml with the names and the order of docs/way-of-a-packet.md;
shares no code with the data plane, so that a mistake would have to be made twice. Pure: no kernel, no clock, no I/O.
"""

# SPDX-License-Identifier: Apache-2.0
"""Explains a packet's way: what live tables predict, and what the data plane reports. Pure: it asks through a protocol.

Called by the manager, which can reach the daemons, and by the command line, which draws. It must never touch a kernel.
"""

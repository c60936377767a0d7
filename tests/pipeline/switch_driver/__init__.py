# SPDX-License-Identifier: Apache-2.0
"""An emulated switch driver for DPDK: C that is built against Debian's dpdk when the tests want it. See switch.h."""

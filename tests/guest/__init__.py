# SPDX-License-Identifier: Apache-2.0
"""Virtual machines for tests: a real kernel in QEMU, by software emulation. Slow, and therefore few."""

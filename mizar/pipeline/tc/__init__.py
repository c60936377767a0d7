# SPDX-License-Identifier: Apache-2.0
"""A pipeline as filters and actions of the kernel's traffic control (tc), on the devices that they need."""

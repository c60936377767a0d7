# SPDX-License-Identifier: Apache-2.0
"""The oracle against the programs in the kernel, against frames written by hand, and as a whole fleet."""

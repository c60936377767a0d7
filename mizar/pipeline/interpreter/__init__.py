# SPDX-License-Identifier: Apache-2.0
"""A pipeline in plain Python: bytes in, verdict, bytes out and counters. What every other target is compared with."""

# SPDX-License-Identifier: Apache-2.0
"""Frames in, frames out: the compiled programs run by the kernel on real maps, without an interface."""

# SPDX-License-Identifier: Apache-2.0
"""Desired state, durable: which objects exist, what was allocated to them, and where roles were placed.

`protocol` says what a store is, `sqlite` is the embedded one. Called by mizar.manager alone.
"""

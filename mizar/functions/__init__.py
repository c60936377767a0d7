# SPDX-License-Identifier: Apache-2.0
"""Network functions: what their developers work with, and the base of those in user space (docs/functions.md)."""

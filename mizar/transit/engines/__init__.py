# SPDX-License-Identifier: Apache-2.0
"""Functions that the daemon runs behind endpoints of its own: processes in their namespaces, and what they are told."""

# SPDX-License-Identifier: Apache-2.0
"""What developers of network functions work with."""

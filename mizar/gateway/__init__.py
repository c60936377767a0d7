# SPDX-License-Identifier: Apache-2.0
"""A running gateway: its data plane's tables, its slow paths, its process. docs/gateway.md is the way in."""

# SPDX-License-Identifier: Apache-2.0
"""Mizar: virtual networks for many tenants over any set of Linux hosts, in eBPF."""

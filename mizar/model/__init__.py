# SPDX-License-Identifier: Apache-2.0
"""The values that Mizar's rooms exchange: resources, addresses, errors, drop reasons. No I/O but reading contracts."""

# SPDX-License-Identifier: Apache-2.0
"""What a change would do, before it is made."""

# SPDX-License-Identifier: Apache-2.0
"""The figures, one module for each group of them."""

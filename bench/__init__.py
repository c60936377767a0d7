# SPDX-License-Identifier: Apache-2.0
"""What Mizar costs, measured: `./run bench`."""

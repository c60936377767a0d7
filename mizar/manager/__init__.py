# SPDX-License-Identifier: Apache-2.0
"""The management plane's core: takes changes whole, keeps them, and brings every droplet to what is desired.

`manager` is the surface for mizar.api; `registry` holds what is known, `intake` and `deletion` decide changes, `fleet`
and `droplet_link` carry them to the daemons and bring back what they acknowledged.
"""

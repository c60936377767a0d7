# SPDX-License-Identifier: Apache-2.0
"""A pipeline as rte_flow rules of DPDK 22.11, for the embedded switch of a NIC: as testpmd's commands and as JSON."""

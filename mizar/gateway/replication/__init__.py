# SPDX-License-Identifier: Apache-2.0
"""Two gateways tell one another of their connections (contracts/replication.md): each can go on for the other."""

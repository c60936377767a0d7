# SPDX-License-Identifier: Apache-2.0
"""Hosts on one machine: a substrate, droplets as network namespaces with real daemons, a server, and real traffic.

Called by mizar.cli and by tests. Nothing in the daemon or the server knows that it is in a lab.
"""

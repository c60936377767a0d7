# SPDX-License-Identifier: Apache-2.0
"""The transit daemon: the process per host that owns one droplet's programs, tables and endpoints.

It is told what to hold by the management plane over gRPC (contracts/transit.proto) and touches the machine through
`mizar.kernel` alone. It never decides who bounces or divides; it derives its own roles from its own address.
"""

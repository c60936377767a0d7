# SPDX-License-Identifier: Apache-2.0
"""Answers for workloads that configure themselves: DHCPv4, router solicitations, DHCPv6.

`answering` takes what the agents trap and sends what `dhcp4`, `dhcp6` and `router` make of it. What an endpoint sent
is hostile input: a parser reads it or raises BadRequestError, and nothing else. No answer depends on an earlier one.
"""

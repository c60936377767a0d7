# SPDX-License-Identifier: Apache-2.0
"""A pipeline as an XDP program: C text around the hand-written steps of dataplane/gateway. Pure; compiles nothing."""

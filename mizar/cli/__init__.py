# SPDX-License-Identifier: Apache-2.0
"""The command line `mizar`: parse, call, print, exit code. Nothing is decided here."""

# SPDX-License-Identifier: Apache-2.0
"""Pure decisions of the management plane: which addresses and numbers, which members, and who is told what, when."""

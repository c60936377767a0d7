# SPDX-License-Identifier: Apache-2.0
"""Who may speak to whom: one certificate authority and the certificates that it issues.

`authority` makes keys and certificates; `identity` reads role and tenant back from a peer's certificate. Called by
mizar.cli (`mizar pki`), mizar.api and mizar.manager. A private key is never printed, logged or sent.
"""

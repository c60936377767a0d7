# SPDX-License-Identifier: Apache-2.0
"""The REST API: `app` answers, `serve` listens, `client` asks. The only way in for people and programs."""

# SPDX-License-Identifier: Apache-2.0
"""What Prometheus reads of a daemon and of a server: how it is served and kept small. What is told: the two processes'
own modules (mizar.transit.metrics, mizar.manager.metrics)."""

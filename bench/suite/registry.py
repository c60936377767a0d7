# SPDX-License-Identifier: Apache-2.0
"""All figures, in the order in which they are run and told."""

from __future__ import annotations

from bench.suite.figures import (
    control,
    daemon,
    ddos,
    end_to_end,
    first_packet,
    flows,
    gateway_steps,
    gateways,
    http,
    limits,
    live,
    memory,
    operations,
    policies,
    programs,
    scale,
    sizes,
)

FIGURES = (
    *programs.FIGURES,
    *flows.FIGURES,
    *live.FIGURES,
    *sizes.FIGURES,
    *policies.FIGURES,
    *gateways.FIGURES,
    *gateway_steps.FIGURES,
    *http.FIGURES,
    *limits.FIGURES,
    *memory.FIGURES,
    *end_to_end.FIGURES,
    *first_packet.FIGURES,
    *operations.FIGURES,
    *control.FIGURES,
    *daemon.FIGURES,
    *scale.FIGURES,
    *ddos.FIGURES,
)

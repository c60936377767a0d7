/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns the two questions that a pipeline has about connections; seen.h says what they want and what they answer.
 */
#ifndef MIZAR_GATEWAY_CONNECTION_H
#define MIZAR_GATEWAY_CONNECTION_H
#include "seen.h"

static __always_inline __must_check enum connection_state connection_look(struct xdp_md *ctx, struct gateway_packet *p,
									  struct connection_seen *seen);
static __always_inline __must_check enum gateway_reason connection_nat(struct xdp_md *ctx, struct gateway_packet *p,
								       struct connection_seen *seen, const bool allocate);
#endif

/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Owns the hash of places and ports: the finalizer of MurmurHash3 (64 bit); every bit of the input moves every bit of the result. */
#ifndef MIZAR_GATEWAY_MIX_H
#define MIZAR_GATEWAY_MIX_H
#include <stdint.h>

static inline __attribute__((always_inline)) uint64_t gateway_mix(uint64_t value)
{
	value ^= value >> 33;
	value *= 0xff51afd7ed558ccdULL;
	value ^= value >> 33;
	value *= 0xc4ceb9fe1a85ec53ULL;
	return value ^ value >> 33;
}
#endif

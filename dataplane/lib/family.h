/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns which families of addresses this droplet speaks on the substrate, and its own addresses in them. All of it is
 * configuration, so the verifier cuts out what a droplet with one family never needs. New code asks here and assumes
 * neither family; droplets are compared by slot, because one may have two addresses.
 */
#ifndef MIZAR_FAMILY_H
#define MIZAR_FAMILY_H
#include "packet.h"

static __always_inline bool speaks_ipv4(void)
{
	return config.families & SUBSTRATE_IPV4;
}

static __always_inline bool speaks_ipv6(void)
{
	return config.families & SUBSTRATE_IPV6;
}

/* Whether a substrate address, one of a family that this droplet speaks, is IPv6. */
static __always_inline bool is_ipv6(const void *address)
{
	return speaks_ipv6() && (!speaks_ipv4() || !is_mapped(address));
}

static __always_inline uint32_t own_ipv4_be(void)
{
	return *(const volatile word32 *)&config.addr4[12];
}

static __always_inline void own_ipv6(void *to)
{
	for (int i = 0; i < 4; i++)
		((word32 *)to)[i] = ((const volatile word32 *)config.addr6)[i];
}

static __always_inline bool is_own_ipv6(const void *address)
{
	const word32 *words = address;
	const volatile word32 *own = (const volatile word32 *)config.addr6;

	return words[3] == own[3] && words[2] == own[2] && words[1] == own[1] && words[0] == own[0];
}

/* Whether a droplet's address in the tables is this droplet's. */
static __always_inline bool is_own_address(const void *address)
{
	return is_ipv6(address) ? is_own_ipv6(address) : address_ipv4_be(address) == own_ipv4_be();
}

/* How much stands around an inner frame, without Geneve options. */
static __always_inline uint32_t overhead_bytes(bool ipv6)
{
	return ipv6 ? OVERHEAD_IPV6 : OVERHEAD_IPV4;
}
#endif

/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns nothing but the proof that the compiler lays contracts/gateway.h out as Python's cffi does, and that connections stay as
 * small as they were made to be.
 */
#ifndef MIZAR_GATEWAY_LAYOUT_H
#define MIZAR_GATEWAY_LAYOUT_H
#include <stddef.h>
#include "gateway.h"

/* One line of the cache has an entry of IPv4, two have one of IPv6, of which a hit reads the first's key and the second's value.
 * An element of a hash map is 48 bytes, key and value: 112 for IPv4; from the allocator 128, with 8 of its own. */
_Static_assert(sizeof(struct connection4_key) == 20, "connection4_key");
_Static_assert(sizeof(struct connection4) == 40, "connection4");
_Static_assert(sizeof(struct connection6_key) == 48, "connection6_key");
_Static_assert(sizeof(struct connection6) == 64, "connection6");
_Static_assert(sizeof(struct connection_places) == 104, "connection_places");
_Static_assert(sizeof(struct connection4_line) == 64, "connection4_line");
_Static_assert(sizeof(struct connection6_line) == 128, "connection6_line");
_Static_assert(sizeof(struct nat_settings) == 32, "nat_settings");
_Static_assert(sizeof(struct nat_source_key) == 28, "nat_source_key");
_Static_assert(sizeof(struct nat_source) == 24, "nat_source");
_Static_assert(sizeof(struct nat_pool) == 20, "nat_pool");
_Static_assert(sizeof(struct nat_address) == 16, "nat_address");
_Static_assert(sizeof(struct nat_end_key) == 28, "nat_end_key");
_Static_assert(sizeof(struct nat_end) == 24, "nat_end");
_Static_assert(sizeof(struct nat_mapping_key) == 40, "nat_mapping_key");
_Static_assert(sizeof(struct nat_mapping) == 28, "nat_mapping");
_Static_assert(sizeof(struct nat_tenant) == 40, "nat_tenant");
_Static_assert(sizeof(struct fragment_note) == 52, "fragment_note");
_Static_assert(sizeof(struct gateway_order) == 8 + 2 * (48 + 64), "gateway_order");
_Static_assert(sizeof(struct gateway_event) == 104, "gateway_event");
_Static_assert(sizeof(struct gateway_sweep_order) == 48, "gateway_sweep_order");
_Static_assert(sizeof(struct gateway_swept) == 16 + 48 + 64, "gateway_swept");

_Static_assert(offsetof(struct connection4_line, value) == 24 && offsetof(struct connection4_line, state) == 20 &&
		       offsetof(struct connection4_key, protocol) == 16,
	       "lines.h: a line's key is connection4_key");
_Static_assert(offsetof(struct connection6_line, value) == 64 && offsetof(struct connection6_line, state) == 56 &&
		       offsetof(struct connection6_key, protocol) == 40,
	       "lines.h: a line's key is connection6_key");
_Static_assert(offsetof(struct connection6_key, src) % 4 == 0, "read as 32-bit words");
_Static_assert(offsetof(struct connection4, tenant) == 20 && offsetof(struct connection6, tenant) == 44, "connection.h");
#endif

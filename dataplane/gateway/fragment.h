/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns the notes of first fragments: the ports that their later ones lack (RFC 4787 REQ-14; out of order ones are refused). A note
 * is written over by the next that finds the same place; what another tenant sends goes to another share.
 */
#ifndef MIZAR_GATEWAY_FRAGMENT_H
#define MIZAR_GATEWAY_FRAGMENT_H
#include "tables.h"

static __always_inline void fragment_key(struct fragment_note *note, const struct connection_seen *seen)
{
	__builtin_memset(note, 0, sizeof(*note));
	note->meta = seen->key4.meta;
	note->id = seen->datagram;
	note->version = seen->family;
	if (seen->family == 6) {
		note->protocol = seen->key6.protocol;
		copy16(note->src, seen->key6.src);
		copy16(note->dst, seen->key6.dst);
		return;
	}
	note->protocol = seen->key4.protocol;
	map_ipv4(note->src, seen->key4.src_be);
	map_ipv4(note->dst, seen->key4.dst_be);
}

/* By keys that nobody outside knows, those of lines: a multilinear hash, so that nobody can look for datagrams whose notes collide with
 * another's (docs/decisions/lines.md). */
static __always_inline struct fragment_note *fragment_place(const struct fragment_note *note)
{
	const wire32 *src = (const wire32 *)note->src, *dst = (const wire32 *)note->dst;
	const struct connection_places *places = connection_places_of();
	const uint64_t *keys;
	uint64_t sum, share;
	uint32_t place;

	if (!places)
		return NULL;
	keys = places->keys;
	share = keys[0] + keys[1] * note->meta;
	sum = keys[2] + keys[3] * src[0] + keys[4] * src[1] + keys[5] * src[2] + keys[6] * src[3] + keys[7] * dst[0] +
	      keys[8] * dst[1] + keys[9] * dst[2] + keys[10] * dst[3] + keys[11] * note->id + keys[1] * note->protocol;
	place = (share >> 32) % FRAGMENT_SHARES * FRAGMENT_PLACES + (sum >> 32) % FRAGMENT_PLACES;
	return bpf_map_lookup_elem(&fragments, &place);
}

/* The flow of a first fragment. */
__noinline int note_fragment(const struct connection_seen *seen, uint32_t now)
{
	struct fragment_note key, *note;

	if (!seen)
		return 0;
	fragment_key(&key, seen);
	note = fragment_place(&key);
	if (!note)
		return 0;
	key.src_port_be = seen->family == 6 ? seen->key6.src_port_be : seen->key4.src_port_be;
	key.dst_port_be = seen->family == 6 ? seen->key6.dst_port_be : seen->key4.dst_port_be;
	note->protocol = 0;	/* a reader on another CPU finds no half of it */
	asm volatile("" ::: "memory");
	*note = (struct fragment_note){
		.meta = key.meta,
		.id = key.id,
		.version = key.version,
		.src_port_be = key.src_port_be,
		.dst_port_be = key.dst_port_be,
		.stamp = now,
	};
	copy16(note->src, key.src);
	copy16(note->dst, key.dst);
	asm volatile("" ::: "memory");
	note->protocol = key.protocol;
	return 0;
}

/* Fills in the ports. */
__noinline bool find_fragment(struct connection_seen *seen, uint32_t now)
{
	const struct nat_settings *set = settings();
	struct fragment_note key, *note;

	if (!seen)
		return false;
	fragment_key(&key, seen);
	note = fragment_place(&key);
	if (!note || !set || (int32_t)(now - note->stamp) > (int32_t)set->fragment || note->meta != key.meta ||
	    note->id != key.id || note->protocol != key.protocol ||
	    note->version != key.version || !same16(note->src, key.src) || !same16(note->dst, key.dst))
		return false;
	if (seen->family == 6) {
		seen->key6.src_port_be = note->src_port_be;
		seen->key6.dst_port_be = note->dst_port_be;
	} else {
		seen->key4.src_port_be = note->src_port_be;
		seen->key4.dst_port_be = note->dst_port_be;
	}
	return true;
}
#endif

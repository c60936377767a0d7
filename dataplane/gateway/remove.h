/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns how a connection goes that has outlived its time-out. Of several that want to remove it, one does: who marks its
 * ORIGINAL entry (or the only one that is left) as GONE. Only then are keys deleted, so that no CPU deletes
 * what another has meanwhile put there. Called where such an entry stands in the way of a new one, and by the sweep.
 */
#ifndef MIZAR_GATEWAY_REMOVE_H
#define MIZAR_GATEWAY_REMOVE_H
#include "life.h"
#include "leave_tenant.h"

/* Whether this connection may be removed, and nobody but the caller does. */
static __always_inline bool claim(struct connection_tail *tail, struct connection_tail *twin, uint8_t protocol, uint32_t now)
{
	const struct nat_settings *set = settings();
	struct connection_tail *original = twin && !(tail->flags & CONNECTION_ORIGINAL) ? twin : tail;
	uint32_t ticks;

	if (!set)
		return false;
	ticks = time_out(set, protocol, tail->flags);
	if (is_fresh(tail->stamp, now, ticks) || (twin && is_fresh(twin->stamp, now, ticks)))
		return false;
	return !(__sync_fetch_and_or(flags_word(original), (uint32_t)CONNECTION_GONE << 16) >> 16 & CONNECTION_GONE);
}

/* True: nothing stands under this key any more. `other`: room for the other direction's key. */
__noinline bool remove_outlived4(const struct connection4_key *key, struct connection4_key *other, uint32_t now)
{
	struct connection4 *entry, *twin;

	if (!key || !other)
		return false;
	entry = find4(key);
	if (!entry)
		return true;
	twin4_key(other, entry, key->protocol);
	twin = find4(other);
	if (!claim(tail4(entry), twin ? tail4(twin) : NULL, key->protocol, now))
		return false;
	leave_tenant(entry->tenant);
	if (entry->flags & CONNECTION_ORIGINAL) {
		remove4(other);
		remove4(key);
	} else {
		remove4(key);
		remove4(other);
	}
	return true;
}

__noinline bool remove_outlived6(const struct connection6_key *key, struct connection6_key *other, uint32_t now)
{
	struct connection6 *entry, *twin;

	if (!key || !other)
		return false;
	entry = find6(key);
	if (!entry)
		return true;
	twin6_key(other, entry, key->protocol);
	twin = find6(other);
	if (!claim(tail6(entry), twin ? tail6(twin) : NULL, key->protocol, now))
		return false;
	leave_tenant(entry->tenant);
	if (entry->flags & CONNECTION_ORIGINAL) {
		remove6(other);
		remove6(key);
	} else {
		remove6(key);
		remove6(other);
	}
	return true;
}
#endif

/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The sweep over lines of one version of IP; gateway_sweep.c includes it for 4 and for 6.
 */
#define JOIN2(name, version) name##version
#define JOIN(name, version) JOIN2(name, version)
#define OF(name) JOIN(name, IP_VERSION)
#define KEY struct JOIN(JOIN(connection, IP_VERSION), _key)
#define LINE struct JOIN(JOIN(connection, IP_VERSION), _line)
#define ENTRY struct OF(connection)

/* Ends the connection whose ORIGINAL entry is this, and whose own stamp is too old. `state`: of its line, as it was read first; NULL
 * for one in the hash. False: user space has to read first. What has changed since then is left alone. */
static __always_inline bool OF(sweep_out)(struct sweep *sweep, const KEY *key, ENTRY *entry, const uint32_t *state,
					  uint32_t before)
{
	struct gateway_swept *swept = NULL;
	struct connection_tail *tail = OF(tail)(entry), *beside;
	const uint32_t stamp = tail->stamp, meta = tail->tenant;
	ENTRY *twin;
	KEY other = {};

	OF(key_back)(&other, entry, key->protocol);
	if (state && read_word(state) != before)
		return true;
	twin = OF(find)(&other);
	beside = twin ? OF(tail)(twin) : NULL;
	if (beside && is_fresh(beside->stamp, sweep->order.now, time_up(sweep, key->protocol, tail->flags)))
		return true;
	if (sweep->order.tell) {
		swept = bpf_ringbuf_reserve(&gateway_swept, sizeof(*swept), 0);
		if (!swept)
			return false;
		__builtin_memset(swept, 0, sizeof(*swept));
		swept->version = IP_VERSION;
		swept->twin_stamp = beside ? beside->stamp : stamp;
		swept->twin_flags = beside ? beside->flags : 0;
		__builtin_memcpy(swept->key, key, sizeof(*key));
		__builtin_memcpy(swept->value, entry, sizeof(*entry));
	}
	if ((state && read_word(state) != before) || tail->stamp != stamp ||
	    __sync_fetch_and_or(flags_word(tail), GONE_BIT) & GONE_BIT) {
		if (swept)
			bpf_ringbuf_discard(swept, BPF_RB_NO_WAKEUP);
		return true;
	}
	OF(remove)(&other);
	OF(remove)(key);
	leave_tenant(meta);
	sweep->order.ended++;
	if (swept)
		bpf_ringbuf_submit(swept, BPF_RB_NO_WAKEUP);
	return true;
}

/* Whether an entry is to go as far as it tells itself. */
static __always_inline bool OF(is_old)(struct sweep *sweep, ENTRY *entry, uint8_t protocol)
{
	struct connection_tail *tail = OF(tail)(entry);

	return (tail->flags & (CONNECTION_ORIGINAL | CONNECTION_GONE)) == CONNECTION_ORIGINAL &&
	       !is_fresh(tail->stamp, sweep->order.now, time_up(sweep, protocol, tail->flags));
}

/* A function of its own for the stack. */
__noinline bool OF(sweep_place)(struct sweep *sweep, uint32_t place, uint32_t state)
{
	LINE *line = OF(line_at)(place);
	KEY key = {};

	if (!sweep || !line)
		return true;
	OF(key_of)(&key, line, state & LINE_PROTOCOL);
	return OF(sweep_out)(sweep, &key, OF(entry_of)(line), &line->state, state);
}

static long OF(sweep_line)(uint32_t number, struct sweep *sweep)
{
	LINE *line = OF(line_at)(sweep->order.place);
	uint32_t state;

	(void)number;
	if (!line)
		return 1;
	state = read_word(&line->state);
	if (state & LINE_PROTOCOL && OF(is_old)(sweep, OF(entry_of)(line), state & LINE_PROTOCOL) &&
	    !OF(sweep_place)(sweep, sweep->order.place, state))
		return 1;
	sweep->order.place++;
	return sweep->order.ended >= sweep->order.ends;
}

/* One in the hash. */
static long OF(sweep_far)(uint32_t number, struct sweep *sweep)
{
	const struct gateway_sweep_key *found = bpf_map_lookup_elem(&gateway_sweep_keys, &number);
	ENTRY *entry;
	KEY key;

	if (!found)
		return 1;
	__builtin_memcpy(&key, found->key, sizeof(key));
	entry = bpf_map_lookup_elem(&OF(connections), &key);
	return entry && OF(is_old)(sweep, entry, key.protocol) && !OF(sweep_out)(sweep, &key, entry, NULL, 0);
}

#undef JOIN2
#undef JOIN
#undef OF
#undef KEY
#undef LINE
#undef ENTRY

/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Entries of one version of IP; lines.h includes it for 4 and for 6, and has the protocol. What is called from many places is a
 * function of its own for the verifier, which thinks that what it is given may be NULL.
 */
#define JOIN2(name, version) name##version
#define JOIN(name, version) JOIN2(name, version)
#define OF(name) JOIN(name, IP_VERSION)
#define KEY struct JOIN(JOIN(connection, IP_VERSION), _key)
#define LINE struct JOIN(JOIN(connection, IP_VERSION), _line)
#define ENTRY struct OF(connection)

static __always_inline LINE *OF(line_at)(uint32_t place)
{
	return bpf_map_lookup_elem(&OF(lines), &place);
}

/* clang would add to a pointer that is yet to be looked at. */
static __always_inline ENTRY *OF(entry_of)(LINE *line)
{
	asm volatile("" : "+r"(line));
	return &line->value;
}

/* Its line's number, PLACE_FAR when the hash may have it, or PLACE_NONE. */
__noinline uint32_t OF(place)(const KEY *key)
{
	const struct connection_places *places = connection_places_of();
	uint32_t home, at;
	LINE *line;

	if (!key || !places)
		return PLACE_NONE;
	if (!places->OF(groups))
		return PLACE_FAR;
	home = home_of(OF(sum)(places->keys, key), places->OF(groups));
#pragma unroll
	for (uint32_t way = 0; way < LINE_WAYS; way++) {
		at = home ^ way;
		line = OF(line_at)(at);
		if (line && OF(holds)(line, read_word(&line->state), key))
			return at;
	}
	line = OF(line_at)(home & -LINE_WAYS);
	return line && read_word(&line->group) & GROUP_FAR ? PLACE_FAR : PLACE_NONE;
}

/* The entry, or NULL. */
static __always_inline ENTRY *OF(find)(const KEY *key)
{
	uint32_t at = OF(place)(key);
	LINE *line;

	if (at == PLACE_NONE)
		return NULL;
	if (at == PLACE_FAR)
		return bpf_map_lookup_elem(&OF(connections), key);
	line = OF(line_at)(at);
	return line ? OF(entry_of)(line) : NULL;
}

/* As find, where most stand in the line that is looked at first. `line` and `state`: of an entry in a line: who has copied the
 * entry compares. */
static __always_inline ENTRY *OF(find_hot)(const KEY *key, LINE **line, uint32_t *state)
{
	const struct connection_places *places = connection_places_of();
	LINE *home;
	uint32_t at;

	*line = NULL;
	if (!places)
		return NULL;
	if (places->OF(groups)) {
		home = OF(line_at)(home_of(OF(sum)(places->keys, key), places->OF(groups)));
		if (!home)
			return NULL;
		*state = read_word(&home->state);
		if (OF(holds)(home, *state, key)) {
			*line = home;
			return OF(entry_of)(home);
		}
	}
	at = OF(place)(key);
	if (at == PLACE_FAR)
		return bpf_map_lookup_elem(&OF(connections), key);
	home = at == PLACE_NONE ? NULL : OF(line_at)(at);
	if (!home)
		return NULL;
	*state = read_word(&home->state);
	if (!OF(holds)(home, *state, key))
		return NULL;	/* it was, a moment ago */
	*line = home;
	return OF(entry_of)(home);
}

/* One attempt to insert: 0, LINE_AGAIN, or what is wrong. */
__noinline int OF(attempt)(const KEY *key, const ENTRY *value)
{
	const struct connection_places *places = connection_places_of();
	uint32_t home, group, at, bit, open = PLACE_NONE;
	LINE *first, *line;
	int error;

	if (!key || !value || !places)
		return LINE_FULL;
	if (!places->OF(groups))
		return bpf_map_update_elem(&OF(connections), key, value, BPF_NOEXIST);
	home = home_of(OF(sum)(places->keys, key), places->OF(groups));
	first = OF(line_at)(home & -LINE_WAYS);
	if (!first)
		return LINE_FULL;
	group = read_word(&first->group);
	if (group & GROUP_ALL_BUSY)
		return LINE_AGAIN;
#pragma unroll
	for (uint32_t way = 0; way < LINE_WAYS; way++) {
		at = home ^ way;
		line = OF(line_at)(at);
		if (!line)
			return LINE_FULL;
		if (OF(holds)(line, read_word(&line->state), key))
			return LINE_EXISTS;
		if (open == PLACE_NONE && !(group & (uint32_t)GROUP_TAKEN << at % LINE_WAYS))
			open = at;
	}
	if (open != PLACE_NONE && !(group & GROUP_PENDING)) {
		if (group & GROUP_FAR && bpf_map_lookup_elem(&OF(connections), key))
			return LINE_EXISTS;
		line = OF(line_at)(open);
		bit = open % LINE_WAYS;
		if (!line || !swap_word(&first->group, group, next_version(group) | (uint32_t)GROUP_BUSY << bit))
			return LINE_AGAIN;
		OF(fill)(line, key, value);
		__sync_lock_test_and_set(&line->state, ((read_word(&line->state) + LINE_TURN) & -LINE_TURN) | key->protocol);
		__sync_fetch_and_xor(&first->group, (uint32_t)(GROUP_BUSY | GROUP_TAKEN) << bit);
		return 0;
	}
	if ((group & GROUP_FAR) == GROUP_FAR || (group & GROUP_PENDING) == GROUP_PENDING)
		return LINE_FULL;
	if (!swap_word(&first->group, group, next_version(group) + GROUP_ONE_PENDING + 1))
		return LINE_AGAIN;
	error = bpf_map_update_elem(&OF(connections), key, value, BPF_NOEXIST);
	__sync_fetch_and_add(&first->group, error ? -GROUP_ONE_PENDING - 1 : -GROUP_ONE_PENDING);
	return error;
}

/* Where there is none: 0, LINE_EXISTS, or that there is no room. */
static __always_inline int OF(insert)(const KEY *key, const ENTRY *value)
{
	int error = LINE_AGAIN;

	for (int turn = 0; turn < INSERT_TURNS && error == LINE_AGAIN; turn++)
		error = OF(attempt)(key, value);
	return error == LINE_AGAIN ? LINE_EXISTS : error;
}

/* 0, or LINE_NONE. It looks for itself, as there is little stack below those who remove. */
__noinline int OF(remove)(const KEY *key)
{
	const struct connection_places *places = connection_places_of();
	uint32_t home, at, state;
	LINE *line, *first;

	if (!key || !places)
		return LINE_NONE;
	if (!places->OF(groups))
		return bpf_map_delete_elem(&OF(connections), key);
	home = home_of(OF(sum)(places->keys, key), places->OF(groups));
	first = OF(line_at)(home & -LINE_WAYS);
	if (!first)
		return LINE_NONE;
#pragma unroll
	for (uint32_t way = 0; way < LINE_WAYS; way++) {
		at = home ^ way;
		line = OF(line_at)(at);
		if (!line)
			return LINE_NONE;
		state = read_word(&line->state);
		if (!OF(holds)(line, state, key))
			continue;
		if (!swap_word(&line->state, state, state & ~(uint32_t)LINE_PROTOCOL))
			return LINE_NONE;
		__sync_fetch_and_and(&first->group, ~((uint32_t)GROUP_TAKEN << at % LINE_WAYS));
		return 0;
	}
	if (!(read_word(&first->group) & GROUP_FAR) || bpf_map_delete_elem(&OF(connections), key))
		return LINE_NONE;
	__sync_fetch_and_add(&first->group, -1);
	return 0;
}

#undef JOIN2
#undef JOIN
#undef OF
#undef KEY
#undef LINE
#undef ENTRY

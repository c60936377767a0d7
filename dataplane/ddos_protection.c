/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * ddos-protection: the function behind kind DdosProtection (docs/ddos.md). Made with mizar_function.h alone, as anybody's would be.
 *
 * All state is in arrays, with a share for each protection: nothing is inserted and nobody is evicted, whatever an attacker
 * sends, and no tenant touches another's. Limits are kept as the time at which one would be within them again, in a sketch of
 * two rows: a source is over only where both of its places are. What TCP connections there are, the endpoint's own kernel is asked.
 */
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include "mizar_function.h"

enum ddos_limit {
	PROTECTIONS = 64,	/* on a droplet: 1 .. 63 */
	SKETCH = 4096,		/* places of one row */
	VERIFIED = 4096,
	QUESTIONS = 4096,
	TOP = 64,		/* places for sources, and as many for prefixes */
	TOP_SAMPLE = 16,	/* one in so many is looked at */
	MOST_STEPS = 24,	/* of a search: 2^24 boundaries */
	MOST_EXTENSIONS = 4,
	ANSWER_NS = 1 << 30,	/* how long an answer to a question may take; 8 of these */
	ENGAGE_NS = 100000000,	/* how much of a threshold comes at once before it counts as crossed */
	WRITE_NS = 10000000,	/* "until" is written again when it has moved so far */
	TCP_LONGEST = 60,
	TCP_MSS_OPTION = 0x02040000,
	WINDOW = 64240,		/* what a server of this kernel offers in its first segment */
};

enum ddos_flag {
	DDOS_COOKIES = 1,
	DDOS_COOKIES_ALWAYS = 2,
	DDOS_REFLECTED = 4,
	DDOS_REFLECTED_ALWAYS = 8,
	DDOS_LISTS = 16,
};

/* What a packet was taken for: reasons, and places in ddos_counters. */
enum ddos_kind {
	KIND_BLOCKED = 1,
	KIND_SOURCE = 2,
	KIND_TARGET = 3,
	KIND_ACK = 4,
	KIND_REFLECTED = 5,
	KIND_MALFORMED = 6,
	KIND_SYN = 7,		/* answered with a cookie: not dropped, but kept from the endpoint */
	KIND_VERIFIED = 8,	/* came back with its cookie */
	KIND_SEEN = 9,		/* all */
	KIND_ASKED = 10,	/* SYNs that were seen, engaged or not */
	KINDS = 12,
};

struct ddos_protection {
	uint64_t seed;		/* of hashes: nobody outside knows it */
	uint64_t source_packet_ns;	/* between packets at the limit; 0: there is none */
	uint64_t source_kib_ns;	/* for 1024 bytes */
	uint64_t target_packet_ns;
	uint64_t target_kib_ns;
	uint64_t burst_ns;	/* how much of a limit may come at once */
	uint64_t syn_ns;	/* between SYNs at the threshold of cookies; 0: none */
	uint64_t reflected_ns;	/* the same for datagrams of listed ports */
	uint64_t hold_ns;	/* how long it stays engaged after the rate was last above half of the threshold */
	uint32_t flags;		/* enum ddos_flag */
	uint32_t pad;
};

/* When somebody is within the limit again. Written by all CPUs without a lock: what is lost so is an error of a packet or two. */
struct ddos_bucket {
	uint64_t packets_at;
	uint64_t bytes_at;
};

struct ddos_state {
	uint64_t syn_at;
	uint64_t cookies_until;
	uint64_t reflected_at;
	uint64_t filter_until;
	uint64_t cookies_since;
	uint64_t filter_since;
};

struct ddos_counters {
	uint64_t packets[12];
	uint64_t bytes[12];
};

/* `ifindex`: whose slot it was when this was written; another one's packets do not go by it. */
struct ddos_kernel {
	uint32_t namespace;	/* its number as the droplet's namespace knows it, plus one; 0: it cannot be asked */
	uint32_t ifindex;
};

/* A source or a prefix: who it is takes its place when others have outvoted the one before. */
struct ddos_top {
	uint8_t addr[16];
	uint64_t seen;		/* packets, by sample; less those of others in this place */
	uint32_t kind;
	uint32_t endpoint;	/* slot of the last target */
};

_Static_assert(sizeof(struct ddos_protection) == 80, "ddos_protection");
_Static_assert(sizeof(struct ddos_state) == 48, "ddos_state");
_Static_assert(sizeof(struct ddos_counters) == 192, "ddos_counters");
_Static_assert(sizeof(struct ddos_kernel) == 8, "ddos_kernel");
_Static_assert(sizeof(struct ddos_top) == 32, "ddos_top");

MIZAR_ENDPOINT_VALUES;	/* number of the protection; 0: none */
MIZAR_MAP(BPF_MAP_TYPE_ARRAY, protections, uint32_t, struct ddos_protection, PROTECTIONS, 0);
MIZAR_MAP(BPF_MAP_TYPE_ARRAY, states, uint32_t, struct ddos_state, PROTECTIONS, 0);
MIZAR_MAP(BPF_MAP_TYPE_PERCPU_ARRAY, counters, uint32_t, struct ddos_counters, PROTECTIONS, 0);
MIZAR_MAP(BPF_MAP_TYPE_ARRAY, sources, uint32_t, struct ddos_bucket, PROTECTIONS * SKETCH * 2, 0);
MIZAR_MAP(BPF_MAP_TYPE_ARRAY, targets, uint32_t, struct ddos_bucket, 16384, 0);
MIZAR_MAP(BPF_MAP_TYPE_ARRAY, verified, uint32_t, uint64_t, PROTECTIONS * VERIFIED, 0);
MIZAR_MAP(BPF_MAP_TYPE_ARRAY, questions, uint32_t, uint64_t, PROTECTIONS * QUESTIONS, 0);
MIZAR_MAP(BPF_MAP_TYPE_ARRAY, reflectors, uint32_t, uint64_t, PROTECTIONS * 1024, 0);
MIZAR_MAP(BPF_MAP_TYPE_ARRAY, top, uint32_t, struct ddos_top, PROTECTIONS * TOP * 2, 0);
/* Slot of an endpoint -> whom to ask about its connections. */
MIZAR_MAP(BPF_MAP_TYPE_ARRAY, kernels, uint32_t, struct ddos_kernel, 16384, 0);
/*
 * Number of a protection -> its prefixes as boundaries: from here on until the next one, this verdict. IPv4: first the shift of the
 * index and its places, then the index, then (address << 8 | verdict). IPv6: first the number of boundaries,
 * then for each the halves of its address, and the verdict.
 */
MIZAR_TABLES(prefixes4, uint64_t, PROTECTIONS);
MIZAR_TABLES(prefixes6, uint64_t, PROTECTIONS);

MIZAR_REASONS({ KIND_BLOCKED, "SOURCE_BLOCKED", "The source is on the protection's block list." },
	      { KIND_SOURCE, "SOURCE_OVER_LIMIT", "The source sends more than the protection allows for one." },
	      { KIND_TARGET, "TARGET_OVER_LIMIT", "The endpoint gets more than the protection allows." },
	      { KIND_ACK, "NO_SUCH_CONNECTION", "While SYNs are answered with cookies: neither a connection of the endpoint nor a cookie." },
	      { KIND_REFLECTED, "REFLECTED", "A datagram from a port that attacks are reflected by, and no answer to a question." },
	      { KIND_MALFORMED, "SYN_MALFORMED", "While SYNs are answered with cookies: a SYN that none is made for." });

/* One packet: where its transport header is, behind extension headers. */
struct seen {
	uint32_t number;
	uint32_t at;		/* 0: there is none in this packet */
	uint32_t protocol;
	uint64_t now;
};

enum prefix_verdict {
	PREFIX_UNLISTED = 0,
	PREFIX_BLOCKED = 1,
	PREFIX_ALLOWED = 2,
};

static __always_inline uint64_t mixed(uint64_t hash, uint64_t value)
{
	hash = (hash ^ value) * 0x9e3779b97f4a7c15ull;
	return hash ^ hash >> 29;
}

static __always_inline uint64_t hash_of(uint64_t seed, const uint8_t *addr)
{
	const uint64_t *words = (const void *)addr;

	return mixed(mixed(seed, words[0]), words[1]);
}

static __always_inline void count(const struct mizar_call *call, uint32_t number, uint32_t kind)
{
	struct ddos_counters *found = bpf_map_lookup_elem(&counters, &number);

	if (found && kind < KINDS) {
		found->packets[kind] += call->frame->packets;
		found->bytes[kind] += call->frame->length;
	}
}

/* A vote for who is in a place: others take votes away, and the place when none is left. */
static __always_inline void vote(uint32_t at, const uint64_t *addr, uint32_t kind, uint32_t endpoint)
{
	struct ddos_top *found = bpf_map_lookup_elem(&top, &at);
	uint64_t *there;

	if (!found)
		return;
	there = (void *)found->addr;
	if (there[0] == addr[0] && there[1] == addr[1]) {
		found->seen += TOP_SAMPLE;
		found->kind = kind;
		found->endpoint = endpoint;
	} else if (found->seen > TOP_SAMPLE) {
		found->seen -= TOP_SAMPLE;
	} else {
		there[0] = addr[0];
		there[1] = addr[1];
		found->seen = TOP_SAMPLE;
		found->kind = kind;
		found->endpoint = endpoint;
	}
}

/* Who it comes from: the address, and its /24 or /48. */
static __always_inline void blame(const struct mizar_call *call, const struct seen *seen, uint64_t seed, uint32_t kind)
{
	const uint64_t *src = (const void *)call->frame->src;
	uint64_t prefix[2] = { src[0], src[1] };
	uint32_t first = seen->number * TOP * 2;

	if (bpf_get_prandom_u32() % TOP_SAMPLE)
		return;
	vote(first + (hash_of(seed, call->frame->src) >> 40 & (TOP - 1)), src, kind, call->frame->endpoint);
	if (call->frame->family == FAMILY_IPV4)
		prefix[1] &= bpf_cpu_to_be64(~0xffull);
	else
		prefix[0] &= bpf_cpu_to_be64(~0xffffull), prefix[1] = 0;
	vote(first + TOP + (hash_of(seed, (void *)prefix) >> 40 & (TOP - 1)), prefix, kind, call->frame->endpoint);
}

static __always_inline int refuse(const struct mizar_call *call, const struct seen *seen, uint64_t seed, uint32_t kind)
{
	count(call, seen->number, kind);
	blame(call, seen, seed, kind);
	return mizar_drop(call, kind);
}

/* ---- lists */

static __noinline uint32_t verdict_of_ipv4(uint32_t number, uint32_t addr)
{
	void *table = bpf_map_lookup_elem(&prefixes4, &number);
	uint32_t at = 0, low, high;
	uint64_t *found;

	if (!table)
		return PREFIX_UNLISTED;
	found = bpf_map_lookup_elem(table, &at);
	if (!found)
		return PREFIX_UNLISTED;
	at = 1 + (uint32_t)((uint64_t)addr >> (*found & 63));
	found = bpf_map_lookup_elem(table, &at);
	if (!found)
		return PREFIX_UNLISTED;
	low = *found;
	at++;
	found = bpf_map_lookup_elem(table, &at);
	if (!found)
		return PREFIX_UNLISTED;
	high = *found;
#pragma clang loop unroll(disable)
	for (int step = 0; step < MOST_STEPS; step++) {
		if (low >= high)
			break;
		at = low + (high - low) / 2;
		found = bpf_map_lookup_elem(table, &at);
		if (!found)
			return PREFIX_UNLISTED;
		if (*found >> 8 <= addr)
			low = at + 1;
		else
			high = at;
	}
	at = low - 1;
	found = bpf_map_lookup_elem(table, &at);
	return found ? *found & 0xff : (uint32_t)PREFIX_UNLISTED;
}

/* A word of a boundary, numbered from 0; one that is not there is behind all addresses. */
static __always_inline uint64_t word_of(void *table, uint32_t boundary, uint32_t word)
{
	uint32_t at = 1 + boundary * 3 + word;
	uint64_t *found = bpf_map_lookup_elem(table, &at);

	return found ? *found : ~0ull;
}

static __noinline uint32_t verdict_of_ipv6(uint32_t number, uint64_t first, uint64_t second)
{
	void *table = bpf_map_lookup_elem(&prefixes6, &number);
	uint32_t zero = 0, low = 0, high;
	uint64_t *boundaries, there;

	if (!table)
		return PREFIX_UNLISTED;
	boundaries = bpf_map_lookup_elem(table, &zero);
	if (!boundaries)
		return PREFIX_UNLISTED;
	high = *boundaries;
#pragma clang loop unroll(disable)
	for (int step = 0; step < MOST_STEPS; step++) {
		uint32_t at = low + (high - low) / 2;

		if (low >= high)
			break;
		there = word_of(table, at, 0);
		if (there < first || (there == first && word_of(table, at, 1) <= second))
			low = at + 1;
		else
			high = at;
	}
	return low ? word_of(table, low - 1, 2) & 0xff : (uint32_t)PREFIX_UNLISTED;
}

static __always_inline uint32_t verdict_of(const struct function_frame *frame, uint32_t number)
{
	const uint64_t *halves = (const void *)frame->src;

	if (frame->family == FAMILY_IPV4)
		return verdict_of_ipv4(number, (uint32_t)bpf_be64_to_cpu(halves[1]));
	return verdict_of_ipv6(number, bpf_be64_to_cpu(halves[0]), bpf_be64_to_cpu(halves[1]));
}

/* ---- limits */

static __always_inline bool is_over(uint64_t at, uint64_t now, uint64_t burst_ns)
{
	return at > now && at - now > burst_ns;
}

static __always_inline uint64_t charged(uint64_t at, uint64_t now, uint64_t cost_ns)
{
	return (at > now ? at : now) + cost_ns;
}

static __always_inline void charge(struct ddos_bucket *bucket, uint64_t now, uint64_t packets_ns, uint64_t bytes_ns)
{
	if (packets_ns)
		bucket->packets_at = charged(bucket->packets_at, now, packets_ns);
	if (bytes_ns)
		bucket->bytes_at = charged(bucket->bytes_at, now, bytes_ns);
}

static __always_inline bool is_full(const struct ddos_bucket *bucket, uint64_t now, uint64_t burst_ns)
{
	return is_over(bucket->packets_at, now, burst_ns) || is_over(bucket->bytes_at, now, burst_ns);
}

static __always_inline bool source_over(const struct function_frame *frame, const struct seen *seen,
					const struct ddos_protection *rule)
{
	const uint64_t hash = hash_of(rule->seed, frame->src);
	const uint64_t packets_ns = rule->source_packet_ns * frame->packets;
	const uint64_t bytes_ns = rule->source_kib_ns * frame->length >> 10;
	const uint32_t first = seen->number * SKETCH * 2;
	uint32_t at = first + (hash & (SKETCH - 1)), at2 = first + SKETCH + (hash >> 32 & (SKETCH - 1));
	struct ddos_bucket *one = bpf_map_lookup_elem(&sources, &at), *two = bpf_map_lookup_elem(&sources, &at2);

	if (!one || !two)
		return false;
	if (is_full(one, seen->now, rule->burst_ns) && is_full(two, seen->now, rule->burst_ns))
		return true;
	charge(one, seen->now, packets_ns, bytes_ns);
	charge(two, seen->now, packets_ns, bytes_ns);
	return false;
}

static __always_inline bool target_over(const struct function_frame *frame, const struct seen *seen,
					const struct ddos_protection *rule)
{
	uint32_t at = frame->endpoint;
	struct ddos_bucket *one = bpf_map_lookup_elem(&targets, &at);

	if (!one)
		return false;
	if (is_full(one, seen->now, rule->burst_ns))
		return true;
	charge(one, seen->now, rule->target_packet_ns * frame->packets, rule->target_kib_ns * frame->length >> 10);
	return false;
}

/* ---- thresholds. One more of what a threshold counts has come: is the measure engaged? While it is, half the rate holds it. */
static __always_inline bool engages(uint64_t *at, uint64_t *until, uint64_t *since, uint64_t now, uint64_t interval_ns,
				    uint64_t hold_ns)
{
	const bool engaged = *until > now;

	if (!interval_ns)
		return false;
	if (!is_over(*at, now, ENGAGE_NS)) {
		*at = charged(*at, now, engaged ? interval_ns * 2 : interval_ns);
		return engaged;
	}
	if (!engaged)
		*since = now;
	if (*until < now + hold_ns - WRITE_NS)
		*until = now + hold_ns;
	return true;
}

/* ---- reflected datagrams */

static __always_inline uint64_t question(const struct function_frame *frame, uint64_t seed, const uint8_t *other, uint32_t ports)
{
	return mixed(mixed(hash_of(seed, other), frame->endpoint), ports);
}

static __always_inline bool is_reflector(uint32_t number, uint16_t port)
{
	uint32_t at = number * 1024 + (port >> 6);
	uint64_t *bits = bpf_map_lookup_elem(&reflectors, &at);

	return bits && *bits >> (port & 63) & 1;
}

/* The endpoint asks somebody: the answer may come, and its fragments. */
static __always_inline void remember(const struct function_frame *frame, const struct seen *seen, uint64_t seed, uint32_t ports)
{
	const uint64_t hash = question(frame, seed, frame->dst, ports);
	uint32_t at = seen->number * QUESTIONS + (hash & (QUESTIONS - 1));
	uint64_t *found = bpf_map_lookup_elem(&questions, &at);
	const uint64_t tag = hash & ~0xffffull << 32 & ~0xffull;

	if (found)
		*found = (tag & ~0xffull) | (seen->now >> 30 & 0xff);
}

static __always_inline bool was_asked(const struct function_frame *frame, const struct seen *seen, uint64_t seed, uint32_t ports)
{
	const uint64_t hash = question(frame, seed, frame->src, ports);
	uint32_t at = seen->number * QUESTIONS + (hash & (QUESTIONS - 1));
	uint64_t *found = bpf_map_lookup_elem(&questions, &at);
	const uint64_t tag = hash & ~0xffffull << 32 & ~0xffull;

	return found && (*found & ~0xffull) == tag && ((seen->now >> 30) - *found & 0xff) < 8;
}

static __always_inline int filter_datagram(const struct mizar_call *call, const struct seen *seen, const struct ddos_protection *rule)
{
	struct function_frame *frame = call->frame;
	struct ddos_state *state = bpf_map_lookup_elem(&states, &seen->number);
	struct udphdr *udp = seen->at ? mizar_bytes(call, seen->at, sizeof(*udp)) : NULL;
	uint32_t ports = udp ? (uint32_t)udp->source << 16 | udp->dest : 0;

	if (!state || (seen->at && !udp))
		return FUNCTION_CONTINUE;
	if (udp && !is_reflector(seen->number, bpf_ntohs(udp->source)))
		return FUNCTION_CONTINUE;
	if (was_asked(frame, seen, rule->seed, ports))
		return FUNCTION_CONTINUE;
	if (!(rule->flags & DDOS_REFLECTED_ALWAYS) &&
	    !engages(&state->reflected_at, &state->filter_until, &state->filter_since, seen->now, rule->reflected_ns, rule->hold_ns))
		return FUNCTION_CONTINUE;
	return refuse(call, seen, rule->seed, KIND_REFLECTED);
}

static __always_inline int note_question(const struct mizar_call *call, const struct seen *seen, const struct ddos_protection *rule)
{
	struct udphdr *udp = seen->at ? mizar_bytes(call, seen->at, sizeof(*udp)) : NULL;

	if (udp && is_reflector(seen->number, bpf_ntohs(udp->dest))) {
		uint32_t ports = (uint32_t)udp->dest << 16 | udp->source;

		remember(call->frame, seen, rule->seed, ports);
		remember(call->frame, seen, rule->seed, 0);
	}
	return FUNCTION_CONTINUE;
}

/* ---- SYN cookies */

static __always_inline uint16_t folded(uint64_t sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}

/* A TCP header without data, and what the sum of its pseudo header is. */
struct segment {
	union {
		struct tcphdr tcp;
		uint8_t bytes[TCP_LONGEST];
		uint32_t words[TCP_LONGEST / 4];
	};
	uint64_t pseudo;
};

static __always_inline uint64_t pseudo_of(const struct function_frame *frame, uint32_t length)
{
	const uint32_t *src = (const void *)frame->src, *dst = (const void *)frame->dst;
	uint64_t sum = bpf_htonl(length + IPPROTO_TCP);
	int first = frame->family == FAMILY_IPV4 ? 3 : 0;

	sum += (uint64_t)src[3] + dst[3];
	if (!first)
		sum += (uint64_t)src[0] + src[1] + src[2] + dst[0] + dst[1] + dst[2];
	return sum;
}

/* From its TCP header on, by the IP header. */
static __always_inline uint32_t segment_bytes(const struct mizar_call *call, const struct seen *seen)
{
	const uint32_t before = seen->at - call->frame->network_at;

	if (call->frame->family == FAMILY_IPV4) {
		struct iphdr *ip = mizar_bytes(call, call->frame->network_at, sizeof(*ip));

		return ip ? bpf_ntohs(ip->tot_len) - before : 0;
	} else {
		struct ipv6hdr *ip = mizar_bytes(call, call->frame->network_at, sizeof(*ip));

		return ip ? bpf_ntohs(ip->payload_len) + sizeof(*ip) - before : 0;
	}
}

static __always_inline int64_t cookie_of(const struct mizar_call *call, struct segment *segment, uint32_t length)
{
	void *ip;

	if (call->frame->family == FAMILY_IPV4) {
		struct iphdr header = {
			.saddr = ((uint32_t *)call->frame->src)[3],
			.daddr = ((uint32_t *)call->frame->dst)[3],
		};

		return bpf_tcp_raw_gen_syncookie_ipv4(&header, &segment->tcp, length);
	}
	ip = mizar_bytes(call, call->frame->network_at, sizeof(struct ipv6hdr));
	return ip ? bpf_tcp_raw_gen_syncookie_ipv6(ip, &segment->tcp, length) : -1;
}

/* The addresses of both headers change places, in the frame. */
static __always_inline bool turn_around(const struct mizar_call *call)
{
	struct function_frame *frame = call->frame;
	struct ethhdr *eth = mizar_bytes(call, frame->inner_at, sizeof(*eth));
	uint8_t mac[ETH_ALEN];

	if (!eth)
		return false;
	__builtin_memcpy(mac, eth->h_source, ETH_ALEN);
	__builtin_memcpy(eth->h_source, eth->h_dest, ETH_ALEN);
	__builtin_memcpy(eth->h_dest, mac, ETH_ALEN);
	if (frame->family == FAMILY_IPV4) {
		struct iphdr *ip = mizar_bytes(call, frame->network_at, sizeof(*ip));
		uint32_t sum;

		if (!ip)
			return false;
		sum = (uint16_t)~ip->check + (uint16_t)~*(uint16_t *)&ip->ttl;
		ip->ttl = 64;
		sum += *(uint16_t *)&ip->ttl;
		ip->check = ~folded(sum);
		ip->saddr = ((uint32_t *)frame->dst)[3];
		ip->daddr = ((uint32_t *)frame->src)[3];
	} else {
		struct ipv6hdr *ip = mizar_bytes(call, frame->network_at, sizeof(*ip));

		if (!ip)
			return false;
		ip->hop_limit = 64;
		__builtin_memcpy(&ip->saddr, frame->dst, 16);
		__builtin_memcpy(&ip->daddr, frame->src, 16);
	}
	return true;
}

/* In the place of a SYN stands the endpoint's answer with a cookie, as long as the SYN was. False: it is none to be answered. */
static __always_inline bool make_answer(const struct mizar_call *call, const struct seen *seen, uint32_t length)
{
	struct segment segment = {};
	uint16_t mss, ports;
	uint64_t sum;
	int64_t cookie;
	bool partial;

	if (length < sizeof(struct tcphdr) || length > TCP_LONGEST || length != segment_bytes(call, seen))
		return false;
	if (mizar_read(call, seen->at, segment.bytes, length))
		return false;
	segment.pseudo = pseudo_of(call->frame, length);
	/* A sender on this machine may have left the sum to its interface, which then stands for the pseudo header alone. */
	sum = bpf_csum_diff(NULL, 0, segment.words, TCP_LONGEST, 0);
	partial = folded(sum + segment.pseudo) != 0xffff;
	if (partial && segment.tcp.check != folded(segment.pseudo))
		return false;
	cookie = cookie_of(call, &segment, length);
	if (cookie < 0)
		return false;
	mss = cookie >> 32;
	ports = segment.tcp.source;
	segment.tcp.source = segment.tcp.dest;
	segment.tcp.dest = ports;
	segment.tcp.ack_seq = bpf_htonl(bpf_ntohl(segment.tcp.seq) + 1);
	segment.tcp.seq = bpf_htonl((uint32_t)cookie);
	((uint8_t *)&segment)[13] = 0x12;	/* SYN and ACK, and nothing that was offered */
	((uint8_t *)&segment)[12] &= 0xf0;
	segment.tcp.window = bpf_htons(WINDOW);
	segment.tcp.urg_ptr = 0;
	__builtin_memset(segment.bytes + sizeof(struct tcphdr), 0, TCP_LONGEST - sizeof(struct tcphdr));
	if (length > sizeof(struct tcphdr))
		segment.words[5] = bpf_htonl(TCP_MSS_OPTION | mss);
	if (!partial) {
		segment.tcp.check = 0;
		sum = bpf_csum_diff(NULL, 0, segment.words, TCP_LONGEST, 0);
		segment.tcp.check = ~folded(sum + segment.pseudo);
	}
	return turn_around(call) && !mizar_write(call, seen->at, segment.bytes, length);
}

static __always_inline uint64_t flow_of(const struct function_frame *frame, const struct tcphdr *tcp, uint64_t seed)
{
	uint64_t hash = hash_of(hash_of(seed, frame->src), frame->dst);

	return mixed(mixed(hash, (uint32_t)tcp->source << 16 | tcp->dest), frame->vni) | 1;
}

/* Number of the endpoint's namespace plus one; 0: there is none that could be asked. */
static __always_inline uint32_t namespace_of(const struct function_frame *frame)
{
	uint32_t slot = frame->endpoint;
	struct ddos_kernel *kernel = bpf_map_lookup_elem(&kernels, &slot);

	return kernel && kernel->ifindex == frame->ifindex ? kernel->namespace : 0;
}

/* Whether the endpoint's kernel has a connection, or the beginning of one, that this belongs to. */
static __always_inline bool has_connection(const struct mizar_call *call, const struct tcphdr *tcp, uint32_t namespace)
{
	struct function_frame *frame = call->frame;
	const uint32_t *src = (const void *)frame->src, *dst = (const void *)frame->dst;
	struct bpf_sock_tuple tuple = {};
	struct bpf_sock *found;
	bool listens;

	if (frame->family == FAMILY_IPV4) {
		tuple.ipv4.saddr = src[3];
		tuple.ipv4.daddr = dst[3];
		tuple.ipv4.sport = tcp->source;
		tuple.ipv4.dport = tcp->dest;
		found = bpf_skc_lookup_tcp(call->ctx, &tuple, sizeof(tuple.ipv4), namespace - 1, 0);
	} else {
		__builtin_memcpy(tuple.ipv6.saddr, src, 16);
		__builtin_memcpy(tuple.ipv6.daddr, dst, 16);
		tuple.ipv6.sport = tcp->source;
		tuple.ipv6.dport = tcp->dest;
		found = bpf_skc_lookup_tcp(call->ctx, &tuple, sizeof(tuple.ipv6), namespace - 1, 0);
	}
	if (!found)
		return false;
	listens = found->state == BPF_TCP_LISTEN;
	bpf_sk_release(found);
	return !listens;
}

static __always_inline bool has_cookie(const struct mizar_call *call, const struct tcphdr *tcp)
{
	struct tcphdr copy = *tcp;

	if (call->frame->family == FAMILY_IPV4) {
		struct iphdr header = {
			.saddr = ((uint32_t *)call->frame->src)[3],
			.daddr = ((uint32_t *)call->frame->dst)[3],
		};

		return !bpf_tcp_raw_check_syncookie_ipv4(&header, &copy);
	} else {
		struct ipv6hdr header = {};

		__builtin_memcpy(&header.saddr, call->frame->src, 16);
		__builtin_memcpy(&header.daddr, call->frame->dst, 16);
		return !bpf_tcp_raw_check_syncookie_ipv6(&header, &copy);
	}
}

static __always_inline int check_segment(const struct mizar_call *call, const struct seen *seen, const struct ddos_protection *rule)
{
	struct function_frame *frame = call->frame;
	struct ddos_state *state = bpf_map_lookup_elem(&states, &seen->number);
	struct tcphdr *packet = seen->at ? mizar_bytes(call, seen->at, sizeof(*packet)) : NULL;
	uint32_t namespace = namespace_of(frame), at, length;
	struct tcphdr tcp;
	uint64_t *known, flow;
	bool opens, engaged;

	/* What a member of a scaled endpoint gets bears the scaled endpoint's address yet, by which no kernel knows it. */
	if (!state || !packet || !namespace || !mizar_answerable(call))
		return FUNCTION_CONTINUE;
	tcp = *packet;
	opens = tcp.syn && !tcp.ack && !tcp.rst && !tcp.fin;
	if (opens) {
		count(call, seen->number, KIND_ASKED);
		engaged = engages(&state->syn_at, &state->cookies_until, &state->cookies_since, seen->now, rule->syn_ns,
				  rule->hold_ns);
	} else {
		engaged = state->cookies_until > seen->now;
	}
	if (!engaged && !(rule->flags & DDOS_COOKIES_ALWAYS))
		return FUNCTION_CONTINUE;
	if (opens) {
		length = tcp.doff * 4;
		if (!make_answer(call, seen, length))
			return refuse(call, seen, rule->seed, KIND_MALFORMED);
		count(call, seen->number, KIND_SYN);
		blame(call, seen, rule->seed, KIND_SYN);
		return mizar_answer(call);
	}
	flow = flow_of(frame, &tcp, rule->seed);
	at = seen->number * VERIFIED + (flow >> 32 & (VERIFIED - 1));
	known = bpf_map_lookup_elem(&verified, &at);
	if (!known || *known == flow)
		return FUNCTION_CONTINUE;
	if (has_connection(call, &tcp, namespace)) {
		*known = flow;
		return FUNCTION_CONTINUE;
	}
	if (tcp.ack && !tcp.syn && !tcp.rst && has_cookie(call, &tcp)) {
		*known = flow;
		count(call, seen->number, KIND_VERIFIED);
		return FUNCTION_CONTINUE;
	}
	return refuse(call, seen, rule->seed, KIND_ACK);
}

/* ---- all of it */

/* Behind extension headers. A fragment behind the first has none. */
static __always_inline void find_transport(const struct mizar_call *call, struct seen *seen)
{
	struct function_frame *frame = call->frame;

	seen->at = frame->transport_at;
	seen->protocol = frame->protocol;
	if (frame->family != FAMILY_IPV6)
		return;
#pragma clang loop unroll(disable)
	for (int header = 0; header < MOST_EXTENSIONS; header++) {
		uint8_t *next;

		if (seen->protocol != IPPROTO_HOPOPTS && seen->protocol != IPPROTO_DSTOPTS && seen->protocol != IPPROTO_ROUTING &&
		    seen->protocol != IPPROTO_FRAGMENT)
			return;
		next = mizar_bytes(call, seen->at, 8);
		if (!next)
			break;
		if (seen->protocol == IPPROTO_FRAGMENT) {
			seen->protocol = next[0];
			seen->at = next[2] | (next[3] & 0xf8) ? 0 : seen->at + 8;
			return;
		}
		seen->protocol = next[0];
		seen->at += 8 + next[1] * 8;
	}
	seen->at = 0;
}

MIZAR_FUNCTION(ddos_protection, MIZAR_STAGE(ENDPOINT_INGRESS_STAGE) | MIZAR_STAGE(ENDPOINT_EGRESS_STAGE))
{
	struct function_frame *frame = call->frame;
	uint32_t slot = frame->endpoint, verdict;
	uint32_t *number = bpf_map_lookup_elem(&endpoint_values, &slot);
	struct ddos_protection *rule;
	struct seen seen = {};
	int decided;

	if (!number || !*number || !frame->network_at)
		return FUNCTION_CONTINUE;
	seen.number = *number & (PROTECTIONS - 1);
	rule = bpf_map_lookup_elem(&protections, &seen.number);
	if (!rule)
		return FUNCTION_CONTINUE;
	seen.now = bpf_ktime_get_coarse_ns();
	if (call->stage == ENDPOINT_EGRESS_STAGE) {
		if (!(rule->flags & DDOS_REFLECTED))
			return FUNCTION_CONTINUE;
		find_transport(call, &seen);
		return seen.protocol == IPPROTO_UDP ? note_question(call, &seen, rule) : FUNCTION_CONTINUE;
	}
	count(call, seen.number, KIND_SEEN);
	if (rule->flags & DDOS_LISTS) {
		verdict = verdict_of(frame, seen.number);
		if (verdict == PREFIX_ALLOWED)
			return FUNCTION_CONTINUE;
		if (verdict == PREFIX_BLOCKED)
			return refuse(call, &seen, rule->seed, KIND_BLOCKED);
	}
	find_transport(call, &seen);
	if (rule->flags & DDOS_COOKIES && seen.protocol == IPPROTO_TCP) {
		decided = check_segment(call, &seen, rule);
		if (decided != FUNCTION_CONTINUE)
			return decided;
	}
	if (rule->flags & DDOS_REFLECTED && seen.protocol == IPPROTO_UDP) {
		decided = filter_datagram(call, &seen, rule);
		if (decided != FUNCTION_CONTINUE)
			return decided;
	}
	if (rule->source_packet_ns | rule->source_kib_ns && source_over(frame, &seen, rule))
		return refuse(call, &seen, rule->seed, KIND_SOURCE);
	if (rule->target_packet_ns | rule->target_kib_ns && target_over(frame, &seen, rule))
		return refuse(call, &seen, rule->seed, KIND_TARGET);
	return FUNCTION_CONTINUE;
}

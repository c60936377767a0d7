/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The shape of a gateway's maps, shared by the kernel's programs and by Python. The rules are those of dataplane.h: clang
 * compiles this file, cffi reads the same text; fixed-width types, named enums and structs only; every pad is named and
 * zero. Sizes are asserted in dataplane/gateway/layout.h.
 *
 * Fields are host byte order unless the name ends in _be; addresses of 16 bytes are network order, IPv4 IPv4-mapped
 * (::ffff:a.b.c.d). Every key of tenant data begins with the tenant's metadata, `meta`. Time is in ticks: nanoseconds of the
 * kernel's coarse clock >> GATEWAY_TICK_SHIFT, of 32 bits.
 */
#ifndef MIZAR_GATEWAY_H
#define MIZAR_GATEWAY_H
#include <stdint.h>

enum gateway_constant {
	GATEWAY_TICK_SHIFT = 30,	/* 1.07 s */
	PORT_TRIES = 128,		/* ports of a pool that are tried for one connection */
	FRAGMENT_SHARES = 256,		/* of `fragments`, by metadata: a tenant's flood finds no other's notes */
	FRAGMENT_PLACES = 256,		/* in each */
	QUOTA_NONE = 0xffffffff,
};

/* ---- Connections: connection4_key -> connection4 and the same with 6. Two entries for a connection, one for each direction,
 * under what that direction's packets bear when they come to the gateway. What a packet becomes is in the value, and turned
 * round it is the key of the other direction's entry, its twin. An entry stands in a line, or far away: see lines.
 *
 * ICMP queries have their id in both ports, as source and destination. */
enum connection_state {
	CONNECTION_NEW = 1,		/* of none, and may begin one */
	CONNECTION_ESTABLISHED = 2,
	CONNECTION_RELATED = 3,		/* an ICMP error about a packet of one */
	CONNECTION_INVALID = 4,
};

/*
 * What the flags do. A connection lives as long as its time-out (nat_settings) after the newest `stamp` of its two entries; one
 * that lived longer is not there, whether or not somebody has removed it. The time-out of TCP is the transitory one until it is
 * ANSWERED, and again once it is closing: FINs of both sides, or a RESET of any. Else it is the established one.
 *
 * A packet writes the stamp of its direction; of UDP and ICMP only where the direction is the ORIGINAL one (RFC 4787 REQ-6); of
 * TCP that is closing none. ICMP errors write nothing. ANSWERED: of TCP by a SYN of the other direction (RFC 6146 3.5.2), of
 * others by any packet. When a connection begins to close, the stamps of both are written, and from then on none.
 *
 * A RST counts only when the other side would take it (RFC 9293 3.10.7.4, RFC 5961 3.2): its sequence number lies
 * from the other side's last acknowledgement (`ack`) to that and its window; before there was one, the RST acknowledges the
 * other side's SYN (`ack`), or follows its own. A RST that does not count is translated and changes nothing. A RESET is taken
 * back by a packet without RST from the side that it came from: then the other side has not taken it (RFC 7857 2.2).
 * A SYN of the ORIGINAL direction on a closing connection begins it anew, with the same translation.
 */
enum connection_flag {
	CONNECTION_ORIGINAL = 1,	/* the direction of the first packet */
	CONNECTION_ANSWERED = 2,	/* in both entries */
	CONNECTION_FIN = 4,		/* this direction has sent one */
	CONNECTION_PEER_FIN = 8,	/* the other has */
	CONNECTION_RESET = 16,		/* this direction has sent one that counts */
	CONNECTION_PEER_RESET = 32,
	CONNECTION_SYN = 64,		/* this direction has sent a SYN and no acknowledgement yet: `ack` is what answers it */
	CONNECTION_ACK = 128,		/* `ack` is the last acknowledgement of this direction */
	CONNECTION_SCALE = 256,		/* its SYN had the option window scale (RFC 7323), `scale`: counts when both had */
	CONNECTION_FIXED = 512,		/* by a static rule or a forward: no port of a pool is taken */
	CONNECTION_MAPPED = 1024,	/* by an endpoint-independent mapping */
	CONNECTION_INSTALLED = 2048,	/* by user space, not in line: from the kernel's conntrack, or another gateway */
	CONNECTION_GONE = 0x8000,	/* of the ORIGINAL entry: being removed. Whoever has set it, and nobody else, removes both */
};

struct connection4_key {
	uint32_t meta;
	uint32_t src_be;
	uint32_t dst_be;
	uint16_t src_port_be;
	uint16_t dst_port_be;
	uint8_t protocol;
	uint8_t pad[3];
};

struct connection4 {
	uint32_t meta;		/* what its packets become: metadata, */
	uint32_t src_be;	/* addresses */
	uint32_t dst_be;
	uint16_t src_port_be;	/* and ports */
	uint16_t dst_port_be;
	uint32_t stamp;		/* tick of the last packet that counts */
	uint32_t tenant;	/* the metadata in whose quota it is: of the inside */
	uint32_t ack;		/* TCP, see the flags */
	uint16_t window;	/* TCP: as its last packet bore it */
	uint16_t flags;		/* enum connection_flag */
	uint16_t address_sum;	/* RFC 1624: what ~HC + ~m + m' adds for the addresses; see sums */
	uint16_t whole_sum;	/* for addresses and ports */
	uint8_t scale;		/* TCP, of `window`: 0..14 */
	uint8_t pad;
	uint16_t rules;		/* number of the rules (nat_settings) when it began */
};

struct connection6_key {
	uint32_t meta;
	uint8_t src[16];
	uint8_t dst[16];
	uint16_t src_port_be;
	uint16_t dst_port_be;
	uint8_t protocol;
	uint8_t pad[7];
};

struct connection6 {
	uint32_t meta;
	uint8_t src[16];
	uint8_t dst[16];
	uint16_t src_port_be;
	uint16_t dst_port_be;
	uint32_t stamp;
	uint32_t tenant;
	uint32_t ack;
	uint16_t window;
	uint16_t flags;
	uint16_t address_sum;
	uint16_t whole_sum;
	uint8_t scale;
	uint8_t pad;
	uint16_t rules;
};

/* ---- lines4, lines6: mmapable ARRAY of connection4_line and connection6_line, LINE_WAYS of them a group: there an entry is found
 * with one line of the cache. connections4, connections6: HASH of the same keys and values, for entries that have found their
 * group full: they are far. connection_places: ARRAY of one. With groups of 0 there are no lines, and all stands in the hash.
 *
 * The group of a key: its 32-bit words as they lie in memory, IPv4: meta, src, dst, ports, protocol; IPv6: meta, 4 of src, 4 of
 * dst, ports, protocol (as a number), w[1], w[2], ... give h = (keys[0] + sum of keys[i] * w[i]) mod 2^64 >> 32, the group is
 * h * groups >> 32, and the way where it is looked for and put first is h & 3, then that ^ 1, ^ 2, ^ 3. The keys are random, made
 * with the maps: nobody can tell which flows share a group.
 *
 * A line holds an entry when the lowest byte of its `state` is that entry's protocol; 0: none. Above it a number counts who has held the
 * line. `group` of a group's first line is the word of all that comes and goes there, changed by compare-and-swap;
 * dataplane/gateway/lines.h has the protocol, docs/decisions/lines.md the reasons. Programs alone write here. */
enum line_constant {
	LINE_WAYS = 4,
	LINE_PROTOCOL = 0xff,		/* of `state` */
	LINE_TURN = 0x100,		/* one more holder */
};

enum group_bits {
	GROUP_FAR = 0xfff,		/* entries of this group in the hash, or about to be */
	GROUP_PENDING = 0xf000,		/* of these, about to be */
	GROUP_VERSION = 0xff0000,	/* counts what came */
	GROUP_TAKEN = 0x1000000,	/* << way: holds an entry, or is being emptied */
	GROUP_BUSY = 0x10000000,	/* << way: being filled */
};

struct connection_places {
	uint32_t groups4;
	uint32_t groups6;
	uint64_t keys[12];
};

struct connection4_line {
	uint32_t group;
	uint32_t meta;		/* connection4_key, */
	uint32_t src_be;
	uint32_t dst_be;
	uint16_t src_port_be;
	uint16_t dst_port_be;
	uint32_t state;		/* where that has its protocol */
	struct connection4 value;
};

struct connection6_line {
	uint32_t group;
	uint32_t pad[3];
	uint32_t meta;		/* connection6_key, */
	uint8_t src[16];
	uint8_t dst[16];
	uint16_t src_port_be;
	uint16_t dst_port_be;
	uint32_t state;
	uint32_t rest;
	struct connection6 value;
};

/*
 * Sums, for who writes entries from user space: with 16-bit words as they lie in memory (host byte order of network order),
 * the sum over all words that change of (~old & 0xffff) + new, folded to 16 bits by adding what is above. Of ICMP queries
 * whole_sum counts the id once and no addresses for IPv4, the id once and the addresses for IPv6.
 */

/* ---- queue_note: stands right in front of each frame that goes to a queue of a user-space program, as XDP metadata: an AF_XDP
 * socket has it in the 8 bytes before the frame. Whoever has read it makes it zero: a buffer may be used again for a frame that
 * has none. gateway_queues: XSKMAP, queue * 64 + receive queue of the interface -> socket. gateway_queue_ports: ARRAY, queue
 * -> index of the interface that leads to the program (a veth into its namespace), where no socket takes the frame; 0: none. */
enum queue_constant {
	QUEUE_NOTE_MAGIC = 0x4d7a7175,
	QUEUES_MOST = 64,	/* queues of user-space programs, */
	RECEIVERS_MOST = 64,	/* each with a socket for each receive queue of the interface */
};

struct queue_note {
	uint32_t magic;		/* QUEUE_NOTE_MAGIC */
	uint32_t meta;		/* the tenant; 0 where the pipeline set none */
};

/* ---- nat_settings: ARRAY of one. Time-outs in ticks: an idle time above it ends a connection. */
struct nat_settings {
	uint32_t udp;
	uint32_t icmp;
	uint32_t tcp;
	uint32_t tcp_transitory;
	uint32_t fragment;
	uint32_t rules;		/* number of the rules, 1..65535 */
	uint16_t reports;	/* 1: every begin, answer and end of a connection is an event, for a second gateway */
	uint16_t mappings;	/* 1: a pool maps endpoint-independently, and nat_mappings is asked for destinations */
	uint32_t quota;		/* of a tenant that has no other; 0: none */
};

/* ---- nat_sources: LPM_TRIE, nat_source_key -> nat_source. What becomes of the source of a new connection: a static rule by the
 * whole key (64 bits + 32 or 128), a masquerade rule by a prefix of the metadata (32 bits + its length). */
struct nat_source_key {
	uint32_t prefix_bits;
	uint32_t version_be;	/* 4 or 6 */
	uint32_t meta_be;
	uint8_t addr[16];	/* IPv4: in the first four bytes */
};

struct nat_source {
	uint32_t pool;		/* slot in nat_pools; 0: a static rule, then: */
	uint32_t meta;		/* outside */
	uint8_t addr[16];	/* outside, mapped */
};

/* ---- nat_pools: ARRAY, slot -> nat_pool; slot 0 is none. nat_addresses: ARRAY, place -> nat_address.
 *
 * An inner address always gets the address of place first_address + (inner address as a number) % addresses (RFC 4787 REQ-2).
 * Ports that are tried, of `count` from first_port: the connection's own one where it is among them; then, with
 * start and stride as below, (start + n * stride) % count for n = 0, 1, ... so that there are PORT_TRIES in all, or all there
 * are. `stride` keeps n * stride below count, so none is tried twice by that.
 *   fold(a) = a for IPv4, high 64 bits ^ low 64 bits for IPv6; mix() as in dataplane/gateway/mix.h
 *   h = mix(mix(mix(fold(source)) ^ fold(destination)) ^ (meta << 32 | source port << 16 | destination port)) ^ protocol
 *   h = mix(h); start = (h >> 32) % count; stride = 1 + (h & 0xffffffff) % max(1, count / PORT_TRIES) if count > PORT_TRIES else 1
 * Of an endpoint-independent mapping, destination and its port are 0 there. */
enum nat_pool_flag {
	POOL_MAPPING = 1,		/* endpoint-independent mapping; else a port serves one connection to each destination */
	POOL_FILTER_ADDRESS = 2,	/* with it: from addresses that the inner end has sent to, new connections may come in */
	POOL_FILTER_NONE = 4,		/* with it: from all */
};

struct nat_pool {
	uint32_t meta;		/* outside */
	uint32_t first_address;
	uint32_t addresses;
	uint16_t first_port;
	uint16_t last_port;
	uint32_t flags;		/* enum nat_pool_flag */
};

struct nat_address {
	uint8_t addr[16];	/* mapped */
};

/* ---- nat_ends: LPM_TRIE, nat_end_key -> nat_end. What becomes of the destination of a new connection: outer ends of static
 * rules (160 bits) and of forwards (168 bits + a prefix of the port: a range is several). */
struct nat_end_key {
	uint32_t prefix_bits;
	uint32_t meta_be;	/* outside */
	uint8_t addr[16];	/* mapped */
	uint8_t protocol;
	uint8_t port_be[2];
	uint8_t pad;
};

struct nat_end {
	uint32_t meta;		/* inside */
	uint8_t addr[16];	/* inside, mapped */
	uint16_t add_port;	/* to the destination port, modulo 65536: inside - outside */
	uint16_t pad;
};

/* ---- nat_mappings: HASH, nat_mapping_key -> nat_mapping. Endpoint-independent mappings, under both ends; and, where
 * the pool filters by address, those to whom the inner end has sent, under its outer end and their address. */
enum nat_mapping_kind {
	MAPPING_INNER = 1,	/* inner end -> outer end */
	MAPPING_OUTER = 2,	/* outer end -> inner end */
	MAPPING_CONTACT = 3,	/* outer end and an address outside -> inner end */
};

struct nat_mapping_key {
	uint32_t meta;
	uint8_t addr[16];	/* mapped */
	uint8_t contact[16];	/* MAPPING_CONTACT: of whom; else 0 */
	uint16_t port_be;
	uint8_t protocol;
	uint8_t kind;		/* enum nat_mapping_kind */
};

struct nat_mapping {
	uint32_t meta;
	uint8_t addr[16];
	uint16_t port_be;
	uint16_t pool;		/* slot in nat_pools */
	uint32_t stamp;		/* when a connection last began with it */
};

/* ---- nat_tenants: HASH, metadata of the inside -> nat_tenant. Made when a tenant's first connection begins, if user space has
 * not, with the quota of nat_settings. */
struct nat_tenant {
	uint32_t quota;		/* connections at once, QUOTA_NONE: any number */
	uint32_t in_use;
	uint32_t told;		/* tick of the last event about what it was refused */
	uint32_t pad;
	uint64_t begun;		/* connections */
	uint64_t refused;	/* packets that would have begun one: for its quota, */
	uint64_t exhausted;	/* or because no port was free */
};

/* ---- fragments: ARRAY, share by metadata and place by the rest -> fragment_note. Ports of a datagram's first fragment. IPv4
 * mapped; `id` is IPv4's 16 bits or IPv6's 32, as on the wire. */
struct fragment_note {
	uint32_t meta;
	uint32_t id;
	uint8_t src[16];
	uint8_t dst[16];
	uint16_t src_port_be;
	uint16_t dst_port_be;
	uint8_t protocol;
	uint8_t version;	/* of IP */
	uint8_t pad[2];
	uint32_t stamp;
};

/* ---- gateway_reasons: PERCPU_ARRAY, number of contracts/gateway_reasons.toml -> uint64_t, packets. */

/* ---- gateway_events: RINGBUF of gateway_event. Refusals at most once a tick for each tenant; reports all, where asked for. */
enum gateway_event_kind {
	GATEWAY_EVENT_EXHAUSTED = 1,	/* no free port, or no room in a map: `reason` */
	GATEWAY_EVENT_QUOTA = 2,
	GATEWAY_EVENT_BEGUN = 3,	/* reports: a connection, in its ORIGINAL direction */
	GATEWAY_EVENT_ANSWERED = 4,
	GATEWAY_EVENT_CLOSING = 5,	/* FINs of both sides, or a RST */
};

struct gateway_event {
	uint64_t time_ns;
	uint32_t kind;		/* enum gateway_event_kind */
	uint32_t reason;
	uint32_t tenant;
	uint32_t meta;		/* what came: */
	uint8_t src[16];
	uint8_t dst[16];
	uint16_t src_port_be;
	uint16_t dst_port_be;
	uint8_t protocol;
	uint8_t version;	/* of IP */
	uint16_t flags;		/* of the entry of this direction, in reports */
	uint32_t becomes_meta;	/* in reports, what it becomes: */
	uint8_t becomes_src[16];
	uint8_t becomes_dst[16];
	uint16_t becomes_src_port_be;
	uint16_t becomes_dst_port_be;
};

/* ---- gateway_keeper: a program that user space runs with a gateway_order (dataplane/gateway_keeper.c). It installs a connection
 * whole, or removes it, and keeps the tenant's count; returns 0 or -errno: EDQUOT for the quota. `body`: key of the ORIGINAL
 * direction, key of its twin, and of an order to install or to renew the values of both. */
enum gateway_order_kind {
	ORDER_INSTALL = 1,
	ORDER_REMOVE = 2,
	ORDER_QUOTA = 3,	/* `body`: metadata and quota, of 32 bits each */
	ORDER_RENEW = 4,	/* stamp, ack, window, flags, scale and rules of both; what packets become stays */
	ORDER_FIND = 5,		/* whether the first key has an entry: 0 or -ENOENT */
	ORDER_EXPIRE = 6,	/* as ORDER_REMOVE, where the entry still has the stamp of the first value: else -ENOENT */
};

struct gateway_order {
	uint32_t what;		/* enum gateway_order_kind */
	uint32_t version;	/* of IP */
	uint8_t body[224];
};

/* ---- gateway_sweep: a program that user space runs with a gateway_sweep_order (dataplane/gateway_sweep.c). It looks at lines from
 * `place` on and removes the connections whose ORIGINAL entry is there and whose time is up; those in the hash user
 * space finds and names. It ends behind `lines` lines or `ends` connections, or where gateway_swept is full. */
struct gateway_sweep_order {
	uint32_t version;	/* of IP */
	uint32_t place;		/* the first line; afterwards the first that it has not looked at */
	uint32_t lines;		/* 0: instead, the first `ends` of gateway_sweep_keys, which are in the hash */
	uint32_t ends;
	uint32_t now;		/* tick */
	uint32_t tell;		/* 1: of each that is removed, gateway_swept */
	uint32_t udp;		/* time-outs as in nat_settings */
	uint32_t icmp;
	uint32_t tcp;
	uint32_t tcp_transitory;
	uint32_t ended;		/* afterwards: how many it has removed */
	uint32_t pad;
};

/* ---- gateway_sweep_keys: ARRAY, place -> gateway_sweep_key: connection4_key or connection6_key and zeros. */
struct gateway_sweep_key {
	uint8_t key[48];
};

/* ---- gateway_swept: RINGBUF of gateway_swept: connections as they were when they were removed. */
struct gateway_swept {
	uint32_t version;	/* of IP */
	uint32_t twin_stamp;
	uint32_t twin_flags;	/* 0 without a twin */
	uint32_t pad;
	uint8_t key[48];	/* connection4_key or connection6_key of the ORIGINAL direction, */
	uint8_t value[64];	/* and connection4 or connection6 */
};
#endif

/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The shape of every map, shared by the kernel's programs and by Python.
 *
 * clang compiles this file; Python gives the same text to cffi (mizar/kernel/layout.py), so there is one
 * description and no copy. To stay readable for both: fixed-width types, named enums and structs only; the
 * preprocessor is used for nothing but the include guard and the include of stdint.h. Sizes are asserted in
 * dataplane/lib/layout.h. Every pad is named and always zero, because a hash key is compared byte by byte.
 *
 * Addresses are 16 bytes, network order; IPv4 is written as IPv4-mapped IPv6 (::ffff:a.b.c.d, RFC 4291 2.5.5.2).
 * Every key of tenant data begins with the number of its VPC, `vni`: the VNI itself, below VPC_NUMBERS, for a VPC that its VNI
 * names; from VPC_NUMBERS on for one that shares its VNI with others and is told from them by its identity (see `identities`).
 * Fields are host byte order unless the name ends in _be.
 * A "slot" is an index into an array map, chosen by the daemon, valid on one droplet only; slot 0 is never used.
 */
#ifndef MIZAR_DATAPLANE_H
#define MIZAR_DATAPLANE_H
#include <stdint.h>

enum mizar_limit {
	HOPS = 16,		/* members a hop set holds; a power of two */
	VPC_NUMBERS = 0x1000000,	/* the first number of a VPC that no VNI can be */
	OPTION_BYTES = 252,	/* Geneve options of one packet, at most (RFC 8926 3.4) */
	OVERHEAD_IPV4 = 50,	/* Ethernet 14 + IPv4 20 + UDP 8 + Geneve or VXLAN 8, in bytes */
	OVERHEAD_IPV6 = 70,	/* the same with IPv6's 40 */
	SERVICE_PLACES = 4093,	/* of a service's Maglev table; a prime */
};

enum tunnel_port {
	GENEVE_PORT = 6081,
	VXLAN_PORT = 4789,
};

enum tunnel_protocol {
	TUNNEL_GENEVE = 1,	/* RFC 8926 */
	TUNNEL_VXLAN = 2,	/* RFC 7348 */
};

/* ---- endpoints: HASH, endpoint_key -> endpoint. One entry per address of an endpoint that this droplet knows:
 * all of its own, all of every network for which it is a bouncer, and, learned, those that its own endpoints send to. An
 * appliance that lives here, or that a route leads to, has one by its MAC: ff02:4d5a:0:0:0, which no destination begins with,
 * and the six bytes. */
struct endpoint_key {
	uint32_t vni;
	uint8_t addr[16];
};

enum endpoint_flag {
	ENDPOINT_EGRESS = 1,	/* delivered by transmission out of `ifindex`: a tap, or a veth whose other end is on the host */
	ENDPOINT_STANDBY = 2,	/* of an agent, for the daemon: it lives on another droplet; no entry in endpoints leads here */
	ENDPOINT_LEARNED = 8,	/* found out by the daemon, for the direct path: agents alone use it, and it may be wrong */
	ENDPOINT_GONE = 4,	/* learned, and its host has said that the endpoint is not there: not used any more */
	ENDPOINT_BYPASS = 4,	/* on this droplet (which nothing learned is): it takes tunnel packets as they are */
	ENDPOINT_SCALED = 16,	/* in endpoints: a service; `slot` is in services, `droplet` and `ifindex` are 0 */
	ENDPOINT_MEMBER = 32,	/* in agents: a member of a service, whose replies may have to bear the service's address */
	ENDPOINT_FORWARDING = 16,	/* in agents: an appliance. What `routes` has as its sources may be sent from, too */
	ENDPOINT_POLICED = 64,	/* in endpoints of this droplet and in agents: endpoint_policies has a record of it */
	MEMBER_POLICED = 2,	/* in members of this droplet: the same */
	ENDPOINT_LIMITED = 128,	/* in endpoints of this droplet and in agents: endpoint_limits has a record of it */
	MEMBER_LIMITED = 32,	/* in members of this droplet: the same */
	MEMBER_BY_OPTION = 8,	/* in members: a tunnel end without a daemon, which takes what bears a VIP option alone */
	MEMBER_LISTENED = 16,	/* in members: its service has listeners (see `listeners`) */
	MEMBER_DRAINING = 64,	/* in members: takes no new flow, keeps those that it has */
	MEMBER_DOWN = 128,	/* in members: failed its check; keeps TCP connections alone */
};

enum learned_network {
	NETWORK_ELSEWHERE = 0xffffffff,	/* of a learned endpoint: a network that this droplet does not know */
};

/* endpoint_versions: ARRAY, place -> uint32_t. Each CPU remembers entries for a moment. Whoever has written an entry gives the place
 * of its key another version behind that, and nobody goes on with what was before: dataplane/lib/near_endpoint.h has the place.
 * agent_versions: the same for agents, whose place are the lower bits of the interface. public_version: one for all public_addresses. */
enum versions {
	ENDPOINT_VERSIONS = 1024,	/* powers of two */
	AGENT_VERSIONS = 256,
};

struct endpoint {
	uint32_t droplet;	/* slot in droplets: the host of the endpoint */
	uint32_t ifindex;	/* its tap, or the host side of its veth, when it is on this droplet, else 0 */
	uint32_t slot;		/* slot in endpoint_counters when it is on this droplet, else 0 */
	uint32_t vpc_slot;	/* slot in vpc_counters */
	uint32_t network;	/* slot in hop_sets: the network that it belongs to */
	uint8_t mac[6];
	uint8_t tunnel;		/* enum tunnel_protocol: how packets reach its host */
	uint8_t flags;		/* enum endpoint_flag */
	uint32_t used;		/* learned: when an agent last used it, in ticks >> USED_SHIFT; the data plane's own, as in
				 * known_sender */
};

enum used_constant {
	USED_SHIFT = 8,		/* about a second */
};

/* ---- networks: LPM_TRIE, network_key -> network. One entry per prefix of a network that this droplet bounces,
 * routes (it is a divider of the VPC) or hosts endpoints of, and of each that lies inside of one that it bounces: with no
 * flag, so that its packets go to a divider instead of being taken for those of the network around it. */
struct network_key {
	uint32_t prefix_bits;	/* 32 (the VNI) + prefix length of the mapped address (IPv4: + 96) */
	uint32_t vni_be;	/* network order: a trie compares from the most significant bit */
	uint8_t addr[16];
};

enum network_flag {
	NETWORK_BOUNCED_HERE = 1,	/* this droplet is one of its bouncers: it knows every endpoint */
	NETWORK_ROUTED_HERE = 2,	/* this droplet is a divider of the VPC */
	NETWORK_HAS_ROUTES = 0x200,	/* `routes` has a table of it: its agents look there first */
	NETWORK_THROUGH_DIVIDER = 0x400, /* for the daemon: it gives nobody of another network a direct path to it */
	NETWORK_PEERED = 0x100,	/* no network: addresses of a VPC that this one is peered with. Dividers hold these */
};

struct network {
	uint32_t slot;		/* slot in hop_sets: its bouncers */
	uint32_t vpc_slot;	/* slot in vpc_counters */
	uint32_t flags;		/* enum network_flag */
	uint32_t peer;		/* NETWORK_PEERED: the key of that VPC in vpcs; else 0 */
	uint8_t gateway[16];	/* the address answered as the virtual router */
};

/* ---- routes: LPM_TRIE, route_key -> network_route. The route tables of networks; asked by agents, before all others. And
 * the sources of appliances: what each may send from beside its own addresses, ROUTE_VPC, and what not, ROUTE_BLACKHOLE. */
enum route_table {
	TABLE_SOURCES = 0x40000000,	/* of an appliance: this and its slot in endpoint_counters, instead of a network's slot */
};

struct route_key {
	uint32_t prefix_bits;	/* 32 (the table) + prefix length of the mapped address (IPv4: + 96) */
	uint32_t table_be;	/* network order: twice the slot of the network in hop_sets, and one more for IPv6 */
	uint8_t addr[16];
};

enum route_action {
	ROUTE_VPC = 1,		/* as if the network had no table: the networks of the VPC, and its peers */
	ROUTE_BLACKHOLE = 2,	/* refused */
	ROUTE_SUBSTRATE = 3,	/* to the stack of the sender's own droplet; and what comes from there may come in */
	ROUTE_ENDPOINT = 4,	/* to an appliance, an endpoint that forwards; what that sends itself goes as ROUTE_VPC */
};

struct network_route {
	uint32_t action;	/* enum route_action */
	uint32_t droplet;	/* for the daemon, and so on below: the host of the appliance, slot in droplets */
	uint32_t network_id;	/* its network */
	uint8_t mac[6];		/* ROUTE_ENDPOINT: of the appliance, which is in endpoints by it; else zero */
	uint8_t tunnel;		/* for the daemon: in which packets reach the host */
	uint8_t pad;
};

/* ---- substrate_link: ARRAY of one: the ifindex of the data plane's end of the veth pair into this droplet's own stack; 0:
 * there is none. substrate_endpoints: HASH, droplet_key -> number of the VPC: addresses of this droplet's endpoints to which
 * its stack has a route. Such addresses are the substrate's own, and unique: hence no VPC in the key. */

/* ---- vpcs: HASH, vni -> vpc. */
enum vpc_flag {
	VPC_DIVIDED_HERE = 1,	/* this droplet is one of its dividers: it knows every network */
};

struct vpc {
	uint32_t slot;		/* slot in vpc_counters */
	uint32_t dividers;	/* slot in hop_sets, 0 when no divider is known */
	uint32_t flags;		/* enum vpc_flag */
	uint32_t wire_vni;	/* what its packets bear as VNI: its number, unless that is from VPC_NUMBERS on */
};

/* ---- identities: HASH, identity_key -> number of the VPC. Those that share a VNI: what a packet's VNI and IDENTITY name. */
struct identity_key {
	uint32_t vni;
	uint32_t pad;
	uint64_t tenant;
	uint64_t vpc;
};

/* ---- hop_sets: ARRAY, slot -> hop_set. The bouncers of a network or the dividers of a VPC. All HOPS places are
 * always filled, members repeated evenly, so that a reader takes place [hash % HOPS] without a count, and a reader
 * that races with a write still finds a live member. The data plane reads `droplet` only. */
struct hop_set {
	uint32_t droplet[16];	/* slots in droplets; 0 = none */
	uint32_t vni;		/* owner, for the daemon: the VPC */
	uint32_t network_id;	/* owner, for the daemon: the network, 0 = the VPC's dividers */
};

/* ---- droplets: ARRAY, slot -> droplet; droplet_slots: HASH, address -> known_sender (who may send to us). A droplet with
 * an address of each family has one slot and two entries in droplet_slots: compare droplets by slot, not by address. */
struct droplet {
	uint8_t addr[16];		/* the one that this droplet writes to: of a family that both speak */
	uint8_t next_hop_mac[6];	/* on the substrate; zero until the daemon has resolved it */
	uint8_t down;		/* 1: it answers no probe; passed over wherever another droplet will do */
	uint8_t foreign;	/* 1: a tunnel end without a daemon; nobody there has judged what it sends */
	uint16_t mtu;		/* bytes of the longest IP packet on the way there; 0: not known, so not looked at */
	uint16_t interface_mtu;	/* for the daemon: that of its interface, as it was told; 0: not told */
};

/* The stamps are the data plane's own, in ticks of the kernel's coarse clock: they are written in place, and only when
 * the clock has moved on. The daemon compares them with what they were. Transit XDP reads this table once a tick for each sender
 * and CPU (dataplane/lib/senders.h): what is removed is believed for a tick more, at most. */
struct known_sender {
	uint32_t slot;		/* in droplets */
	uint32_t heard;		/* when a tunnel packet last came from it */
	uint32_t answered;	/* when it last answered a probe; 0: never, it may be an end that knows no probes */
};

struct droplet_key {
	uint8_t addr[16];
};

/* ---- agents: HASH, ifindex of a tap or of the host side of a veth -> agent. What one endpoint may send and who answers it. */
struct agent {
	uint32_t vni;
	uint32_t slot;		/* slot in endpoint_counters */
	uint32_t vpc_slot;	/* slot in vpc_counters */
	uint32_t network;	/* slot in hop_sets */
	uint32_t network_flags;	/* enum network_flag of that network on this droplet */
	uint32_t wire_vni;	/* what its packets bear as VNI */
	uint16_t group_set;	/* number of its set of groups, 0 when it is in none: goes along in VXLAN */
	uint8_t option_bytes;	/* not 0: agent_options has Geneve options for it, so many bytes */
	uint8_t option_flags;	/* enum option_flag */
	uint8_t mac[6];
	uint8_t tunnel;		/* enum tunnel_protocol in which it sends */
	uint8_t flags;		/* enum endpoint_flag: as in its entry in endpoints */
	uint8_t addr4[16];	/* zero: it has none */
	uint8_t addr6[16];	/* zero: it has none */
	uint8_t gateway4[16];
	uint8_t gateway6[16];
	uint8_t prefix4;	/* length of the network's IPv4 prefix, 0..32 */
	uint8_t prefix6;	/* length of the network's IPv6 prefix, 0..128 */
	uint8_t pad2[6];
};

enum option_flag {
	OPTION_FLAG_IDENTITY = 1,	/* the VPC is known by its identity: no header without options will do */
};

/* ---- agent_options: HASH, ifindex -> agent_options. Geneve options that an agent puts on what it sends, ready to be
 * copied: written whole, so that no packet bears half of two. */
struct agent_options {
	uint32_t bytes;		/* a multiple of 4 */
	uint8_t data[252];
};

/* ---- group_sets: HASH, group_set_key -> group_set. What a set's number means, where endpoints of the VPC live: for
 * functions, and for packets that bear the number alone (VXLAN). */
enum group_limit {
	GROUPS = 16,		/* that an endpoint may be in */
};

struct group_set_key {
	uint32_t vni;
	uint32_t number;
};

struct group_set {
	uint32_t count;
	uint32_t groups[16];	/* ids of networks of type group, ascending; 0 behind the last */
};

/* ---- services: ARRAY, slot -> service. Where the flows of a scaled endpoint go: the low 32 bits of the
 * flow's hash, times SERVICE_PLACES, shifted right by 32, name a place; the place a member. Every droplet that knows the VPC has the same places (docs/scaled-endpoints.md). */
struct service {
	uint32_t near;		/* slot in services of the table that agents use: members on this droplet. 0: this one */
	uint16_t place[4093];	/* slots in members; 0 = none */
	uint16_t flags;		/* enum service_flag */
};

enum service_flag {
	SERVICE_LISTENED = 1,	/* a load balancer: it takes what `listeners` has, and nothing else */
	SERVICE_BY_CLIENT = 2,	/* a new flow's place follows from the client's address alone */
	SERVICE_ATTRACTED = 4,	/* in service_notes: this droplet attracts its public addresses */
	SERVICE_VIP_OPTION = 8,	/* in service_notes and in public_addresses: they are in an option on the way to members */
};

/* ---- listeners: HASH, listener_key -> listener. What a load balancer takes, and at which port its members do. Every droplet
 * that knows the VPC has all of them. */
struct listener_key {
	uint32_t vni;
	uint8_t addr[16];	/* the service's */
	uint16_t port_be;	/* never 0: what shows no port is taken by none */
	uint8_t protocol;
	uint8_t pad;
};

struct listener {
	uint16_t target_be;	/* the members' port */
	uint16_t pad;
};

/* ---- public_addresses: HASH, droplet_key -> public_address. Of load balancers, and this droplet attracts them: what comes
 * for them from the substrate is taken. Such addresses are the substrate's own, and unique: hence no VPC in the key.
 * public_switch: ARRAY of one: not 0 where there are any. public_inside: LPM_TRIE, route_key -> 1, the table being the slot of
 * the service: addresses that nobody outside can have, because the VPC has them. */
struct public_address {
	uint32_t vni;
	uint32_t wire_vni;
	uint32_t service;	/* slot in services */
	uint32_t vpc_slot;	/* slot in vpc_counters */
	uint32_t flags;		/* enum service_flag: SERVICE_VIP_OPTION or 0 */
};

/* ---- members: ARRAY, slot -> endpoint: a member of one service, as an endpoint. `slot` counts where it lives here.
 * member_slots: HASH, member_key -> slot in members, of members that live on this droplet: the last hop finds the one
 * that was chosen by the inner destination MAC. */
struct member_key {
	uint32_t service;	/* slot in services */
	uint8_t mac[6];
	uint8_t pad[2];
};

/* ---- service_notes, member_notes: ARRAY, as services and members. For the daemon: what it was told. Members' addresses are
 * read by Transit XDP as well, where a VIP option bears the service's (dataplane/lib/vip_option.h). */
struct service_note {
	uint32_t vni;		/* 0: the slot is free */
	uint32_t network_id;
	uint8_t addr4[16];	/* zero: it has none */
	uint8_t addr6[16];
	uint32_t near;		/* slot of the table for members here, 0 = none */
	uint32_t colocated;	/* 1: agents prefer members on their droplet */
	uint32_t flags;		/* enum service_flag */
	uint8_t public4[16];	/* its address on the substrate; zero: it has none */
	uint8_t public6[16];
};

struct member_note {
	uint32_t service;	/* slot in services; 0: the slot is free */
	uint32_t weight;
	uint32_t rank;		/* place in the list that the daemon was told */
	uint8_t state;		/* 1 healthy, 2 draining, 3 unknown, 4 down */
	uint8_t tunnel;		/* enum tunnel_protocol */
	uint8_t mac[6];
	uint8_t host[16];
	uint8_t addr4[16];
	uint8_t addr6[16];
};

/* ---- flows: HASH, flow_key -> flow. Written by the data plane with the first packet of a flow only; after that in place,
 * where stamp or state changed. The daemon removes what is old. */
enum flow_kind {
	FLOW_CHOICE = 1,	/* where the member was chosen: client and service -> member */
	FLOW_SERVICE = 2,	/* at the member's host: client and member -> the service's address */
};

enum flow_state {
	FLOW_OPEN = 1,		/* TCP: went beyond its first packet */
	FLOW_CLOSING = 2,	/* TCP: FIN or RST was seen */
};

struct flow_key {
	uint32_t vni;
	uint8_t client[16];
	uint8_t server[16];	/* FLOW_CHOICE: the service. FLOW_SERVICE: the member */
	uint32_t ports_be;	/* the client's, the server's; an echo's identifier twice; 0 for fragments */
	uint8_t protocol;
	uint8_t kind;		/* enum flow_kind */
	uint8_t pad[2];
};

struct flow {
	uint8_t addr[16];	/* FLOW_SERVICE: the service's */
	uint32_t member;	/* FLOW_CHOICE: slot in members. FLOW_SERVICE: the service's port, network order, if it is another */
	uint32_t vpc_slot;	/* whose budget it is part of */
	uint32_t stamp;		/* of the last packet: as in struct proxy_flow */
	uint8_t mac[6];		/* FLOW_CHOICE: of the member, because a slot may be given to another */
	uint8_t state;		/* enum flow_state */
	uint8_t outside;	/* 1: the client is on the substrate; FLOW_CHOICE: it began there, and is none of the VPC's addresses */
};

/* ---- flow_budgets, flow_counts: ARRAY, slot in vpc_counters -> how many flows of the VPC may have been inserted since
 * ever (the daemon adds what it removed), and how many were. */
struct flow_budget {
	uint64_t until;
};

struct flow_count {
	uint64_t inserted;
};

/* ---- endpoint_policies: ARRAY, slot in endpoint_counters -> endpoint_policy. What an endpoint of this droplet with the flag
 * ENDPOINT_POLICED (MEMBER_POLICED) may take and send: docs/policy.md, "How a packet is judged". A set is the rules of one
 * direction as they are for some endpoints of this droplet; it has a number, never 0, that belongs to one VPC.
 *
 * A record whose sets change is written twice: the sets with the old generation, then the generation. The data plane reads
 * the generation first: so nothing judged by an old set bears a new generation. */
enum policy_flag {
	POLICY_AUDIT_INGRESS = 1,	/* what no rule allows is told, and passes */
	POLICY_AUDIT_EGRESS = 2,
};

struct endpoint_policy {
	uint32_t ingress;	/* its set for what it is sent; 0: no policy selects it for that, all may come in */
	uint32_t egress;	/* for what it sends; 0: all may go out */
	uint32_t flags;		/* enum policy_flag */
	uint32_t since;		/* the generation of its first record: flows of earlier ones are another endpoint's */
	uint32_t generation;	/* higher with every change of its sets or of what they hold; never the same again, not 0 */
	uint32_t vni;		/* its VPC */
	uint32_t grace_until;	/* as a stamp of policy_flow: until then, answers take up older flows; 0: never */
	uint32_t beside_ingress;	/* what `ingress` allows and this set would not is told, and passes; 0: none only audits */
	uint32_t beside_egress;
};

/* ---- policy_sets: HASH, number of a set -> policy_set. For the daemon alone: by what the manager knows the set. */
struct policy_set {
	uint64_t id;
	uint32_t vni;
	uint32_t pad;
};

/* ---- policy_peers: LPM_TRIE, policy_peer_key -> class. Peers by address: of all prefixes of a set that hold the peer's
 * address, the longest names its class. None: class 0. Classes are numbers within a set, of either kind. */
struct policy_peer_key {
	uint32_t prefix_bits;	/* 32 (the set) + prefix length of the mapped address (IPv4: + 96) */
	uint32_t set_be;	/* network order: a trie compares from the most significant bit */
	uint8_t addr[16];
};

/* ---- policy_groups: HASH, policy_group_key -> class. Peers by the set of groups that their packets bear, for ingress sets:
 * so that an endpoint that joins a group is written to no droplet but its own. Not there: no class of this kind. */
struct policy_group_key {
	uint32_t set;
	uint32_t group_set;	/* number of a set of groups in the VPC of the endpoint; never 0 */
};

/* ---- policy_verdicts: LPM_TRIE, policy_verdict_key -> policy_verdict. What a set says of a class: the longest prefix wins,
 * so rows of nested ranges say what holds for them, whatever the others say. A row for all protocols has 64 bits, for one
 * protocol 72, for ports 73 to 88. For ICMP the port is type and code. */
struct policy_verdict_key {
	uint32_t prefix_bits;
	uint32_t set_be;	/* network order, as the next */
	uint32_t class_be;
	uint8_t protocol;
	uint8_t port_be[2];	/* of the end that the flow begins towards */
	uint8_t pad;
};

enum policy_action {
	POLICY_ALLOW = 1,	/* without it: denied */
	POLICY_LOG = 2,		/* told of: of what is allowed, the first packet of each flow */
	POLICY_AUDIT = 4,	/* of what is denied: told, and let pass all the same */
	POLICY_KEEP = 8,	/* of what is allowed: the flow goes on when a later generation does not allow it any more */
};

struct policy_verdict {
	uint32_t rank;		/* of the verdicts of two classes the one with the lower rank holds */
	uint32_t action;	/* enum policy_action */
	uint32_t rule;		/* the manager's number of the rule; 0: none in particular */
};

/* ---- policy_flows: HASH, policy_flow_key -> policy_flow. What a policed endpoint and a peer have begun, one entry for each
 * policed end. Inserted with the first packet of a flow, after that written in place where something changed. The daemon
 * removes what is old. policy_budgets, policy_counts: as flow_budgets and flow_counts, for these. */
struct policy_flow_key {
	uint32_t vni;
	uint32_t slot;		/* of the policed endpoint, in endpoint_counters */
	uint8_t peer[16];
	uint16_t own_port_be;	/* the endpoint's; an echo's identifier twice; 0 where a protocol has none */
	uint16_t peer_port_be;
	uint8_t protocol;
	uint8_t later;		/* 1: stands for fragments behind the first, of all datagrams; ports are 0 */
	uint8_t pad[2];
};

enum policy_direction {		/* of a packet, seen from the policed endpoint */
	POLICY_INGRESS = 1,
	POLICY_EGRESS = 2,
};

enum policy_flow_begun {	/* in one byte with the direction of the flow's first packet: what judging writes */
	POLICY_FLOW_DIRECTION = 3,
	POLICY_FLOW_ENDED = 4,	/* not allowed any more: both ends' packets are refused until it is begun anew */
	POLICY_FLOW_KEPT = 8,	/* by a rule with POLICY_KEEP */
};

enum policy_flow_state {	/* what packets write */
	POLICY_FLOW_ANSWERED = 1,	/* the other end than the one that began it has sent, too */
	POLICY_FLOW_CLOSING = 2,	/* TCP: FIN or RST was seen */
	POLICY_FLOW_ONE_ANSWER = 4,	/* a function answered in the endpoint's stead: ends with that answer */
	POLICY_FLOW_CONFIRMED = 8,	/* and the one that began it once more after that. TCP: with ACK, which a server resets if it is forged */
	POLICY_FLOW_CONFIRMED_SHIFT = 3,	/* from ANSWERED */
};

struct policy_flow {
	uint32_t generation;	/* of the policy by which it was judged last */
	uint32_t stamp;		/* of the last packet: as in struct flow */
	uint32_t rule;		/* that decided */
	uint32_t vpc_slot;	/* whose budget it is part of */
	uint16_t group_set;	/* begun towards the endpoint: by a peer with this set of groups */
	uint8_t begun;		/* enum policy_flow_begun */
	uint8_t state;		/* enum policy_flow_state */
	uint32_t jiffies;	/* when the stamp was looked at last, in units of 256: the data plane's own, to spare it the clock */
};

/* ---- endpoint_limits: ARRAY, slot in endpoint_counters -> endpoint_limits. What an endpoint of this droplet with the flag
 * ENDPOINT_LIMITED (MEMBER_LIMITED) may send and be sent in a time, and how what it sends is marked: docs/qos.md. */
enum limit_place {
	LIMIT_ENDPOINT = 0,	/* its own */
	LIMIT_NETWORK = 1,	/* of all endpoints of its network on this droplet */
	LIMIT_VPC = 2,		/* of all endpoints of its VPC on this droplet */
	LIMIT_PLACES = 3,
	LIMIT_GUARANTEE = 3,	/* no limit: what the uplink carries of the endpoint in any case */
	LIMIT_UPLINK = 4,	/* of the droplet's interface: what it sends for all endpoints */
};

enum limit_direction {
	LIMIT_EGRESS = 0,
	LIMIT_INGRESS = 1,
};

enum limit_constant {
	LIMITER_UPLINK = 1,	/* the slot of the droplet's own in limiters */
	LIMITER_SHIFT = 20,	/* costs have so many bits behind the point */
	DSCP_MARKED = 0x80,	/* in endpoint_limits.dscp: its DSCP_BITS are written into all that it sends */
	DSCP_BITS = 0x3f,
};

struct endpoint_limits {
	uint32_t egress[3];	/* slots in limiters, by enum limit_place; 0: none */
	uint32_t ingress[3];
	uint32_t guarantee;	/* slot in limiters; 0: best effort */
	uint8_t dscp;		/* 0, or DSCP_MARKED and the code point */
	uint8_t pad[3];
	uint32_t egress_class;	/* of the shaper's tree (htb), where its bytes wait for their turn; 0: they are not shaped */
	uint32_t ingress_class;
};

/* ---- shaper: ARRAY of one: the ifindex of the near end of a veth pair on whose queue (htb) packets of limited endpoints wait; 0:
 * there is none, and what is over a limit is dropped. skb->mark says whose a packet is when it comes out of the far end. */
enum shaper_mark {
	SHAPED_INTERFACE = 0x40000000,	/* beside the interface of the endpoint that sends it */
	SHAPED_DELIVERY = 0x80000000,	/* beside that of the endpoint that it is handed to */
};

/* Beside SHAPED_INTERFACE, of what `deliver` sends on and no shaper has held: a function has answered in a member's stead, as the service. */
enum service_answer {
	ANSWER_OF_SERVICE = 0x20000000,
	ANSWER_OUTSIDE = 0x10000000,	/* to who is on the substrate */
};

/* ---- limiters: ARRAY, slot -> limiter, written by the daemon. A rate as a virtual clock has it: each packet costs time, and
 * the clock may be ahead of the real one by the burst. */
struct limiter {
	uint64_t byte_cost;	/* nanoseconds << LIMITER_SHIFT; 0: any number of bytes */
	uint64_t packet_cost;	/* the same for packets */
	uint64_t byte_burst_ns;
	uint64_t packet_burst_ns;
	uint64_t bits_per_second;	/* for the daemon, and so on below: what it was told */
	uint64_t packets_per_second;
	uint64_t burst_bytes;
	uint64_t burst_packets;
	uint32_t vni;		/* owner; 0: the slot is free */
	uint32_t owner;		/* id of the network, or slot of the endpoint; 0 for a VPC */
	uint8_t place;		/* enum limit_place */
	uint8_t direction;	/* enum limit_direction */
	uint8_t pad[6];
};

/* ---- limiter_states: ARRAY, slot -> limiter_state, written by the data plane, of all CPUs at once. Bytes are those of inner
 * frames as they are on the wire, Ethernet header included: a superpacket is all of its segments. */
struct limiter_state {
	uint64_t bytes_due;	/* the virtual clock of bytes: CLOCK_MONOTONIC, nanoseconds */
	uint64_t packets_due;
	uint64_t dropped_packets;
	uint64_t dropped_bytes;
	uint64_t delayed_packets;
	uint64_t delayed_bytes;
};

/* ---- network_acls: LPM_TRIE, network_key -> network_acl. By which sets of rules (as those of policies) what goes into a network, and
 * out of it, is judged: docs/network-acl.md. Droplets that know a VPC hold one entry for each prefix of its networks that have
 * rules, and of those inside of them. acl_vpcs: ARRAY, slot in vpc_counters -> 1 where the VPC has any. */
enum network_acl_rule {
	NETWORK_ACL_LAST = 0x7fff,	/* lower bits of the number of the rule that stands behind all others, and is nobody's */
};

struct network_acl {
	uint32_t network;	/* its number in the VPC: what stays in it is not judged */
	uint32_t ingress;	/* set for what comes in; 0: nothing is judged */
	uint32_t ingress_later;	/* the same for fragments behind the first, which show no ports */
	uint32_t egress;	/* for what goes out */
	uint32_t egress_later;
	uint32_t pad;
};

/* ---- counters: PERCPU_ARRAY. endpoint_counters[slot], vpc_counters[slot], drop_counters[reason].
 * Bytes are those of the inner frame, Ethernet header included. */
struct endpoint_counters {
	uint64_t sent_packets;		/* accepted from the endpoint by its agent */
	uint64_t sent_bytes;
	uint64_t delivered_packets;	/* handed to the endpoint */
	uint64_t delivered_bytes;
	uint64_t dropped_packets;	/* refused by its agent */
	uint64_t answered_packets;	/* ARP, ND and gateway pings answered for it */
};

struct vpc_counters {
	uint64_t sent_packets;		/* encapsulated by agents here */
	uint64_t sent_bytes;
	uint64_t delivered_packets;	/* handed to endpoints here, from the tunnel or from the same droplet */
	uint64_t delivered_bytes;
	uint64_t bounced_packets;	/* forwarded to the host of their endpoint */
	uint64_t bounced_bytes;
	uint64_t divided_packets;	/* forwarded to a bouncer of their network */
	uint64_t divided_bytes;
	uint64_t to_divider_packets;	/* forwarded to a divider, their network being unknown here */
	uint64_t to_divider_bytes;
	uint64_t answered_packets;	/* ARP, ND and gateway pings answered here */
	uint64_t dropped_packets;	/* dropped here after their VPC was known */
	uint64_t peered_packets;	/* crossed here into a peered VPC, which counts what becomes of them */
	uint64_t peered_bytes;
	uint64_t direct_packets;	/* of those sent: on the direct path, to the host of a learned endpoint */
	uint64_t direct_bytes;
	uint64_t returned_packets;	/* sent back to their sender: the endpoint that they are for is not here */
	uint64_t unsticky_packets;	/* to a service, forwarded without a flow: the VPC's share of flows is used up */
	uint64_t audited_packets;	/* that a policy in audit mode would have refused here */
};

/* ---- public_counters: PERCPU_ARRAY, 2 * slot in services (+ 1 for the address of IPv6) -> public_counters: what came for a public
 * address from the substrate, where this droplet attracts it. Bytes as above. */
struct public_counters {
	uint64_t came_packets;
	uint64_t came_bytes;
	uint64_t no_listener_packets;	/* of these refused, by reason */
	uint64_t inside_packets;	/* PUBLIC_SOURCE */
	uint64_t no_member_packets;
	uint64_t too_big_packets;
	uint64_t other_packets;
};

struct drop_counter {
	uint64_t packets;
	uint64_t bytes;		/* of the whole frame as it arrived */
};

/* ---- handover: what Transit XDP leaves in front of a frame (XDP metadata) for `deliver` on tc.
 * GRO merges frames only where it is equal, which keeps tenants apart. */
enum handover_magic {
	HANDOVER_MAGIC = 0x4d5a4f31,	/* "MZO1": decapsulated, for an endpoint */
	HANDOVER_ANSWER = 0x4d5a4131,	/* "MZA1": a function has made it an answer of the endpoint: to be sent through its agent */
	HANDOVER_SEND = 0x4d5a5331,	/* "MZS1": ready to be sent out of `ifindex`; vni and slot are 0 */
};

struct handover {
	uint32_t magic;
	uint32_t mark;		/* config.mark of the droplet that wrote it: over a veth, a note may come along */
	uint32_t ifindex;	/* the endpoint's tap, or the host side of its veth */
	uint32_t vni;
	uint32_t slot;		/* slot in endpoint_counters */
	uint32_t serial;	/* where frames must not be merged: another for each. HANDOVER_UNSURE: of which sum, see unsure.h */
	uint32_t flags;		/* enum handover_flag */
};

enum handover_flag {
	HANDOVER_SERVICE = 1,	/* sent to a service: `deliver` writes the member's address over the service's */
	HANDOVER_PUBLIC = 4,	/* from a client on the substrate, who is answered there */
	HANDOVER_LISTENED = 2,	/* and its member's port over the listener's */
	HANDOVER_UNSURE = 8,	/* a checksum was taken for one that is left to hardware, and may be whole */
	HANDOVER_TRACE = 0xff00,	/* the packet's trace mark */
};

/* ---- stages: PROG_ARRAY. Programs that others end in. */
enum stage {
	STAGE_PROXY = 0,	/* translates a frame for a proxied endpoint */
	STAGE_ONWARD = 1,	/* agent, for what a proxy sends */
	STAGES = 2,
};

/* ---- proxies: ARRAY, slot -> proxy. A proxied endpoint that this droplet carries. It has two sides, and each is an
 * endpoint of this droplet with entries in `endpoints` and `agents`, behind an interface that no kernel has:
 * PROXY_INTERFACE | slot << 1 | enum proxy_side. Flows begin on the client's side only. */
enum proxy_interface {
	PROXY_INTERFACE = 0x80000000,
};

enum proxy_side {
	PROXY_CLIENT = 0,	/* the proxied endpoint, in the VPC of its clients */
	PROXY_SOURCE = 1,	/* the address that stands for the clients in the target's VPC */
};

struct proxy {
	uint32_t instance;		/* never the same again, not 0: flows of an earlier one are void. 0: none */
	uint32_t budget;		/* flows that it may have */
	uint32_t client_vni;
	uint32_t source_vni;
	uint32_t client_vpc_slot;	/* slot in vpc_counters */
	uint32_t source_vpc_slot;
	uint8_t client4[16];		/* zero where it does not have the family */
	uint8_t client6[16];
	uint8_t source4[16];
	uint8_t source6[16];
	uint8_t target4[16];
	uint8_t target6[16];
};

/* ---- proxy_flows: HASH, proxy_flow_key -> proxy_flow. Two entries for each flow, one for each side: what comes from
 * `remote` to `local`, an address of the proxy, leaves on the other side from that side's address to the value's remote.
 * For an echo, its identifier is the client's port, and the other is 0. The data plane inserts, with a flow's first
 * packet; the daemon deletes what is idle or closed. */
struct proxy_flow_key {
	uint32_t vni;
	uint8_t local[16];
	uint8_t remote[16];
	uint16_t local_port_be;
	uint16_t remote_port_be;
	uint8_t protocol;
	uint8_t pad[3];
};

enum proxy_flow_state {		/* what this side has sent */
	FLOW_FIN = 1,
	FLOW_RESET = 2,
};

struct proxy_flow {
	uint8_t remote[16];
	uint16_t local_port_be;
	uint16_t remote_port_be;
	uint32_t slot;		/* of the proxy */
	uint32_t instance;
	uint32_t stamp;		/* of the last packet: CLOCK_MONOTONIC, nanoseconds >> FLOW_STAMP_SHIFT; 0: none yet */
	uint32_t state;		/* enum proxy_flow_state */
};

enum proxy_flow_limit {
	FLOW_STAMP_SHIFT = 30,	/* about a second */
	FLOW_EMBRYOS = 64,	/* newest flows of a proxy that are remembered, to let go those that nobody answered */
};

/* ---- proxy_usage: ARRAY, slot -> proxy_usage, written by the data plane; proxy_ended: ARRAY, slot -> how many flows
 * the daemon has deleted. A proxy has begun - evicted - ended flows. */
struct proxy_usage {
	uint32_t begun;
	uint32_t evicted;	/* let go before anybody answered, for a newer flow */
	uint32_t refused;	/* not begun: the budget was used up */
	uint32_t cursor;	/* which of the remembered flows to look at next */
};

/* ---- events: RINGBUF of struct event; written only while droplet_switches.events is set. Of refused packets, and of what
 * policies want told: `outcome` says which. */
enum event_outcome {
	EVENT_REFUSED = 0,
	EVENT_ALLOWED = 1,	/* by a rule that logs: `reason` is 0 */
	EVENT_AUDITED = 2,	/* would have been refused for `reason`, but for audit mode */
};

enum hook {
	HOOK_AGENT = 1,
	HOOK_TRANSIT = 2,
	HOOK_DELIVER = 3,
	HOOK_PROXY = 4,
	HOOK_SUBSTRATE = 5,
};

enum event_constant {
	EVENT_BYTES = 128,	/* of a frame, from its beginning */
	EVENT_REASONS = 192,	/* places for drop reasons, in drop_counters too */
	EVENT_ALLOWED_PLACE = 191,	/* in event_limits: of EVENT_ALLOWED, where no reason is */
	EVENT_SHARES = 64,	/* places for VPCs, by their slot in vpc_counters: those that share one share its limits */
};

struct event {
	uint64_t time_ns;	/* CLOCK_MONOTONIC */
	uint32_t reason;	/* contracts/drop_reasons.toml */
	uint32_t vni;		/* 0 where it was not known yet */
	uint32_t ifindex;	/* where the frame came in */
	uint32_t length;	/* bytes of the frame as it arrived */
	uint32_t endpoint_slot;	/* of the sender in endpoint_counters, where its agent refused the frame, else 0 */
	uint32_t vpc_slot;	/* in vpc_counters; 0: no VPC here is to be charged, whatever `vni` says */
	uint32_t inner_at;	/* where the inner frame begins, 0 for one that is in no tunnel, or not known to be */
	uint32_t rule;		/* where a policy has spoken: the rule that did, 0 for none; else 0 */
	uint32_t policed_slot;	/* and whose policy it is, in endpoint_counters; else 0 */
	uint16_t captured;	/* bytes of `frame` that count */
	uint8_t hook;		/* enum hook */
	uint8_t outcome;	/* enum event_outcome */
	uint8_t src[16];	/* inner source where it was parsed, else outer source, else zero */
	uint8_t dst[16];
	uint8_t frame[128];	/* as it was when it was refused */
};

/* ---- event_limits: PERCPU_ARRAY, share * EVENT_REASONS + reason -> event_limit; place 0 is for all together. */
struct event_limit {
	uint64_t due_ns;	/* CLOCK_MONOTONIC */
	uint64_t suppressed;	/* packets of `vni` that no event told of, since it has the place */
	uint32_t vni;		/* of the VPC that had the place last; 0: no VPC was known */
	uint32_t pad;
};

/* ---- traces: RINGBUF of struct trace_report: what became of a packet that bears a trace mark (contracts/wire.md), at one
 * program. trace_marks: ARRAY, mark -> 1 while somebody listens for it; others are not told of. */
enum trace_did {
	TRACE_REFUSED = 1,	/* for `reason` */
	TRACE_SENT = 2,		/* to the droplet `to` */
	TRACE_DELIVERED = 3,	/* to `ifindex`: by transit to `deliver`, by `deliver` to the endpoint */
	TRACE_PASSED = 4,	/* left to the host's own stack */
};

struct trace_report {
	uint64_t time_ns;	/* CLOCK_MONOTONIC */
	uint32_t reason;	/* contracts/drop_reasons.toml */
	uint32_t vni;
	uint32_t ifindex;	/* TRACE_DELIVERED */
	uint8_t mark;
	uint8_t hook;		/* enum hook */
	uint8_t did;		/* enum trace_did */
	uint8_t pad;
	uint32_t rule;		/* as in struct event */
	uint32_t policed_slot;
	uint8_t to[16];		/* TRACE_SENT */
	uint8_t src[16];	/* as in struct event */
	uint8_t dst[16];
};

/* ---- traps: RINGBUF of struct trap: what an endpoint asks and the daemon answers (DHCP, router solicitations). */
enum trap_limit {
	TRAP_BYTES = 1024,	/* of a frame; no client asks at more length */
};

struct trap {
	uint32_t ifindex;	/* of the endpoint that asks: the host side of its veth, or its tap */
	uint32_t length;	/* bytes of the frame; what is behind them is left from earlier */
	uint8_t frame[1024];
};

/* ---- notices: RINGBUF of struct notice: what the data plane asks the daemon for, or passes on to it. */
enum notice_kind {
	NOTICE_UNKNOWN = 1,	/* an agent sent from src to dst over a bouncer or divider: where is dst? */
	NOTICE_GONE = 2,	/* the learned entry of dst was wrong, and is out of use */
	NOTICE_ASK = 3,		/* another droplet asks, see contracts/wire.md: for src, where is dst? */
	NOTICE_HINT = 4,	/* another droplet answers */
	NOTICE_ORIGIN = 5,	/* what came over hops from src, for dst here, says where it set out */
};

struct notice {
	uint32_t kind;		/* enum notice_kind */
	uint32_t vni;
	uint32_t network_id;	/* NOTICE_HINT: of the network that dst belongs to */
	uint32_t nonce;		/* NOTICE_ASK, NOTICE_HINT: the asker's */
	uint8_t src[16];
	uint8_t dst[16];
	uint8_t droplet[16];	/* NOTICE_ASK: who asks. NOTICE_HINT: the host of dst. NOTICE_ORIGIN: of src, it says */
	uint8_t mac[6];		/* NOTICE_HINT: of dst */
	uint8_t tunnel;		/* NOTICE_HINT: enum tunnel_protocol */
	uint8_t hops;		/* NOTICE_ASK: how many droplets passed it on */
};

/* ---- configuration: constant from the load of a program on (section .rodata.config, symbol `config`). */
enum substrate_family {
	SUBSTRATE_IPV4 = 1,
	SUBSTRATE_IPV6 = 2,
};

struct droplet_config {
	uint8_t addr4[16];	/* of this droplet on the substrate; zero: it has none */
	uint8_t addr6[16];	/* the same for IPv6 */
	uint8_t mac[6];		/* of the interface */
	uint8_t families;	/* enum substrate_family: which of the two addresses it has */
	uint8_t pad;
	uint32_t mark;		/* tells the notes of this droplet from those of another */
	uint32_t ifindex;	/* of the interface */
	uint32_t icmp_errors;	/* how many the virtual router sends at most per CPU, VPC and 134 ms; 0: none at all */
	uint32_t traps;		/* how many requests for its configuration an endpoint has answered in 1.07 s; 0: none */
	uint32_t send_by_tc;	/* 1: XDP leaves to `deliver` what it sends. On a veth XDP itself reaches no far end
				 * without NAPI, and loses a checksum that was left to hardware; an skb has neither fault */
	uint32_t pace_ns;	/* how late what is over a limit may leave by this interface, whose queue is fq; 0: it is dropped */
	uint32_t uplink;	/* 1: LIMITER_UPLINK holds for what agents send by this interface */
};

/* ---- switches: changed while programs run (ARRAY of one, map droplet_switches). Read on drop paths only. */
struct droplet_switches {
	uint32_t events;	/* 1: refused packets are also written to the ring, as far as event_limits allow */
	uint32_t pad;
};

/* ---- xsk: the program of a function's interface (mizar/kernel/xsk.py); its constant configuration. */
struct xsk_config {
	uint32_t everything;	/* 1: all frames go to the queue's socket; 0: tunnel packets alone */
};
#endif

/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns what a program knows of the packet in its hands, beyond the headers themselves: it is filled in from stage to
 * stage, so that whoever refuses the packet can say how far it had come.
 */
#ifndef MIZAR_PACKET_H
#define MIZAR_PACKET_H
#include "hook.h"

/* Every stage's result must be looked at. */
#define __must_check __attribute__((warn_unused_result))

/* Reads of 16 and 32 bits where the field is declared as bytes: clang would read those one by one. */
typedef uint16_t __attribute__((may_alias)) word16;
typedef uint32_t __attribute__((may_alias)) word32;

struct packet {
	uint32_t length;	/* bytes of the frame as it arrived */
	uint32_t bytes;		/* bytes of the inner frame, once known */
	uint32_t packets;	/* on the wire: more than one in a superpacket */
	uint32_t vpc_slot;	/* 0 until the VPC is known */
	uint32_t inner_at;	/* where the inner frame begins in what arrived */
	uint32_t mtu;		/* PACKET_TOO_BIG: bytes of the longest inner IP packet that would have fitted */
	bool leaving;		/* it was on its way to a divider */
	uint8_t service;	/* the class of its endpoint, for the outer TOS or traffic class; 0: it has none */
	bool shaped;		/* it has waited in the shaper (shaper.h) */
	bool by_mac;		/* it goes to an appliance, whose address is not its destination */
	bool ruled;		/* it has left a VPC with network ACLs, over a peering: see network_acl.h */
	uint16_t own_port_be;	/* not 0: of a load balancer's member, what its policy takes for the port at its end */
	uint32_t src[4];	/* the innermost source parsed so far, mapped, network order */
	struct endpoint_key to;	/* VNI (0 until known) and innermost destination: ready to be looked up */
};

/* From here on what is known of a frame is what is in memory: compilers, too, have to read it there. */
static __always_inline void meet(void)
{
	asm volatile("" ::: "memory");
}

static __always_inline void copy_address(void *to, const void *from)
{
	for (int i = 0; i < 4; i++)
		((word32 *)to)[i] = ((const word32 *)from)[i];
}

static __always_inline bool same_address(const void *a, const void *b)
{
	const word32 *x = a, *y = b;

	return x[3] == y[3] && x[2] == y[2] && x[1] == y[1] && x[0] == y[0];
}

static __always_inline bool is_zero(const void *address)
{
	const word32 *words = address;

	return !(words[0] | words[1] | words[2] | words[3]);
}

/* IPv4 as IPv4-mapped IPv6, RFC 4291 2.5.5.2. */
static __always_inline void map_address(void *to, uint32_t ipv4_be)
{
	word32 *words = to;

	words[0] = 0;
	words[1] = 0;
	words[2] = bpf_htonl(0xffff);
	words[3] = ipv4_be;
}

static __always_inline uint32_t address_ipv4_be(const void *mapped)
{
	return ((const word32 *)mapped)[3];
}

static __always_inline void copy_mac(void *to, const void *from)
{
	for (int i = 0; i < 3; i++)
		((word16 *)to)[i] = ((const word16 *)from)[i];
}

static __always_inline bool same_mac(const void *a, const void *b)
{
	const word16 *x = a, *y = b;

	return x[0] == y[0] && x[1] == y[1] && x[2] == y[2];
}

/* An IPv4-mapped address belongs on no wire (RFC 4291 2.5.5.2), and in the tables it means IPv4. */
static __always_inline bool is_mapped(const void *address)
{
	const word32 *words = address;

	return !(words[0] | words[1]) && words[2] == bpf_htonl(0xffff);
}

static __always_inline void own_mac(void *to)
{
	for (int i = 0; i < 3; i++)
		((word16 *)to)[i] = ((const volatile word16 *)config.mac)[i];
}

/* 02:4d:5a:00:00:01, the virtual router of every network (contracts/wire.md). */
static __always_inline void router_mac(void *to)
{
	word16 *words = to;

	words[0] = bpf_htons(0x024d);
	words[1] = bpf_htons(0x5a00);
	words[2] = bpf_htons(0x0001);
}

static __always_inline bool is_router_mac(const void *mac)
{
	const word16 *words = mac;

	return words[0] == bpf_htons(0x024d) && words[1] == bpf_htons(0x5a00) && words[2] == bpf_htons(0x0001);
}

/* 02:4d:5a:00:00:02: the source address is a service's, which lives on no one droplet (contracts/wire.md). */
static __always_inline void service_mac(void *to)
{
	word16 *words = to;

	words[0] = bpf_htons(0x024d);
	words[1] = bpf_htons(0x5a00);
	words[2] = bpf_htons(0x0002);
}

/* 02:4d:5a:00:00:03: for the appliance with the destination MAC, whatever the destination address (contracts/wire.md). */
static __always_inline void appliance_mac(void *to)
{
	word16 *words = to;

	words[0] = bpf_htons(0x024d);
	words[1] = bpf_htons(0x5a00);
	words[2] = bpf_htons(0x0003);
}

static __always_inline bool is_appliance_mac(const void *mac)
{
	const word16 *words = mac;

	return words[2] == bpf_htons(0x0003) && words[0] == bpf_htons(0x024d) && words[1] == bpf_htons(0x5a00);
}

/* 02:4d:5a:00:00:05, as a destination: the router's, but nobody is to learn where the frame set out; or an endpoint's that its
 * sender does not know (contracts/wire.md). */
static __always_inline void untold_mac(void *to)
{
	word16 *words = to;

	words[0] = bpf_htons(0x024d);
	words[1] = bpf_htons(0x5a00);
	words[2] = bpf_htons(0x0005);
}

/* 02:4d:5a:00:00:06, as a source: a client on the substrate sent it to a load balancer's public address. */
static __always_inline void public_mac(void *to)
{
	word16 *words = to;

	words[0] = bpf_htons(0x024d);
	words[1] = bpf_htons(0x5a00);
	words[2] = bpf_htons(0x0006);
}

static __always_inline bool is_public_mac(const void *mac)
{
	const word16 *words = mac;

	return words[2] == bpf_htons(0x0006) && words[0] == bpf_htons(0x024d) && words[1] == bpf_htons(0x5a00);
}

static __always_inline bool is_service_mac(const void *mac)
{
	const word16 *words = mac;

	return words[0] == bpf_htons(0x024d) && words[1] == bpf_htons(0x5a00) && words[2] == bpf_htons(0x0002);
}
#endif

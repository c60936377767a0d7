/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * vtep: tc ingress of a gateway's external VXLAN device, and of the near ends of the veths that lead to the kernel's slow
 * path: one for each tenant (mizar/kernel/vtep.py). What comes out of the device goes to its VNI's veth alone, and
 * what comes out of a veth into the device with that tenant's VNI, so that no tenant's frame is ever on another's link. A
 * bridge would need VLAN filtering for that. Anything else ends here.
 */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>
#include <stdint.h>

enum vtep_limit {
	VTEP_PORTS = 65536,
};

/* How frames of a veth leave: the external device, and the tunnel's VNI and end. */
struct vtep_way {
	uint32_t device;	/* ifindex */
	uint32_t vni;
	uint32_t remote;	/* IPv4, as a number */
};

/* VNI to the ifindex of its veth's near end. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, VTEP_PORTS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, uint32_t);
	__type(value, uint32_t);
} vtep_ports SEC(".maps");

/* Ifindex of a veth's near end to its way. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, VTEP_PORTS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, uint32_t);
	__type(value, struct vtep_way);
} vtep_ways SEC(".maps");

SEC("tc")
int vtep(struct __sk_buff *ctx)
{
	uint32_t from = ctx->ifindex;
	const struct vtep_way *way = bpf_map_lookup_elem(&vtep_ways, &from);
	struct bpf_tunnel_key key = {};
	const uint32_t *port;

	if (way) {
		key.tunnel_id = way->vni;
		key.remote_ipv4 = way->remote;
		key.tunnel_ttl = 64;
		if (bpf_skb_set_tunnel_key(ctx, &key, sizeof(key), BPF_F_ZERO_CSUM_TX))
			return TC_ACT_SHOT;
		return (int)bpf_redirect(way->device, 0);
	}
	if (bpf_skb_get_tunnel_key(ctx, &key, sizeof(key), 0))
		return TC_ACT_SHOT;
	port = bpf_map_lookup_elem(&vtep_ports, &key.tunnel_id);
	return port ? (int)bpf_redirect(*port, 0) : TC_ACT_SHOT;
}

char program_license[] SEC("license") = "Dual BSD/GPL";

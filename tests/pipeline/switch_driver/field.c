// SPDX-License-Identifier: Apache-2.0
/* Fields that actions write: registers, tags, VNIs, addresses and ports. Checksums follow, as hardware keeps them. */
#include "switch.h"

const struct layer *find_layer(const struct frame *frame, enum rte_flow_item_type type)
{
	for (uint32_t place = 0; place < frame->layer_count; place++)
		if (frame->layers[place].type == type)
			return &frame->layers[place];
	return NULL;
}

static void put_sum(uint8_t *at, const uint8_t *old, const uint8_t *new, uint32_t count)
{
	uint32_t sum = (uint16_t)~be16(at);

	for (uint32_t place = 0; place < count; place += 2)
		sum += (uint16_t)~be16(old + place) + be16(new + place);
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	put16(at, ~sum);
}

/* Writes, and carries the difference into the checksums that cover it. */
static void write(struct frame *frame, uint32_t at, const uint8_t *new, uint32_t count, bool of_ip)
{
	const struct layer *ip = find_layer(frame, RTE_FLOW_ITEM_TYPE_IPV4);
	const struct layer *tcp = find_layer(frame, RTE_FLOW_ITEM_TYPE_TCP);
	const struct layer *udp = find_layer(frame, RTE_FLOW_ITEM_TYPE_UDP);
	uint8_t *bytes = frame->bytes, *sum;

	if (of_ip && ip)
		put_sum(bytes + ip->begin + 10, bytes + at, new, count);
	if (tcp)
		put_sum(bytes + tcp->begin + 16, bytes + at, new, count);
	if (udp && be16(bytes + udp->begin + 6)) {
		sum = bytes + udp->begin + 6;
		put_sum(sum, bytes + at, new, count);
		if (!be16(sum))
			put16(sum, 0xffff);
	}
	memcpy(bytes + at, new, count);
}

/* set_ipv4_src and its like; false: the header is not there. */
bool set_field(struct frame *frame, enum rte_flow_action_type type, const void *conf)
{
	const struct layer *four = find_layer(frame, RTE_FLOW_ITEM_TYPE_IPV4);
	const struct layer *six = find_layer(frame, RTE_FLOW_ITEM_TYPE_IPV6);
	const struct layer *ports = find_layer(frame, RTE_FLOW_ITEM_TYPE_TCP);

	ports = ports ? ports : find_layer(frame, RTE_FLOW_ITEM_TYPE_UDP);
	switch (type) {
	case RTE_FLOW_ACTION_TYPE_SET_IPV4_SRC:
	case RTE_FLOW_ACTION_TYPE_SET_IPV4_DST:
		if (four)
			write(frame, four->begin + (type == RTE_FLOW_ACTION_TYPE_SET_IPV4_SRC ? 12 : 16), conf, 4, true);
		return four;
	case RTE_FLOW_ACTION_TYPE_SET_IPV6_SRC:
	case RTE_FLOW_ACTION_TYPE_SET_IPV6_DST:
		if (six)
			write(frame, six->begin + (type == RTE_FLOW_ACTION_TYPE_SET_IPV6_SRC ? 8 : 24), conf, 16, true);
		return six;
	default:
		if (ports)
			write(frame, ports->begin + (type == RTE_FLOW_ACTION_TYPE_SET_TP_SRC ? 0 : 2), conf, 2, false);
		return ports;
	}
}

/* The low bits of a field; -1: it is not there. */
static int64_t read_field(const struct frame *frame, const struct rte_flow_action_modify_data *from, uint32_t width)
{
	const struct layer *layer;
	const uint8_t *vni;
	uint64_t number = 0;

	switch (from->field) {
	case RTE_FLOW_FIELD_META:
		number = frame->meta;
		break;
	case RTE_FLOW_FIELD_VLAN_ID:
		layer = find_layer(frame, RTE_FLOW_ITEM_TYPE_VLAN);
		if (!layer)
			return -1;
		number = be16(frame->bytes + layer->begin) & 0xfff;
		break;
	case RTE_FLOW_FIELD_VALUE:	/* in the field's own order of bytes, left-padded to whole bytes */
		for (uint32_t place = 0; place < (width + 7) / 8; place++)
			number = number << 8 | from->value[place];
		break;
	default:
		layer = find_layer(frame, from->field == RTE_FLOW_FIELD_VXLAN_VNI ? RTE_FLOW_ITEM_TYPE_VXLAN :
									  RTE_FLOW_ITEM_TYPE_GENEVE);
		if (!layer)
			return -1;
		vni = frame->bytes + layer->begin + 4;
		number = vni[0] << 16 | vni[1] << 8 | vni[2];
	}
	return number & ((1ull << width) - 1);
}

bool modify_field(struct frame *frame, const struct rte_flow_action_modify_field *conf)
{
	int64_t number = read_field(frame, &conf->src, conf->width);
	uint32_t mask = (1ull << conf->width) - 1;
	const struct layer *layer;
	uint8_t *bytes;

	if (number < 0)
		return false;
	if (conf->dst.field == RTE_FLOW_FIELD_META) {
		frame->meta = (frame->meta & ~mask) | number;
		return true;
	}
	if (conf->dst.field == RTE_FLOW_FIELD_VLAN_ID) {
		layer = find_layer(frame, RTE_FLOW_ITEM_TYPE_VLAN);
		if (!layer)
			return false;
		bytes = frame->bytes + layer->begin;
		put16(bytes, (be16(bytes) & 0xf000) | (be16(bytes) & 0xfff & ~mask) | number);
		return true;
	}
	layer = find_layer(frame, conf->dst.field == RTE_FLOW_FIELD_VXLAN_VNI ? RTE_FLOW_ITEM_TYPE_VXLAN :
									   RTE_FLOW_ITEM_TYPE_GENEVE);
	if (!layer)
		return false;
	bytes = frame->bytes + layer->begin + 4;
	for (int place = 2; place >= 0; place--, number >>= 8, mask >>= 8)
		bytes[place] = (bytes[place] & ~mask) | (number & 0xff);
	return true;
}

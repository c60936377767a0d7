// SPDX-License-Identifier: Apache-2.0
/* What a rule does with a frame. After everything that changes headers, the frame is parsed again. */
#include "switch.h"

static struct verdict end(enum ending ending, uint32_t port)
{
	return (struct verdict){ .ending = ending, .port = port };
}

static struct verdict broken(const char *problem)
{
	return (struct verdict){ .ending = BROKEN, .problem = problem };
}

static void ipv4_sum(uint8_t *ip)
{
	uint32_t sum = 0;

	put16(ip + 10, 0);
	for (int place = 0; place < 20; place += 2)
		sum += be16(ip + place);
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	put16(ip + 10, ~sum);
}

/* Lengths and the IP header's checksum are the switch's; check.c has seen that the headers are those of a tunnel. */
static bool encapsulate(struct frame *frame, const struct rte_flow_action_raw_encap *conf)
{
	uint32_t ip = be16(conf->data + 12) == RTE_ETHER_TYPE_VLAN ? 18 : 14;

	if (frame->length + conf->size > FRAME - ROOM)
		return false;
	frame->bytes -= conf->size;
	frame->length += conf->size;
	memcpy(frame->bytes, conf->data, conf->size);
	put16(frame->bytes + ip + 2, frame->length - ip);
	put16(frame->bytes + ip + 24, frame->length - ip - 20);
	ipv4_sum(frame->bytes + ip);
	return true;
}

/* Takes off as many bytes as the rule names: they have to be all in front of the inner frame, and none of it. */
static bool decapsulate(struct frame *frame, const struct rte_flow_action_raw_decap *conf)
{
	for (uint32_t place = 1; place < frame->layer_count; place++) {
		const struct layer *layer = &frame->layers[place];

		if (layer->type != RTE_FLOW_ITEM_TYPE_ETH || layer->begin != conf->size)
			continue;
		frame->length = layer->limit;	/* padding behind the datagram goes too */
		frame->bytes += conf->size;
		frame->length -= conf->size;
		return true;
	}
	return false;
}

static bool pop_vlan(struct frame *frame)
{
	if (frame->layer_count < 2 || frame->layers[1].type != RTE_FLOW_ITEM_TYPE_VLAN)
		return false;
	memmove(frame->bytes + 4, frame->bytes, 12);
	frame->bytes += 4;
	frame->length -= 4;
	return true;
}

static bool push_vlan(struct frame *frame, const struct rte_flow_action_of_push_vlan *conf)
{
	frame->bytes -= 4;
	frame->length += 4;
	memmove(frame->bytes, frame->bytes + 4, 12);
	memcpy(frame->bytes + 12, &conf->ethertype, 2);
	put16(frame->bytes + 14, 0);
	return true;
}

/* State alone is followed: check.c has refused contexts that want sequence numbers checked. */
static uint32_t track(const struct frame *frame, struct rte_flow *flow)
{
	struct rte_flow_action_conntrack *known = &flow->handle->conntrack;
	const struct layer *tcp = find_layer(frame, RTE_FLOW_ITEM_TYPE_TCP);
	enum rte_flow_conntrack_state before = known->state;
	uint8_t flags;

	if (!known->enable)
		return RTE_FLOW_CONNTRACK_PKT_STATE_DISABLED;
	if (!tcp)
		return RTE_FLOW_CONNTRACK_PKT_STATE_INVALID;
	flags = frame->bytes[tcp->begin + 13];
	if (flags & RTE_TCP_RST_FLAG)
		known->state = RTE_FLOW_CONNTRACK_STATE_TIME_WAIT;
	else if (flags & RTE_TCP_FIN_FLAG && known->state == RTE_FLOW_CONNTRACK_STATE_ESTABLISHED)
		known->state = RTE_FLOW_CONNTRACK_STATE_FIN_WAIT;
	else if (flags & RTE_TCP_FIN_FLAG && known->last_direction != flow->original)
		known->state = RTE_FLOW_CONNTRACK_STATE_LAST_ACK;
	known->last_direction = flow->original;
	return RTE_FLOW_CONNTRACK_PKT_STATE_VALID |
	       (known->state == before ? 0 : RTE_FLOW_CONNTRACK_PKT_STATE_CHANGED);
}

/* Actions that leave the frame in the pipeline; false: a header is missing. */
static bool change(struct frame *frame, struct rte_flow *flow, const struct rte_flow_action *action)
{
	const struct rte_flow_action_set_meta *meta = action->conf;
	const struct rte_flow_action_set_tag *tag = action->conf;
	const struct rte_flow_action_count *count = action->conf;
	bool done = true;

	switch (action->type) {
	case RTE_FLOW_ACTION_TYPE_AGE:
		return true;
	case RTE_FLOW_ACTION_TYPE_SET_META:
		frame->meta = (frame->meta & ~meta->mask) | (meta->data & meta->mask);
		return true;
	case RTE_FLOW_ACTION_TYPE_SET_TAG:
		frame->tags[tag->index] = (frame->tags[tag->index] & ~tag->mask) | (tag->data & tag->mask);
		return true;
	case RTE_FLOW_ACTION_TYPE_COUNT:
		if (frame->count_count == COUNTS)
			return false;
		frame->counted[frame->count_count++] = count->id;
		return true;
	case RTE_FLOW_ACTION_TYPE_INDIRECT:
		frame->tracked = track(frame, flow);
		return true;
	case RTE_FLOW_ACTION_TYPE_MODIFY_FIELD:
		done = modify_field(frame, action->conf);
		break;
	case RTE_FLOW_ACTION_TYPE_OF_POP_VLAN:
		done = pop_vlan(frame);
		break;
	case RTE_FLOW_ACTION_TYPE_OF_PUSH_VLAN:
		done = push_vlan(frame, action->conf);
		break;
	case RTE_FLOW_ACTION_TYPE_RAW_ENCAP:
		done = encapsulate(frame, action->conf);
		break;
	case RTE_FLOW_ACTION_TYPE_RAW_DECAP:
		done = decapsulate(frame, action->conf);
		break;
	default:
		done = set_field(frame, action->type, action->conf);
	}
	parse(frame);
	return done;
}

struct verdict act(struct frame *frame, struct rte_flow *flow, int64_t *group)
{
	const struct rte_flow_action_ethdev *port;
	const struct rte_flow_action *action;

	for (action = flow->rule->actions_ro; action->type != RTE_FLOW_ACTION_TYPE_END; action++) {
		switch (action->type) {
		case RTE_FLOW_ACTION_TYPE_JUMP:
			*group = ((const struct rte_flow_action_jump *)action->conf)->group;
			return end(UNDECIDED, 0);
		case RTE_FLOW_ACTION_TYPE_DROP:
			return end(DROPPED, 0);
		case RTE_FLOW_ACTION_TYPE_REPRESENTED_PORT:
		case RTE_FLOW_ACTION_TYPE_PORT_REPRESENTOR:
			port = action->conf;
			return end(action->type == RTE_FLOW_ACTION_TYPE_REPRESENTED_PORT ? REPRESENTED_PORT :
											   PORT_REPRESENTOR,
				   port->port_id);
		case RTE_FLOW_ACTION_TYPE_QUEUE:
			return (struct verdict){ QUEUED, 0, ((const struct rte_flow_action_queue *)action->conf)->index,
						 NULL };
		case RTE_FLOW_ACTION_TYPE_METER:
			if (!meter_passes(flow->meter, frame))
				return end(DROPPED_BY_METER, flow->meter->id);
			break;
		default:
			if (!change(frame, flow, action))
				return broken("an action on a header that is not there");
		}
	}
	return broken("a rule that sends the frame nowhere");
}

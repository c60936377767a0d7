// SPDX-License-Identifier: Apache-2.0
/*
 * Whether a rule is one that the switch understands: its place, each item with spec and mask, each action with its
 * configuration, and the bytes of headers that it puts on. Nothing is taken on trust: what is not known is refused.
 */
#include "switch.h"

#define NO_ITEM(item, why) REFUSE(error, ITEM, item, why)
#define NO_ACTION(action, why) REFUSE(error, ACTION, action, why)

uint32_t header_bytes(enum rte_flow_item_type type)
{
	switch (type) {
	case RTE_FLOW_ITEM_TYPE_ETH:
		return 14;
	case RTE_FLOW_ITEM_TYPE_VLAN:
	case RTE_FLOW_ITEM_TYPE_ICMP6:
		return 4;
	case RTE_FLOW_ITEM_TYPE_IPV4:
	case RTE_FLOW_ITEM_TYPE_TCP:
		return 20;
	case RTE_FLOW_ITEM_TYPE_IPV6:
		return 40;
	case RTE_FLOW_ITEM_TYPE_UDP:
	case RTE_FLOW_ITEM_TYPE_ICMP:
	case RTE_FLOW_ITEM_TYPE_VXLAN:
	case RTE_FLOW_ITEM_TYPE_GENEVE:
		return 8;
	case RTE_FLOW_ITEM_TYPE_ARP_ETH_IPV4:
		return 28;
	default:
		return 0;
	}
}

/* Which headers may stand directly behind one, as the wire has them. */
static bool follows(enum rte_flow_item_type front, enum rte_flow_item_type type)
{
	switch (type) {
	case RTE_FLOW_ITEM_TYPE_ETH:
		return front == RTE_FLOW_ITEM_TYPE_END || front == RTE_FLOW_ITEM_TYPE_VXLAN ||
		       front == RTE_FLOW_ITEM_TYPE_GENEVE;
	case RTE_FLOW_ITEM_TYPE_VLAN:
	case RTE_FLOW_ITEM_TYPE_ARP_ETH_IPV4:
	case RTE_FLOW_ITEM_TYPE_IPV4:
	case RTE_FLOW_ITEM_TYPE_IPV6:
		return front == RTE_FLOW_ITEM_TYPE_ETH || front == RTE_FLOW_ITEM_TYPE_VLAN;
	case RTE_FLOW_ITEM_TYPE_TCP:
	case RTE_FLOW_ITEM_TYPE_UDP:
		return front == RTE_FLOW_ITEM_TYPE_IPV4 || front == RTE_FLOW_ITEM_TYPE_IPV6;
	case RTE_FLOW_ITEM_TYPE_ICMP:
		return front == RTE_FLOW_ITEM_TYPE_IPV4;
	case RTE_FLOW_ITEM_TYPE_ICMP6:
		return front == RTE_FLOW_ITEM_TYPE_IPV6;
	case RTE_FLOW_ITEM_TYPE_VXLAN:
	case RTE_FLOW_ITEM_TYPE_GENEVE:
		return front == RTE_FLOW_ITEM_TYPE_UDP;
	default:
		return false;
	}
}

/* No bit of the value outside of the mask: a rule that says more than it matches was meant otherwise. */
static bool is_tidy(const struct rte_flow_item *item, uint32_t bytes)
{
	const uint8_t *spec = item->spec, *mask = item->mask;

	for (uint32_t place = 0; place < bytes; place++)
		if (spec[place] & ~mask[place])
			return false;
	return true;
}

static int check_register(const struct rte_flow_item *item, struct rte_flow_error *error)
{
	const struct rte_flow_item_tag *tag = item->spec, *tag_mask = item->mask;
	const struct rte_flow_item_conntrack *tracked = item->spec, *tracked_mask = item->mask;

	if (!item->spec || !item->mask)
		return NO_ITEM(item, "a register needs a value and a mask");
	if (item->type == RTE_FLOW_ITEM_TYPE_TAG && (tag->index >= TAGS || tag_mask->index != 0xff))
		return NO_ITEM(item, "there is no such tag register");
	if (item->type == RTE_FLOW_ITEM_TYPE_CONNTRACK && (!tracked->flags || tracked->flags & ~0x1fu ||
							    (tracked_mask->flags & 0x1f) != 0x1f))
		return NO_ITEM(item, "conntrack says one set of flags, which has to be matched whole");
	return 0;
}

static int check_items(const struct rte_flow_item items[], bool ingress, struct rte_flow_error *error)
{
	enum rte_flow_item_type front = RTE_FLOW_ITEM_TYPE_END;

	for (const struct rte_flow_item *item = items; item->type != RTE_FLOW_ITEM_TYPE_END; item++) {
		if (item->last)
			return NO_ITEM(item, "no ranges: a value and a mask");
		if (item->type == RTE_FLOW_ITEM_TYPE_META || item->type == RTE_FLOW_ITEM_TYPE_TAG ||
		    item->type == RTE_FLOW_ITEM_TYPE_CONNTRACK) {
			int status = check_register(item, error);

			if (status)
				return status;
			continue;
		}
		if (!header_bytes(item->type))
			return NO_ITEM(item, "an item that this switch does not know");
		if (!follows(front, item->type))
			return NO_ITEM(item, "this header cannot stand behind that one");
		if (item->spec && (!item->mask || !is_tidy(item, header_bytes(item->type))))
			return NO_ITEM(item, "a value without a mask, or with bits outside of it");
		front = item->type;
	}
	if (!ingress && front == RTE_FLOW_ITEM_TYPE_END)
		return NO_ITEM(items, "a rule of the switch needs a header");
	return 0;
}

/* Headers of a tunnel, outermost first, each leading to the next: what is wrong with them, or NULL. */
static const char *encapsulation_problem(const uint8_t *data, size_t size)
{
	size_t at = 14;
	uint16_t type;

	if (size < 14 + 20 + 8 + 8)
		return "too short for a tunnel";
	type = be16(data + 12);
	if (type == RTE_ETHER_TYPE_VLAN) {
		type = be16(data + 16);
		at = 18;
	}
	if (type != RTE_ETHER_TYPE_IPV4)
		return "Ethernet's or the tag's type is not IPv4's";
	if (size != at + 20 + 8 + 8)
		return "not as long as its headers";
	if (data[at] != 0x45 || data[at + 9] != IPPROTO_UDP || !data[at + 8])
		return "no IPv4 header without options that carries UDP and may travel";
	data += at + 20;
	switch (be16(data + 2)) {
	case RTE_VXLAN_DEFAULT_PORT:
		return data[8] == 0x08 ? NULL : "VXLAN without its flag";
	case RTE_GENEVE_DEFAULT_PORT:
		return !data[8] && !data[9] && be16(data + 10) == 0x6558 ? NULL : "Geneve that does not carry Ethernet";
	}
	return "UDP to no tunnel's port";
}

static bool is_modifiable(const struct rte_flow_action_modify_field *conf)
{
	enum rte_flow_field_id to = conf->dst.field, from = conf->src.field;
	uint32_t room = to == RTE_FLOW_FIELD_META ? 32 : to == RTE_FLOW_FIELD_VLAN_ID ? 12 : 24;

	if (conf->operation != RTE_FLOW_MODIFY_SET || conf->dst.level || conf->dst.offset || !conf->width)
		return false;
	if (to != RTE_FLOW_FIELD_META && to != RTE_FLOW_FIELD_VLAN_ID && to != RTE_FLOW_FIELD_VXLAN_VNI &&
	    to != RTE_FLOW_FIELD_GENEVE_VNI)
		return false;
	if (from == RTE_FLOW_FIELD_VALUE)
		return conf->width <= room;
	if (conf->src.level || conf->src.offset)
		return false;
	if (from == RTE_FLOW_FIELD_META)
		return conf->width <= room;
	return to == RTE_FLOW_FIELD_META && conf->width == (from == RTE_FLOW_FIELD_VLAN_ID ? 12 : 24) &&
	       (from == RTE_FLOW_FIELD_VLAN_ID || from == RTE_FLOW_FIELD_VXLAN_VNI || from == RTE_FLOW_FIELD_GENEVE_VNI);
}

int check_conntrack(const struct rte_flow_action_conntrack *conf, struct rte_flow_error *error)
{
	if (!conf->enable)
		return REFUSE(error, ACTION_CONF, conf, "conntrack that is not enabled finds nothing");
	if (!conf->liberal_mode)
		return REFUSE(error, ACTION_CONF, conf, "sequence numbers are not emulated: liberal mode");
	if (!rte_eth_dev_is_valid_port(conf->peer_port))
		return REFUSE(error, ACTION_CONF, conf, "conntrack's other port does not exist");
	return 0;
}

static const char *action_problem(const struct rte_flow_action *action, bool ingress)
{
	const struct rte_flow_action_raw_encap *encap = action->conf;
	const struct rte_flow_action_raw_decap *decap = action->conf;
	const struct rte_flow_action_set_tag *tag = action->conf;
	const struct rte_flow_action_of_push_vlan *push = action->conf;
	const struct rte_flow_action_ethdev *port = action->conf;
	const struct rte_flow_action_age *age = action->conf;

	if (ingress && action->type != RTE_FLOW_ACTION_TYPE_QUEUE && action->type != RTE_FLOW_ACTION_TYPE_COUNT)
		return "a port's rules only choose queues";
	switch (action->type) {
	case RTE_FLOW_ACTION_TYPE_DROP:
	case RTE_FLOW_ACTION_TYPE_OF_POP_VLAN:
	case RTE_FLOW_ACTION_TYPE_INDIRECT:
		return NULL;
	case RTE_FLOW_ACTION_TYPE_QUEUE:
		return ingress ? NULL : "a switch has no queues";
	case RTE_FLOW_ACTION_TYPE_CONNTRACK:
		return "conntrack has to be indirect: both directions share it";
	case RTE_FLOW_ACTION_TYPE_RAW_ENCAP:
		return encapsulation_problem(encap->data, encap->size);
	case RTE_FLOW_ACTION_TYPE_RAW_DECAP:
		return decap->size >= 50 && decap->size <= 74 ? NULL : "no headers of a tunnel";
	case RTE_FLOW_ACTION_TYPE_SET_TAG:
		return tag->index < TAGS ? NULL : "there is no such tag register";
	case RTE_FLOW_ACTION_TYPE_OF_PUSH_VLAN:
		return push->ethertype == RTE_BE16(RTE_ETHER_TYPE_VLAN) ? NULL : "no tag but 0x8100";
	case RTE_FLOW_ACTION_TYPE_REPRESENTED_PORT:
	case RTE_FLOW_ACTION_TYPE_PORT_REPRESENTOR:
		return rte_eth_dev_is_valid_port(port->port_id) ? NULL : "there is no such port";
	case RTE_FLOW_ACTION_TYPE_AGE:
		return age->timeout ? NULL : "an age of nothing";
	case RTE_FLOW_ACTION_TYPE_MODIFY_FIELD:
		return is_modifiable(action->conf) ? NULL : "these fields cannot be modified so";
	case RTE_FLOW_ACTION_TYPE_JUMP:
	case RTE_FLOW_ACTION_TYPE_COUNT:
	case RTE_FLOW_ACTION_TYPE_METER:
	case RTE_FLOW_ACTION_TYPE_SET_META:
	case RTE_FLOW_ACTION_TYPE_SET_IPV4_SRC:
	case RTE_FLOW_ACTION_TYPE_SET_IPV4_DST:
	case RTE_FLOW_ACTION_TYPE_SET_IPV6_SRC:
	case RTE_FLOW_ACTION_TYPE_SET_IPV6_DST:
	case RTE_FLOW_ACTION_TYPE_SET_TP_SRC:
	case RTE_FLOW_ACTION_TYPE_SET_TP_DST:
		return action->conf ? NULL : "an action without what it shall do";
	default:
		return "an action that this switch does not know";
	}
}

static bool ends(enum rte_flow_action_type type)
{
	return type == RTE_FLOW_ACTION_TYPE_JUMP || type == RTE_FLOW_ACTION_TYPE_DROP ||
	       type == RTE_FLOW_ACTION_TYPE_REPRESENTED_PORT || type == RTE_FLOW_ACTION_TYPE_PORT_REPRESENTOR ||
	       type == RTE_FLOW_ACTION_TYPE_QUEUE;
}

/* A group may not lead to itself or to the first; the last action alone says where the frame goes. */
static int check_actions(const struct rte_flow_attr *attr, const struct rte_flow_action actions[],
			 struct rte_flow_error *error)
{
	bool ended = false;

	for (const struct rte_flow_action *action = actions; action->type != RTE_FLOW_ACTION_TYPE_END; action++) {
		const char *problem = action_problem(action, attr->ingress);
		const struct rte_flow_action_jump *jump = action->conf;

		if (!problem && ended)
			problem = "an action behind the one that sends the frame on";
		if (!problem && action->type == RTE_FLOW_ACTION_TYPE_JUMP && (!jump->group || jump->group == attr->group))
			problem = "a jump to the first group or to its own";
		if (problem)
			return NO_ACTION(action, problem);
		ended = ends(action->type);
	}
	return ended ? 0 : NO_ACTION(actions, "a rule that sends the frame nowhere");
}

int check_rule(const struct rte_flow_attr *attr, const struct rte_flow_item items[],
	       const struct rte_flow_action actions[], struct rte_flow_error *error)
{
	int status;

	if (attr->egress || attr->ingress == attr->transfer || (attr->ingress && attr->group))
		return REFUSE(error, ATTR, attr, "either the switch's (transfer) or group 0 of a port's ingress");
	status = check_items(items, attr->ingress, error);
	return status ? status : check_actions(attr, actions, error);
}

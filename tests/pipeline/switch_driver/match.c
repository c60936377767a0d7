// SPDX-License-Identifier: Apache-2.0
/*
 * Which rule takes a frame. A pattern's headers stand directly behind one another, from the outermost; where eth or
 * vlan says nothing of tags (neither type nor has_vlan), tagged and untagged frames match, as DPDK's guide has it.
 */
#include "switch.h"

static const uint8_t *mask_of(const struct rte_flow_item *item)
{
	return item->spec ? item->mask : NULL;
}

static bool same(const uint8_t *bytes, const struct rte_flow_item *item, uint32_t count)
{
	const uint8_t *spec = item->spec, *mask = mask_of(item);

	for (uint32_t place = 0; mask && place < count; place++)
		if ((bytes[place] ^ spec[place]) & mask[place])
			return false;
	return true;
}

static bool same_number(uint32_t number, const void *spec, const void *mask)
{
	uint32_t want, bits;

	memcpy(&want, spec, 4);
	memcpy(&bits, mask, 4);
	return !((number ^ want) & bits);
}

/* Whether the item says itself which tags follow. */
static bool speaks_of_tags(const struct rte_flow_item *item)
{
	const struct rte_flow_item_eth *eth = (const void *)mask_of(item);
	const struct rte_flow_item_vlan *vlan = (const void *)mask_of(item);

	if (!mask_of(item))
		return false;
	if (item->type == RTE_FLOW_ITEM_TYPE_ETH)
		return eth->has_vlan || eth->type;
	return vlan->has_more_vlan || vlan->inner_type;
}

static bool tags_match(const struct frame *frame, uint32_t layer, const struct rte_flow_item *item)
{
	const uint8_t *type = frame->bytes + frame->layers[layer].end - 2;
	bool tagged = be16(type) == RTE_ETHER_TYPE_VLAN;

	if (!mask_of(item))
		return true;
	if (item->type == RTE_FLOW_ITEM_TYPE_ETH) {
		const struct rte_flow_item_eth *spec = item->spec, *mask = item->mask;

		return !mask->has_vlan || spec->has_vlan == tagged;
	}
	const struct rte_flow_item_vlan *spec = item->spec, *mask = item->mask;

	return !mask->has_more_vlan || spec->has_more_vlan == tagged;
}

static bool register_matches(const struct frame *frame, const struct rte_flow_item *item)
{
	const struct rte_flow_item_meta *meta = item->spec;
	const struct rte_flow_item_tag *tag = item->spec, *tag_mask = item->mask;
	const struct rte_flow_item_conntrack *tracked = item->spec, *tracked_mask = item->mask;

	switch (item->type) {
	case RTE_FLOW_ITEM_TYPE_META:
		return same_number(frame->meta, &meta->data, &((const struct rte_flow_item_meta *)item->mask)->data);
	case RTE_FLOW_ITEM_TYPE_TAG:
		return same_number(frame->tags[tag->index], &tag->data, &tag_mask->data);
	default:
		return frame->tracked && !((frame->tracked ^ tracked->flags) & tracked_mask->flags);
	}
}

bool matches(const struct frame *frame, const struct rte_flow_item items[])
{
	uint32_t layer = 0;
	bool any_tags = false;

	for (const struct rte_flow_item *item = items; item->type != RTE_FLOW_ITEM_TYPE_END; item++) {
		if (item->type == RTE_FLOW_ITEM_TYPE_META || item->type == RTE_FLOW_ITEM_TYPE_TAG ||
		    item->type == RTE_FLOW_ITEM_TYPE_CONNTRACK) {
			if (!register_matches(frame, item))
				return false;
			continue;
		}
		while (any_tags && item->type != RTE_FLOW_ITEM_TYPE_VLAN && layer < frame->layer_count &&
		       frame->layers[layer].type == RTE_FLOW_ITEM_TYPE_VLAN)
			layer++;
		if (layer >= frame->layer_count || frame->layers[layer].type != item->type ||
		    !same(frame->bytes + frame->layers[layer].begin, item, header_bytes(item->type)))
			return false;
		any_tags = item->type == RTE_FLOW_ITEM_TYPE_ETH || item->type == RTE_FLOW_ITEM_TYPE_VLAN;
		if (any_tags && !tags_match(frame, layer, item))
			return false;
		any_tags = any_tags && !speaks_of_tags(item);
		layer++;
	}
	return true;
}

static struct rte_flow *first_of(const struct frame *frame, uint32_t group, bool ingress, uint32_t port, bool *twice)
{
	struct rte_flow *flow, *best = NULL;

	*twice = false;
	TAILQ_FOREACH(flow, &eswitch.flows, next) {
		const struct rte_flow_attr *attr = flow->rule->attr_ro;

		if (attr->group != group || attr->ingress != ingress || (ingress && flow->port != port) ||
		    !matches(frame, flow->rule->pattern_ro))
			continue;
		if (best && best->rule->attr_ro->priority == attr->priority)
			*twice = true;
		if (!best || best->rule->attr_ro->priority > attr->priority) {
			best = flow;
			*twice = false;
		}
	}
	return best;
}

/* One domain: from its group 0 on. */
static struct verdict walk_domain(struct frame *frame, bool ingress, uint32_t port)
{
	struct verdict found = { .ending = UNDECIDED };
	int64_t group = 0;
	bool twice;

	for (int jumps = 0; jumps < JUMPS; jumps++) {
		struct rte_flow *flow = first_of(frame, group, ingress, port, &twice);

		if (!flow || twice)
			return (struct verdict){ BROKEN, 0, 0, flow ? "two rules of one priority" : "no rule matches" };
		flow->hits++;
		flow->bytes += frame->length;
		flow->last_ns = frame->now_ns;
		flow->told = false;
		found = act(frame, flow, &group);
		if (found.ending != UNDECIDED)
			return found;
	}
	return (struct verdict){ BROKEN, 0, 0, "too many jumps" };
}

struct verdict walk(struct frame *frame)
{
	struct verdict found = walk_domain(frame, false, 0);

	if (found.ending == PORT_REPRESENTOR) {
		uint32_t port = found.port;

		found = walk_domain(frame, true, port);
		found.port = port;
	}
	return found;
}

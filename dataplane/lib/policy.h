/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Owns the judging of what a policed endpoint sends and is sent (docs/policy.md, "How a packet is judged"). A packet of a known
 * flow costs one lookup and is judged no further; all others ask the rules. Never changes a packet.
 */
#ifndef MIZAR_POLICY_H
#define MIZAR_POLICY_H
#include "counters.h"
#include "policy_grace.h"
#include "policy_near.h"
#include "policy_read.h"

/* Whose policy, and what of the packet only the caller knows, in a word. */
enum policy_who {		/* bits of: */
	WHO_GROUP_SET = 32,	/* 16 bits; 0 where the packet bears none, or one of another VPC */
	WHO_DIRECTION = 48,	/* enum policy_direction */
	WHO_HOOK = 56,		/* enum hook */
};

static __always_inline uint64_t policy_who(uint32_t slot, enum policy_direction direction, uint16_t group_set,
					   enum hook hook)
{
	return (uint64_t)slot | (uint64_t)group_set << WHO_GROUP_SET | (uint64_t)direction << WHO_DIRECTION |
	       (uint64_t)hook << WHO_HOOK;
}

/* Of an endpoint or member of this droplet. */
static __always_inline bool is_policed(const struct endpoint *endpoint, bool member)
{
	return endpoint->flags & (member ? MEMBER_POLICED : ENDPOINT_POLICED);
}

/* A flow that was judged by another generation, or whose peer has other groups now. */
static __always_inline enum drop_reason judge_again(struct policy_work *work, struct policy_flow *flow,
						    const struct endpoint_policy *policy)
{
	const uint32_t begun = flow->begun & POLICY_FLOW_DIRECTION;
	enum drop_reason reason;

	if (work->direction != POLICY_INGRESS)
		work->group_set = flow->group_set;
	reason = enforce(work, ask_rules(work, policy, begun));
	if (!reason) {
		write_begun(flow, work, begun);
		return REASON_NONE;
	}
	flow->group_set = begun == POLICY_INGRESS ? work->group_set : 0;
	if (!(flow->begun & POLICY_FLOW_KEPT)) {
		flow->begun |= POLICY_FLOW_ENDED;
		flow->rule = work->rule;
	} else {
		reason = REASON_NONE;
	}
	meet();
	flow->generation = work->generation;
	return reason;
}

/*
 * A packet of no flow that is known as it is, by the rules. A function of its own for the verifier, which then looks at it
 * once and not once for each way that leads here.
 */
__noinline int judge_packet(const struct packet *packet, uint32_t slot, struct policy_work *work)
{
	struct endpoint_policy *policy = bpf_map_lookup_elem(&endpoint_policies, &slot);
	struct policy_flow *flow = NULL;
	enum drop_reason reason;
	bool again = false;

	if (!packet || !policy || !work)
		return REASON_POLICY_UNREADABLE;
	work->generation = *(volatile uint32_t *)&policy->generation;
	meet();	/* the sets are at least as new */
	if (work->direction == POLICY_INGRESS)
		copy_address(work->peer.addr, packet->src);
	else
		copy_address(work->peer.addr, packet->to.addr);
	if ((work->found & POLICED_KIND) == POLICED_FLOW) {
		flow = bpf_map_lookup_elem(&policy_flows, &work->key);
		again = flow && is_current(flow, policy);
		if (again && work->found & POLICED_BEGINS)
			again = (flow->begun & (POLICY_FLOW_DIRECTION | POLICY_FLOW_ENDED)) == work->direction;
	}
	if (flow && again) {
		ask_for(work, flow->begun & POLICY_FLOW_DIRECTION, true);
		reason = judge_again(work, flow, policy);
		touch_policy_flow(work, flow, work->found, (flow->begun & POLICY_FLOW_DIRECTION) != work->direction);
		return reason;
	}
	ask_for(work, work->direction, false);
	reason = ask_rules(work, policy, work->direction);
	if (!reason && work->action & POLICY_LOG)
		work->told = EVENT_ALLOWED;
	reason = enforce(work, reason);
	if (reason || (work->found & POLICED_KIND) != POLICED_FLOW)
		return reason;
	reason = begin_policy_flow(work, flow, packet, 0);
	if (!reason || work->told == EVENT_AUDITED)	/* the latter passes all the same */
		return REASON_NONE;
	work->told = 0;
	return reason;
}

static __always_inline uint32_t read_packet(void *frame, void *end, const struct packet *packet, uint64_t who)
{
	const bool ingress = (who >> WHO_DIRECTION & POLICY_FLOW_DIRECTION) == POLICY_INGRESS;
	struct policy_work *work = policy_work();

	if (!packet || !work)
		return POLICED_UNREADABLE;
	work->key.vni = packet->to.vni;
	work->key.slot = who;
	write_identifier(&work->key, 0);
	if (ingress)
		copy_address(work->key.peer, packet->src);
	else
		copy_address(work->key.peer, packet->to.addr);
	return read_policed(frame, end, packet, is_mapped(packet->src), ingress, work);
}

/* What the packet is, with the key of its flow in this CPU's policy_work: the first of three steps. Functions of their own for those
 * who go on otherwise than by the endpoint's policy, see network_acl.h. */
__noinline int read_skb(struct __sk_buff *skb, const struct packet *packet, uint64_t who)
{
	return read_packet((void *)(long)skb->data, (void *)(long)skb->data_end, packet, who);
}

__noinline int read_frame(struct frame_md *ctx, const struct packet *packet, uint64_t who)
{
	return read_packet((void *)(long)ctx->data, (void *)(long)ctx->data_end, packet, who);
}

/* Whether the packet is of a flow that is known and current, and no rule is to be asked: then `ended` says that it is refused. */
static __always_inline bool is_known(struct policy_work *work, const struct endpoint_policy *policy, uint64_t who,
				     uint32_t found, bool *ended)
{
	const uint32_t kind = found & POLICED_KIND, direction = who >> WHO_DIRECTION & POLICY_FLOW_DIRECTION;
	const uint32_t generation = *(const volatile uint32_t *)&policy->generation, asked = who >> WHO_GROUP_SET;
	struct near_policy_flow *near = near_policy_flow(&work->key);
	struct near_passing *mine, *other;
	struct policy_flow *flow;
	uint32_t begun, judged;
	uint8_t state;

	if (!near)
		return false;
	mine = direction == POLICY_INGRESS ? &near->towards : &near->from;
	other = direction == POLICY_INGRESS ? &near->from : &near->towards;
	if (has_just_passed(mine, &work->key, found, asked, generation))
		return true;
	flow = bpf_map_lookup_elem(&policy_flows, &work->key);
	if (!flow || !is_current(flow, policy))
		return false;
	judged = *(const volatile uint32_t *)&flow->generation;
	meet();	/* whoever ends a flow writes that first, and the generation behind it: see write_begun() */
	*ended = flow->begun & POLICY_FLOW_ENDED;
	if (kind == POLICED_ERROR)
		return !*ended;
	if (judged != generation)
		return false;
	begun = flow->begun & POLICY_FLOW_DIRECTION;
	if (kind == POLICED_FLOW) {
		if (found & POLICED_BEGINS && (*ended || begun != direction))
			return false;
		if (begun == direction && begun == POLICY_INGRESS && flow->group_set != (uint16_t)(who >> WHO_GROUP_SET))
			return false;
	}
	state = flow->state;
	touch_policy_flow(work, flow, found, begun != direction);
	if (*ended)
		work->rule = flow->rule;
	else if (kind == POLICED_FLOW)
		note_passing(mine, &work->key, found, state | flow->state, asked, generation);
	if (state != flow->state)	/* what the other end sends next may be more than it was */
		other->tick = 0;
	return true;
}

static __always_inline bool selects(const struct endpoint_policy *policy, uint64_t who)
{
	return (who >> WHO_DIRECTION & POLICY_FLOW_DIRECTION) == POLICY_INGRESS ? policy->ingress : policy->egress;
}

enum policed_verdict {
	POLICED_ASK = -1,	/* the rules have to say */
	POLICED_ADMIT = -2,	/* it may pass, and so may the fragments that follow */
};

/* The second step, what can be said without rules: NONE, a reason, ASK or ADMIT. work->found: what the first returned. */
static __always_inline int judge_known(const struct packet *packet, uint64_t who, struct policy_work *work)
{
	const uint32_t slot = who, found = work->found;
	struct endpoint_policy *policy = bpf_map_lookup_elem(&endpoint_policies, &slot);
	bool ended = false;

	if (!policy || !(policy->ingress | policy->egress))
		return REASON_NONE;
	if (packet->own_port_be)
		work->key.own_port_be = packet->own_port_be;
	if ((found & POLICED_KIND) == POLICED_UNREADABLE) {
		work->rule = 0;
		work->policed_slot = slot;
		return selects(policy, who) ? REASON_POLICY_UNREADABLE : REASON_NONE;
	}
	if ((found & POLICED_KIND) == POLICED_ALONE || !is_known(work, policy, who, found, &ended))
		return POLICED_ASK;
	if (ended) {
		work->policed_slot = slot;
		return REASON_POLICY_FLOW_ENDED;
	}
	return found & POLICED_FIRST && (found & POLICED_KIND) == POLICED_FLOW ? POLICED_ADMIT : REASON_NONE;
}

/* The first two steps in one: each call costs more than what it does. What is found meets in memory, and is judged once. The third is
 * called behind it: within it, the stacks of both would be too much for one. */
static __always_inline int judge_headers(void *frame, void *end, const struct packet *packet, uint64_t who)
{
	struct policy_work *work = policy_work();

	if (!packet || !work)
		return REASON_POLICY_UNREADABLE;
	work->found = read_packet(frame, end, packet, who);
	meet();
	return judge_known(packet, who, work);
}

__noinline int judge_skb(struct __sk_buff *skb, const struct packet *packet, uint64_t who)
{
	return judge_headers((void *)(long)skb->data, (void *)(long)skb->data_end, packet, who);
}

__noinline int judge_frame(struct frame_md *ctx, const struct packet *packet, uint64_t who)
{
	return judge_headers((void *)(long)ctx->data, (void *)(long)ctx->data_end, packet, who);
}

/* By the rules, where no flow says more. */
static __always_inline int ask(struct policy_work *work, const struct packet *packet, uint64_t who)
{
	int reason;

	work->direction = who >> WHO_DIRECTION & POLICY_FLOW_DIRECTION;
	work->group_set = who >> WHO_GROUP_SET;
	work->policed_slot = who;
	work->told = work->audited = 0;
	if ((work->found & POLICED_KIND) == POLICED_ERROR) {	/* the key is of what it is about */
		write_protocol(&work->key, is_mapped(packet->src) ? IPPROTO_ICMP : IPPROTO_ICMPV6, false);
		work->found = (work->found & ~POLICED_KIND) | POLICED_ALONE;
	}
	reason = judge_packet(packet, who, work);
	if (is_refused_by_rules(reason) && (work->found & (POLICED_KIND | POLICED_BEGINS)) == POLICED_FLOW)
		reason = judge_as_answer(packet, who, work, reason);
	if (!reason && work->beside)
		audit_beside(work);
	if (!reason && work->found & POLICED_FIRST && (work->found & POLICED_KIND) == POLICED_FLOW)
		admit_fragments(packet, who, who >> WHO_DIRECTION, work);
	return reason;
}

/* Audit mode let it pass: counted. True: somebody is to be told. */
static __always_inline bool is_told_of(const struct policy_work *work, const struct packet *packet)
{
	struct vpc_counters *vpc = work->told == EVENT_AUDITED ? vpc_counters_of(packet->vpc_slot) : NULL;

	if (vpc)
		vpc->audited_packets += packet->packets;
	return work->told && somebody_watches();
}

/* The third step, where the second says so. */
__noinline int ask_for_skb(struct __sk_buff *skb, const struct packet *packet, uint64_t who)
{
	struct policy_work *work = policy_work();
	int reason;

	if (!packet || !work)
		return REASON_POLICY_UNREADABLE;
	reason = ask(work, packet, who);
	if (is_told_of(work, packet))
		tell_of_skb(skb, packet, who >> WHO_HOOK | work->told << EVENT_OUTCOME_SHIFT, work->audited, 0);
	return reason;
}

__noinline int ask_for_frame(struct frame_md *ctx, const struct packet *packet, uint64_t who)
{
	struct policy_work *work = policy_work();
	int reason;

	if (!packet || !work)
		return REASON_POLICY_UNREADABLE;
	reason = ask(work, packet, who);
	if (is_told_of(work, packet))
		tell_of_frame(ctx, packet, who >> WHO_HOOK | work->told << EVENT_OUTCOME_SHIFT, work->audited);
	return reason;
}

/* Behind a verdict of ADMIT, for the stack's sake. */
static __always_inline int admit(const struct packet *packet, uint64_t who)
{
	struct policy_work *work = policy_work();

	if (work)
		admit_fragments(packet, who, who >> WHO_DIRECTION, work);
	return REASON_NONE;
}

/* Whether the packet may leave its endpoint, or come to it: NONE, or why not. */
__noinline int police_skb(struct __sk_buff *skb, const struct packet *packet, uint64_t who)
{
	int reason = judge_skb(skb, packet, who);

	if (reason == POLICED_ADMIT)
		return admit(packet, who);
	return reason == POLICED_ASK ? ask_for_skb(skb, packet, who) : reason;
}

/* The same in XDP, where the stack has no room for one function more. */
static __always_inline __must_check enum drop_reason police_frame(struct frame_md *ctx, const struct packet *packet,
								  uint64_t who)
{
	int reason = judge_frame(ctx, packet, who);

	if (reason == POLICED_ADMIT)
		reason = admit(packet, who);
	return (enum drop_reason)(reason == POLICED_ASK ? ask_for_frame(ctx, packet, who) : reason);
}
#endif

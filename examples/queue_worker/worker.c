// SPDX-License-Identifier: Apache-2.0
/*
 * DPDK's side: takes frames from the port that leads to the gateway, and gives those back whose connection is made, in
 * the headers with which the fabric brings that tenant's frames:
 *
 *     queue-worker EAL-OPTIONS --vdev=net_af_xdp0,iface=veth.dpdk -- PINS FABRIC-VLAN
 *
 * PINS is the gateway's folder of bpffs, with maps/ and progs/ in it. On SIGINT or SIGTERM it says what became of all frames, as JSON.
 */
#include <arpa/inet.h>
#include <rte_eal.h>
#include <rte_ethdev.h>
#include <rte_malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "worker.h"

enum numbers {
	BURST = 32,
	RING = 512,
	MBUFS = 4095,
	IDLE_US = 100,
	FLOWS_SEEN = 4096,
	GIVEN_BACK = 16,	/* times a second that frames of one connection may come again */
	VXLAN_META = 0x01,	/* metadata of the shipped pipelines: kind in the high byte, */
	VLAN_META = 0x02,	/* and in the low bits what stood in the header */
	OVERHEAD = 14 + 4 + 20 + 8 + 8,
};

static const char *const names[FATES] = {
	"made", "known", "too often", "strange", "no rule", "mapped", "quota", "exhausted", "full",
};

static volatile sig_atomic_t ended;

static void end(int number)
{
	ended = number;
}

/* The note in front of the frame, which is taken away: false if there is none. */
static bool take_note(struct rte_mbuf *frame, uint32_t *meta)
{
	struct queue_note note, none = { 0 };
	uint8_t *place = rte_pktmbuf_mtod(frame, uint8_t *) - sizeof(note);

	if (rte_pktmbuf_headroom(frame) < sizeof(note))
		return false;
	memcpy(&note, place, sizeof(note));
	memcpy(place, &none, sizeof(none));
	*meta = note.meta;
	return note.magic == QUEUE_NOTE_MAGIC;
}

static void put16(uint8_t *at, uint32_t number)
{
	at[0] = number >> 8;
	at[1] = number;
}

/* eth / vlan / ipv4 / udp / vxlan: who it is from matters to nobody behind this veth. */
static bool as_vxlan(struct rte_mbuf *frame, uint32_t vni, uint16_t vid)
{
	static const uint8_t front[OVERHEAD] = {
		2, 0, 0, 0, 2, 1, 2, 0, 0, 0, 2, 2, 0x81, 0, 0, 0, 8, 0,			/* eth, vlan */
		0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0, 192, 0, 2, 2, 192, 0, 2, 1,	/* ipv4 */
		0xc0, 0, 4789 >> 8, 4789 & 0xff, 0, 0, 0, 0, 8,					/* udp, vxlan */
	};
	uint32_t length = rte_pktmbuf_pkt_len(frame), sum = 0;
	uint8_t *data = (uint8_t *)rte_pktmbuf_prepend(frame, OVERHEAD);

	if (!data)
		return false;
	memcpy(data, front, OVERHEAD);
	put16(data + 14, vid);
	put16(data + 20, 20 + 8 + 8 + length);
	put16(data + 42, 8 + 8 + length);
	for (int place = 18; place < 38; place += 2)
		sum += data[place] << 8 | data[place + 1];
	sum = (sum & 0xffff) + (sum >> 16);
	put16(data + 28, ~(sum + (sum >> 16)));
	put16(data + 50, vni >> 8);
	data[52] = vni;
	return true;
}

static bool as_vlan(struct rte_mbuf *frame, uint16_t vid)
{
	uint8_t *data = (uint8_t *)rte_pktmbuf_prepend(frame, 4);

	if (!data)
		return false;
	memmove(data, data + 4, 12);
	put16(data + 12, 0x8100);
	put16(data + 14, vid);
	return true;
}

static bool as_it_came(struct rte_mbuf *frame, uint32_t meta, uint16_t fabric_vid)
{
	if (meta >> 24 == VXLAN_META)
		return as_vxlan(frame, meta & 0xffffff, fabric_vid);
	return meta >> 24 == VLAN_META && as_vlan(frame, meta & 0xfff);
}

/* Whether frames of a connection that exists come again and again: the pipeline does not find what was made for it. */
static bool comes_too_often(const struct flow *flow)
{
	static struct seen {
		time_t second;
		uint32_t times;
	} seen[FLOWS_SEEN];
	const uint8_t *bytes = (const uint8_t *)flow;
	uint32_t hash = 2166136261u;
	struct seen *one;

	for (size_t place = 0; place < sizeof(*flow); place++)
		hash = (hash ^ bytes[place]) * 16777619u;
	one = &seen[hash % FLOWS_SEEN];
	if (one->second != time(NULL))
		*one = (struct seen){ .second = time(NULL) };
	return ++one->times > GIVEN_BACK;
}

static enum fate handle(const struct maps *maps, struct rte_mbuf *frame, uint16_t fabric_vid)
{
	struct answer answer;
	struct flow flow;
	enum fate fate;
	uint32_t meta;

	memset(&flow, 0, sizeof(flow));
	if (!take_note(frame, &meta) ||
	    !read_flow(rte_pktmbuf_mtod(frame, uint8_t *), rte_pktmbuf_data_len(frame), meta, &flow))
		return STRANGE;
	fate = ask_rules(maps, &flow, &answer);
	if (fate == MADE)
		fate = install(maps, &flow, &answer);
	if (fate == KNOWN && comes_too_often(&flow))
		fate = TOO_OFTEN;
	if ((fate == MADE || fate == KNOWN) && !as_it_came(frame, meta, fabric_vid))
		fate = STRANGE;
	return fate;
}

static void work(const struct maps *maps, uint16_t fabric_vid, uint64_t counts[FATES])
{
	struct rte_mbuf *frames[BURST];

	while (!ended) {
		uint16_t came = rte_eth_rx_burst(0, 0, frames, BURST);

		for (uint16_t place = 0; place < came; place++) {
			enum fate fate = handle(maps, frames[place], fabric_vid);

			counts[fate]++;
			if ((fate != MADE && fate != KNOWN) || !rte_eth_tx_burst(0, 0, &frames[place], 1))
				rte_pktmbuf_free(frames[place]);
		}
		if (!came)
			usleep(IDLE_US);
	}
}

static int open_port(void)
{
	struct rte_mempool *pool = rte_pktmbuf_pool_create("frames", MBUFS, 0, 0, RTE_MBUF_DEFAULT_BUF_SIZE, SOCKET_ID_ANY);
	struct rte_eth_conf conf = { 0 };

	if (!pool || !rte_eth_dev_is_valid_port(0))
		return -1;
	return rte_eth_dev_configure(0, 1, 1, &conf) || rte_eth_rx_queue_setup(0, 0, RING, SOCKET_ID_ANY, NULL, pool) ||
			       rte_eth_tx_queue_setup(0, 0, RING, SOCKET_ID_ANY, NULL) || rte_eth_dev_start(0) ?
		       -1 :
		       0;
}

int main(int count, char **words)
{
	uint64_t counts[FATES] = { 0 };
	struct maps maps;
	int own = rte_eal_init(count, words);

	if (own < 0 || count - own != 3) {
		fprintf(stderr, "usage: queue-worker EAL-OPTIONS -- PINS FABRIC-VLAN\n");
		return 2;
	}
	if (open_maps(&maps, words[own + 1]))
		return 1;
	if (open_port()) {
		fprintf(stderr, "queue worker: the port cannot be opened\n");
		return 1;
	}
	signal(SIGINT, end);
	signal(SIGTERM, end);
	printf("ready\n");
	fflush(stdout);
	work(&maps, strtoul(words[own + 2], NULL, 0), counts);
	for (int fate = 0; fate < FATES; fate++)
		printf("%s\"%s\": %lu%s", fate ? ", " : "{", names[fate], counts[fate], fate == FATES - 1 ? "}\n" : "");
	fflush(stdout);
	rte_eth_dev_stop(0);
	rte_eth_dev_close(0);
	return 0;
}

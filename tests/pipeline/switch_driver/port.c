// SPDX-License-Identifier: Apache-2.0
/* The switch's ports as DPDK's devices: they carry nothing, what matters comes over the socket of frames.c. */
#include <ethdev_vdev.h>
#include <rte_kvargs.h>

#include "switch.h"

static int configure(struct rte_eth_dev *dev __rte_unused)
{
	return 0;
}

static int infos(struct rte_eth_dev *dev __rte_unused, struct rte_eth_dev_info *info)
{
	info->max_mac_addrs = 1;
	info->max_rx_pktlen = UINT16_MAX;
	info->max_rx_queues = QUEUES;
	info->max_tx_queues = QUEUES;
	return 0;
}

static int start(struct rte_eth_dev *dev)
{
	dev->data->dev_link.link_status = RTE_ETH_LINK_UP;
	return 0;
}

static int stop(struct rte_eth_dev *dev)
{
	dev->data->dev_link.link_status = RTE_ETH_LINK_DOWN;
	return 0;
}

static int link_update(struct rte_eth_dev *dev __rte_unused, int wait __rte_unused)
{
	return 0;
}

static int close_port(struct rte_eth_dev *dev)
{
	dev->data->mac_addrs = NULL;	/* is a part of dev_private */
	return 0;
}

static int rx_queue(struct rte_eth_dev *dev, uint16_t queue, uint16_t count __rte_unused,
		    unsigned int socket __rte_unused, const struct rte_eth_rxconf *conf __rte_unused,
		    struct rte_mempool *pool __rte_unused)
{
	dev->data->rx_queues[queue] = dev->data->dev_private;
	return 0;
}

static int tx_queue(struct rte_eth_dev *dev, uint16_t queue, uint16_t count __rte_unused,
		    unsigned int socket __rte_unused, const struct rte_eth_txconf *conf __rte_unused)
{
	dev->data->tx_queues[queue] = dev->data->dev_private;
	return 0;
}

static uint16_t receive(void *queue __rte_unused, struct rte_mbuf **frames __rte_unused, uint16_t count __rte_unused)
{
	return 0;
}

static uint16_t send_nowhere(void *queue __rte_unused, struct rte_mbuf **frames, uint16_t count)
{
	rte_pktmbuf_free_bulk(frames, count);
	return count;
}

static int flow_ops(struct rte_eth_dev *dev __rte_unused, const struct rte_flow_ops **ops)
{
	*ops = &switch_flow_ops;
	return 0;
}

static int meter_ops(struct rte_eth_dev *dev __rte_unused, void *ops)
{
	*(const struct rte_mtr_ops **)ops = &switch_meter_ops;
	return 0;
}

static const struct eth_dev_ops port_ops = {
	.dev_configure = configure,
	.dev_infos_get = infos,
	.dev_start = start,
	.dev_stop = stop,
	.dev_close = close_port,
	.link_update = link_update,
	.rx_queue_setup = rx_queue,
	.tx_queue_setup = tx_queue,
	.flow_ops_get = flow_ops,
	.mtr_ops_get = meter_ops,
};

static int keep_path(const char *key __rte_unused, const char *value, void *into)
{
	return strlcpy(into, value, sizeof(eswitch.socket)) < sizeof(eswitch.socket) ? 0 : -ENAMETOOLONG;
}

static int probe(struct rte_vdev_device *device)
{
	static const char *const words[] = { "frames", NULL };
	struct rte_kvargs *given = rte_kvargs_parse(rte_vdev_device_args(device), words);
	struct rte_eth_dev *dev;
	int status = 0;

	if (!given)
		return -EINVAL;
	if (rte_kvargs_count(given, "frames")) {
		status = rte_kvargs_process(given, "frames", keep_path, eswitch.socket);
		status = status ? status : serve_frames(eswitch.socket);
	}
	rte_kvargs_free(given);
	if (status)
		return status;
	dev = rte_eth_vdev_allocate(device, sizeof(struct rte_ether_addr));
	if (!dev)
		return -ENOMEM;
	dev->data->mac_addrs = dev->data->dev_private;
	dev->data->mac_addrs->addr_bytes[0] = 2;
	dev->data->mac_addrs->addr_bytes[5] = dev->data->port_id;
	dev->data->dev_link.link_speed = RTE_ETH_SPEED_NUM_10G;
	dev->dev_ops = &port_ops;
	dev->rx_pkt_burst = receive;
	dev->tx_pkt_burst = send_nowhere;
	rte_eth_dev_probing_finish(dev);
	return 0;
}

static int remove_port(struct rte_vdev_device *device)
{
	struct rte_eth_dev *dev = rte_eth_dev_allocated(rte_vdev_device_name(device));

	return dev ? rte_eth_dev_release_port(dev) : 0;
}

static struct rte_vdev_driver driver = { .probe = probe, .remove = remove_port };

RTE_PMD_REGISTER_VDEV(net_switch, driver);
RTE_PMD_REGISTER_PARAM_STRING(net_switch, "frames=<path>");

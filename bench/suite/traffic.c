/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Small datagrams and short connections, as fast as one CPU can: what iperf3 does not measure.
 *
 *	traffic send ADDRESS PORT SECONDS	datagrams of 18 bytes, many for each system call
 *	traffic count ADDRESS PORT SECONDS	prints how many came in a second, from the first one on
 *	traffic accept ADDRESS PORT SECONDS	answers each byte of one connection after the other
 *	traffic ask ADDRESS PORT SECONDS	a byte there and back over TCP, again and again; prints p50 and p99 in microseconds
 *	traffic connect ADDRESS PORT SECONDS	one connection after the other, a byte each way; prints how many in a second
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum { BATCH = 64, PAYLOAD = 18, MOST_SAMPLES = 1 << 22 };

static double now_s(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static struct addrinfo *resolve(const char *address, const char *port, int type)
{
	struct addrinfo hints = {.ai_socktype = type, .ai_flags = AI_NUMERICHOST}, *found;

	if (getaddrinfo(address, port, &hints, &found)) {
		fprintf(stderr, "no address: %s\n", address);
		exit(2);
	}
	return found;
}

static int opened(const struct addrinfo *at)
{
	struct timeval limit = {.tv_usec = 200000};
	int fd = socket(at->ai_family, at->ai_socktype, 0), one = 1;

	if (fd < 0)
		fail("socket");
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	return fd;
}

static void datagrams(const struct addrinfo *at, int sending, double seconds)
{
	static char data[BATCH][PAYLOAD];
	struct mmsghdr messages[BATCH] = {0};
	struct iovec parts[BATCH];
	int fd = opened(at), size = 4 << 20;
	double begun = 0, end = now_s() + seconds + (sending ? 0 : 30);
	unsigned long packets = 0;

	setsockopt(fd, SOL_SOCKET, sending ? SO_SNDBUF : SO_RCVBUFFORCE, &size, sizeof(size));
	if (sending ? connect(fd, at->ai_addr, at->ai_addrlen) : bind(fd, at->ai_addr, at->ai_addrlen))
		fail("connect or bind");
	for (int i = 0; i < BATCH; i++) {
		parts[i] = (struct iovec){data[i], PAYLOAD};
		messages[i].msg_hdr.msg_iov = &parts[i];
		messages[i].msg_hdr.msg_iovlen = 1;
	}
	while (now_s() < end) {
		int done = sending ? sendmmsg(fd, messages, BATCH, 0) : recvmmsg(fd, messages, BATCH, MSG_WAITFORONE, NULL);

		if (done <= 0)
			continue;
		if (!begun && !sending) {
			begun = now_s();
			end = begun + seconds;
			continue;	/* the first ones wait for an address to be resolved */
		}
		packets += done;
	}
	if (!sending)
		printf("%.0f\n", packets / seconds);
}

static void serve(const struct addrinfo *at, double seconds)
{
	int listener = opened(at), one = 1;
	double end = now_s() + seconds;
	char byte = 0;

	if (bind(listener, at->ai_addr, at->ai_addrlen) || listen(listener, 128))
		fail("listen");
	while (now_s() < end) {
		int fd = accept(listener, NULL, NULL);

		if (fd < 0)
			continue;
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
		while (read(fd, &byte, 1) == 1 && write(fd, &byte, 1) == 1)
			;
		close(fd);
	}
}

static int earlier(const void *a, const void *b)
{
	float left = *(const float *)a, right = *(const float *)b;

	return (left > right) - (left < right);
}

static void ask(const struct addrinfo *at, double seconds)
{
	static float took_us[MOST_SAMPLES];
	int fd = opened(at), one = 1;
	size_t samples = 0;
	double end;
	char byte = 1;

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	if (connect(fd, at->ai_addr, at->ai_addrlen))
		fail("connect");
	end = now_s() + seconds;
	for (double begun = now_s(); begun < end && samples < MOST_SAMPLES; begun = now_s()) {
		if (write(fd, &byte, 1) != 1 || read(fd, &byte, 1) != 1)
			fail("no answer");
		took_us[samples++] = (now_s() - begun) * 1e6;
	}
	qsort(took_us, samples, sizeof(*took_us), earlier);
	printf("%.2f %.2f\n", took_us[samples / 2], took_us[samples * 99 / 100]);
}

static void connections(const struct addrinfo *at, double seconds)
{
	struct linger reset = {.l_onoff = 1};	/* no TIME_WAIT: there are not ports enough */
	double begun = now_s(), end = begun + seconds;
	unsigned long done = 0;
	char byte = 1;

	while (now_s() < end) {
		int fd = opened(at);

		setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
		if (connect(fd, at->ai_addr, at->ai_addrlen) == 0 && write(fd, &byte, 1) == 1 && read(fd, &byte, 1) == 1)
			done++;
		close(fd);
	}
	printf("%.0f\n", done / (now_s() - begun));
}

int main(int argc, char **argv)
{
	if (argc != 5) {
		fprintf(stderr, "usage: traffic send|count|accept|ask|connect ADDRESS PORT SECONDS\n");
		return 2;
	}
	int stream = !strcmp(argv[1], "accept") || !strcmp(argv[1], "connect") || !strcmp(argv[1], "ask");
	struct addrinfo *at = resolve(argv[2], argv[3], stream ? SOCK_STREAM : SOCK_DGRAM);
	double seconds = atof(argv[4]);

	if (!strcmp(argv[1], "accept"))
		serve(at, seconds);
	else if (!strcmp(argv[1], "connect"))
		connections(at, seconds);
	else if (!strcmp(argv[1], "ask"))
		ask(at, seconds);
	else
		datagrams(at, !strcmp(argv[1], "send"), seconds);
	return 0;
}

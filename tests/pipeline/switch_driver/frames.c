// SPDX-License-Identifier: Apache-2.0
/*
 * Frames for the switch over a Unix socket (SOCK_SEQPACKET), one question and one answer at a time:
 *
 *     question  time in ns (64 bits), frame; without a frame the clock goes on, and nothing is answered but its time
 *     answer    ending, port, queue, metadata, number of counters (32 bits each), the counters' ids, frame or sentence
 *
 * All numbers are in the machine's own order. The test's clock is the switch's: meters and ages go by it.
 */
#include "switch.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum words { ENDING, PORT, QUEUE, META, COUNTED, WORDS };

static size_t answer(uint32_t *out, const uint8_t *question, size_t size)
{
	static uint8_t room[FRAME + ROOM];
	struct frame frame = { .bytes = room + ROOM };
	struct verdict found;
	const void *text;
	size_t bytes;

	memcpy(&frame.now_ns, question, 8);
	eswitch.now_ns = frame.now_ns;
	frame.length = size - 8;
	if (!frame.length) {
		memcpy(out, &frame.now_ns, 8);
		return 8;
	}
	memcpy(frame.bytes, question + 8, frame.length);
	parse(&frame);
	found = frame.layer_count ? walk(&frame) : (struct verdict){ .ending = DROPPED };
	out[ENDING] = found.ending;
	out[PORT] = found.port;
	out[QUEUE] = found.queue;
	out[META] = frame.meta;
	out[COUNTED] = frame.count_count;
	memcpy(out + WORDS, frame.counted, frame.count_count * 4);
	bytes = found.ending == BROKEN ? strlen(found.problem) : frame.length;
	text = found.ending == BROKEN ? (const void *)found.problem : frame.bytes;
	memcpy(out + WORDS + frame.count_count, text, bytes);
	return (WORDS + frame.count_count) * 4 + bytes;
}

static void *serve(void *listening)
{
	static uint8_t question[FRAME];
	static uint32_t out[(FRAME + ROOM) / 4 + WORDS + COUNTS];
	int listener = (intptr_t)listening;

	for (;;) {
		int peer = accept(listener, NULL, NULL);
		ssize_t size;

		if (peer < 0)
			return NULL;
		while ((size = recv(peer, question, sizeof(question) - ROOM, 0)) >= 8) {
			pthread_mutex_lock(&eswitch.lock);
			size = answer(out, question, size);
			pthread_mutex_unlock(&eswitch.lock);
			if (send(peer, out, size, MSG_NOSIGNAL) < 0)
				break;
		}
		close(peer);
	}
}

int serve_frames(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int listener = socket(AF_UNIX, SOCK_SEQPACKET, 0);
	pthread_t thread;

	if (listener < 0)
		return -errno;
	strlcpy(address.sun_path, path, sizeof(address.sun_path));
	if (bind(listener, (struct sockaddr *)&address, sizeof(address)) || listen(listener, 1))
		return -errno;
	return -pthread_create(&thread, NULL, serve, (void *)(intptr_t)listener);
}

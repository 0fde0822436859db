/* Bytes to and from one peer over UDP, TCP or a serial port: the twin of sim2sky/runtime/channel.py for whoever calls.
 * Nothing blocks longer than it was told to: what a full buffer does not take is dropped whole. */
#ifndef SIM2SKY_CHANNEL_H
#define SIM2SKY_CHANNEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "problem.h"

enum { CHANNEL_MAX_SEND = 4096, CHANNEL_MAX_DATAGRAM = 65536 };

typedef struct {
    int fd;
    bool whole; /* what is received begins and ends with a message (datagrams) */
    uint8_t rest[CHANNEL_MAX_SEND]; /* of a message that was begun: finished before the next one */
    size_t n_rest;
    const char *address;
} channel;

int64_t clock_ns(void); /* monotonic */

/* Opens udp:HOST:PORT, tcp:HOST:PORT or serial:DEVICE:BAUD; hosts are numeric. A caller over TCP tries until somebody
 * answers. Returns EXIT_PASS or the problem's exit code. */
int channel_open(channel *c, const char *address, double timeout_s, problem *p);
/* At most CHANNEL_MAX_SEND bytes. */
int channel_send(channel *c, const uint8_t *data, size_t n, problem *p);
/* Waits for bytes; *n is 0 where none came in time. `data` holds CHANNEL_MAX_DATAGRAM. */
int channel_receive(channel *c, int64_t timeout_ns, uint8_t *data, size_t *n, problem *p);
void channel_close(channel *c);

#endif

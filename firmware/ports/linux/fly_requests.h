/* What is sent besides commands: requests, sent again until answered or sent often enough, and what a ground station
 * shows. The twins of sim2sky/runtime/{mavlink_requests,announcements}.py. No clock, no I/O. */
#ifndef SIM2SKY_FLY_REQUESTS_H
#define SIM2SKY_FLY_REQUESTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "mavlink.h"

/* Acknowledgements name the command but not its parameters: of each key only the first is under way at a time. */
enum { FLY_REQUESTS = 48, FLY_PARAMETER_KEY = 0x10000 /* + number; below: a command */ };
typedef struct {
    uint32_t key;
    float parameter[2]; /* of the command, from the first */
    uint32_t tries;
    int64_t due_ns;
} fly_request;

typedef struct {
    fly_request waiting[FLY_REQUESTS];
    size_t n;
} fly_requests;

void fly_ask(fly_requests *r, uint32_t key, float first, float second); /* a full list forgets the newest */
bool fly_answered(fly_requests *r, uint32_t key); /* the one of that key that is under way; false where none is */
void fly_forget(fly_requests *r, uint32_t key);
/* The next message to send now, towards that autopilot; false where there is none (any more). Begin with *at = 0. */
bool fly_request_due(fly_requests *r, size_t *at, int64_t now_ns, uint8_t system, uint8_t component,
                     s2s_mav_message *m);

/* What the flight agent says of itself: a heartbeat each second, named values twice, texts at once. */
enum { FLY_TEXTS = 8, FLY_TEXT = 50 };
typedef struct {
    bool engaged;
    int32_t guard;
    uint32_t trips, late;
    bool begun;
    int64_t heartbeat_ns, values_ns;
    char text[FLY_TEXTS][FLY_TEXT + 1];
    size_t n_texts, at;
} fly_announcer;

void fly_announce(fly_announcer *a, const char *text); /* a full list forgets the newest */
bool fly_announcement_due(fly_announcer *a, int64_t now_ns, s2s_mav_message *m); /* false where there is none */

#endif

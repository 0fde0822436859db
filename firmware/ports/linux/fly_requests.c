/* Requests and announcements: see fly_requests.h. */
#include "fly_requests.h"

#include <stdio.h>

#include "fly_sticks.h"

#define SECOND INT64_C(1000000000)
#define RETRY_NS INT64_C(300000000)
enum { TRIES = 4, VALUES = 4 };

void fly_ask(fly_requests *r, uint32_t key, float first, float second)
{
    if (r->n < FLY_REQUESTS) {
        r->waiting[r->n++] = (fly_request){key, {first, second}, TRIES, 0};
    }
}

static void drop(fly_requests *r, size_t i)
{
    r->n--;
    memmove(&r->waiting[i], &r->waiting[i + 1], (r->n - i) * sizeof r->waiting[0]);
}

bool fly_answered(fly_requests *r, uint32_t key)
{
    for (size_t i = 0; i < r->n; i++) {
        if (r->waiting[i].key == key) {
            if (r->waiting[i].tries == TRIES) { /* not even sent */
                return false;
            }
            drop(r, i);
            return true;
        }
    }
    return false;
}

void fly_forget(fly_requests *r, uint32_t key)
{
    for (size_t i = r->n; i > 0; i--) {
        if (r->waiting[i - 1].key == key) {
            drop(r, i - 1);
        }
    }
}

static bool first_of_its_key(const fly_requests *r, size_t i)
{
    for (size_t k = 0; k < i; k++) {
        if (r->waiting[k].key == r->waiting[i].key) {
            return false;
        }
    }
    return true;
}

static void request(s2s_mav_message *m, const fly_request *q, uint8_t system, uint8_t component)
{
    if (q->key >= FLY_PARAMETER_KEY) {
        s2s_mav_init(m, S2S_MAV_PARAM_REQUEST_READ);
        s2s_put_u16(m->payload + S2S_MAV_PARAM_REQUEST_READ_PARAM_INDEX, 0xFFFF); /* -1: by its name */
        m->payload[S2S_MAV_PARAM_REQUEST_READ_TARGET_SYSTEM] = system;
        m->payload[S2S_MAV_PARAM_REQUEST_READ_TARGET_COMPONENT] = component;
        for (size_t i = 0; i < 16 && FLY_PARAMETER[q->key - FLY_PARAMETER_KEY][i] != '\0'; i++) {
            m->payload[S2S_MAV_PARAM_REQUEST_READ_PARAM_ID + i] =
                (uint8_t)FLY_PARAMETER[q->key - FLY_PARAMETER_KEY][i];
        }
        return;
    }
    s2s_mav_init(m, S2S_MAV_COMMAND_LONG);
    s2s_put_f32(m->payload + S2S_MAV_COMMAND_LONG_PARAM1, q->parameter[0]);
    s2s_put_f32(m->payload + S2S_MAV_COMMAND_LONG_PARAM2, q->parameter[1]);
    s2s_put_u16(m->payload + S2S_MAV_COMMAND_LONG_COMMAND, (uint16_t)q->key);
    m->payload[S2S_MAV_COMMAND_LONG_TARGET_SYSTEM] = system;
    m->payload[S2S_MAV_COMMAND_LONG_TARGET_COMPONENT] = component;
}

bool fly_request_due(fly_requests *r, size_t *at, int64_t now_ns, uint8_t system, uint8_t component,
                     s2s_mav_message *m)
{
    while (*at < r->n) {
        fly_request *q = &r->waiting[*at];
        const bool waited = q->tries == TRIES || now_ns >= q->due_ns;
        if (!first_of_its_key(r, *at) || !waited) {
            ++*at;
        } else if (q->tries == 0) { /* sent often enough, and its last wait is over */
            drop(r, *at);
        } else {
            q->tries--;
            q->due_ns = now_ns + RETRY_NS;
            request(m, q, system, component);
            ++*at;
            return true;
        }
    }
    return false;
}

void fly_announce(fly_announcer *a, const char *text)
{
    if (a->n_texts < FLY_TEXTS) {
        snprintf(a->text[a->n_texts++], sizeof a->text[0], "sim2sky: %s", text);
    }
}

static void heartbeat(const fly_announcer *a, s2s_mav_message *m)
{
    s2s_mav_init(m, S2S_MAV_HEARTBEAT);
    s2s_put_u32(m->payload + S2S_MAV_HEARTBEAT_CUSTOM_MODE, (uint32_t)a->guard);
    m->payload[S2S_MAV_HEARTBEAT_TYPE] = S2S_MAV_TYPE_ONBOARD_CONTROLLER;
    m->payload[S2S_MAV_HEARTBEAT_AUTOPILOT] = S2S_MAV_AUTOPILOT_INVALID;
    m->payload[S2S_MAV_HEARTBEAT_BASE_MODE] =
        (uint8_t)(S2S_MAV_MODE_FLAG_CUSTOM_MODE_ENABLED | (a->engaged ? S2S_MAV_MODE_FLAG_GUIDED_ENABLED : 0));
    m->payload[S2S_MAV_HEARTBEAT_SYSTEM_STATUS] = a->engaged ? S2S_MAV_STATE_ACTIVE : S2S_MAV_STATE_STANDBY;
    m->payload[S2S_MAV_HEARTBEAT_MAVLINK_VERSION] = 3;
}

static void named_value(const fly_announcer *a, size_t i, int64_t now_ns, s2s_mav_message *m)
{
    static const char *const NAMES[VALUES] = {"s2s_engage", "s2s_guard", "s2s_trips", "s2s_late"};
    const float values[VALUES] = {a->engaged ? 1.0f : 0.0f, (float)a->guard, (float)a->trips, (float)a->late};
    s2s_mav_init(m, S2S_MAV_NAMED_VALUE_FLOAT);
    s2s_put_u32(m->payload + S2S_MAV_NAMED_VALUE_FLOAT_TIME_BOOT_MS, (uint32_t)(now_ns / 1000000 & 0xFFFFFFFF));
    s2s_put_f32(m->payload + S2S_MAV_NAMED_VALUE_FLOAT_VALUE, values[i]);
    memcpy(m->payload + S2S_MAV_NAMED_VALUE_FLOAT_NAME, NAMES[i], strlen(NAMES[i])); /* at most 10 */
}

bool fly_announcement_due(fly_announcer *a, int64_t now_ns, s2s_mav_message *m)
{
    if (!a->begun) {
        a->begun = true;
        a->heartbeat_ns = a->values_ns = now_ns - SECOND;
        a->at = VALUES;
    }
    if (now_ns - a->heartbeat_ns >= SECOND) {
        a->heartbeat_ns = now_ns;
        heartbeat(a, m);
        return true;
    }
    if (now_ns - a->values_ns >= SECOND / 2) {
        a->values_ns = now_ns;
        a->at = 0;
    }
    if (a->at < VALUES) {
        named_value(a, a->at++, now_ns, m);
        return true;
    }
    if (a->n_texts > 0) {
        s2s_mav_init(m, S2S_MAV_STATUSTEXT);
        m->payload[S2S_MAV_STATUSTEXT_SEVERITY] = S2S_MAV_SEVERITY_NOTICE;
        memcpy(m->payload + S2S_MAV_STATUSTEXT_TEXT, a->text[0], strlen(a->text[0])); /* at most FLY_TEXT */
        a->n_texts--;
        memmove(a->text[0], a->text[1], a->n_texts * sizeof a->text[0]);
        return true;
    }
    return false;
}

/* Answers the records of one file of the host into another: the guard on the board, its configuration compiled in. */
#include "guard_calls.h"
#include "port.h"

extern const s2s_guard_config config;

static bool read_whole(int file, uint8_t *out, size_t size) {
    size_t got = 0, n = 1;
    while (got < size && n > 0) {
        n = port_read(file, out + got, size - got);
        got += n;
    }
    return got == size;
}

int main(void) {
    static s2s_guard guard;
    static s2s_guard_call calls[64];
    static s2s_guarded answers[64];
    char in[256], out[256];
    if (!port_argument(1, in, sizeof in) || !port_argument(2, out, sizeof out)) {
        return 2;
    }
    int from = port_open(in, false), to = port_open(out, true);
    if (from < 0 || to < 0) {
        return 3;
    }
    s2s_guard_init(&guard, &config);
    while (read_whole(from, (uint8_t *)calls, sizeof calls)) {
        s2s_guard_calls(&guard, calls, answers, sizeof calls / sizeof calls[0]);
        if (!port_write(to, (const uint8_t *)answers, sizeof answers)) {
            return 4;
        }
    }
    return 0;
}

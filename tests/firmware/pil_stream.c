/* Bytes from stdin to the agent's processor-in-the-loop protocol, its answers to stdout, in pieces of the size that the
 * first argument says. */
#include <stdio.h>
#include <stdlib.h>

#include "pil.h"

static s2s_pil pil;

int main(int argc, char **argv)
{
    uint8_t received[512], frame[S2S_PIL_MAX_FRAME];
    size_t piece = argc > 1 ? (size_t)atoi(argv[1]) : sizeof received, n;

    s2s_pil_init(&pil, &s2s_config);
    while (!pil.ended && (n = fread(received, 1, piece, stdin)) > 0) {
        const uint8_t *data = received;
        do {
            const size_t size = s2s_pil_take(&pil, &data, &n, frame);
            if (size == 0) {
                break;
            }
            fwrite(frame, 1, size, stdout);
        } while (n > 0 && !pil.ended);
    }
    return 0;
}

/* Both readers over chunks from stdin (length as two bytes, then the bytes), each chunk in a block of its own size so that
 * a sanitizer sees every step too far. Prints what they counted. */
#include <stdio.h>
#include <stdlib.h>

#include "frame.h"
#include "mavlink.h"

static unsigned sum; /* of all that was read, so that nothing is optimised away */

static void feed_frames(s2s_frame_reader *r, const uint8_t *data, size_t n)
{
    uint8_t *payload = malloc(S2S_FRAME_MAX_PAYLOAD);
    int size;
    if (payload == NULL) {
        exit(3);
    }
    while ((size = s2s_frame_read(r, &data, &n, payload)) >= 0) {
        for (int i = 0; i < size; i++) {
            sum += payload[i];
        }
    }
    free(payload);
    if (n != 0) {
        exit(4);
    }
}

static void feed_mavlink(s2s_mav_reader *r, const uint8_t *data, size_t n, bool whole)
{
    s2s_mav_message m;
    uint8_t frame[S2S_MAV_MAX_FRAME];
    while (s2s_mav_read(r, &data, &n, whole, &m)) {
        const size_t size = s2s_mav_pack(&m, frame);
        for (size_t i = 0; i < size; i++) {
            sum += frame[i];
        }
    }
    if (n != 0) {
        exit(4);
    }
}

int main(void)
{
    s2s_frame_reader frames;
    s2s_mav_reader stream, datagrams;
    uint8_t length[2];
    s2s_frame_reader_init(&frames);
    s2s_mav_reader_init(&stream);
    s2s_mav_reader_init(&datagrams);
    while (fread(length, 1, 2, stdin) == 2) {
        const size_t n = s2s_get_u16(length);
        uint8_t *chunk = malloc(n > 0 ? n : 1);
        if (chunk == NULL || fread(chunk, 1, n, stdin) != n) {
            return 3;
        }
        feed_frames(&frames, chunk, n);
        feed_mavlink(&stream, chunk, n, false);
        feed_mavlink(&datagrams, chunk, n, true);
        free(chunk);
    }
    printf("%u %u\n", frames.frames, frames.damaged);
    printf("%u %u %u %u\n", stream.frames, stream.damaged, stream.unknown, stream.version1);
    printf("%u %u %u %u\n", datagrams.frames, datagrams.damaged, datagrams.unknown, datagrams.version1);
    return sum == 1u ? 5 : 0;
}

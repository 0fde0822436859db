/* Processor in the loop: questions of a host that flies the plant, answers of the agent under test. Payloads of 0xAA55
 * frames, the first byte says what follows; little-endian, IEEE 754. sim2sky/hil/pil.py is the other side.
 *
 * question                                              answer
 * I                                                     i version u8, contract hash u8[32], bundle digest u8[32],
 *                                                         policy digest u8[32], observations u16, actions u16,
 *                                                         golden vectors u32, rate f64, damaged frames u32
 * T replay the golden vectors                           t compared u32, different u32, first that differs u32
 * R new episode                                         r
 * P time u64, observation f32[] (policy alone)          p status u32, action f32[], instructions u64
 * F forget: policy's recurrent state                    f
 * S now i64, sample (i64, f64[13]), setpoint f64[8],    s mode i32, trips u32, instructions u64, command f64[4],
 *   battery f64                                           action f32[4], observation f32[]
 * K kill, D disarm, A arm                               k, d, a: whether it was done u8
 * Q end                                                 q
 * anything else                                         e what u8: S2S_PIL_UNKNOWN, _LENGTH, _DAMAGED
 *
 * Doubles on the wire: the chip flies exactly what the simulator flies. Instructions are 0 where nobody counts them. */
#ifndef SIM2SKY_PIL_H
#define SIM2SKY_PIL_H

#include "agent.h"
#include "frame.h"

enum { S2S_PIL_VERSION = 1, S2S_PIL_UNKNOWN = 1, S2S_PIL_LENGTH = 2, S2S_PIL_DAMAGED = 3 };
enum { S2S_PIL_MAX_FRAME = S2S_FRAME_MAX_PAYLOAD + S2S_FRAME_OVERHEAD };

typedef struct {
    s2s_agent agent;
    s2s_frame_reader reader;
    uint64_t call_instructions; /* what two calls of s2s_pil_instructions in a row differ by */
    uint8_t question[S2S_FRAME_MAX_PAYLOAD];
    uint32_t damaged; /* frames reported so far */
    bool ended;       /* Q has come */
} s2s_pil;

/* Instructions executed so far: 0, unless a port that counts them defines it. */
uint64_t s2s_pil_instructions(void);

void s2s_pil_init(s2s_pil *p, const s2s_agent_config *config);
/* Takes bytes from *data (advancing it, lowering *n) up to the next question and writes the answer's frame; its length, 0
 * where the question is not complete yet. `out` has room for S2S_PIL_MAX_FRAME bytes. */
size_t s2s_pil_take(s2s_pil *p, const uint8_t **data, size_t *n, uint8_t *out);
/* For whoever reads the frames: the answer to what `s2s_frame_read` made of `p->reader` into `p->question` (its return
 * value is `size`). */
size_t s2s_pil_answer(s2s_pil *p, int size, uint8_t *out);

#endif

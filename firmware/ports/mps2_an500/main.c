/* The flight agent on the emulated Cortex-M7, asked by a host: over two files (`fifo IN OUT`) or UART0 (`uart`); with the
 * word `count` behind, instructions are counted, which needs `-icount`. */
#include "pil.h"
#include "port.h"

enum { EXIT_ENDED = 0, EXIT_GONE = 1, EXIT_USAGE = 2, WORD = 512 };

static s2s_pil pil;
static int in, out;
static bool counted;

uint64_t s2s_pil_instructions(void)
{
    return counted ? port_instructions() : 0u;
}

static bool word_is(unsigned index, const char *text)
{
    char word[16];
    size_t i = 0;

    if (!port_argument(index, word, sizeof word)) {
        return false;
    }
    while (text[i] != '\0' && word[i] == text[i]) {
        i++;
    }
    return word[i] == text[i];
}

static int file_of(unsigned index, bool writing)
{
    char path[WORD];

    return port_argument(index, path, sizeof path) ? port_open(path, writing) : -1;
}

static int serve(bool uart)
{
    uint8_t received[S2S_PIL_MAX_FRAME], frame[S2S_PIL_MAX_FRAME];

    while (!pil.ended) {
        size_t n = 1;
        const uint8_t *data = received;
        if (uart) {
            received[0] = port_uart_read();
        } else {
            n = port_read(in, received, sizeof received);
        }
        if (n == 0u) {
            return EXIT_GONE;
        }
        do {
            const size_t size = s2s_pil_take(&pil, &data, &n, frame);
            if (size == 0u) {
                break;
            }
            if (uart) {
                port_uart_write(frame, size);
            } else if (!port_write(out, frame, size)) {
                return EXIT_GONE;
            }
        } while (n > 0u && !pil.ended);
    }
    return EXIT_ENDED;
}

int main(void)
{
    const bool uart = word_is(1u, "uart");

    counted = word_is(uart ? 2u : 4u, "count");
    if (uart) {
        port_uart_open();
        port_print("UART0 is open\n"); /* whoever attaches to a pseudo-terminal before, QEMU never hears */
    } else if (!word_is(1u, "fifo") || (in = file_of(2u, false)) < 0 || (out = file_of(3u, true)) < 0) {
        port_print("usage: fifo IN OUT [count] | uart [count]\n");
        return EXIT_USAGE;
    }
    s2s_pil_init(&pil, &s2s_config);
    return serve(uart);
}

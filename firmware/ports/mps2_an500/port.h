/* What a program on the emulated Cortex-M7 (QEMU machine mps2-an500) has for an operating system: semihosting for files
 * and exit, UART0, and an exact instruction counter. */
#ifndef SIM2SKY_MPS2_AN500_PORT_H
#define SIM2SKY_MPS2_AN500_PORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

void port_print(const char *text);
void port_exit(int code) __attribute__((noreturn));

/* Instructions executed since start-up. Exact under `-icount shift=7`, where an instruction takes 128 ns of the emulated
 * clock and the 40 ns timer tells any two apart; without icount it means nothing. A call costs the same every time: the
 * difference of two in a row is to be subtracted. To be called at least every 10^9 instructions. */
uint64_t port_instructions(void);

/* Word `index` of the semihosting command line, the program's name being word 0; false where there is none, or it does
 * not fit. */
bool port_argument(unsigned index, char *out, size_t size);

/* Files of the host; -1 where it cannot be opened. `port_read` waits for at least one byte and returns 0 at the end. */
int port_open(const char *path, bool writing);
size_t port_read(int file, uint8_t *out, size_t size);
bool port_write(int file, const uint8_t *data, size_t size);

/* UART0, polled. */
void port_uart_open(void);
uint8_t port_uart_read(void);
void port_uart_write(const uint8_t *data, size_t size);

#endif

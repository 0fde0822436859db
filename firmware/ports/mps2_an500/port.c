/* Semihosting calls, UART0 and the instruction counter of the emulated Cortex-M7. */
#include "port.h"

/* Semihosting for AArch32 and AArch64, Arm document 100863, section 5. */
enum {
    SYS_OPEN = 0x01, SYS_WRITE0 = 0x04, SYS_WRITE = 0x05, SYS_READ = 0x06, SYS_GET_CMDLINE = 0x15,
    SYS_EXIT_EXTENDED = 0x20
};
enum { OPEN_READ_BINARY = 1, OPEN_WRITE_BINARY = 5, COMMAND_LINE = 1024 };
#define STOPPED_APPLICATION_EXIT 0x20026u

/* CMSDK timer and UART, Arm document DDI 0479, sections 4.3 and 4.4; the machine's clock is 25 MHz. */
#define TIMER0_CONTROL (*(volatile uint32_t *)0x40000000u)
#define TIMER0_VALUE (*(volatile uint32_t *)0x40000004u)
#define TIMER0_RELOAD (*(volatile uint32_t *)0x40000008u)
#define UART0_DATA (*(volatile uint32_t *)0x40004000u)
#define UART0_STATE (*(volatile uint32_t *)0x40004004u)
#define UART0_CONTROL (*(volatile uint32_t *)0x40004008u)
#define UART0_DIVIDER (*(volatile uint32_t *)0x40004010u)
enum { TICK_NS = 40, INSTRUCTION_NS = 128, UART_FULL = 1, UART_READY = 2, UART_ENABLE = 3, UART_FASTEST = 16 };

static uint32_t elapsed_low;
static uint64_t elapsed_ticks;

void port_start_counter(void);

static uint32_t semihosting(uint32_t operation, const void *parameter)
{
    register uint32_t r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = parameter;

    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

static uint32_t address(const volatile void *p)
{
    return (uint32_t)(uintptr_t)p;
}

void port_print(const char *text)
{
    (void)semihosting(SYS_WRITE0, text);
}

void port_exit(int code)
{
    const uint32_t block[2] = {STOPPED_APPLICATION_EXIT, (uint32_t)code};

    for (;;) {
        (void)semihosting(SYS_EXIT_EXTENDED, block);
    }
}

void port_start_counter(void)
{
    TIMER0_RELOAD = UINT32_MAX;
    TIMER0_VALUE = UINT32_MAX;
    TIMER0_CONTROL = 1u;
}

__attribute__((noinline)) uint64_t port_instructions(void)
{
    const uint32_t low = ~TIMER0_VALUE; /* it counts down */

    elapsed_ticks += low - elapsed_low;
    elapsed_low = low;
    return (elapsed_ticks * TICK_NS + INSTRUCTION_NS / 2) / INSTRUCTION_NS;
}

bool port_argument(unsigned index, char *out, size_t size)
{
    static char line[COMMAND_LINE];
    uint32_t block[2] = {address(line), sizeof line};
    const char *p = line;
    size_t n = 0;

    if (size == 0u || semihosting(SYS_GET_CMDLINE, block) != 0u) {
        return false;
    }
    for (; index > 0u && *p != '\0'; p++) {
        index -= *p == ' ';
    }
    while (*p != '\0' && *p != ' ' && n < size) {
        out[n++] = *p++;
    }
    if (n == 0u || n == size) {
        return false;
    }
    out[n] = '\0';
    return true;
}

int port_open(const char *path, bool writing)
{
    uint32_t length = 0;

    while (path[length] != '\0') {
        length++;
    }
    const uint32_t block[3] = {address(path), writing ? OPEN_WRITE_BINARY : OPEN_READ_BINARY, length};
    return (int)semihosting(SYS_OPEN, block);
}

size_t port_read(int file, uint8_t *out, size_t size)
{
    const uint32_t block[3] = {(uint32_t)file, address(out), size};
    const uint32_t missing = semihosting(SYS_READ, block);

    return missing <= size ? size - missing : 0u;
}

bool port_write(int file, const uint8_t *data, size_t size)
{
    const uint32_t block[3] = {(uint32_t)file, address(data), size};

    return semihosting(SYS_WRITE, block) == 0u;
}

void port_uart_open(void)
{
    UART0_DIVIDER = UART_FASTEST;
    UART0_CONTROL = UART_ENABLE;
}

uint8_t port_uart_read(void)
{
    while ((UART0_STATE & UART_READY) == 0u) {
    }
    return (uint8_t)UART0_DATA;
}

void port_uart_write(const uint8_t *data, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        while ((UART0_STATE & UART_FULL) != 0u) {
        }
        UART0_DATA = data[i];
    }
}

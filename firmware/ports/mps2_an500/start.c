/* Start-up of the emulated Cortex-M7: vector table, FPU, .data and .bss, main; a fault ends the program. */
#include "port.h"

#define CPACR (*(volatile uint32_t *)0xE000ED88u)
#define CFSR (*(volatile uint32_t *)0xE000ED28u)

enum { EXIT_FAULT = 70, N_EXCEPTIONS = 15 };

extern uint32_t port_stack_top[], port_data_load[], port_data_start[], port_data_end[], port_bss_start[], port_bss_end[];
int main(void);
void port_reset(void);
void port_start_counter(void);

static void port_fault(void)
{
    char text[] = "fault, CFSR 0x00000000\n";
    const uint32_t cause = CFSR;

    for (uint32_t i = 0; i < 8u; i++) {
        text[21u - i] = "0123456789abcdef"[(cause >> (4u * i)) & 15u];
    }
    port_print(text);
    port_exit(EXIT_FAULT);
}

/* Section 2.3.4 of the Cortex-M7 Devices Generic User Guide. */
static const struct {
    const uint32_t *stack;
    void (*handler[N_EXCEPTIONS])(void);
} vectors __attribute__((section(".vectors"), used)) = {
    port_stack_top,
    {port_reset, port_fault, port_fault, port_fault, port_fault, port_fault, port_fault, port_fault, port_fault,
     port_fault, port_fault, port_fault, port_fault, port_fault, port_fault},
};

void port_reset(void)
{
    const uint32_t *load = port_data_load;

    CPACR |= 0xFu << 20; /* full access to the FPU */
    __asm__ volatile("dsb\n\tisb" ::: "memory");
    for (uint32_t *p = port_data_start; p < port_data_end; p++) {
        *p = *load++;
    }
    for (uint32_t *p = port_bss_start; p < port_bss_end; p++) {
        *p = 0u;
    }
    port_start_counter();
    port_exit(main());
}

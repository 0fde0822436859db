/* What a test program needs of its machine, for a machine with an operating system. */
#ifndef PORT_H
#define PORT_H

#include <stdio.h>

static inline void port_print(const char *text) { fputs(text, stdout); }

#endif

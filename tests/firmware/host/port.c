/* Prints a test program's words on an operating system. */
#include "port.h"

#include <stdio.h>

void port_print(const char *text)
{
    fputs(text, stdout);
}

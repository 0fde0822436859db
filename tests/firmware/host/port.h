/* The part of the board's port.h that test programs use, on an operating system. */
#ifndef HOST_PORT_H
#define HOST_PORT_H

void port_print(const char *text);

#endif

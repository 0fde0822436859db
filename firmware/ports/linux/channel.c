/* UDP, TCP and serial ports: see channel.h. */
#define _GNU_SOURCE
#include "channel.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define SECOND INT64_C(1000000000)
#define RETRY_NS (SECOND / 20)

static const char ADDRESS_HINT[] =
    "for example udp:127.0.0.1:14560, tcp:192.168.1.10:5760, serial:/dev/ttyACM0:115200";

int problem_set(problem *p, int exit_code, const char *hint, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(p->message, sizeof p->message, format, arguments);
    va_end(arguments);
    snprintf(p->hint, sizeof p->hint, "%s", hint);
    p->exit_code = exit_code;
    return exit_code;
}

int64_t clock_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * SECOND + t.tv_nsec;
}

static void sleep_ns(int64_t ns)
{
    const struct timespec t = {(time_t)(ns / SECOND), (long)(ns % SECOND)};
    nanosleep(&t, NULL);
}

/* Positive where `fd` is ready for `events` in time; an interrupt (Ctrl-C) counts as silence. */
static int ready(int fd, short events, int64_t timeout_ns)
{
    struct pollfd f = {fd, events, 0};
    const int64_t wait = timeout_ns > 0 ? timeout_ns : 0;
    const struct timespec t = {(time_t)(wait / SECOND), (long)(wait % SECOND)};
    return ppoll(&f, 1, &t, NULL);
}

/* Sockets */

typedef struct {
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    } at;
    socklen_t size;
} endpoint;

static bool parse_host(const char *host, uint16_t port, endpoint *e)
{
    memset(e, 0, sizeof *e);
    if (inet_pton(AF_INET, strcmp(host, "localhost") == 0 ? "127.0.0.1" : host, &e->at.v4.sin_addr) == 1) {
        e->at.v4.sin_family = AF_INET;
        e->at.v4.sin_port = htons(port);
        e->size = sizeof e->at.v4;
        return true;
    }
    if (inet_pton(AF_INET6, host, &e->at.v6.sin6_addr) == 1) {
        e->at.v6.sin6_family = AF_INET6;
        e->at.v6.sin6_port = htons(port);
        e->size = sizeof e->at.v6;
        return true;
    }
    return false;
}

static int open_udp(channel *c, const endpoint *e, problem *p)
{
    c->fd = socket(e->at.any.sa_family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0 || connect(c->fd, &e->at.any, e->size) != 0) {
        return problem_set(p, EXIT_FAIL, "is the address right?", "%s: cannot open: %s", c->address, strerror(errno));
    }
    return EXIT_PASS;
}

/* 0, or why the call did not get through by `deadline`. */
static int call(int fd, const endpoint *e, int64_t deadline)
{
    int error = 0;
    socklen_t size = sizeof error;
    if (fd < 0) {
        return errno;
    }
    if (connect(fd, &e->at.any, e->size) == 0) {
        return 0;
    }
    if (errno != EINPROGRESS) {
        return errno;
    }
    if (ready(fd, POLLOUT, deadline - clock_ns()) <= 0) {
        return ETIMEDOUT;
    }
    return getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) == 0 ? error : errno;
}

static int open_tcp(channel *c, const endpoint *e, double timeout_s, problem *p)
{
    const int64_t deadline = clock_ns() + (int64_t)(timeout_s * 1e9);
    const int one = 1;
    for (;;) {
        int error;
        c->fd = socket(e->at.any.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        error = call(c->fd, e, deadline);
        if (error == 0) {
            setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
            return EXIT_PASS;
        }
        channel_close(c);
        if (clock_ns() >= deadline) {
            return problem_set(p, EXIT_FAIL, "start the other side first", "%s: nobody answers: %s", c->address,
                               strerror(error));
        }
        sleep_ns(RETRY_NS);
    }
}

/* Serial ports */

static const struct {
    unsigned long baud;
    speed_t code;
} SPEEDS[] = {
    {1200, B1200},     {2400, B2400},     {4800, B4800},     {9600, B9600},       {19200, B19200},
    {38400, B38400},   {57600, B57600},   {115200, B115200}, {230400, B230400},   {460800, B460800},
    {500000, B500000}, {576000, B576000}, {921600, B921600}, {1000000, B1000000}, {1500000, B1500000},
    {2000000, B2000000}, {3000000, B3000000}, {4000000, B4000000},
};

/* POSIX.1-2017, chapter 11: no translation of any byte, reads return what is there. */
static bool make_raw(int fd, speed_t speed)
{
    struct termios t;
    if (tcgetattr(fd, &t) != 0) {
        return false;
    }
    t.c_iflag = t.c_oflag = t.c_lflag = 0;
    t.c_cflag = CS8 | CREAD | CLOCAL;
    t.c_cc[VMIN] = 1;
    t.c_cc[VTIME] = 0;
    return cfsetispeed(&t, speed) == 0 && cfsetospeed(&t, speed) == 0 && tcsetattr(fd, TCSANOW, &t) == 0
           && tcflush(fd, TCIOFLUSH) == 0;
}

static int open_serial(channel *c, const char *device, unsigned long baud, problem *p)
{
    struct stat s;
    size_t i = 0;
    while (i < sizeof SPEEDS / sizeof SPEEDS[0] && SPEEDS[i].baud != baud) {
        i++;
    }
    if (i == sizeof SPEEDS / sizeof SPEEDS[0]) {
        return problem_set(p, EXIT_USAGE, "usual ones: 57600, 115200, 230400, 460800, 921600",
                           "serial port %s: the baud rate %lu does not exist", device, baud);
    }
    c->fd = open(device, O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
    if (c->fd < 0) {
        const char *hint = errno == EACCES || errno == EPERM
                               ? "add yourself to the port's group, then log in again: sudo usermod -aG dialout $USER"
                               : "plug it in, and see: ls /dev/serial/by-id";
        return problem_set(p, EXIT_FAIL, hint, "serial port %s: %s", device, strerror(errno));
    }
    if (fstat(c->fd, &s) == 0 && S_ISCHR(s.st_mode)) {
        if (flock(c->fd, LOCK_EX | LOCK_NB) != 0) {
            return problem_set(p, EXIT_FAIL, "end it; fuser names it", "serial port %s: another program has it",
                               device);
        }
        if (make_raw(c->fd, SPEEDS[i].code)) {
            return EXIT_PASS;
        }
    }
    return problem_set(p, EXIT_FAIL, "plug it in, and see: ls /dev/serial/by-id", "%s is not a serial port", device);
}

/* Splits KIND:HOST:PORT; false where it is none. */
static bool split(const char *address, char *kind, char *host, size_t size, unsigned long *number)
{
    const char *first = strchr(address, ':'), *last = strrchr(address, ':');
    if (first == NULL || last == first || last[1] == '\0' || strlen(last + 1) > 8 || last - first > (long)size) {
        return false;
    }
    for (const char *d = last + 1; *d != '\0'; d++) {
        if (!isdigit((unsigned char)*d)) {
            return false;
        }
    }
    *number = strtoul(last + 1, NULL, 10);
    snprintf(kind, size, "%.*s", (int)(first - address), address);
    snprintf(host, size, "%.*s", (int)(last - first - 1), first + 1);
    return host[0] != '\0';
}

int channel_open(channel *c, const char *address, double timeout_s, problem *p)
{
    char kind[128], host[128];
    unsigned long number;
    endpoint e;
    memset(c, 0, sizeof *c);
    c->fd = -1;
    c->address = address;
    if (!split(address, kind, host, sizeof kind, &number)) {
        return problem_set(p, EXIT_USAGE, ADDRESS_HINT, "link '%.100s' is not KIND:HOST:PORT or serial:DEVICE:BAUD",
                           address);
    }
    if (strcmp(kind, "serial") == 0) {
        return open_serial(c, host, number, p);
    }
    if (strcmp(kind, "udpin") == 0 || strcmp(kind, "tcpin") == 0) {
        return problem_set(p, EXIT_USAGE, ADDRESS_HINT, "not supported: listening (%s)", kind);
    }
    c->whole = strncmp(kind, "udp", 3) == 0;
    if (strcmp(kind, "udp") != 0 && strcmp(kind, "udpout") != 0 && strcmp(kind, "tcp") != 0
        && strcmp(kind, "tcpout") != 0) {
        return problem_set(p, EXIT_USAGE, ADDRESS_HINT, "link '%s': unknown kind '%s'", address, kind);
    }
    if (number == 0 || number > 65535) {
        return problem_set(p, EXIT_USAGE, ADDRESS_HINT, "link '%s': no such port", address);
    }
    if (!parse_host(host, (uint16_t)number, &e)) {
        return problem_set(p, EXIT_USAGE, "give the address as numbers; getent hosts NAME says it",
                           "not supported: host names ('%s'); this program is static and has no resolver", host);
    }
    return c->whole ? open_udp(c, &e, p) : open_tcp(c, &e, timeout_s, p);
}

void channel_close(channel *c)
{
    if (c->fd >= 0) {
        if (isatty(c->fd)) {
            tcflush(c->fd, TCIOFLUSH); /* a dead line must not hold us up */
        }
        close(c->fd);
    }
    c->fd = -1;
}

/* Of a datagram: errors that the next one may not meet, a radio or a cable that is out for a moment. */
static bool passing(int error)
{
    return error == EAGAIN || error == EINTR || error == ECONNREFUSED || error == ENETUNREACH || error == EHOSTUNREACH
           || error == ENETDOWN || error == ENOBUFS || error == EHOSTDOWN;
}

static int broken(const channel *c, const char *what, problem *p)
{
    return problem_set(p, EXIT_FAIL, "", "%s: %s: %s", c->address, what, strerror(errno));
}

/* Of a stream: writes what fits and keeps the rest; where nothing fits, nothing changes. */
static int push(channel *c, const uint8_t *data, size_t n, problem *p)
{
    const ssize_t sent = write(c->fd, data, n);
    if (sent < 0) {
        return errno != EAGAIN && errno != EINTR ? broken(c, "cannot send", p) : EXIT_PASS;
    }
    c->n_rest = n - (size_t)sent;
    memmove(c->rest, data + sent, c->n_rest);
    return EXIT_PASS;
}

int channel_send(channel *c, const uint8_t *data, size_t n, problem *p)
{
    if (c->whole) {
        return send(c->fd, data, n, 0) < 0 && !passing(errno) ? broken(c, "cannot send", p) : EXIT_PASS;
    }
    if (c->n_rest > 0 && push(c, c->rest, c->n_rest, p) != EXIT_PASS) {
        return p->exit_code;
    }
    return c->n_rest == 0 ? push(c, data, n, p) : EXIT_PASS;
}

int channel_receive(channel *c, int64_t timeout_ns, uint8_t *data, size_t *n, problem *p)
{
    ssize_t got;
    *n = 0;
    if (ready(c->fd, POLLIN, timeout_ns) <= 0) {
        return EXIT_PASS;
    }
    got = read(c->fd, data, CHANNEL_MAX_DATAGRAM);
    if (got > 0) {
        *n = (size_t)got;
    } else if (c->whole && got < 0 && errno == ECONNREFUSED) {
        /* The kernel reports at once that nobody listens: wait a little, or a caller that retries would spin. */
        sleep_ns(timeout_ns < RETRY_NS ? (timeout_ns > 0 ? timeout_ns : 0) : RETRY_NS);
    } else if (got == 0 && !c->whole) {
        return problem_set(p, EXIT_FAIL, "", "%s: the other side closed the connection", c->address);
    } else if (got < 0 && !(c->whole ? passing(errno) : errno == EAGAIN || errno == EINTR)) {
        return broken(c, "the connection broke", p);
    }
    return EXIT_PASS;
}

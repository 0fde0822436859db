/* What went wrong, what to do about it, and the exit code: as sim2sky/errors.py has them. */
#ifndef SIM2SKY_PROBLEM_H
#define SIM2SKY_PROBLEM_H

enum { EXIT_PASS = 0, EXIT_FAIL = 1, EXIT_USAGE = 2, EXIT_INTERRUPTED = 130 };

typedef struct {
    int exit_code; /* EXIT_PASS: nothing went wrong */
    char message[256], hint[256];
} problem;

/* Notes a problem; gives its exit code back. `hint` may be empty. The texts are cut to what fits. */
int problem_set(problem *p, int exit_code, const char *hint, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

#endif

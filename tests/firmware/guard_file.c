/* Answers the records of one file into another: a guard as a program of its own, its configuration compiled in. */
#include <stdio.h>

#include "guard_calls.h"

extern const s2s_guard_config config;

int main(int argc, char **argv) {
    static s2s_guard guard;
    s2s_guard_call call;
    s2s_guarded answer;
    FILE *in = argc == 3 ? fopen(argv[1], "rb") : NULL;
    FILE *out = argc == 3 ? fopen(argv[2], "wb") : NULL;
    if (in == NULL || out == NULL) {
        return 2;
    }
    s2s_guard_init(&guard, &config);
    while (fread(&call, sizeof call, 1, in) == 1) {
        s2s_guard_calls(&guard, &call, &answer, 1);
        if (fwrite(&answer, sizeof answer, 1, out) != 1) {
            return 1;
        }
    }
    return ferror(in) != 0 || fclose(out) != 0 ? 1 : 0;
}

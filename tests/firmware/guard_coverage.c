/* Writes the counts of a library built with --coverage, which otherwise happens when the process ends. */
void __gcov_dump(void);
void guard_coverage_dump(void);

void guard_coverage_dump(void) { __gcov_dump(); }

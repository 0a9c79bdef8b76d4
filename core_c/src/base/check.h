/* Compile-time checks, in C99. */
#ifndef SF_BASE_CHECK_H
#define SF_BASE_CHECK_H

/* Does not compile when `condition`, a constant expression, is 0. `name` says what holds; one of each in a file. */
#define SF_CHECK(name, condition) typedef char sf_check_##name[(condition) ? 1 : -1]

#endif

/* version.h - the version of the library and of its interface.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef KRAIT_VERSION_H
#define KRAIT_VERSION_H

#include <krait/error.h>

#ifdef __cplusplus
extern "C" {
#endif

#define KRAIT_VERSION_MAJOR 0
#define KRAIT_VERSION_MINOR 1
#define KRAIT_VERSION_PATCH 0
#define KRAIT_VERSION "0.1.0"

/* The version of the library that is running, as "0.1.0". */
KRAIT_API const char *krait_version(void);

#ifdef __cplusplus
}
#endif
#endif

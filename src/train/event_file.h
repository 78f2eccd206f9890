/* event_file.h - TensorBoard event files: scalars over steps.
 *
 * A file is a row of records   length u64 | masked crc of the length u32 | data | masked crc of the
 * data u32 (little endian; crc32c, masked as ((crc >> 15) | (crc << 17)) + 0xa282ead8), each
 * holding one Event message of tensorboard's event.proto. Source:
 * tensorflow/core/lib/io/record_writer.h and tensorflow/core/util/event.proto. */
#ifndef KR_EVENT_FILE_H
#define KR_EVENT_FILE_H

#include <krait/error.h>
#include <stdint.h>
#include <stdio.h>

typedef struct kr_scalar {
    const char *name; /* under 100 bytes */
    double value;
} kr_scalar;

#define KR_MAX_SCALARS 16

typedef struct kr_event_file {
    FILE *stream;
    char path[1024];
} kr_event_file;

/* A new file in the folder. `step` is the next one: TensorBoard drops what older files say of it
 * and of later ones. */
int kr_event_file_open(kr_event_file *f, const char *folder, int64_t step, krait_error *e);
int kr_event_file_scalars(kr_event_file *f, int64_t step, const kr_scalar *scalars, int n,
                          krait_error *e);
void kr_event_file_close(kr_event_file *f);

#endif

/* event_file_test.c - TensorBoard files read back by a parser of their own; the log's length after
 * a cut. */
#define _DEFAULT_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/crc32c.h"
#include "base/test_folder.h"
#include "train/event_file.h"
#include "train/run_log.h"

static void check_value(void **state) {
    (void)state;
    static const unsigned char zeros[32] = {0};
    assert_int_equal(kr_crc32c(0, "123456789", 9), 0xE3069283u);
    assert_int_equal(kr_crc32c(0, zeros, 32), 0x8A9136AAu); /* RFC 3720, B.4 */
    uint32_t whole = kr_crc32c(0, "a longer run of bytes, cut", 26);
    assert_int_equal(kr_crc32c(kr_crc32c(0, "a longer run", 12), " of bytes, cut", 14), whole);
}

typedef struct reader {
    const unsigned char *p, *end;
} reader;

static uint64_t fixed(reader *r, int bytes) {
    uint64_t x = 0;
    assert_true(r->end - r->p >= bytes);
    for (int i = 0; i < bytes; i++) x |= (uint64_t)*r->p++ << 8 * i;
    return x;
}

static uint64_t varint(reader *r) {
    uint64_t x = 0;
    for (int shift = 0;; shift += 7) {
        uint64_t byte = fixed(r, 1);
        x |= (byte & 127) << shift;
        if (byte < 128) return x;
    }
}

static reader block(reader *r, uint64_t n) {
    assert_true((uint64_t)(r->end - r->p) >= n);
    reader inner = {r->p, r->p + n};
    r->p += n;
    return inner;
}

static uint32_t unmask(uint64_t masked) {
    uint32_t rotated = (uint32_t)masked - 0xa282ead8u;
    return rotated << 15 | rotated >> 17;
}

static reader record(reader *file) {
    const unsigned char *head = file->p;
    uint64_t n = fixed(file, 8);
    assert_int_equal(unmask(fixed(file, 4)), kr_crc32c(0, head, 8));
    reader data = block(file, n);
    assert_int_equal(unmask(fixed(file, 4)), kr_crc32c(0, data.p, n));
    return data;
}

typedef struct event {
    double wall;
    int64_t step;
    char version[32];
    int start, n;
    char name[4][32];
    float value[4];
} event;

static void read_value(reader r, event *e) {
    while (r.p < r.end) {
        uint64_t tag = varint(&r);
        if (tag == (1 << 3 | 2)) {
            reader text = block(&r, varint(&r));
            memcpy(e->name[e->n], text.p, (size_t)(text.end - text.p));
        } else {
            assert_int_equal(tag, 2 << 3 | 5);
            uint32_t bits = (uint32_t)fixed(&r, 4);
            memcpy(&e->value[e->n], &bits, 4);
        }
    }
    e->n++;
}

static event read_event(reader r) {
    event e = {0};
    while (r.p < r.end) {
        uint64_t tag = varint(&r);
        if (tag == (1 << 3 | 1)) {
            uint64_t bits = fixed(&r, 8);
            memcpy(&e.wall, &bits, 8);
        } else if (tag == (2 << 3 | 0)) {
            e.step = (int64_t)varint(&r);
        } else {
            reader inner = block(&r, varint(&r));
            if (tag == (3 << 3 | 2)) memcpy(e.version, inner.p, (size_t)(inner.end - inner.p));
            if (tag == (7 << 3 | 2)) e.start = inner.p[0] == 8 && inner.p[1] == 1;
            while (tag == (5 << 3 | 2) && inner.p < inner.end) {
                assert_int_equal(varint(&inner), 1 << 3 | 2);
                read_value(block(&inner, varint(&inner)), &e);
            }
        }
    }
    return e;
}

static void reads_back(void **state) {
    (void)state;
    char folder[64];
    assert_int_equal(kr_test_folder_make(folder), 0);
    kr_event_file f;
    krait_error e = {0};
    kr_scalar s[2] = {{"train/loss", 2.5}, {"learning_rate", 1e-4}};
    assert_int_equal(kr_event_file_open(&f, folder, 300, &e), 0);
    assert_int_equal(kr_event_file_scalars(&f, 300, s, 2, &e), 0);
    assert_int_equal(kr_event_file_scalars(&f, (int64_t)1 << 40, s, 1, &e), 0);
    kr_event_file_close(&f);
    kr_map map;
    assert_int_equal(kr_map_open(&map, f.path, &e), 0);
    reader file = {map.data, map.data + map.size};
    event head = read_event(record(&file)), start = read_event(record(&file));
    assert_string_equal(head.version, "brain.Event:2");
    assert_true(head.wall > 1e9 && start.start && start.step == 300);
    event two = read_event(record(&file)), one = read_event(record(&file));
    assert_true(two.n == 2 && two.step == 300 && two.value[0] == 2.5f && two.value[1] == 1e-4f);
    assert_string_equal(two.name[0], "train/loss");
    assert_string_equal(two.name[1], "learning_rate");
    assert_true(one.n == 1 && one.step == (int64_t)1 << 40 && file.p == file.end);
    print_message("  %zu bytes, 4 records\n", map.size);
    kr_map_close(&map);
    assert_int_equal(kr_test_folder_drop(folder), 0);
}

static void log_is_cut(void **state) {
    (void)state;
    char path[64];
    krait_error e = {0};
    kr_run_log l;
    assert_int_equal(kr_test_file_make(path), 0);
    assert_int_equal(kr_run_log_open(&l, path, 0, &e), 0);
    assert_int_equal(kr_run_log_line(&l, &e, "{\"step\": %d}", 1), 0);
    int64_t length = l.length;
    assert_int_equal(kr_run_log_line(&l, &e, "{\"step\": %d}", 2), 0);
    kr_run_log_close(&l);
    assert_int_equal(kr_run_log_open(&l, path, length, &e), 0);
    assert_int_equal(kr_run_log_line(&l, &e, "{\"step\": %d}", 3), 0);
    assert_int_equal(kr_run_log_sync(&l, &e), 0);
    kr_run_log_close(&l);
    kr_map map;
    assert_int_equal(kr_map_open(&map, path, &e), 0);
    assert_int_equal(map.size, 24);
    assert_memory_equal(map.data, "{\"step\": 1}\n{\"step\": 3}\n", 24);
    kr_map_close(&map);
    assert_int_equal(kr_run_log_open(&l, path, 1000, &e), KRAIT_ERR_MISMATCH);
    kr_run_log_close(&l);
    unlink(path);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(check_value),
        cmocka_unit_test(reads_back),
        cmocka_unit_test(log_is_cut),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

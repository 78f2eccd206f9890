/* file_tasks_test.c - tasks from files: sounds, reviews, genomes and pictures; what the parsers
 * refuse; and the real sets where they are ($KRAIT_DATA: a folder that holds fsdd/, aclImdb/,
 * cifar10/ and mnist/ unpacked; the genomes of Debian's ragout-examples where it installs them, or
 * as ragout/ in that folder). */
#define _DEFAULT_SOURCE
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

#include <cmocka.h>

#include "base/mem.h"
#include "base/test_folder.h"
#include "data/audio/wav.h"
#include "data/dna/fasta.h"
#include "data/image/jpeg.h"
#include "data/tasks/task.h"

static char folder[64];

static void write_file(const char *name, const void *bytes, size_t size) {
    char path[200];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    char *slash = strrchr(path, '/');
    *slash = 0;
    assert_int_equal(kr_make_dirs(path, NULL), 0);
    *slash = '/';
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, size, f), size);
    fclose(f);
}

static int set_up(void **state) {
    (void)state;
    return kr_test_folder_make(folder);
}

static int tear_down(void **state) {
    (void)state;
    return kr_test_folder_drop(folder);
}

static int open_on(kr_task_source *s, const char *task, const char *path, const char *set,
                   krait_error *e) {
    static const char *paths[1];
    unsigned char settings[KR_TASK_SETTINGS];
    const kr_task *t = kr_task_find(task);
    paths[0] = path;
    kr_settings_default(t->settings, settings);
    if (set) assert_int_equal(kr_settings_assign(t->settings, settings, set, "", task, e), 0);
    return kr_task_open(s, t, settings, 1, paths, 1, e);
}

static void put32(unsigned char *p, uint32_t v) {
    for (int i = 0; i < 4; i++) p[i] = (unsigned char)(v >> 8 * i);
}

/* 44 bytes of header for n samples of mono; returns the file's size. */
static size_t make_wav(unsigned char *b, int n, int (*sample)(int)) {
    static const unsigned char format[] = {1,    0,    1, 0, 0x40, 0x1F, 0,  0,
                                           0x80, 0x3E, 0, 0, 2,    0,    16, 0};
    memcpy(b, "RIFF....WAVEfmt ", 16);
    put32(b + 4, (uint32_t)(36 + 2 * n));
    put32(b + 16, 16);
    memcpy(b + 20, format, sizeof format);
    memcpy(b + 36, "data", 4);
    put32(b + 40, (uint32_t)(2 * n));
    for (int i = 0; i < n; i++) {
        b[44 + 2 * i] = (unsigned char)sample(i);
        b[45 + 2 * i] = (unsigned char)(sample(i) >> 8);
    }
    return (size_t)(44 + 2 * n);
}

static int ramp(int i) { return i % 200 - 100; }
static int silence(int i) { return 0 * i; }

static void refuse_wav(const unsigned char *b, size_t n, const char *part) {
    kr_wav w;
    krait_error e;
    unsigned char *copy = malloc(n ? n : 1); /* of just this size, for sanitizers */
    memcpy(copy, b, n);
    assert_true(kr_wav_parse(&w, copy, n, "x.wav", &e) < 0);
    printf("%s\n", e.message);
    assert_non_null(strstr(e.message, part));
    free(copy);
}

static void wav(void **state) {
    (void)state;
    unsigned char b[1024];
    kr_wav w;
    size_t n = make_wav(b, 100, ramp);
    assert_int_equal(kr_wav_parse(&w, b, n, "x.wav", NULL), 0);
    assert_true(w.count == 100 && w.channels == 1 && w.rate == 8000);
    for (int i = 0; i < 100; i++) assert_true(kr_wav_at(&w, i, 0) == (float)ramp(i) / 32768.0f);
    refuse_wav(b, 0, "no WAV file");
    refuse_wav(b, 43, "no samples");
    refuse_wav(b, n - 1, "a chunk of 200 bytes where 199 are left");
    put32(b + 40, UINT32_MAX);
    refuse_wav(b, n, "a chunk of 4294967295 bytes");
    put32(b + 40, 200);
    b[34] = 8;
    refuse_wav(b, n, "only PCM (1) with 16 bits");
    b[34] = 16;
    b[22] = 0;
    refuse_wav(b, n, "0 channels");
}

static void refuse_set(const char *task, const char *name, const char *part) {
    char path[128];
    kr_task_source s;
    krait_error e;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    assert_true(open_on(&s, task, path, NULL, &e) < 0);
    printf("%s\n", e.message);
    assert_non_null(strstr(e.message, part));
}

static void spoken_digits(void **state) {
    (void)state;
    unsigned char b[1024];
    char name[40];
    kr_task_source s;
    kr_example x = {0};
    krait_error e;
    for (int i = 0; i < 25; i++) {
        snprintf(name, sizeof name, "rec/%d_someone_%d.wav", i % 2 ? 7 : 3, i);
        write_file(name, b, make_wav(b, 300 + i, i == 24 ? silence : ramp));
    }
    write_file("rec/notes.txt", "x", 1);
    char path[128];
    snprintf(path, sizeof path, "%s/rec", folder);
    if (open_on(&s, "spoken_digits", path, NULL, &e) < 0) fail_msg("%s", e.message);
    assert_true(s.examples[KR_TASK_TEST] == 5 && s.examples[KR_TASK_VALID] == 2 &&
                s.examples[KR_TASK_TRAIN] == 18);
    for (int p = 0; p < KR_TASK_PARTS; p++)
        for (int64_t i = 0; i < s.examples[p]; i++) {
            assert_int_equal(kr_task_make(&s, (kr_task_part)p, i, &x, &e), 0);
            assert_true(x.label == 3 || x.label == 7);
            double squares = 0;
            for (int64_t k = 0; k < x.count; k++)
                squares += (double)x.values[k] * (double)x.values[k] / (double)x.count;
            assert_true(fabs(squares - 1) < 1e-4 || squares == 0);
        }
    kr_example_free(&x);
    kr_task_close(&s);
    for (int stereo = 0; stereo < 2; stereo++) { /* the bytes of the channels, and of 8000 */
        size_t n = make_wav(b, 300, ramp);
        b[stereo ? 22 : 25] = stereo ? 2 : 0x3E;
        for (int i = 0; i < 25; i++) {
            snprintf(name, sizeof name, "other/%d_someone_%d.wav", i % 2 ? 7 : 3, i);
            write_file(name, b, n);
        }
        snprintf(path, sizeof path, "%s/other", folder);
        if (open_on(&s, "spoken_digits", path, NULL, &e) < 0) fail_msg("%s", e.message);
        assert_int_equal(kr_task_make(&s, KR_TASK_TRAIN, 0, &x, &e), KRAIT_ERR_UNSUPPORTED);
        printf("%s\n", e.message);
        assert_non_null(
            strstr(e.message, stereo ? ".wav: rate 8000, channels 2;" : ".wav: rate 15936, chan"));
        kr_task_close(&s);
    }
    kr_example_free(&x);
    refuse_set("imdb", "rec", "no files to train on; expected aclImdb/{train,test}");
    write_file("few/1_someone_9.wav", b, make_wav(b, 300, ramp));
    refuse_set("spoken_digits", "few", "no files for validation (each tenth of a label is)");
}

static void imdb(void **state) {
    (void)state;
    char name[64], path[128];
    kr_task_source s;
    kr_example x = {0};
    krait_error e;
    for (int i = 0; i < 44; i++) {
        snprintf(name, sizeof name, "a/%s/%s/%d.txt", i % 4 < 2 ? "train" : "test",
                 i % 2 ? "pos" : "neg", i);
        write_file(name, i % 2 ? "good film" : "bad", i % 2 ? 9 : 3);
    }
    snprintf(path, sizeof path, "%s/a", folder);
    if (open_on(&s, "imdb", path, "bytes=6", &e) < 0) fail_msg("%s", e.message);
    assert_true(s.examples[KR_TASK_TEST] == 22 && s.examples[KR_TASK_VALID] == 2);
    int32_t changes = 0, last = 0;
    for (int64_t i = 0; i < s.examples[KR_TASK_TEST]; i++) {
        assert_int_equal(kr_task_make(&s, KR_TASK_TEST, i, &x, &e), 0);
        changes += x.label != last;
        last = x.label;
    }
    printf("22 files of two labels: the label changes %d times\n", changes);
    assert_true(changes > 4); /* by name it would be once */
    for (int64_t i = 0; i < s.examples[KR_TASK_TRAIN]; i++) {
        assert_int_equal(kr_task_make(&s, KR_TASK_TRAIN, i, &x, &e), 0);
        assert_true(x.count == (x.label ? 7 : 4) && x.ids[x.count - 1] == 256);
        assert_true(x.ids[0] == (x.label ? 'g' : 'b'));
    }
    kr_example_free(&x);
    kr_task_close(&s);
}

/* ---- DNA ------------------------------------------------------------------------------------- */

static size_t pack(const char *text, size_t n, unsigned char *out, size_t room) {
    z_stream z = {.next_in = (unsigned char *)(uintptr_t)text,
                  .avail_in = (uInt)n,
                  .next_out = out,
                  .avail_out = (uInt)room};
    assert_int_equal(deflateInit2(&z, 9, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
    assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
    deflateEnd(&z);
    return room - z.avail_out;
}

static void refuse_fasta(const void *b, size_t n, int64_t most, const char *part) {
    kr_fasta f = {0};
    krait_error e;
    assert_true(kr_fasta_add(&f, b, n, most, "x.fasta", &e) < 0);
    printf("%s\n", e.message);
    assert_non_null(strstr(e.message, part));
    kr_fasta_free(&f);
}

static void fasta(void **state) {
    (void)state;
    static const char text[] = ">one two\nACGTacgtu\nNRx>"; /* cut where it is still good */
    static char many[200000];
    unsigned char packed[4096];
    kr_fasta f = {0}, g = {0};
    assert_int_equal(kr_fasta_add(&f, (const void *)text, 21, 100, "x", NULL), 0);
    static const uint8_t want[] = {0, 1, 2, 3, 0, 1, 2, 3, 3, 4, 4};
    assert_true(f.count == 11 && f.records == 1 && memcmp(f.bases, want, 11) == 0);
    size_t n = pack(text, 21, packed, sizeof packed);
    assert_int_equal(kr_fasta_add(&g, packed, n, 100, "x", NULL), 0);
    assert_true(g.count == 11 && memcmp(g.bases, want, 11) == 0);
    kr_fasta_free(&f);
    kr_fasta_free(&g);
    refuse_fasta(text, sizeof text - 1, 100, "line 3: byte 120 is no letter of DNA");
    refuse_fasta("ACGT", 4, 100, "no FASTA file");
    refuse_fasta(packed, n - 9, 100, "damaged or cut off");
    packed[n - 6] ^= 1;
    refuse_fasta(packed, n, 100, "damaged or cut off");
    memset(many, 'A', sizeof many);
    memcpy(many, ">x\n", 3);
    n = pack(many, sizeof many, packed, sizeof packed);
    printf("a bomb of %zu bytes: ", n);
    refuse_fasta(packed, n, 1000, "more than 1000 bases");
    memset(many + 3, '\n', sizeof many - 3);
    refuse_fasta(packed, pack(many, sizeof many, packed, sizeof packed), 1000,
                 "more than 2000 bytes unpacked");
    memset(many + 1, 'x', sizeof many - 1);
    refuse_fasta(packed, pack(many, sizeof many, packed, sizeof packed), 1000,
                 "more than 2000 bytes unpacked");
}

static void dna(void **state) {
    (void)state;
    static char text[20010];
    char path[128];
    kr_task_source s;
    kr_example x = {0};
    krait_error e;
    for (int file = 0; file < 2; file++) { /* one of A and C alone, one of G and T */
        memcpy(text, ">r\n", 3);
        for (int i = 3; i < 20003; i++) text[i] = "ACGT"[2 * file + (i * 7 / 3) % 2];
        write_file(file ? "d/two.fa" : "d/one.fa", text, 20003);
    }
    snprintf(path, sizeof path, "%s/d", folder);
    if (open_on(&s, "dna", path, "length=50", &e) < 0) fail_msg("%s", e.message);
    for (int64_t i = 0; i < 200; i++) {
        assert_int_equal(kr_task_make(&s, (kr_task_part)(i % 3), i, &x, &e), 0);
        for (int k = 0; k < 49; k++) assert_true(x.targets[k] == x.ids[k + 1]);
        assert_true(x.ids[0] / 2 == x.ids[49] / 2); /* never across two files */
    }
    kr_task_close(&s);
    if (open_on(&s, "dna", path, "answer=file", &e) < 0) printf("%s\n", e.message);
    assert_non_null(strstr(e.message, "must be longer than length (1024)"));
    kr_example_free(&x);
}

/* ---- pictures -------------------------------------------------------------------------------- */

static void damaged_pictures(void **state) {
    (void)state;
    kr_picture p = {0};
    krait_error e;
    assert_true(kr_jpeg_decode(&p, (const void *)"\xff\xd8 no", 5, 1024, "x.jpg", &e) < 0);
    printf("%s\n", e.message);
    assert_non_null(strstr(e.message, "x.jpg: "));
    kr_picture_free(&p);
}

/* Written digits: item i of part p has label (i + p) % 10, and pixel k is (i + k) % 256. */
static size_t make_idx(unsigned char *b, bool images, int n, int part) {
    size_t at = images ? 16 : 8;
    memset(b, 0, at);
    b[2] = 8;
    b[3] = images ? 3 : 1;
    b[6] = (unsigned char)(n >> 8);
    b[7] = (unsigned char)n;
    b[11] = b[15] = images ? 28 : 0;
    for (int i = 0; i < n; i++)
        for (int k = 0; k < (images ? 784 : 1); k++)
            b[at++] = (unsigned char)(images ? (i + k) % 256 : (i + part) % 10);
    return at;
}

static void write_idx(const char *name, bool images, int n, int part) {
    static unsigned char b[16 + 784 * 40];
    char path[64];
    snprintf(path, sizeof path, "digits/%s", name);
    write_file(path, b, make_idx(b, images, n, part));
}

/* The four files with one of them damaged. */
static void refuse_digits(const char *name, size_t at, int value, size_t size, const char *part) {
    static unsigned char b[16 + 784 * 40];
    char path[64];
    bool images = strstr(name, "images") != NULL;
    make_idx(b, images, 40, 0);
    b[at] = (unsigned char)value;
    snprintf(path, sizeof path, "digits/%s", name);
    write_file(path, b, size);
    refuse_set("mnist", "digits", part);
    write_idx(name, images, 40, 0);
}

static void mnist(void **state) {
    (void)state;
    char path[128];
    kr_task_source s, turned;
    kr_example x = {0}, y = {0};
    krait_error e;
    bool seen[40] = {false};
    write_idx("train-images-idx3-ubyte", true, 40, 0);
    write_idx("train-labels-idx1-ubyte", false, 40, 0);
    write_idx("t10k-images-idx3-ubyte", true, 7, 1);
    refuse_set("mnist", "digits", "t10k-labels-idx1-ubyte");
    write_idx("t10k-labels-idx1-ubyte", false, 7, 1);
    snprintf(path, sizeof path, "%s/digits", folder);
    if (open_on(&s, "mnist", path, NULL, &e) < 0) fail_msg("%s", e.message);
    if (open_on(&turned, "mnist", path, "permuted=true", &e) < 0) fail_msg("%s", e.message);
    assert_true(s.examples[KR_TASK_TRAIN] == 36 && s.examples[KR_TASK_VALID] == 4 &&
                s.examples[KR_TASK_TEST] == 7);
    for (int p = 0; p < KR_TASK_PARTS; p++)
        for (int64_t i = 0; i < s.examples[p]; i++) {
            assert_int_equal(kr_task_make(&s, (kr_task_part)p, i, &x, &e), 0);
            assert_int_equal(kr_task_make(&turned, (kr_task_part)p, i, &y, &e), 0);
            int first = (int)(x.values[0] * 255 + 0.5f);
            assert_true(x.count == 784 && x.label == (first + (p == KR_TASK_TEST)) % 10);
            assert_true(y.label == x.label && y.values[1] == x.values[512] &&
                        y.values[9] == x.values[320] &&
                        x.values[100] == (float)(first + 100) / 255);
            if (p == KR_TASK_TEST) continue;
            assert_false(seen[first]);
            seen[first] = true;
        }
    for (int i = 0; i < 40; i++) assert_true(seen[i]);
    kr_example_free(&x);
    kr_example_free(&y);
    kr_task_close(&s);
    kr_task_close(&turned);
    write_file("digits/t10k-labels-idx1-ubyte", "\0\0\10\1\0\0\0\7\1\2\3\4\5\6\12", 15);
    refuse_set("mnist", "digits", "label 6 is 10, must be below 10");
    refuse_digits("train-images-idx3-ubyte", 0, 31, 16 + 784 * 40, "no IDX file of images");
    refuse_digits("train-labels-idx1-ubyte", 3, 3, 48, "no IDX file of labels");
    refuse_digits("train-images-idx3-ubyte", 15, 32, 16 + 784 * 40, "32 x 28 pixels");
    refuse_digits("train-images-idx3-ubyte", 7, 40, 16 + 784 * 40 - 1, "not those of 40 items");
    refuse_digits("train-images-idx3-ubyte", 4, 255, 16 + 784 * 40,
                  "4278190120 items, at most 1048576");
    refuse_digits("train-labels-idx1-ubyte", 7, 39, 47, "40 images in train-images");
    refuse_digits("train-labels-idx1-ubyte", 7, 40, 5, "no IDX file of labels");
}

/* ---- the real sets --------------------------------------------------------------------------- */

/* Does the folder `name` of the data exist? */
static bool find_set(const char *task, const char *name, char path[512]) {
    const char *root = getenv("KRAIT_DATA");
    snprintf(path, 512, "%s/%s", root ? root : "../shared/data", name);
    if (kr_is_dir(path)) return true;
    printf("%s: skipped: no data (%s)\n", task, path);
    return false;
}

static void check_set(const char *task, const char *name, const int64_t counts[3]) {
    char path[512];
    kr_task_source s;
    kr_example x = {0};
    krait_error e;
    if (!find_set(task, name, path)) return;
    if (open_on(&s, task, path, NULL, &e) < 0) fail_msg("%s", e.message);
    for (int p = 0; p < KR_TASK_PARTS; p++) {
        assert_true(s.examples[p] == counts[p]);
        for (int64_t i = 0; i < 300; i++) {
            int64_t at = i * s.examples[p] / 300;
            if (kr_task_make(&s, (kr_task_part)p, at, &x, &e) < 0) fail_msg("%s", e.message);
            assert_true(x.label >= 0 && x.label < s.classes && x.count <= s.longest);
        }
    }
    printf("%s: %lld + %lld + %lld examples\n", task, (long long)counts[0], (long long)counts[1],
           (long long)counts[2]);
    kr_example_free(&x);
    kr_task_close(&s);
}

/* Five strains of Helicobacter pylori, gzip: 39% of the bases of this species are G or C. */
static void real_genomes(void **state) {
    (void)state;
    char path[512] = "/usr/share/doc/ragout/examples/H.Pylori/references";
    kr_task_source s;
    kr_example x = {0};
    krait_error e;
    int64_t bases[KR_DNA_IDS] = {0}, labels[5] = {0}, all = 0;
    if (!kr_is_dir(path) && !find_set("dna", "ragout/H.Pylori/references", path)) return;
    if (open_on(&s, "dna", path, "answer=file", &e) < 0) fail_msg("%s", e.message);
    assert_int_equal(s.classes, 5);
    for (int64_t i = 0; i < 600; i++) {
        if (kr_task_make(&s, (kr_task_part)(i % 3), i, &x, &e) < 0) fail_msg("%s", e.message);
        labels[x.label]++;
        for (int64_t k = 0; k < x.count; k++, all++) bases[x.ids[k]]++;
    }
    double gc = (double)(bases[KR_DNA_G] + bases[KR_DNA_C]) / (double)all;
    printf("dna: %.1f%% G or C, %lld of %lld unknown\n", 100 * gc, (long long)bases[KR_DNA_N],
           (long long)all);
    assert_true(gc > 0.37 && gc < 0.41 && bases[KR_DNA_N] * 100 < all);
    for (int i = 0; i < 5; i++) assert_true(labels[i] > 60);
    kr_example_free(&x);
    kr_task_close(&s);
}

#ifdef KR_HAVE_JPEG
static void permuted_pictures(void) {
    char path[512];
    kr_task_source s, turned;
    kr_example x = {0}, y = {0};
    krait_error e;
    if (!find_set("image_grey, permuted", "cifar10", path)) return;
    if (open_on(&s, "image_grey", path, NULL, &e) < 0) fail_msg("%s", e.message);
    if (open_on(&turned, "image_grey", path, "permuted=true", &e) < 0) fail_msg("%s", e.message);
    for (int64_t i = 0; i < 20; i++) {
        if (kr_task_make(&s, KR_TASK_TEST, i, &x, &e) < 0) fail_msg("%s", e.message);
        if (kr_task_make(&turned, KR_TASK_TEST, i, &y, &e) < 0) fail_msg("%s", e.message);
        assert_true(x.label == y.label && y.count == 1024 && y.values[1] == x.values[512] &&
                    y.values[7] == x.values[896] && y.values[1022] == x.values[511]);
    }
    kr_example_free(&x);
    kr_example_free(&y);
    kr_task_close(&s);
    kr_task_close(&turned);
}
#endif

static void real_sets(void **state) {
    (void)state;
    check_set("spoken_digits", "fsdd", (const int64_t[]){2430, 270, 300});
    check_set("imdb", "aclImdb", (const int64_t[]){22500, 2500, 25000});
#ifdef KR_HAVE_JPEG
    check_set("image_grey", "cifar10", (const int64_t[]){45000, 5000, 10000});
    permuted_pictures();
#endif
    check_set("mnist", "mnist", (const int64_t[]){54000, 6000, 10000});
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(wav),          cmocka_unit_test(spoken_digits),
        cmocka_unit_test(imdb),         cmocka_unit_test(fasta),
        cmocka_unit_test(dna),          cmocka_unit_test(damaged_pictures),
        cmocka_unit_test(mnist),        cmocka_unit_test(real_sets),
        cmocka_unit_test(real_genomes),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}

/* wav.c - the chunks of a RIFF/WAVE file: "fmt " (what the samples are) and "data". Others are
 * skipped. Sizes are the file's claims and are checked against what is there; a data chunk that
 * claims more than the file has (a recorder that was stopped) is refused. Source: Microsoft and
 * IBM, Multimedia Programming Interface 1.0 (1991). */
#include "data/audio/wav.h"

#include <string.h>

#include "base/err.h"

static uint32_t u32(const unsigned char *p) {
    return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static uint32_t u16(const unsigned char *p) { return p[0] | (uint32_t)p[1] << 8; }

static int bad(const char *path, const char *what, krait_error *e) {
    return kr_fail(e, KRAIT_ERR_FORMAT, "%s: %s", path, what);
}

static int read_format(kr_wav *w, const unsigned char *p, size_t size, const char *path,
                       krait_error *e) {
    enum { PCM = 1, MOST_CHANNELS = 64 };
    if (size < 16) return bad(path, "its format chunk is shorter than 16 bytes", e);
    if (u16(p) != PCM || u16(p + 14) != 16)
        return kr_fail(e, KRAIT_ERR_UNSUPPORTED,
                       "%s: format %u with %u bits a sample; only PCM (1) with 16 bits is read",
                       path, u16(p), u16(p + 14));
    w->channels = (int)u16(p + 2);
    w->rate = u32(p + 4);
    if (w->channels >= 1 && w->channels <= MOST_CHANNELS && w->rate > 0) return 0;
    return kr_fail(e, KRAIT_ERR_FORMAT, "%s: %d channels at %lld samples a second", path,
                   w->channels, (long long)w->rate);
}

int kr_wav_parse(kr_wav *w, const unsigned char *bytes, size_t size, const char *path,
                 krait_error *e) {
    *w = (kr_wav){.data = NULL};
    if (size < 12 || memcmp(bytes, "RIFF", 4) != 0 || memcmp(bytes + 8, "WAVE", 4) != 0)
        return bad(path, "no WAV file (it does not begin with RIFF ... WAVE)", e);
    for (size_t at = 12; size - at >= 8 && !w->data;) {
        const unsigned char *p = bytes + at;
        size_t length = u32(p + 4), left = size - at - 8;
        if (length > left)
            return kr_fail(e, KRAIT_ERR_FORMAT, "%s: a chunk of %zu bytes where %zu are left", path,
                           length, left);
        if (memcmp(p, "fmt ", 4) == 0) KR_TRY(read_format(w, p + 8, length, path, e));
        if (memcmp(p, "data", 4) == 0) {
            if (!w->channels) return bad(path, "samples come before their format", e);
            w->data = p + 8;
            w->count = (int64_t)(length / 2 / (size_t)w->channels);
        }
        size_t padded = length + (length & 1);
        at += 8 + (padded > left ? left : padded);
    }
    if (!w->data) return bad(path, "it has no samples (no data chunk)", e);
    return 0;
}

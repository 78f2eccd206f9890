/* weights_folder.c - the weights of a model folder: one file or several with an index.
 *
 * The index is {"metadata": {"total_size": n}, "weight_map": {"tensor": "file", ...}}. Its file
 * names come from outside: they must be plain names, so that an index can never reach out of its
 * folder. Bytes are left to the formats. */
#include <stdlib.h>

#include "base/err.h"
#include "base/json.h"
#include "base/mem.h"
#include "formats/weights.h"

#define MAX_INDEX ((size_t)64 << 20)
#define MAX_NAME 255
#define SINGLE "model.safetensors"
#define PTH "pytorch_model.bin"
#define INDEX "model.safetensors.index.json"
#define PTH_INDEX "pytorch_model.bin.index.json"

typedef int read_file(kr_weights *w, const char *path, krait_error *e);

/* Runs read on folder/name; *found says whether that file exists (then the result counts). */
static int read_if_there(kr_weights *w, const char *folder, const char *name, read_file *read,
                         bool *found, krait_error *e) {
    char *path = kr_path_join(folder, name);
    if (!path) return kr_fail_memory(e, folder);
    *found = kr_is_file(path);
    int rc = *found ? read(w, path, e) : 0;
    kr_free(path);
    return rc;
}

static bool plain_name(const char *name) {
    return name[0] != 0 && name[0] != '.' && !strchr(name, '/') && strlen(name) <= MAX_NAME;
}

static int by_text(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The distinct file names of the map, sorted, in files[0..*count). */
static int shard_names(json_t *map, const char *path, const char **files, size_t *count,
                       krait_error *e) {
    const char *tensor;
    json_t *v;
    size_t n = 0;
    json_object_foreach(map, tensor, v) {
        const char *file = json_string_value(v);
        if (!file || !plain_name(file))
            return kr_fail(e, KRAIT_ERR_FORMAT,
                           "%s: tensor %s: its file %.100s is not a plain file name", path, tensor,
                           file ? file : "(not a string)");
        files[n++] = file;
    }
    if (n > 1) qsort(files, n, sizeof *files, by_text);
    *count = 0;
    for (size_t i = 0; i < n; i++)
        if (*count == 0 || strcmp(files[i], files[*count - 1]) != 0) files[(*count)++] = files[i];
    return 0;
}

/* What the index promises must be what the shards held. */
static int check_map(const kr_weights *w, json_t *map, const char *path, krait_error *e) {
    const char *tensor;
    json_t *v;
    json_object_foreach(map, tensor, v) {
        if (!kr_weights_find(w, tensor))
            return kr_fail(e, KRAIT_ERR_FORMAT, "%s: tensor %s is in none of its files", path,
                           tensor);
    }
    return 0;
}

static int read_shards(kr_weights *w, const char *folder, const char *path, json_t *map,
                       read_file *read, krait_error *e) {
    const char **files = kr_calloc(json_object_size(map) + 1, sizeof *files);
    if (!files) return kr_fail_memory(e, path);
    size_t count = 0;
    int rc = shard_names(map, path, files, &count, e);
    for (size_t i = 0; rc == 0 && i < count; i++) {
        char *shard = kr_path_join(folder, files[i]);
        rc = shard ? read(w, shard, e) : kr_fail_memory(e, folder);
        kr_free(shard);
    }
    kr_free(files);
    return rc < 0 ? rc : check_map(w, map, path, e);
}

static int read_indexed(kr_weights *w, const char *folder, const char *name, read_file *read,
                        bool *found, krait_error *e) {
    char *path = kr_path_join(folder, name);
    if (!path) return kr_fail_memory(e, folder);
    *found = kr_is_file(path);
    json_t *index = NULL;
    int rc = *found ? kr_json_load(&index, path, MAX_INDEX, e) : 0;
    json_t *map = json_object_get(index, "weight_map");
    if (index && !json_is_object(map))
        rc = kr_fail(e, KRAIT_ERR_FORMAT, "%s: \"weight_map\" is missing or not an object", path);
    else if (index)
        rc = read_shards(w, folder, path, map, read, e);
    json_decref(index);
    kr_free(path);
    return rc;
}

int kr_weights_read_folder(kr_weights *w, const char *folder, krait_error *e) {
    static const struct {
        const char *name;
        read_file *read;
        bool index;
    } layouts[] = {
        {SINGLE, kr_safetensors_read, false},
        {INDEX, kr_safetensors_read, true},
        {PTH, kr_pth_read, false},
        {PTH_INDEX, kr_pth_read, true},
    };
    for (size_t i = 0; i < sizeof layouts / sizeof *layouts; i++) {
        bool found = false;
        int rc = layouts[i].index
                     ? read_indexed(w, folder, layouts[i].name, layouts[i].read, &found, e)
                     : read_if_there(w, folder, layouts[i].name, layouts[i].read, &found, e);
        if (rc < 0 || found) return rc;
    }
    return kr_fail(e, KRAIT_ERR_IO, "%s: no weights: neither " SINGLE " nor its index nor " PTH,
                   folder);
}

/* ---- what was there before ----
 *
 * The files of the model that is replaced: those that are read by their name, and the shards that
 * their indices name. They are listed before anything is written (a new index takes the old one's
 * place) and go when the new weights are there, what is read first last, an index before its
 * shards: whoever reads meanwhile, or after a crash, finds the old weights or the new ones. New
 * shards never take the place of those that the index names: they have one of two stems in turn. */

static const char *const stems[2] = {"model-", "model-b-"};

typedef struct old_files {
    char **names;
    size_t count, capacity;
} old_files;

static void forget(old_files *o) {
    for (size_t i = 0; i < o->count; i++) kr_free(o->names[i]);
    kr_free(o->names);
    *o = (old_files){0};
}

static int remember(old_files *o, const char *name, krait_error *e) {
    char *copy = kr_strdup(name);
    if (!copy || kr_grow((void **)&o->names, &o->capacity, o->count + 1, sizeof *o->names) < 0) {
        kr_free(copy);
        return kr_fail_memory(e, name);
    }
    o->names[o->count++] = copy;
    return 0;
}

static bool five_digits(const char *text) {
    return strspn(text, "0123456789") >= 5 && (text[5] == '-' || text[5] == '.');
}

static bool has_form(const char *name, const char *stem, const char *end) {
    size_t n = strlen(stem);
    return strncmp(name, stem, n) == 0 && five_digits(name + n) &&
           strncmp(name + n + 5, "-of-", 4) == 0 && five_digits(name + n + 9) &&
           strcmp(name + n + 14, end) == 0;
}

/* model-00001-of-00003.safetensors: an index may name any file, only those are surely weights. */
static bool is_shard(const char *name, bool torch) {
    if (torch) return has_form(name, "pytorch_model-", ".bin");
    return has_form(name, stems[0], ".safetensors") || has_form(name, stems[1], ".safetensors");
}

/* The shards that an index names; one that cannot be read names none: its model cannot be opened.
 */
static int remember_shards(old_files *o, const char *folder, const char *index, krait_error *e) {
    bool torch = strcmp(index, PTH_INDEX) == 0;
    const char *tensor, *before = "";
    json_t *json = NULL, *v;
    char *path = kr_path_join(folder, index);
    if (!path) return kr_fail_memory(e, folder);
    int rc = 0;
    if (kr_is_file(path) && kr_json_load(&json, path, MAX_INDEX, NULL) == 0)
        json_object_foreach(json_object_get(json, "weight_map"), tensor, v) {
            const char *name = json_string_value(v);
            if (rc < 0 || !name || strcmp(name, before) == 0 || !is_shard(name, torch)) continue;
            rc = remember(o, name, e);
            before = name;
        }
    json_decref(json);
    kr_free(path);
    return rc;
}

static int remember_all(old_files *o, const char *folder, krait_error *e) {
    KR_TRY(remember(o, PTH_INDEX, e));
    KR_TRY(remember_shards(o, folder, PTH_INDEX, e));
    KR_TRY(remember(o, PTH, e));
    KR_TRY(remember(o, INDEX, e));
    KR_TRY(remember_shards(o, folder, INDEX, e));
    return remember(o, SINGLE, e);
}

static bool is_old(const old_files *o, const char *name) {
    bool found = false;
    for (size_t i = 0; i < o->count; i++) found |= strcmp(o->names[i], name) == 0;
    return found;
}

/* Takes `name`, which has just been written, from what will be removed. */
static void spare(old_files *o, const char *name) {
    for (size_t i = 0; i < o->count; i++)
        if (strcmp(o->names[i], name) == 0) o->names[i][0] = 0;
}

static int remove_all(const old_files *o, const char *folder, krait_error *e) {
    for (size_t i = 0; i < o->count; i++)
        if (o->names[i][0]) KR_TRY(kr_remove_old(folder, o->names[i], e));
    return 0;
}

/* ---- writing ---- */

/* Item i goes to shard part[i]: in the order of names, a new shard where the next tensor would pass
 * the limit. */
static int64_t partition(const kr_weights *w, int64_t limit, int64_t *first) {
    int64_t shards = 0, used = 0;
    for (int64_t i = 0; i < w->count; i++) {
        int64_t bytes = (int64_t)kr_tensor_bytes(&w->items[i].tensor);
        if (shards == 0 || used + bytes > limit) {
            first[shards++] = i;
            used = 0;
        }
        used += bytes;
    }
    first[shards] = w->count;
    return shards;
}

/* Item first[s] is the first of shard s, first[count] behind the last. */
typedef struct shards {
    const int64_t *first;
    int64_t count;
    const char *stem;
} shards;

static void shard_file(char name[64], const shards *p, int64_t s) {
    snprintf(name, 64, "%s%05lld-of-%05lld.safetensors", p->stem, (long long)s + 1,
             (long long)p->count);
}

/* The stem by which no shard is called as one of the old index is. */
static void choose_stem(shards *p, const old_files *old) {
    char name[64];
    bool taken = false;
    p->stem = stems[0];
    for (int64_t s = 0; s < p->count; s++) {
        shard_file(name, p, s);
        taken |= is_old(old, name);
    }
    if (taken) p->stem = stems[1];
}

static json_t *make_index(const kr_weights *w, const shards *p) {
    int64_t total = 0;
    json_t *map = json_object();
    for (int64_t s = 0; map && s < p->count; s++) {
        char name[64];
        shard_file(name, p, s);
        for (int64_t i = p->first[s]; map && i < p->first[s + 1]; i++) {
            total += (int64_t)kr_tensor_bytes(&w->items[i].tensor);
            if (json_object_set_new(map, w->items[i].name, json_string(name)) == 0) continue;
            json_decref(map);
            map = NULL;
        }
    }
    return json_pack("{s:{s:I}, s:o}", "metadata", "total_size", (json_int_t)total, "weight_map",
                     map);
}

static int write_index(const kr_weights *w, const char *folder, const shards *p, krait_error *e) {
    char *path = kr_path_join(folder, INDEX);
    json_t *index = path ? make_index(w, p) : NULL;
    int rc = index ? kr_json_write(index, path, e) : kr_fail_memory(e, folder);
    json_decref(index);
    kr_free(path);
    return rc;
}

static int open_shard(kr_out *out, const kr_weights *w, const char *folder, const shards *p,
                      int64_t s, krait_error *e) {
    char name[64];
    shard_file(name, p, s);
    char *path = kr_path_join(folder, name);
    int rc = path ? kr_out_open(out, path, e) : kr_fail_memory(e, folder);
    kr_free(path);
    if (rc < 0) return rc;
    return kr_safetensors_put(out, w->items + p->first[s], p->first[s + 1] - p->first[s], e);
}

/* All shards are written under temporary names before the first gets its own, so that a full disk
 * leaves what was there; the index is last. */
static int write_shards(const kr_weights *w, const char *folder, const shards *p, old_files *old,
                        krait_error *e) {
    kr_out *outs = kr_calloc((size_t)p->count, sizeof *outs);
    if (!outs) return kr_fail_memory(e, folder);
    int rc = 0;
    for (int64_t s = 0; rc == 0 && s < p->count; s++) rc = open_shard(&outs[s], w, folder, p, s, e);
    for (int64_t s = 0; rc == 0 && s < p->count; s++) {
        char name[64];
        shard_file(name, p, s);
        rc = kr_out_commit(&outs[s], e);
        spare(old, name);
    }
    for (int64_t s = 0; s < p->count; s++) kr_out_abort(&outs[s]);
    kr_free(outs);
    if (rc == 0) rc = write_index(w, folder, p, e);
    spare(old, INDEX);
    return rc;
}

/* One file; `write` is its format's. */
static int write_single(const kr_weights *w, const char *folder, const char *name,
                        int write(const kr_weights *w, const char *path, krait_error *e),
                        old_files *old, krait_error *e) {
    char *path = kr_path_join(folder, name);
    int rc = path ? write(w, path, e) : kr_fail_memory(e, folder);
    kr_free(path);
    spare(old, name);
    return rc;
}

static int write_folder(const kr_weights *w, const char *folder, int64_t shard_bytes,
                        old_files *old, krait_error *e) {
    if (shard_bytes <= 0) return write_single(w, folder, SINGLE, kr_safetensors_write, old, e);
    int64_t *first = kr_malloc(((size_t)w->count + 1) * sizeof *first);
    if (!first) return kr_fail_memory(e, folder);
    shards p = {.first = first, .count = partition(w, shard_bytes, first)};
    choose_stem(&p, old);
    int rc = p.count > 1 ? write_shards(w, folder, &p, old, e)
                         : write_single(w, folder, SINGLE, kr_safetensors_write, old, e);
    kr_free(first);
    return rc;
}

int kr_weights_write_folder(const kr_weights *w, const char *folder, int64_t shard_bytes,
                            krait_error *e) {
    old_files old = {0};
    KR_TRY(kr_make_dirs(folder, e));
    int rc = remember_all(&old, folder, e);
    if (rc == 0) rc = write_folder(w, folder, shard_bytes, &old, e);
    if (rc == 0) rc = remove_all(&old, folder, e);
    forget(&old);
    return rc;
}

int kr_weights_write_pth(const kr_weights *w, const char *folder, krait_error *e) {
    old_files old = {0};
    KR_TRY(kr_make_dirs(folder, e));
    int rc = remember_all(&old, folder, e);
    if (rc == 0) rc = write_single(w, folder, PTH, kr_pth_write, &old, e);
    if (rc == 0) rc = remove_all(&old, folder, e);
    forget(&old);
    return rc;
}

/* checkpoint.c - writing, finding, verifying and pruning checkpoint folders. */
#define _DEFAULT_SOURCE
#include "train/checkpoint.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/crc32c.h"
#include "base/err.h"
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"

#define MANIFEST "manifest.json"
#define STATE "state.json"
#define TENSORS "state.safetensors"

typedef char path_text[PATH_MAX];

static int join(path_text to, const char *folder, const char *name, krait_error *e) {
    int n = snprintf(to, sizeof(path_text), "%s/%s", folder, name);
    if (n > 0 && (size_t)n < sizeof(path_text)) return 0;
    return kr_fail(e, KRAIT_ERR_ARGUMENT, "%.200s: the path is too long", folder);
}

static int system_error(const char *path, const char *what, krait_error *e) {
    return kr_fail(e, KRAIT_ERR_IO, "%s: %s: %s", path, what, strerror(errno));
}

/* ---- folders ---- */

typedef struct names {
    char **items;
    int64_t count;
    size_t capacity;
} names;

static void free_names(names *n) {
    for (int64_t i = 0; i < n->count; i++) kr_free(n->items[i]);
    kr_free(n->items);
    *n = (names){0};
}

static int by_name(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* The names in a folder, sorted, without "." and "..". A folder that does not exist is empty. */
static int list_folder(const char *path, names *n, krait_error *e) {
    *n = (names){0};
    DIR *d = opendir(path);
    if (!d) return errno == ENOENT ? 0 : system_error(path, "cannot be read", e);
    int rc = 0;
    for (struct dirent *item; rc == 0 && (item = readdir(d));) {
        if (strcmp(item->d_name, ".") == 0 || strcmp(item->d_name, "..") == 0) continue;
        char *copy = kr_strdup(item->d_name);
        if (!copy || kr_grow((void **)&n->items, &n->capacity, (size_t)n->count + 1, sizeof copy)) {
            kr_free(copy);
            rc = kr_fail_memory(e, path);
        } else {
            n->items[n->count++] = copy;
        }
    }
    closedir(d);
    if (rc < 0) free_names(n);
    if (n->count > 1) qsort(n->items, (size_t)n->count, sizeof *n->items, by_name);
    return rc;
}

/* Removes a folder of files. One that does not exist is fine. */
static int remove_folder(const char *path, krait_error *e) {
    names files;
    KR_TRY(list_folder(path, &files, e));
    int rc = 0;
    for (int64_t i = 0; rc == 0 && i < files.count; i++) {
        path_text file;
        rc = join(file, path, files.items[i], e);
        if (rc == 0 && unlink(file) != 0) rc = system_error(file, "cannot be removed", e);
    }
    free_names(&files);
    if (rc == 0 && rmdir(path) != 0 && errno != ENOENT)
        rc = system_error(path, "cannot be removed", e);
    return rc;
}

/* The step of "step-N"; -1 for any other name. */
static int64_t step_of(const char *name) {
    char *end;
    if (strncmp(name, "step-", 5) != 0 || name[5] < '0' || name[5] > '9') return -1;
    errno = 0;
    long long step = strtoll(name + 5, &end, 10);
    return *end || errno || step < 0 ? -1 : (int64_t)step;
}

static int newest_first(const void *a, const void *b) {
    int64_t x = step_of(*(char *const *)a), y = step_of(*(char *const *)b);
    return x < y ? 1 : x > y ? -1 : 0;
}

/* The complete checkpoints, newest first. */
static int list_steps(const char *folder, names *n, krait_error *e) {
    KR_TRY(list_folder(folder, n, e));
    int64_t kept = 0;
    for (int64_t i = 0; i < n->count; i++) {
        if (step_of(n->items[i]) >= 0)
            n->items[kept++] = n->items[i];
        else
            kr_free(n->items[i]);
    }
    n->count = kept;
    if (kept > 1) qsort(n->items, (size_t)kept, sizeof *n->items, newest_first);
    return 0;
}

/* Removes a complete checkpoint: renamed first, so that no half-removed one looks complete. */
static int remove_step(const char *folder, const char *name, krait_error *e) {
    path_text from, to;
    KR_TRY(join(from, folder, name, e));
    int n = snprintf(to, sizeof to, "%s.old.tmp", from);
    if (n < 0 || (size_t)n >= sizeof to) return kr_fail(e, KRAIT_ERR_ARGUMENT, "path too long");
    KR_TRY(remove_folder(to, e));
    if (rename(from, to) != 0)
        return errno == ENOENT ? 0 : system_error(from, "cannot be moved", e);
    return remove_folder(to, e);
}

/* Keeps the newest `keep` up to `step`. What is beyond was passed over as damaged when the run went
 * on from an earlier one: it must not push whole ones out. */
static int prune(const char *folder, int64_t step, int64_t keep, krait_error *e) {
    names steps;
    KR_TRY(list_steps(folder, &steps, e));
    int rc = 0;
    int64_t whole = 0;
    for (int64_t i = 0; rc == 0 && i < steps.count; i++)
        if (step_of(steps.items[i]) > step || whole++ >= keep)
            rc = remove_step(folder, steps.items[i], e);
    free_names(&steps);
    return rc;
}

int kr_checkpoint_clean(const char *out, krait_error *e) {
    path_text folder;
    names all;
    KR_TRY(join(folder, out, "checkpoints", e));
    KR_TRY(list_folder(folder, &all, e));
    int rc = 0;
    for (int64_t i = 0; rc == 0 && i < all.count; i++) {
        path_text path;
        size_t n = strlen(all.items[i]);
        if (strncmp(all.items[i], "step-", 5) != 0 || n < 9) continue;
        if (strcmp(all.items[i] + n - 4, ".tmp") != 0) continue;
        rc = join(path, folder, all.items[i], e);
        if (rc == 0) rc = remove_folder(path, e);
    }
    free_names(&all);
    return rc;
}

/* ---- files ---- */

static int write_json(const char *folder, const char *name, const json_t *root, krait_error *e) {
    path_text path;
    KR_TRY(join(path, folder, name, e));
    return kr_json_write(root, path, e);
}

static int read_json(const char *folder, const char *name, json_t **root, krait_error *e) {
    path_text path;
    KR_TRY(join(path, folder, name, e));
    KR_TRY(kr_json_load(root, path, 1 << 20, e));
    if (json_is_object(*root)) return 0;
    json_decref(*root);
    return kr_fail(e, KRAIT_ERR_FORMAT, "%s: not a JSON object", path);
}

/* Read, not mapped: mapped pages would count as this process's memory. */
static int measure(const char *path, int64_t *size, int64_t *crc, krait_error *e) {
    unsigned char bytes[1 << 14];
    uint32_t sum = 0;
    FILE *f = fopen(path, "rb");
    if (!f) return system_error(path, "cannot be opened", e);
    *size = 0;
    for (size_t n; (n = fread(bytes, 1, sizeof bytes, f)) > 0; *size += (int64_t)n)
        sum = kr_crc32c(sum, bytes, n);
    int rc = ferror(f) ? system_error(path, "cannot be read", e) : 0;
    fclose(f);
    *crc = sum;
    return rc;
}

static int write_manifest(const char *folder, krait_error *e) {
    names files;
    KR_TRY(list_folder(folder, &files, e));
    json_t *root = json_object();
    int rc = root ? 0 : kr_fail_memory(e, MANIFEST);
    for (int64_t i = 0; rc == 0 && i < files.count; i++) {
        path_text path;
        int64_t size = 0, crc = 0;
        rc = join(path, folder, files.items[i], e);
        if (rc == 0) rc = measure(path, &size, &crc, e);
        if (rc == 0 && json_object_set_new(root, files.items[i],
                                           json_pack("{s:I,s:I}", "bytes", (json_int_t)size,
                                                     "crc32c", (json_int_t)crc)) != 0)
            rc = kr_fail_memory(e, MANIFEST);
    }
    free_names(&files);
    if (rc == 0) rc = write_json(folder, MANIFEST, root, e);
    json_decref(root);
    return rc;
}

/* Every file that the manifest names is there, of its size and checksum, and the ones that must be
 * are named. */
static int verify(const char *folder, krait_error *e) {
    json_t *root, *item;
    const char *name;
    KR_TRY(read_json(folder, MANIFEST, &root, e));
    int rc = 0;
    if (!json_object_get(root, STATE) || !json_object_get(root, TENSORS))
        rc = kr_fail(e, KRAIT_ERR_FORMAT, "%s/%s: names no %s and %s", folder, MANIFEST, STATE,
                     TENSORS);
    json_object_foreach(root, name, item) {
        path_text path;
        int64_t size = 0, crc = 0;
        if (rc == 0 && strchr(name, '/')) rc = kr_fail(e, KRAIT_ERR_FORMAT, "%s: a path", name);
        if (rc == 0) rc = join(path, folder, name, e);
        if (rc == 0) rc = measure(path, &size, &crc, e);
        if (rc == 0 && (size != json_integer_value(json_object_get(item, "bytes")) ||
                        crc != json_integer_value(json_object_get(item, "crc32c"))))
            rc = kr_fail(e, KRAIT_ERR_FORMAT, "%s: not what its manifest says: damaged", path);
    }
    json_decref(root);
    return rc;
}

/* ---- saving ---- */

static int write_files(const char *folder, const kr_checkpoint *c, const krait_model *model,
                       const json_t *recipe, const kr_weights *state, krait_error *e) {
    path_text path;
    KR_TRY(kr_make_dirs(folder, e));
    KR_TRY(krait_model_save(model, folder, NULL, e));
    KR_TRY(join(path, folder, TENSORS, e));
    KR_TRY(kr_safetensors_write(state, path, e));
    KR_TRY(write_json(folder, "recipe.json", recipe, e));
    json_t *root = json_pack("{s:I,s:I,s:I,s:I}", "step", (json_int_t)c->step, "updates",
                             (json_int_t)c->updates, "tokens", (json_int_t)c->tokens, "log_length",
                             (json_int_t)c->log_length);
    int rc = root ? write_json(folder, STATE, root, e) : kr_fail_memory(e, STATE);
    json_decref(root);
    return rc < 0 ? rc : write_manifest(folder, e);
}

/* The step is done when the folder has its name and the folder above knows it. */
static int publish(const char *folder, const char *name, const char *temporary, krait_error *e) {
    path_text final;
    KR_TRY(join(final, folder, name, e));
    KR_TRY(remove_step(folder, name, e)); /* from before a resumption at an earlier step */
    if (rename(temporary, final) != 0) return system_error(final, "cannot be made", e);
    return kr_sync_dir(folder, e);
}

int kr_checkpoint_save(const char *out, const kr_checkpoint *c, const krait_model *model,
                       const json_t *recipe, const kr_weights *state, int64_t keep, char *path,
                       size_t room, krait_error *e) {
    path_text folder, temporary;
    char name[32], temporary_name[40];
    snprintf(name, sizeof name, "step-%lld", (long long)c->step);
    snprintf(temporary_name, sizeof temporary_name, "%s.tmp", name);
    KR_TRY(join(folder, out, "checkpoints", e));
    KR_TRY(join(temporary, folder, temporary_name, e));
    snprintf(path, room, "%s/%s", folder, name);
    KR_TRY(kr_make_dirs(folder, e));
    KR_TRY(remove_folder(temporary, e));
    int rc = write_files(temporary, c, model, recipe, state, e);
    if (rc == 0) rc = publish(folder, name, temporary, e);
    if (rc == 0) return prune(folder, c->step, keep, e);
    (void)remove_folder(temporary, NULL);
    return rc;
}

/* ---- loading ---- */

bool kr_checkpoint_any(const char *out) {
    path_text folder;
    names steps;
    if (join(folder, out, "checkpoints", NULL) < 0 || list_steps(folder, &steps, NULL) < 0)
        return false;
    bool any = steps.count > 0;
    free_names(&steps);
    return any;
}

int kr_checkpoint_find(const char *out, char *path, size_t room, char *note, size_t note_room,
                       krait_error *e) {
    path_text folder;
    names steps;
    krait_error why = {0};
    KR_TRY(join(folder, out, "checkpoints", e));
    KR_TRY(list_steps(folder, &steps, e));
    *path = *note = 0;
    int rc = 0;
    for (int64_t i = 0; i < steps.count; i++) {
        snprintf(path, room, "%s/%s", folder, steps.items[i]);
        rc = verify(path, &why);
        if (rc == 0) break;
        snprintf(note, note_room, "passed over %s", why.message);
        *path = 0;
    }
    if (rc < 0)
        rc =
            kr_fail(e, KRAIT_ERR_FORMAT, "%s: no checkpoint is whole: %.300s", folder, why.message);
    free_names(&steps);
    return rc;
}

static int take_counters(const char *path, json_t *root, kr_checkpoint *c, krait_error *e) {
    json_int_t step, updates, tokens, length;
    int rc = json_unpack(root, "{s:I,s:I,s:I,s:I}", "step", &step, "updates", &updates, "tokens",
                         &tokens, "log_length", &length);
    if (rc != 0 || step < 0 || updates < 0 || tokens < 0 || length < 0)
        return kr_fail(e, KRAIT_ERR_FORMAT, "%s/%s: counters are missing", path, STATE);
    *c = (kr_checkpoint){step, updates, tokens, length};
    return 0;
}

int kr_checkpoint_load(const char *path, kr_checkpoint *c, kr_weights *state, krait_error *e) {
    path_text tensors;
    json_t *root;
    KR_TRY(join(tensors, path, TENSORS, e));
    KR_TRY(read_json(path, STATE, &root, e));
    int rc = take_counters(path, root, c, e);
    json_decref(root);
    if (rc < 0) return rc;
    return kr_safetensors_read(state, tensors, e);
}

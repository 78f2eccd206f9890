/* pickle.c - a stack machine for the few pickle opcodes that a dictionary of tensors needs
 * (protocols 2 to 5).
 *
 * Values are 16 bytes; strings point into the pickle; containers are numbered objects, so a pickle
 * that holds itself cannot make anything here recurse or leak. Stack, memo and objects are bounded.
 * Source: the opcode descriptions in Python's pickletools, and what torch.save emits. */
#include "formats/pth/pickle.h"

#include "base/err.h"
#include "base/mem.h"

enum { MAX_STACK = 1 << 20, MAX_MEMO = 1 << 20, MAX_OBJECTS = 1 << 18, MAX_TEXT = 1024 };

typedef enum kind {
    UNSET, /* a memo entry that was never put */
    MARK,
    NONE,
    INTEGER, /* booleans too */
    REAL,
    TEXT,
    TUPLE,
    LIST,
    DICT,
    GLOBAL,
    STORAGE,
    TENSOR
} kind;

typedef struct value {
    kind kind;
    uint32_t length; /* of a text */
    union {
        int64_t integer;
        const char *text;
        size_t object; /* index: of a container, a tensor or storage, or a global's table entry */
    };
} value;

/* Items of a tuple or list; of a dictionary, keys and values in turn. */
typedef struct container {
    value *items;
    size_t count, capacity;
} container;

typedef struct machine {
    const unsigned char *at, *end;
    const char *path;
    krait_error *e;
    value *stack, *memo;
    size_t depth, stack_capacity;
    size_t memo_count, memo_capacity; /* entries up to memo_count; some may be UNSET */
    container *objects;
    size_t n_objects, objects_capacity;
    kr_pickle_tensor *tensors; /* storages too: tensors without a shape yet */
    size_t n_tensors, tensors_capacity;
    bool stopped;
} machine;

typedef int operation(machine *m);

/* ---- the constructors that may be named ---- */

typedef enum role { MAKE_DICT, MAKE_TENSOR, MAKE_PARAMETER, STORAGE_TYPE } role;

static const struct global {
    const char *module, *name;
    role role;
    kr_dtype dtype;
} globals[] = {
    {"collections", "OrderedDict", MAKE_DICT, KR_U8},
    {"torch._utils", "_rebuild_tensor_v2", MAKE_TENSOR, KR_U8},
    {"torch._utils", "_rebuild_parameter", MAKE_PARAMETER, KR_U8},
    {"torch", "FloatStorage", STORAGE_TYPE, KR_F32},
    {"torch", "DoubleStorage", STORAGE_TYPE, KR_F64},
    {"torch", "BFloat16Storage", STORAGE_TYPE, KR_BF16},
    {"torch", "HalfStorage", STORAGE_TYPE, KR_F16},
    {"torch", "IntStorage", STORAGE_TYPE, KR_I32},
    {"torch", "LongStorage", STORAGE_TYPE, KR_I64},
    {"torch", "ByteStorage", STORAGE_TYPE, KR_U8},
};

static int bad(machine *m, const char *reason) {
    kr_fail(m->e, KRAIT_ERR_FORMAT, "%s: its pickle is damaged: %s", m->path, reason);
    return KRAIT_ERR_FORMAT; /* a constant, so that compilers see that callers stop */
}

static int no_memory(machine *m) { return kr_fail_memory(m->e, m->path); }

/* ---- stack and objects ---- */

static int push(machine *m, value v) {
    if (m->depth >= MAX_STACK) return bad(m, "its stack grows too deep");
    if (kr_grow((void **)&m->stack, &m->stack_capacity, m->depth + 1, sizeof v))
        return no_memory(m);
    m->stack[m->depth++] = v;
    return 0;
}

static int push_integer(machine *m, int64_t i) {
    return push(m, (value){.kind = INTEGER, .integer = i});
}

/* The value n below the top, or NULL. */
static value *top(machine *m, size_t n) {
    return n < m->depth ? &m->stack[m->depth - 1 - n] : NULL;
}

static int pop(machine *m, value *v) {
    if (m->depth == 0 || m->stack[m->depth - 1].kind == MARK) return bad(m, "its stack is empty");
    *v = m->stack[--m->depth];
    return 0;
}

static int new_object(machine *m, kind k, value *v) {
    if (m->n_objects >= MAX_OBJECTS) return bad(m, "it holds too many objects");
    if (kr_grow((void **)&m->objects, &m->objects_capacity, m->n_objects + 1, sizeof *m->objects))
        return no_memory(m);
    *v = (value){.kind = k, .object = m->n_objects};
    m->objects[m->n_objects++] = (container){0};
    return 0;
}

static int append(machine *m, size_t object, const value *items, size_t count) {
    container *c = &m->objects[object];
    if (count == 0) return 0;
    if (kr_grow((void **)&c->items, &c->capacity, c->count + count, sizeof *items))
        return no_memory(m);
    memcpy(c->items + c->count, items, count * sizeof *items);
    c->count += count;
    return 0;
}

/* The topmost count values become a container that takes their place (and the mark's, when there is
 * one). */
static int collect(machine *m, kind k, size_t count, bool mark) {
    value v;
    KR_TRY(new_object(m, k, &v));
    if (count > 0) KR_TRY(append(m, v.object, m->stack + m->depth - count, count));
    m->depth -= count + (mark ? 1 : 0);
    return push(m, v);
}

/* How many values lie above the topmost mark. */
static int above_mark(machine *m, size_t *count) {
    for (*count = 0; *count < m->depth; (*count)++)
        if (m->stack[m->depth - 1 - *count].kind == MARK) return 0;
    return bad(m, "a mark is missing");
}

/* ---- bytes ---- */

static int take(machine *m, uint64_t count, const unsigned char **bytes) {
    if (count > (uint64_t)(m->end - m->at)) return bad(m, "it ends early");
    *bytes = m->at;
    m->at += count;
    return 0;
}

/* An unsigned little-endian number of `width` bytes. */
static int take_number(machine *m, int width, uint64_t *number) {
    const unsigned char *b;
    KR_TRY(take(m, (uint64_t)width, &b));
    *number = 0;
    for (int i = width - 1; i >= 0; i--) *number = *number << 8 | b[i];
    return 0;
}

static int push_text(machine *m, int width) {
    uint64_t length;
    const unsigned char *b;
    KR_TRY(take_number(m, width, &length));
    KR_TRY(take(m, length, &b));
    if (length > UINT32_MAX) return bad(m, "a text is too long");
    return push(m, (value){.kind = TEXT, .length = (uint32_t)length, .text = (const char *)b});
}

static bool is_text(const value *v, const char *text) {
    return v->kind == TEXT && v->length == strlen(text) && memcmp(v->text, text, v->length) == 0;
}

/* ---- opcodes: constants ---- */

static int op_proto(machine *m) {
    uint64_t version;
    KR_TRY(take_number(m, 1, &version));
    return version >= 2 && version <= 5 ? 0 : bad(m, "its protocol is not 2 to 5");
}

static int op_frame(machine *m) {
    uint64_t length;
    KR_TRY(take_number(m, 8, &length));
    return length <= (uint64_t)(m->end - m->at) ? 0 : bad(m, "it ends early");
}

static int op_mark(machine *m) { return push(m, (value){.kind = MARK}); }
static int op_none(machine *m) { return push(m, (value){.kind = NONE}); }
static int op_true(machine *m) { return push_integer(m, 1); }
static int op_false(machine *m) { return push_integer(m, 0); }
static int op_text1(machine *m) { return push_text(m, 1); }
static int op_text4(machine *m) { return push_text(m, 4); }
static int op_text8(machine *m) { return push_text(m, 8); }

static int push_number(machine *m, int width) {
    uint64_t number;
    KR_TRY(take_number(m, width, &number));
    return push_integer(m, width == 4 ? (int64_t)(int32_t)(uint32_t)number : (int64_t)number);
}

static int op_int1(machine *m) { return push_number(m, 1); }
static int op_int2(machine *m) { return push_number(m, 2); }
static int op_int4(machine *m) { return push_number(m, 4); }

/* A signed number of a length that stands before it; no shape or offset needs more than 8 bytes. */
static int op_long1(machine *m) {
    uint64_t width, number;
    KR_TRY(take_number(m, 1, &width));
    if (width > 8) return bad(m, "an integer has more than 64 bits");
    KR_TRY(take_number(m, (int)width, &number));
    bool negative = width > 0 && width < 8 && number >> (8 * width - 1);
    if (negative) number |= ~(uint64_t)0 << (8 * width);
    return push_integer(m, (int64_t)number);
}

/* No real number means anything to a tensor: its value is not kept. */
static int op_float(machine *m) {
    const unsigned char *b;
    KR_TRY(take(m, 8, &b));
    return push(m, (value){.kind = REAL});
}

/* ---- opcodes: memo ---- */

static int put(machine *m, uint64_t index) {
    const value *v = top(m, 0);
    if (!v || v->kind == MARK) return bad(m, "its stack is empty");
    if (index >= MAX_MEMO) return bad(m, "its memo grows too large");
    if (kr_grow((void **)&m->memo, &m->memo_capacity, (size_t)index + 1, sizeof *v))
        return no_memory(m);
    while (m->memo_count <= index) m->memo[m->memo_count++] = (value){.kind = UNSET};
    m->memo[index] = *v;
    return 0;
}

static int get(machine *m, uint64_t index) {
    if (index >= m->memo_count || m->memo[index].kind == UNSET)
        return bad(m, "it recalls what it never stored");
    return push(m, m->memo[index]);
}

static int op_put1(machine *m) {
    uint64_t index;
    KR_TRY(take_number(m, 1, &index));
    return put(m, index);
}

static int op_put4(machine *m) {
    uint64_t index;
    KR_TRY(take_number(m, 4, &index));
    return put(m, index);
}

static int op_memoize(machine *m) { return put(m, m->memo_count); }

static int op_get1(machine *m) {
    uint64_t index;
    KR_TRY(take_number(m, 1, &index));
    return get(m, index);
}

static int op_get4(machine *m) {
    uint64_t index;
    KR_TRY(take_number(m, 4, &index));
    return get(m, index);
}

/* ---- opcodes: containers ---- */

static int tuple_of(machine *m, size_t count) {
    for (size_t i = 0; i < count; i++) {
        const value *v = top(m, i);
        if (!v || v->kind == MARK) return bad(m, "its stack is empty");
    }
    return collect(m, TUPLE, count, false);
}

static int op_tuple0(machine *m) { return tuple_of(m, 0); }
static int op_tuple1(machine *m) { return tuple_of(m, 1); }
static int op_tuple2(machine *m) { return tuple_of(m, 2); }
static int op_tuple3(machine *m) { return tuple_of(m, 3); }

static int op_tuple(machine *m) {
    size_t count;
    KR_TRY(above_mark(m, &count));
    return collect(m, TUPLE, count, true);
}

static int op_list(machine *m) { return collect(m, LIST, 0, false); }
static int op_dict(machine *m) { return collect(m, DICT, 0, false); }

/* The topmost count values go into the container below them (and below the mark). */
static int extend(machine *m, kind k, size_t count, bool mark) {
    size_t taken = count + (mark ? 1 : 0);
    const value *to = top(m, taken);
    if (!to || to->kind != k) return bad(m, "items for what is not their container");
    KR_TRY(append(m, to->object, m->stack + m->depth - count, count));
    m->depth -= taken;
    return 0;
}

static int op_append(machine *m) {
    const value *v = top(m, 0);
    if (!v || v->kind == MARK) return bad(m, "its stack is empty");
    return extend(m, LIST, 1, false);
}

static int op_appends(machine *m) {
    size_t count;
    KR_TRY(above_mark(m, &count));
    return extend(m, LIST, count, true);
}

static int op_setitem(machine *m) {
    for (size_t i = 0; i < 2; i++) {
        const value *v = top(m, i);
        if (!v || v->kind == MARK) return bad(m, "its stack is empty");
    }
    return extend(m, DICT, 2, false);
}

static int op_setitems(machine *m) {
    size_t count;
    KR_TRY(above_mark(m, &count));
    if (count % 2) return bad(m, "a key without a value");
    return extend(m, DICT, count, true);
}

/* ---- opcodes: names and calls ---- */

static int push_global(machine *m, const value *module, const value *name) {
    for (size_t i = 0; i < sizeof globals / sizeof *globals; i++)
        if (is_text(module, globals[i].module) && is_text(name, globals[i].name))
            return push(m, (value){.kind = GLOBAL, .object = i});
    return kr_fail(
        m->e, KRAIT_ERR_UNSUPPORTED,
        "%s: its pickle calls %.*s.%.*s, which is not read: save a plain state dict of tensors",
        m->path, (int)(module->length > 100 ? 100 : module->length), module->text,
        (int)(name->length > 100 ? 100 : name->length), name->text);
}

/* A text that ends at a line feed. */
static int take_line(machine *m, value *v) {
    const unsigned char *from = m->at, *feed = memchr(from, '\n', (size_t)(m->end - from));
    if (!feed || feed - from > MAX_TEXT) return bad(m, "a name has no end");
    *v = (value){.kind = TEXT, .length = (uint32_t)(feed - from), .text = (const char *)from};
    m->at = feed + 1;
    return 0;
}

static int op_global(machine *m) {
    value module, name;
    KR_TRY(take_line(m, &module));
    KR_TRY(take_line(m, &name));
    return push_global(m, &module, &name);
}

static int op_stack_global(machine *m) {
    value module, name;
    KR_TRY(pop(m, &name));
    KR_TRY(pop(m, &module));
    if (module.kind != TEXT || name.kind != TEXT) return bad(m, "a name is not a text");
    return push_global(m, &module, &name);
}

static int new_tensor(machine *m, kind k, const kr_pickle_tensor *t) {
    if (m->n_tensors >= MAX_OBJECTS) return bad(m, "it holds too many tensors");
    if (kr_grow((void **)&m->tensors, &m->tensors_capacity, m->n_tensors + 1, sizeof *t))
        return no_memory(m);
    m->tensors[m->n_tensors] = *t;
    return push(m, (value){.kind = k, .object = m->n_tensors++});
}

/* ("storage", type, key, device, count): what a tensor's bytes are called in the archive. */
static int op_persistent(machine *m) {
    value id;
    KR_TRY(pop(m, &id));
    const container *c = id.kind == TUPLE ? &m->objects[id.object] : NULL;
    if (!c || c->count != 5 || !is_text(&c->items[0], "storage") || c->items[1].kind != GLOBAL ||
        globals[c->items[1].object].role != STORAGE_TYPE || c->items[2].kind != TEXT ||
        c->items[2].length > 64 || c->items[4].kind != INTEGER || c->items[4].integer < 0)
        return bad(m, "a storage is not described as torch.save does");
    kr_pickle_tensor t = {.key = c->items[2].text,
                          .key_length = (int)c->items[2].length,
                          .dtype = globals[c->items[1].object].dtype,
                          .storage_count = c->items[4].integer};
    return new_tensor(m, STORAGE, &t);
}

static int read_counts(machine *m, const value *v, int64_t out[KR_MAX_RANK], int *rank) {
    const container *c = v->kind == TUPLE ? &m->objects[v->object] : NULL;
    if (!c) return bad(m, "a tensor's shape is not a tuple");
    if (c->count > KR_MAX_RANK)
        return kr_fail(m->e, KRAIT_ERR_UNSUPPORTED, "%s: a tensor of %zu dimensions, at most %d",
                       m->path, c->count, KR_MAX_RANK);
    for (size_t i = 0; i < c->count; i++) {
        if (c->items[i].kind != INTEGER || c->items[i].integer < 0)
            return bad(m, "a tensor's shape holds something other than counts");
        out[i] = c->items[i].integer;
    }
    *rank = (int)c->count;
    return 0;
}

/* _rebuild_tensor_v2(storage, offset, shape, stride, requires_grad, hooks) */
static int make_tensor(machine *m, const container *args) {
    if (args->count < 6 || args->count > 7 || args->items[0].kind != STORAGE ||
        args->items[1].kind != INTEGER || args->items[1].integer < 0)
        return bad(m, "a tensor is not described as torch.save does");
    kr_pickle_tensor t = m->tensors[args->items[0].object];
    int strides = 0;
    t.offset = args->items[1].integer;
    KR_TRY(read_counts(m, &args->items[2], t.shape, &t.rank));
    KR_TRY(read_counts(m, &args->items[3], t.stride, &strides));
    if (strides != t.rank) return bad(m, "a tensor's shape and strides differ in number");
    return new_tensor(m, TENSOR, &t);
}

static int op_reduce(machine *m) {
    value args, function, made;
    KR_TRY(pop(m, &args));
    KR_TRY(pop(m, &function));
    if (args.kind != TUPLE || function.kind != GLOBAL)
        return bad(m, "a call of what is no function");
    const container *c = &m->objects[args.object];
    switch (globals[function.object].role) {
    case MAKE_DICT:
        if (c->count != 0) return bad(m, "an OrderedDict made from something");
        KR_TRY(new_object(m, DICT, &made));
        return push(m, made);
    case MAKE_TENSOR: return make_tensor(m, c);
    case MAKE_PARAMETER:
        if (c->count < 1 || c->items[0].kind != TENSOR) return bad(m, "a parameter without tensor");
        return push(m, c->items[0]);
    case STORAGE_TYPE: break;
    }
    return bad(m, "a call of a storage type");
}

/* Attributes of a dictionary (torch's _metadata) say nothing about its tensors. */
static int op_build(machine *m) {
    value state;
    KR_TRY(pop(m, &state));
    const value *object = top(m, 0);
    if (!object || object->kind != DICT || state.kind != DICT)
        return kr_fail(m->e, KRAIT_ERR_UNSUPPORTED,
                       "%s: its pickle uses BUILD on what is not a dictionary", m->path);
    return 0;
}

static int op_stop(machine *m) {
    m->stopped = true;
    return m->depth == 1 && m->at == m->end ? 0 : bad(m, "it stops before its end");
}

/* Every opcode of protocols 0 to 5; those without a function are refused by name. */
static const struct opcode {
    const char *name;
    operation *run;
} opcodes[256] = {
    ['('] = {"MARK", op_mark},
    ['.'] = {"STOP", op_stop},
    ['0'] = {"POP", NULL},
    ['1'] = {"POP_MARK", NULL},
    ['2'] = {"DUP", NULL},
    ['F'] = {"FLOAT", NULL},
    ['I'] = {"INT", NULL},
    ['J'] = {"BININT", op_int4},
    ['K'] = {"BININT1", op_int1},
    ['L'] = {"LONG", NULL},
    ['M'] = {"BININT2", op_int2},
    ['N'] = {"NONE", op_none},
    ['P'] = {"PERSID", NULL},
    ['Q'] = {"BINPERSID", op_persistent},
    ['R'] = {"REDUCE", op_reduce},
    ['S'] = {"STRING", NULL},
    ['T'] = {"BINSTRING", op_text4},
    ['U'] = {"SHORT_BINSTRING", op_text1},
    ['V'] = {"UNICODE", NULL},
    ['X'] = {"BINUNICODE", op_text4},
    ['a'] = {"APPEND", op_append},
    ['b'] = {"BUILD", op_build},
    ['c'] = {"GLOBAL", op_global},
    ['d'] = {"DICT", NULL},
    ['}'] = {"EMPTY_DICT", op_dict},
    ['e'] = {"APPENDS", op_appends},
    ['g'] = {"GET", NULL},
    ['h'] = {"BINGET", op_get1},
    ['i'] = {"INST", NULL},
    ['j'] = {"LONG_BINGET", op_get4},
    ['l'] = {"LIST", NULL},
    [']'] = {"EMPTY_LIST", op_list},
    ['o'] = {"OBJ", NULL},
    ['p'] = {"PUT", NULL},
    ['q'] = {"BINPUT", op_put1},
    ['r'] = {"LONG_BINPUT", op_put4},
    ['s'] = {"SETITEM", op_setitem},
    ['t'] = {"TUPLE", op_tuple},
    [')'] = {"EMPTY_TUPLE", op_tuple0},
    ['u'] = {"SETITEMS", op_setitems},
    ['G'] = {"BINFLOAT", op_float},
    [0x80] = {"PROTO", op_proto},
    [0x81] = {"NEWOBJ", NULL},
    [0x82] = {"EXT1", NULL},
    [0x83] = {"EXT2", NULL},
    [0x84] = {"EXT4", NULL},
    [0x85] = {"TUPLE1", op_tuple1},
    [0x86] = {"TUPLE2", op_tuple2},
    [0x87] = {"TUPLE3", op_tuple3},
    [0x88] = {"NEWTRUE", op_true},
    [0x89] = {"NEWFALSE", op_false},
    [0x8a] = {"LONG1", op_long1},
    [0x8b] = {"LONG4", NULL},
    ['B'] = {"BINBYTES", NULL},
    ['C'] = {"SHORT_BINBYTES", NULL},
    [0x8c] = {"SHORT_BINUNICODE", op_text1},
    [0x8d] = {"BINUNICODE8", op_text8},
    [0x8e] = {"BINBYTES8", NULL},
    [0x8f] = {"EMPTY_SET", NULL},
    [0x90] = {"ADDITEMS", NULL},
    [0x91] = {"FROZENSET", NULL},
    [0x92] = {"NEWOBJ_EX", NULL},
    [0x93] = {"STACK_GLOBAL", op_stack_global},
    [0x94] = {"MEMOIZE", op_memoize},
    [0x95] = {"FRAME", op_frame},
    [0x96] = {"BYTEARRAY8", NULL},
    [0x97] = {"NEXT_BUFFER", NULL},
    [0x98] = {"READONLY_BUFFER", NULL},
};

static int run(machine *m) {
    while (!m->stopped) {
        if (m->at == m->end) return bad(m, "it ends early");
        const struct opcode *op = &opcodes[*m->at++];
        if (!op->name) return bad(m, "an opcode that no protocol has");
        if (!op->run)
            return kr_fail(
                m->e, KRAIT_ERR_UNSUPPORTED,
                "%s: its pickle uses the opcode %s, which no dictionary of tensors needs", m->path,
                op->name);
        KR_TRY(op->run(m));
    }
    return 0;
}

/* ---- the result ---- */

static const container *as_dict(const machine *m, const value *v) {
    return v->kind == DICT ? &m->objects[v->object] : NULL;
}

static bool holds_tensors(const container *d) {
    for (size_t i = 1; i < d->count; i += 2)
        if (d->items[i].kind == TENSOR) return true;
    return false;
}

/* The state dict: the object itself or, where that holds no tensor, one of the members it is
 * usually kept in. */
static const container *find_state_dict(const machine *m, const value *root) {
    static const char *const members[] = {"state_dict", "model_state_dict", "model"};
    const container *d = as_dict(m, root);
    for (int level = 0; d && level < 3 && !holds_tensors(d); level++) {
        const container *inner = NULL;
        for (size_t k = 0; k < sizeof members / sizeof *members && !inner; k++)
            for (size_t i = 0; i + 1 < d->count && !inner; i += 2)
                if (is_text(&d->items[i], members[k])) inner = as_dict(m, &d->items[i + 1]);
        d = inner;
    }
    return d && holds_tensors(d) ? d : NULL;
}

/* Names travel into messages and other files: printable ASCII, as parameter names are. */
static bool plain_text(const char *text, size_t length) {
    for (size_t i = 0; i < length; i++)
        if (text[i] < 0x21 || text[i] > 0x7e) return false;
    return length > 0 && length <= MAX_TEXT;
}

static int gather(machine *m, const container *d, kr_pickle *p) {
    for (size_t i = 0; i + 1 < d->count; i += 2) {
        const value *name = &d->items[i], *v = &d->items[i + 1];
        if (v->kind != TENSOR) continue;
        if (name->kind != TEXT || !plain_text(name->text, name->length))
            return bad(m, "a tensor's name is not printable text");
        kr_pickle_tensor t = m->tensors[v->object];
        if (!plain_text(t.key, (size_t)t.key_length)) return bad(m, "a storage's name is not text");
        t.name = name->text;
        t.name_length = (int)name->length;
        if (kr_grow((void **)&p->tensors, &p->capacity, (size_t)p->count + 1, sizeof t))
            return no_memory(m);
        p->tensors[p->count++] = t;
    }
    return 0;
}

int kr_pickle_read(kr_pickle *p, const unsigned char *bytes, size_t size, const char *path,
                   krait_error *e) {
    *p = (kr_pickle){0};
    machine m = {.at = bytes, .end = bytes + size, .path = path, .e = e};
    int rc = run(&m);
    if (rc == 0) {
        const container *d = find_state_dict(&m, &m.stack[0]);
        rc =
            d ? gather(&m, d, p)
              : kr_fail(e, KRAIT_ERR_FORMAT, "%s: its pickle holds no dictionary of tensors", path);
    }
    for (size_t i = 0; i < m.n_objects; i++) kr_free(m.objects[i].items);
    kr_free(m.objects);
    kr_free(m.stack);
    kr_free(m.memo);
    kr_free(m.tensors);
    return rc;
}

void kr_pickle_free(kr_pickle *p) {
    kr_free(p->tensors);
    *p = (kr_pickle){0};
}

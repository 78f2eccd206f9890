/* graph_impl.h - inside of a graph: shared by build.c, grad.c, plan.c and run.c, and by nothing
 * else. */
#ifndef KR_GRAPH_IMPL_H
#define KR_GRAPH_IMPL_H

#include "graph/graph.h"

typedef enum kr_value_kind {
    KR_VALUE_ACTIVATION, /* lives in the arena */
    KR_VALUE_PARAM,      /* bound; may be trained */
    KR_VALUE_INPUT,      /* bound each run */
    KR_VALUE_STATE,      /* bound; written by an op as a given output */
    KR_VALUE_GRADIENT /* of a parameter or of a wanted input: lives in the gradient block, is added
                         to */
} kr_value_kind;

#define KR_MAX_RANGES 16
#define KR_MAX_AGAIN 4

struct kr_value {
    kr_tensor t; /* the planned shape; data is set by bind or allocate */
    kr_value_kind kind;
    char name[96];
    kr_node *producer; /* the node whose output it first is; NULL: comes from outside */
    kr_value *parent; /* a view: columns [first, first + t.shape[last]) of parent; never a view of a
                         view */
    int64_t first;
    bool keep;   /* an output of the graph: alive to the end */
    int again;   /* from which recomputation on it is not kept; 0: always kept */
    int n_again; /* what its op reads then; 0: what it read at first */
    kr_value *again_in[KR_MAX_AGAIN];
    bool remade;         /* kr_graph_remake */
    bool wanted;         /* kr_graph_want_gradient */
    bool needs_grad;     /* something trainable is behind it */
    bool constant;       /* depends on parameters alone, in a graph that does not train them */
    kr_param_decl *decl; /* parameters */
    kr_value *half;      /* parameters: kr_graph_half_of */

    /* On the GPU: inputs that the host binds, with the place their rows are copied to and what was
     * copied last; what was fetched. */
    bool from_host; /* made by kr_graph_input */
    const void *host;
    void *place, *shown;
    size_t copied;
    void *fetched;

    /* grad.c: the gradient gathered so far. */
    kr_value *grad;
    bool grad_shared;  /* also another value's gradient: must not be written in place */
    bool grad_partial; /* only the column ranges below have been written */
    int n_ranges;
    struct {
        int64_t first, count;
    } range[KR_MAX_RANGES];
    kr_value *twin; /* its copy in the backward pass, when recomputed */

    /* plan.c: positions in the node list between which the memory is in use, and where it is. */
    int64_t birth, death;
    int64_t planned0; /* the first dimension as planned: bindings may be shorter */
    kr_value *alias;  /* shares this value's memory (in-place op); never a chain */
    size_t offset;
    bool placed; /* a gradient that has its offset */
};

struct kr_node {
    const kr_op *op;
    void *attr;
    size_t attr_size;
    kr_value *in[KR_MAX_IN];
    kr_value *out[KR_MAX_OUT];
    int n_in, n_out;
    uint32_t accumulate;
    uint32_t first; /* bit i: out[i] is a gradient block's value that no node before writes */
    bool constant;  /* runs once, not at every run */
    int scope;      /* index into graph->scopes */
    kr_kernel *kernel;
    kr_call call; /* complete after allocate; first dimensions follow the run */
};

/* A run that may come again: the bindings, m and r as one number, and the work once recorded. */
typedef struct kr_run_record {
    uint64_t key;
    kr_recording *work; /* NULL: ran once */
    int64_t used;       /* the run that used it last; 0: this place is free */
} kr_run_record;
enum { KR_RUN_RECORDS = 16 };
enum { KR_GRAPH_CHAIN = 256 }; /* nodes that are handed to the GPU at once, at most */

struct kr_graph {
    kr_graph_options o;
    krait_error error; /* the first failure while building */
    bool failed;
    kr_node **nodes;
    int64_t n_nodes;
    size_t nodes_capacity;
    kr_value **values;
    int64_t n_values;
    size_t values_capacity;
    kr_value **params;
    int64_t n_params;
    size_t params_capacity;
    int64_t *names; /* [name_slots], by the hash of a parameter's name: its index + 1; 0: free */
    size_t name_slots;
    char **scopes;
    int64_t n_scopes;
    size_t scopes_capacity;

    kr_plan_sizes sizes;
    kr_gradient_layout layout;
    unsigned char *arena, *gradients, *scratch, *inputs;
    bool planned, allocated;
    bool borrowed; /* arena and scratch are another graph's */
    bool stale;    /* a binding changed: calls must be refreshed before the next run */
    bool constants_done;
    bool fresh; /* on the GPU: the next run overwrites the gradients instead of adding to them */
    int64_t last_m, last_r;
    /* run_device.c */
    uint64_t key;       /* of the bindings, last_m and last_r */
    uint64_t calls_key; /* of what the nodes' calls hold; 0: nothing yet */
    kr_run_record records[KR_RUN_RECORDS];
    int64_t runs;
    kr_run_hook *hook;
    void *hook_user;
};

/* A backward op that waits for a value which another one makes again. */
typedef struct kr_waiting {
    const kr_op *op;
    kr_value *in[KR_MAX_IN], *out[KR_MAX_OUT], *awaited;
    int n_in, n_out, scope;
    uint32_t accumulate;
} kr_waiting;

/* The tape given to gradient rules: the graph, gradients that must be added after the op being
 * recorded, and what waits. */
#define KR_MAX_PENDING KR_MAX_IN
#define KR_MAX_WAITING 4
struct kr_tape {
    kr_graph *g;
    int n_waiting;
    kr_waiting waiting[KR_MAX_WAITING];
    int n_pending;
    struct {
        kr_value *value, *fresh;
    } pending[KR_MAX_PENDING];
};

/* build.c */
kr_value *kr_value_new(kr_graph *g, kr_value_kind kind, const char *name, const kr_tensor *shape);
int kr_graph_fail(kr_graph *g, krait_err code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* Records a node. create: outputs that are NULL and have a derived shape become new values; else
 * NULL means not wanted. */
void kr_graph_record(kr_graph *g, const kr_op *op, const void *attr, size_t attr_size,
                     kr_value *const *ins, int n_in, kr_value **outs, int n_out,
                     uint32_t accumulate, bool create);

/* run.c */
/* Writes the pointers and sizes of this run into every node's call. */
int kr_graph_refresh(kr_graph *g, int64_t m, int64_t r, krait_error *e);
/* run_device.c */
/* Bindings, m and r as one number, never 0. */
uint64_t kr_graph_key(const kr_graph *g, int64_t m, int64_t r);
int kr_graph_run_device(kr_graph *g, krait_error *e); /* of last_m, last_r, key */
void kr_graph_drop_records(kr_graph *g);

/* Fills n->call with the shapes of its values; data says only present or absent. */
void kr_node_shapes(kr_node *n);

static inline kr_value *kr_value_root(kr_value *v) { return v->parent ? v->parent : v; }

#endif

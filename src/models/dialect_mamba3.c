/* dialect_mamba3.c - config.json of Mamba-3: the state-spaces layout with "ssm_cfg": {"layer":
 * "Mamba3"}; there is no other.
 *
 * The layout does not say how the decay rate comes out of its projection: files of before June 2026
 * need the setting rate=softplus, given on opening (krait convert --set). is_mimo false makes
 * mimo_rank mean nothing. chunk_size and what is fused say how it is computed. Source: MambaConfig
 * and Mamba3 of state-spaces/mamba. */
#include <string.h>

#include "mixers/mamba3/mamba3.h"
#include "models/dialect.h"

static const kr_dialect_key ssm_keys[] = {
    {"d_state", "state"},
    {"expand", "expand"},
    {"headdim", "head_dim"},
    {"ngroups", "groups"},
    {"is_outproj_norm", "out_norm"},
    {"A_floor", "a_floor"},
    {"dt_min", "dt_min"},
    {"dt_max", "dt_max"},
    {"dt_init_floor", "dt_floor"},
};

static const char *const others[] = {"layer",
                                     "rope_fraction",
                                     "is_mimo",
                                     "mimo_rank",
                                     "chunk_size",
                                     "dropout",
                                     "fuse_pregate_headwise_norm"};

static void read_turned(kr_reader *r, kr_mamba3 *s) {
    double fraction = 0.5;
    kr_read_real(r, "rope_fraction", &fraction);
    if (fraction != 0.5 && fraction != 1)
        kr_read_refuse(r, "\"rope_fraction\" is neither 0.5 nor 1");
    s->turned = fraction < 1 ? KR_MAMBA3_HALF : KR_MAMBA3_ALL;
}

static void read_rank(kr_reader *r, kr_config *c) {
    bool mimo = false;
    int64_t rank = 4;
    kr_mamba3 s = kr_mamba3_of(c);
    read_turned(r, &s);
    kr_read_bool(r, "is_mimo", &mimo);
    if (mimo) kr_read_int(r, "mimo_rank", &rank);
    if (rank < 1 || rank > 64) kr_read_refuse(r, "\"mimo_rank\" is not from 1 to 64");
    s.rank = mimo ? rank : 0;
    memcpy(c->settings, &s, sizeof s);
}

static void read_ssm_cfg(kr_reader *outer, kr_config *c) {
    kr_reader r = kr_read_ssm_cfg(outer, ssm_keys, sizeof ssm_keys / sizeof *ssm_keys, others,
                                  sizeof others / sizeof *others, "Mamba-3", c);
    read_rank(&r, c);
    outer->rc = r.rc;
}

static bool is_state_spaces(const json_t *json) { return kr_dialect_has_layer(json, "Mamba3"); }

static void read_state_spaces(kr_reader *r, kr_config *c) {
    kr_config_default(c, "mamba3");
    c->width = 2560;
    c->layers = 64;
    c->vocabulary = c->vocabulary_used = 50277;
    kr_read_state_spaces(r, c);
    read_ssm_cfg(r, c);
}

static const char *lacks(const kr_config *c) {
    kr_mamba3 s = kr_mamba3_of(c);
    if (s.inner % c->width != 0) return "an inner width that is no multiple of the width";
    if (s.rate != KR_RATE_HEAVY_TAIL) return "a rate other than heavy_tail";
    return kr_state_spaces_lacks(c);
}

/* What the original code recommends: a power of two, at most 64 rows times ranks. */
static int64_t chunk_of(const kr_mamba3 *s) {
    int64_t rows = 64;
    while (rows > 1 && rows * kr_mamba3_ranks(s) > 64) rows /= 2;
    return rows;
}

static json_t *make_state_spaces(const kr_config *c, const char *dtype) {
    kr_mamba3 s = kr_mamba3_of(c);
    (void)dtype;
    json_t *json =
        json_pack("{s:s, s:I, s:I, s:I, s:I, s:f, s:f, s:f, s:f, s:f, s:b, s:b, s:I}", "layer",
                  "Mamba3", "d_state", (json_int_t)s.state, "expand",
                  (json_int_t)(s.inner / c->width), "headdim", (json_int_t)s.head_dim, "ngroups",
                  (json_int_t)s.groups, "rope_fraction", s.turned == KR_MAMBA3_ALL ? 1.0 : 0.5,
                  "dt_min", s.dt_min, "dt_max", s.dt_max, "dt_init_floor", s.dt_floor, "A_floor",
                  s.a_floor, "is_outproj_norm", (int)s.out_norm, "is_mimo", (int)(s.rank > 0),
                  "chunk_size", (json_int_t)chunk_of(&s));
    if (json && s.rank && json_object_set_new(json, "mimo_rank", json_integer(s.rank)) != 0) {
        json_decref(json);
        return NULL;
    }
    return kr_make_state_spaces(c, json);
}

const kr_dialect kr_dialect_state_spaces3 = {
    .architecture = "Mamba3ForCausalLM",
    .is = is_state_spaces,
    .read = read_state_spaces,
    .mixer = "mamba3",
    .lacks = lacks,
    .make = make_state_spaces,
};

/* mixer_list.c - the list of mixers, from mixers.def. */
#include "mixers/mixer.h"

#define KR_MIXER(name) extern const kr_mixer kr_mixer_##name;
#include "mixers/mixers.def"
#undef KR_MIXER

#define KR_MIXER(name) &kr_mixer_##name,
const kr_mixer *const kr_mixers[] = {
#include "mixers/mixers.def"
    NULL};
#undef KR_MIXER

const kr_mixer *kr_mixer_find(const char *name) {
    for (int i = 0; kr_mixers[i]; i++)
        if (strcmp(kr_mixers[i]->name, name) == 0) return kr_mixers[i];
    return NULL;
}

/* fn.h - the names that one source gets when it is compiled several times.
 *
 * KR_LEVEL_SUFFIX comes from the build (vector levels: v1, v3, v4) or from op_ref.h (ref, ref64);
 * KR_FN(kr_rmsnorm) is then kr_rmsnorm_v3 and so on. */
#ifndef KR_BASE_FN_H
#define KR_BASE_FN_H

#define KR_PASTE_(a, b) a##_##b
#define KR_PASTE(a, b) KR_PASTE_(a, b)
#define KR_FN(name) KR_PASTE(name, KR_LEVEL_SUFFIX)

#endif

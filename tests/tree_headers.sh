#!/bin/sh
# tree_headers.sh - each header compiles alone: public ones as C11 and as C++, internal ones as C11;
# and only krait_ symbols leave the shared library.
# Usage: tree_headers.sh SOURCE_DIR SHARED_LIBRARY C_COMPILER [CXX_COMPILER]
set -u
cd "$1" || exit 1
library=$2 cc=$3 cxx=${4:-}
failed=0
n=0
alone() { # alone LANGUAGE HEADER COMMAND...: a file that includes nothing else
    language=$1 header=$2
    shift 2
    n=$((n + 1))
    # shellcheck disable=SC2086
    echo "#include \"$header\"" | "$@" $warnings -x "$language" - && return
    echo "$header does not compile alone: $*"
    failed=1
}
warnings='-Wall -Wextra -Werror -fsyntax-only'
echo '#include <cublasLt.h>' | "$cc" -fsyntax-only -x c - 2>/dev/null && cuda=yes || cuda=
for header in include/krait/*.h; do
    alone c "${header#include/}" "$cc" -std=c11 -pedantic -Iinclude
    [ -z "$cxx" ] || alone c++ "${header#include/}" "$cxx" -std=c++11 -pedantic -Iinclude
done
for header in $(find src -name '*.h' | LC_ALL=C sort); do
    case $header in
    */vec*.h | *_ref.h) continue ;; # need the level that their .c file is compiled for
    */cuda/*.h) [ -n "$cuda" ] || continue ;; # need the toolkit's headers
    esac
    alone c "${header#src/}" "$cc" -std=c11 -fopenmp -Iinclude -Isrc
done
echo "$n compilations of headers alone${cxx:+, with C++}"
[ -n "$cuda" ] || echo "device/cuda: skipped, no CUDA headers where the compiler looks"
[ -n "$cxx" ] || echo "C++: skipped, no C++ compiler here"

symbols=$(nm -D --defined-only "$library" | awk '{ print $NF }')
strange=$(printf '%s\n' "$symbols" | grep -v '^krait_')
echo "$(printf '%s\n' "$symbols" | grep -c '^krait_') krait_ symbols leave $(basename "$library")"
if [ -n "$strange" ]; then
    printf 'so do these, which must not:\n%s\n' "$strange"
    failed=1
fi
exit $failed

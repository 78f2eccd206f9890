#!/bin/sh
# install.sh - installs the build into an empty folder and builds every example against it: with
# pkg-config and the shared library, with pkg-config and the static one, and with CMake's package.
# Usage: install.sh SOURCE_DIR BUILD_DIR CMAKE C_COMPILER [FLAG]
set -eu
source=$1 build=$2 cmake=$3 cc=$4 flags='-std=c11 -Wall -Wextra -Werror'
[ "${5:--fsanitize=}" = "-fsanitize=" ] || flags="$flags $5"
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
prefix=$dir/prefix
"$cmake" --install "$build" --prefix "$prefix" >"$dir/log" || { cat "$dir/log"; exit 1; }

libdir=$(dirname "$(find "$prefix" -name libkrait.a)")
PKG_CONFIG_PATH=$libdir/pkgconfig
LD_LIBRARY_PATH=$libdir
export PKG_CONFIG_PATH LD_LIBRARY_PATH
shared=$(pkg-config --cflags --libs krait)
static="$(pkg-config --cflags krait) $libdir/libkrait.a
    $(pkg-config --static --libs krait | sed 's/-lkrait//')"

cat >"$dir/version.c" <<'C'
#include <krait/krait.h>
#include <krait/train.h>
#include <stdio.h>
int main(void) { return puts(krait_version()) < 0; }
C
n=0
# shellcheck disable=SC2086
for file in $(find "$source/examples" -name "*.c") "$dir/version.c"; do
    "$cc" $flags "$file" $shared -lm -o "$dir/shared"
    "$cc" $flags "$file" $static -lm -o "$dir/static"
    n=$((n + 1))
done
"$dir/shared" >"$dir/one"
"$dir/static" >"$dir/two"
cmp "$dir/one" "$dir/two"
[ "$(pkg-config --modversion krait)" = "$(cat "$dir/one")" ]

"$cmake" -S "$source/examples" -B "$dir/examples" -DCMAKE_PREFIX_PATH="$prefix" \
    -DCMAKE_C_COMPILER="$cc" -DCMAKE_C_FLAGS="$flags" >"$dir/log" || { cat "$dir/log"; exit 1; }
"$cmake" --build "$dir/examples" >"$dir/log" || { cat "$dir/log"; exit 1; }

if [ -x "$build/bin/krait" ]; then "$prefix/bin/krait" --help >/dev/null; fi
echo "krait $(cat "$dir/one") installed; $n programs built with pkg-config, shared and static;" \
    "$((n - 1)) with CMake's package"

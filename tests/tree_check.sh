#!/bin/sh
# tree_check.sh - the tree tests tested: each must fail on a tree with one thing wrong.
set -u
tests=$(cd "$(dirname "$0")" && pwd)
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
failed=0
fresh() { # a tree with nothing wrong
    rm -rf "$dir/t"
    mkdir -p "$dir/t/src/vec" "$dir/t/src/ops/one" "$dir/t/cli"
    printf '/* vec.h - a header. */\nint kr_vec(void);\n' >"$dir/t/src/vec/vec.h"
    printf '/* one.c - a file. */\n#include "vec/vec.h"\nint kr_vec(void) {\n    return 1;\n}\n' \
        >"$dir/t/src/ops/one/one.c"
    printf '/* main.c - a file. */\n#include <krait/krait.h>\nint main(void) { return 0; }\n' \
        >"$dir/t/cli/main.c"
}
expect() { # expect pass|fail SCRIPT WHAT
    if sh "$tests/$2" "$dir/t" >"$dir/log" 2>&1; then got=pass; else got=fail; fi
    if [ $got = "$1" ]; then echo "ok: $2 on $3: $got"; return; fi
    echo "WRONG: $2 on $3 should $1"
    cat "$dir/log"
    failed=1
}
fresh
expect pass tree_layers.sh 'nothing wrong'
expect pass tree_style.sh 'nothing wrong'
echo '#include "ops/op.h"' >>"$dir/t/src/vec/vec.h"
expect fail tree_layers.sh 'vectors that know ops'
fresh
echo '  #  include "vec/vec.h"' >>"$dir/t/cli/main.c"
expect fail tree_layers.sh 'the program reaching inside the library'
fresh
mkdir "$dir/t/src/misc"
echo '/* misc.c - a file. */' >"$dir/t/src/misc/misc.c"
expect fail tree_layers.sh 'a folder without a place'
fresh
cp "$dir/t/src/ops/one/one.c" "$dir/t/src/vec/one.c"
expect fail tree_style.sh 'one name twice'
fresh
{ echo 'int kr_long(void) {'; seq -f '    kr_vec(/* { */); /* %g */' 119; echo '}'; } \
    >>"$dir/t/src/ops/one/one.c"
expect fail tree_style.sh 'a function of 121 lines'
fresh
echo "/* TO""DO: everything */" >>"$dir/t/src/vec/vec.h"
expect fail tree_style.sh 'an unfinished file'
fresh
printf '/* %0100d */\n' 0 >>"$dir/t/src/vec/vec.h"
expect fail tree_style.sh 'a long line'
exit $failed

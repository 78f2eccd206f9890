#!/bin/sh
# bench_structs.sh - what bench/scan_structs.py reads from the public header is what C makes of it:
# sizes, and where each member lies. Usage: bench_structs.sh SOURCE_DIR C_COMPILER
set -eu
source=$1 cc=$2
command -v python3 >/dev/null || { echo 'skipped: no python3'; exit 0; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -B "$source/bench/scan_structs.py" >"$dir/python"
{
    printf '#include <%s>\n' krait/error.h krait/scan.h stddef.h stdio.h
    echo 'int main(void) {'
    while read -r name _ member _; do
        printf 'printf("%s %%zu %s %%zu\\n", sizeof(%s), offsetof(%s, %s));\n' "$name" "$member" \
            "$name" "$name" "$member"
    done <"$dir/python"
    echo 'return 0; }'
} >"$dir/sizes.c"
"$cc" -std=c11 -I"$source/include" "$dir/sizes.c" -o "$dir/sizes"
"$dir/sizes" >"$dir/c"
diff "$dir/python" "$dir/c"
echo "$(wc -l <"$dir/c") members lie where C has them"
[ "$(wc -l <"$dir/c")" -gt 40 ]

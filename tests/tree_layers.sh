#!/bin/sh
# tree_layers.sh - reads every #include of src/, cli/ and examples/ and fails on an arrow that the
# layout does not allow. Usage: tree_layers.sh SOURCE_DIR
#
# The arrows, each with what it reaches in turn (docs/tour.md draws them):
set -eu
cd "$1"
arrows='
base
vec        base
tensor     base
hippo      base
device     tensor
ops        device vec
scan       device vec ops.h
graph      ops scan
nn         graph config.h
mixers     nn scan hippo config.h
models     mixers formats data
formats    tensor
data       base
train      models data formats
serve      models data formats
check      train serve
cli
examples
'
# ops.h stands for the files directly in src/ops/ (what an op is), config.h for models/config.h (a
# plain struct). Their direction is against the layers, so only these files may be named.
files=$(find src cli examples \( -name '*.c' -o -name '*.h' \) ! -name '*_test.c' 2>/dev/null |
    LC_ALL=C sort)
# shellcheck disable=SC2086
printf '%s' "$arrows" | awk '
function fail(text) { print FILENAME ":" FNR ": " text; failures++ }
FILENAME == "-" || FILENAME == "" {
    if (NF == 0) next
    known[$1] = 1
    for (i = 2; i <= NF; i++) direct[$1, $i] = 1
    names[++n_names] = $1
    for (i = 2; i <= NF; i++) if (!($i in known) && $i !~ /\.h$/) pending[$i] = 1
    next
}
!closed { # Warshall; the single files are not passed on
    for (k = 1; k <= n_names; k++)
        for (i = 1; i <= n_names; i++)
            if ((names[i], names[k]) in direct)
                for (j = 1; j <= n_names; j++)
                    if ((names[k], names[j]) in direct) direct[names[i], names[j]] = 1
    for (p in pending) if (!(p in known)) { print "no such layer in the table: " p; failures++ }
    closed = 1
}
FNR == 1 {
    n_files++
    split(FILENAME, part, "/")
    area = part[1] == "src" ? part[2] : part[1]
    if (!(area in known)) fail("src/" area " has no place in the layout")
}
/^[ \t]*#[ \t]*include/ {
    n_includes++
    if (match($0, /"[^"]*"/)) {
        name = substr($0, RSTART + 1, RLENGTH - 2)
        if (name ~ /(^|\/)\.\.(\/|$)/) { fail("path with ..: " name); next }
        count = split(name, to, "/")
        target = to[1]
        if (count == 1 || target == area) next # beside the file, or in the same layer
        if ((area, target) in direct) next
        if (target == "ops" && count == 2 && (area, "ops.h") in direct) next
        if (name == "models/config.h" && (area, "config.h") in direct) next
        fail(area " may not include " name)
    } else if (match($0, /<krait\/[^>]*>/) && area == "base" && $0 !~ /krait\/(error|version)\.h/)
        fail("base may include only krait/error.h and krait/version.h")
}
END {
    if (n_files == 0) { print "no files found: wrong folder?"; failures++ }
    printf "%d files, %d includes, %d arrows that are not allowed\n", n_files, n_includes, failures
    exit failures > 0
}' - $files

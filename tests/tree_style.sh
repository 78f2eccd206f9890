#!/bin/sh
# tree_style.sh - the house rules that a program can check: names, sizes, lengths, words.
# Usage: tree_style.sh SOURCE_DIR
set -u
tests=$(cd "$(dirname "$0")" && pwd)
cd "$1" || exit 1
LC_ALL=C
export LC_ALL
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# fail WHAT: fails with the lines on standard input, if there are any.
fail() {
    hits=$(cat)
    [ -z "$hits" ] || printf '%s:\n%s\n' "$1" "$hits" >>"$log"
}
# Kernels that may be longer than 120 lines: "name" a word each, with the reason beside it.
long_kernels=''

if [ -e .git ] && git rev-parse >/dev/null 2>&1; then
    all=$(git ls-files -co --exclude-standard | while read -r f; do [ -f "$f" ] && echo "$f"; done)
else
    all=$(find . \( -name 'build*' -o -name out -o -name .git \) -prune -o -type f -print |
        sed 's|^\./||')
fi
# Fixtures and models have the names that their formats give them.
named=$(printf '%s\n' "$all" | grep -Ev '^(tests/data|models|fuzz/corpus)/')
text=$(printf '%s\n' "$named" | grep -Ev '(^|/)LICENSE$|\.(png|svg|gz|bin)$')
code=$(printf '%s\n' "$text" |
    grep -E '\.(c|h|cu|cuh|def|sh|awk|py|cmake|in)$|CMakeLists|^scripts/|^\.ci/')
c_files=$(printf '%s\n' "$text" | grep -E '\.(c|h|cu|cuh)$')

printf '%s\n' "$named" | sed 's|.*/||' | sort | uniq -d |
    grep -Ev '^(README\.md|CMakeLists\.txt)$' |
    fail 'file names that are not unique'
# shellcheck disable=SC2086
{
    wc -l $text | awk '$2 != "total" && $1 > 1000' | fail 'files of more than 1,000 lines'
    awk 'length > 100 { print FILENAME ":" FNR ": " length " columns" }' $code |
        fail 'lines of more than 100 columns'
    awk '/[ \t\r]$/ { print FILENAME ":" FNR }' $code | fail 'spaces at the end of a line'
    # Split, so that this file does not hold them.
    unfinished='\b(TO''DO|FIX''ME|XX''X|HA''CK)\b|not imple''mented|unimple''mented|place''holder'
    grep -nIE "$unfinished" $text |
        fail 'words that say something is unfinished'
    grep -nIE '(^|[^A-Za-z0-9_.])/(wo''rk|ro''ot|ho''me)/' $text | fail 'paths of one machine'
    grep -LE '^(/\*|#|//|%YAML)' $(printf '%s\n' "$code" | grep -Ev '\.(def|in)$') |
        fail 'files without a first line that says what they do'
    functions=$(awk -f "$tests/c_functions.awk" $c_files) ||
        echo 'functions cannot be measured' >>"$log"
}
printf '%s\n' "$functions" | awk -v allowed=" $long_kernels " '
    $1 > 120 && !index(allowed, " " $2 " ") { print $3 ": " $2 " has " $1 " lines" }' |
    fail 'functions of more than 120 lines'
printf '%s\n' "$functions" | sort -n | awk '
    { lines[NR] = $1; sum += $1; last = $2 }
    END {
        median = lines[int((NR + 1) / 2)]; p90 = lines[int(NR * 0.9 + 0.999)]
        printf "%d functions: median %d lines, 90%% within %d, longest %d (%s), mean %.1f\n",
            NR, median, p90, lines[NR], last, sum / NR
        if (NR == 0 || median > 15 || p90 > 50) {
            exit 1
        }
    }' || echo 'functions too long: the limits are median 15 lines, 90% within 50' >>"$log"
printf '%s files, %s of them C\n' "$(printf '%s\n' "$all" | grep -c .)" \
    "$(printf '%s\n' "$c_files" | grep -c .)"
cat "$log"
[ ! -s "$log" ]

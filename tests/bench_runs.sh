#!/usr/bin/env bash
# bench_runs.sh - the experiments' scripts by a small training: what is whole is kept, other
# settings over the same runs are refused, what is missing or fails is said.
# Usage: bench_runs.sh SOURCE_DIR KRAIT
set -uo pipefail
source=$1 program=$2
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
checks=0 failures=0

# expect STATUS WORDS NAME=VALUE... SCRIPT: it ends so, and its last words are these
expect() {
  local want=$1 words=$2 got
  shift 2
  checks=$((checks + 1))
  env RUNS="$dir/runs" PAGE="$dir/page" KRAIT="$program" KRAIT_DATA="$dir/none" "$@" \
    >"$dir/out" 2>&1
  got=$?
  if [ "$got" -ne "$want" ] || { [ -n "$words" ] && ! grep -q -- "$words" "$dir/out"; }; then
    failures=$((failures + 1))
    echo "FAIL: $* ended with $got, not $want, or without '$words':"
    tail -3 "$dir/out"
  fi
}

cp "$source/bench/experiment.sh" "$dir"
cat >"$dir/report.py" <<'PY'
PY
cat >"$dir/look.sh" <<'SH'
source "$(dirname "$0")/experiment.sh"
member lru width=8 layers=1 state=4 batch=2 ${MORE:-}
train run "${BUDGET:-3}" --task adding --set length=8 "${sets[@]}"
measure run --task adding --set length=8 --examples "${EXAMPLES:-4}"
measure run/other --task adding --set length=16 --examples 4
if command -v python3 >/dev/null; then report; fi
SH
look=$dir/look.sh
expect 0 'run, 3 steps' bash "$look"
first=$(cksum <"$dir/runs/run/events.jsonl")
expect 0 '' bash "$look"
[ "$first" = "$(cksum <"$dir/runs/run/events.jsonl")" ] || { echo 'FAIL: run again'; exit 1; }
grep -q '"examples": *4' "$dir/runs/run/test.json" || { cat "$dir/runs/run/test.json"; exit 1; }
expect 1 'was run otherwise: budget 3,.*(and not: budget 4,' BUDGET=4 bash "$look"
expect 1 'was run otherwise' SETS=seed=2 bash "$look"
expect 0 '' EXAMPLES=5 bash "$look"
grep -q '"examples": *5' "$dir/runs/run/test.json" || { echo 'FAIL: not measured again'; exit 1; }
rm -r "$dir/runs"
expect 0 'run, 4 steps' BUDGET=4 bash "$look"
rm -r "$dir/runs"
expect 1 'run failed: .*nonsense' SETS=nonsense=1 bash "$look"

for script in mila reach hippo s4d_views mqar; do
  expect 1 "$script: there is no program $dir/none/krait: cmake" KRAIT="$dir/none/krait" \
    bash "$source/bench/$script.sh"
done
ln -s "$program" "$dir/krait"
expect 1 "there is no program $dir/hippo_memory" KRAIT="$dir/krait" bash "$source/bench/hippo.sh"
expect 1 'there is no .*tinyshakespeare.txt: set KRAIT_DATA' bash "$source/bench/mila.sh"
if command -v python3 >/dev/null; then
  expect 1 'no tested run of the baseline in .*; missing: baseline, input_gate' \
    python3 -B "$source/bench/report.py" mila "$dir/runs" "$dir"
  expect 1 'no whole run in' python3 -B "$source/bench/report.py" mqar "$dir/runs" "$dir"
fi
echo "$((checks - failures)) of $checks as expected"
[ "$failures" -eq 0 ]

#!/usr/bin/env bash
# gpu_claims.sh - what docs/measured.md says of training on one GPU besides speeds: 500 steps in
# bf16 stay beside those in f32, one sequence of 1,048,576 tokens is a training step, and a model is
# evaluated by position over a text of a million bytes. Prints what each showed.
#
#   KRAIT   the program (default build/bin/krait)
#   DATA    tinyshakespeare.txt (default text/tinyshakespeare.txt in $KRAIT_DATA, or in
#           ../shared/data beside the checkout)
#   DEVICE  default cuda
#   STEPS   of the curves, above the 100 that the rate warms up, default 500
#   WINDOW  of the long sequence, default 1048576
#   WORK    a folder to leave the runs in (default: none is left)
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
krait=${KRAIT:-$here/../build/bin/krait} device=${DEVICE:-cuda}
steps=${STEPS:-500} window=${WINDOW:-1048576}
data=${DATA:-${KRAIT_DATA:-$here/../../shared/data}/text/tinyshakespeare.txt}
[ -r "$data" ] || { echo "$data cannot be read: DATA names the text" >&2; exit 1; }
work=${WORK:-$(mktemp -d)}
[ -n "${WORK:-}" ] || trap 'rm -rf "$work"' EXIT
mkdir -p "$work"

# curve PRECISION: the recipe of docs/tinyshakespeare.md, its log a line a step
curve() {
  "$krait" train --recipe "$here/../recipes/tinyshakespeare.json" --data "$data" \
    --device "$device" --out "$work/$1" --set precision="$1" --set steps="$steps" \
    --set checkpoint_every=0 --set sample_every=0 --set eval_every=100 --set log_every=1 \
    >"$work/$1.txt"
}
curve bf16
curve f32
python3 - "$work/bf16/log.jsonl" "$work/f32/log.jsonl" <<'PYTHON'
import json, sys

def losses(path):
    rows = [json.loads(line) for line in open(path)]
    return {(r["step"], key): r[key] for r in rows for key in ("loss", "eval_loss") if key in r}

half, whole = losses(sys.argv[1]), losses(sys.argv[2])
if half.keys() != whole.keys() or not whole:
    sys.exit("the two runs logged other steps")
for key in ("loss", "eval_loss"):
    apart = {s: abs(half[s, k] / whole[s, k] - 1) for s, k in whole if k == key}
    if apart:
        worst = max(apart, key=apart.get)
        print(f"{key}: bf16 within {100 * apart[worst]:.3f}% of f32 (worst at step {worst} of "
              f"{len(apart)} compared)")
PYTHON

echo "one sequence of $window tokens, 3 steps:"
time "$krait" train --data "$data" --out "$work/long" --device "$device" \
  --set window="$window" --set batch=1 --set steps=3 --set layers=4 --set width=256 \
  --set held_out=0.02 --set warmup=1 --set log_every=1 --set checkpoint_every=0 \
  --set eval_every=0
echo "evaluated by position:"
"$krait" eval --model "$work/long" --data "$data" --device "$device"

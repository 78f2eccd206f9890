#!/usr/bin/env bash
# lru.sh - a training step of an LRU language model: Krait beside PyTorch on the same cores in the
# same run (lru_peer.py). Prints a Markdown table of medians.
#
#   KRAIT_PEER_PYTHON  a Python with torch (default python3)
#   RUNS THREADS       default 5 runs, as many threads as there are cores
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
krait=${KRAIT:-$here/../build/bin/krait} python=${KRAIT_PEER_PYTHON:-python3}
runs=${RUNS:-5}
export OMP_NUM_THREADS=${THREADS:-$(nproc)}
work=$here/../out/lru
rm -rf "$work"
mkdir -p "$work"
rows=$work/rows.jsonl

row() { # row WHAT WHO VALUES
  printf '{"what": "%s", "who": "%s", "unit": "tok/s", "values": [%s]}\n' "$@" >>"$rows"
}
numbers() { grep -oE "\"$1\": *[-0-9.e+]+" | sed 's/.*: *//'; }

# The model of the recipe, of fresh weights.
head -c 20000 /dev/urandom | od -An -tx1 >"$work/text"
"$krait" train --recipe "$here/../recipes/lru-tinyshakespeare.json" --data "$work/text" \
  --out "$work/model" --set steps=1 --set warmup=0 --set held_out=0 --set sample_every=0 \
  >/dev/null 2>&1

for shape in "16 128" "4 1024"; do
  read -r batch tokens <<<"$shape"
  line=$("$krait" bench train --model "$work/model" --batch "$batch" --tokens "$tokens" \
    --runs "$runs" --json | grep '"train')
  line=$(grep 'tok/s' <<<"$line" | head -1)
  row "LRU 6x192 N 192, $batch x $tokens" krait \
    "$(numbers minimum <<<"$line"),$(numbers median <<<"$line"),$(numbers maximum <<<"$line")"
  line=$("$python" "$here/lru_peer.py" "$batch" "$tokens" "$runs")
  way=$(sed 's/.*"way": "by_\([a-z]*\)".*/\1/' <<<"$line")
  values=$(sed 's/.*"values": \[\([^]]*\)\].*/\1/' <<<"$line")
  row "LRU 6x192 N 192, $batch x $tokens" "PyTorch ($way)" "$values"
done
"$python" "$here/peers.py" table "$rows"

#!/usr/bin/env bash
# family.sh - training steps of language models of the family of linear recurrences (S4D, LRU,
# Mamba-2, by their recipes): Krait beside PyTorch, turn by turn on the same cores
# (family_peer.py). Then S4D's convolution alone over long sequences (conv_peer.py). Prints
# Markdown: medians, and the median of the ratios of neighbouring runs.
#
#   KRAIT              the program (default build/bin/krait); libkrait.so lies one folder up
#   KRAIT_PEER_PYTHON  a Python with torch and transformers (default python3)
#   RUNS THREADS       default 5 runs, as many threads as there are cores
#   MEMBERS SHAPES     default "s4d lru mamba2", and "16 128;4 1024": sequences and their tokens
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
krait=${KRAIT:-$here/../build/bin/krait} python=${KRAIT_PEER_PYTHON:-python3}
runs=${RUNS:-5} threads=${THREADS:-$(nproc)}

echo "| mixer | sequences x tokens | Krait tok/s | PyTorch tok/s | times as fast | PyTorch's way |"
echo "|---|---|---|---|---|---|"
IFS=';' read -ra shapes <<<"${SHAPES:-16 128;4 1024}"
for mixer in ${MEMBERS:-s4d lru mamba2}; do
  for shape in "${shapes[@]}"; do
    read -r batch tokens <<<"$shape"
    "$python" "$here/family_peer.py" "$krait" "$here/../recipes/$mixer-tinyshakespeare.json" \
      "$batch" "$tokens" "$runs" "$threads" | "$python" -c '
import json, statistics, sys
r = json.load(sys.stdin)
print("| {mixer} | {batch} x {tokens} | {k:.0f} | {p:.0f} | {ratio:.1f} | {way} |".format(
    k=statistics.median(r["krait"]), p=statistics.median(r["pytorch"]), **r))'
  done
done
echo
"$python" "$here/conv_peer.py" "$(dirname "$krait")/../libkrait.so" 16384 512 64 1 "$runs" \
  "$threads"

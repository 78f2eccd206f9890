#!/usr/bin/env bash
# gpu.sh - Krait beside the official CUDA kernels and models on one GPU in one run, and every kernel
# of Krait beside the ceilings of the card. Writes bench/gpu.md. README.md here says how to get the
# peers; without them their column is empty.
#
#   KRAIT                the program (default build/bin/krait)
#   KRAIT_PEER_PYTHON    a Python with torch, mamba_ssm and causal_conv1d (default python3)
#   RUNS                 default 11
#   OUT                  the file to write (default gpu.md here)
#   WORK                 a folder to leave the rows in (default: none is left)
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
krait=${KRAIT:-$here/../build/bin/krait} python=${KRAIT_PEER_PYTHON:-python3} runs=${RUNS:-11}
out=${OUT:-$here/gpu.md}
work=${WORK:-$(mktemp -d)}
[ -n "${WORK:-}" ] || trap 'rm -rf "$work"' EXIT
mkdir -p "$work"
: >"$work/krait"
: >"$work/peer"

# krait_rows MODEL ARGUMENTS...: rows of krait bench, with the model's name in each; a size alone is
# Mamba's
krait_rows() {
  local model=$1 shape=(--model "mamba-$1")
  [[ $1 != mamba* ]] || shape=(--model "$1")
  shift
  [ "$1" != machine ] || shape=()
  "$krait" bench "$@" "${shape[@]}" --device cuda --json |
    sed "s/^{/{\"model\": \"$model\", /" >>"$work/krait" || echo "$model $*: no rows" >&2
}

krait_rows 130m machine --runs "$runs"
krait_rows 130m scan --runs "$runs"
krait_rows 130m ops --runs "$runs"
krait_rows 130m train --dtype bf16 --runs "$runs"
krait_rows 370m train --dtype bf16 --runs "$runs"
krait_rows mamba2-130m scan --runs "$runs"
krait_rows mamba2-130m train --dtype bf16 --runs "$runs"
for model in 130m 1.4b 2.8b; do
  krait_rows $model decode --dtype bf16 --batch 1 --runs "$runs"
done
krait_rows 1.4b decode --dtype bf16 --batch 128 --tokens 2048 --runs "$runs"
for batch in 1 128; do
  krait_rows mamba2-1.3b decode --dtype bf16 --batch $batch --tokens 128 --runs "$runs"
done
krait_rows mamba2-1.3b decode --dtype bf16 --batch 128 --tokens 128 --state-type bf16 --runs "$runs"
krait_rows 1.4b prefill --dtype bf16 --batch 64 --tokens 2048 --runs "$runs"
"$python" "$here/gpu.py" peer >>"$work/peer" || echo 'peers: some rows are missing' >&2

{
  echo '# On the GPU'
  echo
  echo "Written by bench/gpu.sh on $(date -u +%Y-%m-%d): medians of $runs runs, Krait and its peers"
  echo 'on one card in one run.'
  echo
  nvidia-smi --query-gpu=name,driver_version --format=csv,noheader |
    sed 's/^/- card, driver: /'
  echo "- Krait: $("$krait" --version 2>&1 | head -1)"
  "$python" "$here/gpu.py" table "$work/krait" "$work/peer"
} >"$work/page"
mv "$work/page" "$out"

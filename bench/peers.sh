#!/usr/bin/env bash
# peers.sh - Krait beside llama.cpp and PyTorch on the same machine in the same run: a Mamba-130M of
# random weights, prefill, decode, 32 sequences at once, a training step. Prints a Markdown table of
# medians. README.md here says how to get the peers. Usage: peers.sh [inference] [train] (both)
#
#   KRAIT_PEER_LLAMA   folder with llama-bench and llama-batched-bench
#   KRAIT_PEER_GGUF    llama.cpp's gguf-py folder
#   KRAIT_PEER_PYTHON  a Python with numpy, torch and transformers (default python3)
#   KRAIT_PEER_GIB     memory PyTorch may take, in GiB (default 14)
#   RUNS THREADS       default 5 runs, as many threads as there are cores
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
krait=${KRAIT:-$here/../build/bin/krait}
llama=${KRAIT_PEER_LLAMA:-} python=${KRAIT_PEER_PYTHON:-python3} gib=${KRAIT_PEER_GIB:-14}
runs=${RUNS:-5} threads=${THREADS:-$(nproc)}
export OMP_NUM_THREADS=$threads
work=$here/../out/peers
rows=$work/rows.jsonl
mkdir -p "$work"
: >"$rows"

# row WHAT WHO UNIT VALUE...
row() {
  local what=$1 who=$2 unit=$3 IFS=,
  shift 3
  printf '{"what": "%s", "who": "%s", "unit": "%s", "values": [%s]}\n' "$what" "$who" "$unit" \
    "$*" >>"$rows"
}
# numbers KEY: every "KEY": number of a stream of JSON
numbers() { grep -oE "\"$1\": *[-0-9.e+]+" | sed 's/.*: *//'; }

# krait_row WHAT NAME BENCH_ARGUMENTS...: the row of krait bench whose name begins with NAME; of a
# training step also its peak memory, in GiB
krait_row() {
  local what=$1 name=$2 all line
  shift 2
  all=$("$krait" bench "$@" --runs "$runs" --json)
  line=$(grep "\"name\": *\"$name" <<<"$all")
  row "$what" krait tok/s "$(numbers minimum <<<"$line")" "$(numbers median <<<"$line")" \
    "$(numbers maximum <<<"$line")"
  line=$(grep '"train: peak memory"' <<<"$all" | numbers median) || return 0
  row "$what, peak memory" krait GiB "$(awk "BEGIN { print $line / 1024 }")"
}

gguf() { # gguf TYPE: the file's path, made once
  local file=$work/mamba-130m-$1.gguf
  [ -s "$file" ] ||
    PYTHONPATH=${KRAIT_PEER_GGUF:?is the gguf-py folder} \
      "$python" "$here/peers.py" gguf "$file" "$1"
  echo "$file"
}
llama_row() { # llama_row WHAT TYPE OPTIONS...
  local what=$1 file
  file=$(gguf "$2")
  shift 2
  # shellcheck disable=SC2046
  row "$what" llama.cpp tok/s $("$llama/llama-bench" -m "$file" -t "$threads" -r "$runs" -o json \
    "$@" 2>/dev/null | tr -d '\n' | sed 's/.*"samples_ts": *\[//; s/\].*//; s/,/ /g')
}
llama_batch_row() { # the same run five times: it reports one number
  local what=$1 file values=() i
  file=$(gguf "$2")
  for ((i = 0; i < runs; i++)); do
    values+=("$("$llama/llama-batched-bench" -m "$file" -t "$threads" -tb "$threads" -c 4096 \
      -npp 16 -ntg 16 -npl 32 --output-format jsonl 2>/dev/null | numbers speed_tg | head -1)")
  done
  row "$what" llama.cpp tok/s "${values[@]}"
}
torch_rows() { # torch_rows BATCH [checkpoint]
  local out what="train B$1 T512"
  if ! out=$(ulimit -v $((gib * 1048576)); "$python" "$here/peers.py" train "$1" 512 "$runs" \
    "${@:2}" 2>"$work/torch.log" | tail -1) || [ -z "$out" ]; then
    echo "PyTorch${2:+ ($2)} does not fit a batch of $1 into $gib GiB" >&2
    return
  fi
  local key="\"what\": \"$what\", \"who\": \"PyTorch${2:+, $2}\", \"unit\": \"tok\/s\""
  echo "$out" | sed "s/^{/{$key, /" >>"$rows"
  row "$what, peak memory" "PyTorch${2:+, $2}" GiB "$(echo "$out" | numbers peak_gib)"
}

inference() {
  if [ -n "$llama" ]; then
    llama_row 'prefill 512, f32' f32 -p 512 -n 0
    llama_row 'decode 1, f32' f32 -p 0 -n 32
    llama_row 'decode 1, f16' f16 -p 0 -n 32
    llama_row 'decode 1, bf16' bf16 -p 0 -n 32
    llama_batch_row 'decode 32, f32' f32
  else
    echo 'llama.cpp: skipped, KRAIT_PEER_LLAMA is not set' >&2
  fi
  krait_row 'prefill 512, f32' prefill prefill --tokens 512
  for type in f32 f16 bf16; do
    krait_row "decode 1, $type" 'decode b1"' decode --batch 1 --dtype $type
  done
  krait_row 'decode 32, f32' 'decode b32"' decode --batch 32
}

train() {
  if "$python" -c 'import torch, transformers' 2>/dev/null; then
    for batch in 1 2 4; do torch_rows $batch; done
    torch_rows 4 checkpoint
  else
    echo "PyTorch: skipped, $python has no torch and transformers" >&2
  fi
  for batch in 1 2 4; do
    krait_row "train B$batch T512" 'train step' train --batch $batch
  done
}

[ $# -gt 0 ] || set -- inference train
for part; do "$part"; done
grep -m1 'model name' /proc/cpuinfo | sed 's/.*: //'
echo "$threads threads, $runs runs"
"$python" "$here/peers.py" table "$rows"

#!/usr/bin/env bash
# experiment.sh - what the experiments share: read by `source`, not run. Trains a model for a number
# of steps or of seconds, tests it, and leaves all that was printed in a folder of its own, from
# which report.py makes tables and pictures. A run whose folder is complete is not run again; where
# it was made by other settings the script stops, so that no table holds both.
#
#   KRAIT        the program (default build/bin/krait)
#   KRAIT_DATA   the folder of data sets (default ../shared/data beside the checkout)
#   DEVICE       cpu (default) or cuda
#   BUDGET       of each run: "400" steps, or "30s" seconds of training (each script has its own)
#   RUNS         where the runs are left (default out/<script>)
#   SETS         more settings of every run, over the script's: "width=32 layers=2"
#   PAGE         where tables and pictures go (default docs/results)
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
script=$(basename "$0" .sh)
krait=${KRAIT:-$here/../build/bin/krait}
# shellcheck disable=SC2034 # what is here is for the scripts that read this
data=${KRAIT_DATA:-$here/../../shared/data} recipes=$here/../recipes
device=${DEVICE:-cpu}
runs=${RUNS:-$here/../out/$script} page=${PAGE:-$here/../docs/results}
mkdir -p "$runs" "$page"
runs=$(cd "$runs" && pwd) # one name, however it was given: it is part of the commands

stop() { echo "$script: $*" >&2; exit 1; }

# built PROGRAM: fails where it is not
built() {
  [ -x "$1" ] || stop "there is no program $1: cmake --preset release && cmake --build build," \
    "or set KRAIT to a krait with its examples beside it"
}
built "$krait"

need() { # need PATH: fails where a data set is missing
  [ -e "$1" ] || stop "there is no $1: set KRAIT_DATA"
}

# The members of the family as the experiments know them. Linear attention has rotary positions,
# for else it knows no order, and a norm of each head in place of its normaliser.
declare -A members=(
  [lstm]="mixer=rnn cell=lstm forget_bias=1"
  [s4]="mixer=s4"
  [s4d]="mixer=s4d"
  [lru]="mixer=lru r_min=0.9 r_max=0.999"
  [linear]="mixer=linear_attention block=gated feature=elu normaliser=false head_norm=true
    scale_queries=false rope=true"
  [mamba]="mixer=mamba1"
  [mamba2]="mixer=mamba2"
  [mamba3]="mixer=mamba3"
)
member() { # member NAME KEY=VALUE...: the array `sets` becomes a --set for each setting
  sets=()
  local s
  # shellcheck disable=SC2086
  for s in ${members[$1]} "${@:2}" ${SETS:-}; do sets+=(--set "$s"); done
}

# unpacked ARCHIVE: prints a folder with its files, unpacked once under $runs
unpacked() {
  local to
  to=$runs/data/$(basename "$1" .tar.xz)
  need "$1"
  if [ ! -d "$to" ]; then
    rm -rf "$to.part"
    mkdir -p "$to.part"
    tar -xJf "$1" -C "$to.part"
    mv "$to.part" "$to"
  fi
  echo "$to"
}

# numbers KEY: the values of a key in JSON lines
numbers() { grep -oE "\"$1\": *[-0-9.e+]+" | sed 's/.*: *//'; }

# steps_in SECONDS FOLDER ARGUMENTS...: as many steps of this training as take so long; twelve are
# timed in FOLDER, the first four (which on a GPU record) left out
steps_in() {
  local seconds=$1 to=$2 times
  shift 2
  times=$("$krait" train "$@" --device "$device" --out "$to/probe" --json --set steps=12 \
    --set warmup=12 --set eval_every=0 --set eval_batches=1 --set checkpoint_every=0 \
    2>"$to/errors" | grep '"event":"step"' | numbers seconds) || return 1
  rm -rf "$to/probe"
  awk -v s="$seconds" 'NR == 4 { from = $1 } { to = $1 }
    END { n = int(s / ((to - from) / (NR - 4))); print n < 20 ? 20 : n }' <<<"$times"
}

# same FILE SETTINGS: are these the settings that FILE holds?
same() { [ -e "$1" ] && [ "$(<"$1")" = "$2" ]; }

# train NAME BUDGET ARGUMENTS...: leaves $runs/NAME/{model,events.jsonl,info.json}, and in wanted
# and command how. The warm-up is $warm percent of the steps, or $warm_steps, and there are eight
# evaluations.
warm=5
train() {
  local name=$1 budget=$2 steps to=$runs/$1 wanted
  wanted="budget $2, warm-up ${warm_steps:-$warm%}, on $device: ${*:3}"
  shift 2
  if [ -e "$to/info.json" ]; then
    same "$to/wanted" "$wanted" || stop "$to was run otherwise: $(cat "$to/wanted" 2>/dev/null ||
      echo it does not say how)" \
      "(and not: $wanted). Remove it, or set RUNS to another folder"
    return 0
  fi
  rm -rf "$to"
  mkdir -p "$to"
  echo "$wanted" >"$to/wanted"
  steps=$budget
  if [ "$budget" != "${budget%s}" ]; then
    steps=$(steps_in "${budget%s}" "$to" "$@") || { fail_of "$name" "$to/errors"; return 0; }
  fi
  echo "$script: $name, $steps steps" >&2
  echo "krait train $* --set steps=$steps" >"$to/command"
  if "$krait" train "$@" --device "$device" --out "$to/model" --json --set "steps=$steps" \
    --set "warmup=${warm_steps:-$((steps * warm / 100))}" --set "eval_every=$(((steps + 7) / 8))" \
    --set checkpoint_every=0 >"$to/events.jsonl" 2>"$to/errors"; then
    "$krait" info "$to/model" --json >"$to/info.json"
    rm -rf "$to/model/checkpoints"
  else
    fail_of "$name" "$to/errors"
  fi
}

# What could not be run is said, and the others go on.
failed=0
fail_of() { # fail_of NAME LOG
  echo "$script: $1 failed: $(tail -n 1 "$2")" >&2
  failed=$((failed + 1))
}

# measure NAME ARGUMENTS...: krait eval of the model, into $runs/NAME/test.json, or where NAME is
# RUN/TEST into $runs/RUN/TEST.json; again where the arguments are others
measure() {
  local to=$runs/${1%/*} test=test
  [ "$1" = "${1%/*}" ] || test=${1#*/}
  shift
  [ -e "$to/info.json" ] || return 0
  if [ -e "$to/$test.json" ] && same "$to/$test.wanted" "$*"; then return 0; fi
  rm -f "$to/$test.json"
  echo "$*" >"$to/$test.wanted"
  if "$krait" eval --model "$to/model" --device "$device" --json "$@" >"$to/$test.part" \
    2>"$to/errors"; then
    mv "$to/$test.part" "$to/$test.json"
  else
    fail_of "${to##*/} ($test)" "$to/errors"
  fi
}

report() {
  local told=0
  python3 "$here/report.py" "$script" "$runs" "$page" || told=$?
  [ "$failed" -eq 0 ] || stop "$failed of the runs and tests failed, as said above"
  return "$told"
}

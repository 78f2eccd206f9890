#!/usr/bin/env bash
# language.sh - the family as language models of equal size on equal bytes: English novels, byte by
# byte. Writes language.md, language.svg. experiment.sh says what can be set; here too:
#
#   MEMBERS        lstm s4d lru linear mamba mamba2 mamba3
#   SIZE           full: 2.7 million parameters; small: 0.16 million, for a look on a CPU (full)
#   BATCH WINDOW   of a step (32 1024)
#   TEST           bytes of the test (2000000)
#   TIMES          no: leave out times, where other work would spoil them (yes)
# Every tenth novel is the test. The settings below give the members equal numbers of parameters.
# shellcheck source=bench/experiment.sh
source "$(dirname "$0")/experiment.sh"
budget=${BUDGET:-600} window=${WINDOW:-1024}

declare -A shapes=(
  [lstm]="layers=5 width=256"
  [s4d]="layers=6 width=416"
  [lru]="layers=6 width=256 state=304"
  [linear]="layers=6 width=256 heads=6 key=288 value=384"
  [mamba]="layers=6 width=256"
  [mamba2]="layers=6 width=256 head_dim=64 state=64"
  [mamba3]="layers=6 width=256 head_dim=64 state=64"
)
if [ "${SIZE:-full}" = small ]; then
  shapes=(
    [lstm]="layers=2 width=92"
    [s4d]="layers=2 width=150 state=32"
    [lru]="layers=2 width=96 state=120"
    [linear]="layers=2 width=96 heads=4 key=144 value=144"
    [mamba]="layers=2 width=96"
    [mamba2]="layers=2 width=96 head_dim=32 state=32"
    [mamba3]="layers=2 width=96 head_dim=32 state=32"
  )
fi

novels=$(unpacked "$data/text/novels.tar.xz")/novels
if [ ! -d "$runs/test" ]; then
  mkdir -p "$runs/train" "$runs/test.part"
  n=0
  for file in "$novels"/*.txt; do
    n=$((n + 1))
    to=$runs/train
    [ $((n % 10)) != 0 ] || to=$runs/test.part
    ln -sf "$file" "$to"
  done
  mv "$runs/test.part" "$runs/test"
fi

for name in ${MEMBERS:-lstm s4d lru linear mamba mamba2 mamba3}; do
  read -ra shape <<<"${shapes[$name]}"
  member "$name" "${shape[@]}" "batch=${BATCH:-32}" "window=$window" held_out=0 \
    learning_rate=0.003 min_learning_rate=0.0003
  train "$name" "$budget" --data "$runs/train" "${sets[@]}"
  measure "$name" --data "$runs/test" --context "$window" --max-tokens "${TEST:-2000000}"
done
report

#!/usr/bin/env bash
# tasks.sh - classifying sequences of a thousand rows and more: five tasks by four members of the
# family, each trained for the same time. Writes classification.md, the accuracy beside published
# rows.
# experiment.sh says what can be set; here too:
#
#   MEMBERS    of the family (s4d lru mamba lstm)
#   TASKS      recipes of recipes/tasks (image_grey listops pathfinder imdb spoken_digits)
#   EXAMPLES   of the test (2000)
# shellcheck source=bench/experiment.sh
source "$(dirname "$0")/experiment.sh"
budget=${BUDGET:-15s}

# All read both ways and answer from the mean of the rows, as in the papers of S4D and LRU, whose
# rings and slower rates of the recurrence these are; with four layers where the papers have six,
# for budgets this small. The LSTM, one row after the other, has two, and larger batches.
declare -A tuned=(
  [s4d]="learning_rate=0.006 recurrent_learning_rate=0.2 sequence_norm=true"
  [s4d.image_grey]="dropout=0.1"
  [s4d.spoken_digits]="sequence_norm=false"
  [lru]="learning_rate=0.004 recurrent_learning_rate=0.25"
  [lru.listops]="r_min=0 r_max=0.99"
  [lru.imdb]="r_min=0.5 r_max=0.9"
  [mamba]="learning_rate=0.003"
  [lstm]="learning_rate=0.003 layers=2 batch=128 eval_batches=1"
  [imdb]="batch=32 dropout=0.1"
  [spoken_digits]="dropout=0.1"
)
settings_of() { # settings_of NAME TASK: settings, one a word
  echo layers=4 bidirectional=true pooling=mean eval_batches=4 "${tuned[$2]:-}" \
    "${tuned[$1]:-}" "${tuned[$1.$2]:-}"
}

files_of() { # files_of TASK: the folder that it reads, if it reads one
  case $1 in
    image_grey) echo "$(unpacked "$data/images/cifar10.tar.xz")/cifar10" ;;
    imdb) echo "$(unpacked "$data/text/imdb_labelled.tar.xz")/aclImdb" ;;
    spoken_digits) echo "$(unpacked "$data/audio/fsdd.tar.xz")/fsdd" ;;
  esac
}

for task in ${TASKS:-image_grey listops pathfinder imdb spoken_digits}; do
  files=$(files_of "$task")
  from=(${files:+--data "$files"})
  for name in ${MEMBERS:-s4d lru mamba lstm}; do
    # shellcheck disable=SC2046
    member "$name" $(settings_of "$name" "$task")
    train "$task.$name" "$budget" --recipe "$recipes/tasks/$task.json" "${from[@]}" "${sets[@]}"
    measure "$task.$name" --task "$task" "${from[@]}" --examples "${EXAMPLES:-2000}"
  done
done
report

#!/usr/bin/env bash
# tasks.sh - classifying sequences of a thousand rows and more: five tasks by four members of the
# family, each trained for the same time. Writes tasks.md, the accuracy beside published rows.
# experiment.sh says what can be set; here too:
#
#   MEMBERS    of the family (s4d lru mamba lstm)
#   TASKS      recipes of recipes/tasks (image_grey listops pathfinder imdb spoken_digits)
#   EXAMPLES   of the test (2000)
# shellcheck source=bench/experiment.sh
source "$(dirname "$0")/experiment.sh"
budget=${BUDGET:-15s}

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
    member "$name" eval_batches=4
    train "$task.$name" "$budget" --recipe "$recipes/tasks/$task.json" "${from[@]}" "${sets[@]}"
    measure "$task.$name" --task "$task" "${from[@]}" --examples "${EXAMPLES:-2000}"
  done
done
report

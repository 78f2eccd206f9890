#!/usr/bin/env bash
# s4d_views.sh - the kernel of one S4D system as a recurrence, as a convolution and in continuous
# time, by examples/s4d_views.c. Writes s4d_views.svg; experiment.sh says what can be set.
# shellcheck source=bench/experiment.sh
source "$(dirname "$0")/experiment.sh"
views=$(dirname "$krait")/s4d_views
built "$views"
"$views" >"$runs/views"
for view in recurrence convolution finer continuous; do
  sed -n "s/^$view //p" "$runs/views" >"$runs/$view.tsv"
done
python3 "$here/plot.py" "$page/s4d_views.svg" --height 400 \
  --title "One S4D system, three views" \
  --subtitle "16 complex modes of S4D-Lin; steps of 1/24 s behind a zero-order hold" \
  --x "seconds since an impulse of area 1" --y "what the system answers" \
  "continuous time=$runs/continuous.tsv" "convolution=$runs/convolution.tsv:dots" \
  "recurrence=$runs/recurrence.tsv:rings" "at twice the rate=$runs/finer.tsv:dots"

#!/bin/sh
# Statistics of the weights of the 50 PolyPythias runs (7,700 checkpoints, 2.5 TB to download) as one cube.
#
#   JOBS=16 CACHE=200GB sh recipes/polypythias-weights.sh [FOLDER]
#
# Run it again to go on after a stop, and to try again what failed; several machines that share FOLDER share the work.
# Needs pip install 'polystab[fill]'. The first line says what is left to do, and what that takes.
#
# A few checkpoints are missing on the Hub: their units fail with the reason, the others are measured and joined. Each
# checkpoint is compared with step 0 and the one before; `polystab audit` then names copies and restarts.
set -eu
folder=${1:-polypythias-weights}
jobs=${JOBS:-2}
mkdir -p "$folder"
polystab plan --runs polypythias --sources weights --workers "$jobs" -o "$folder/units"
polystab fill weights --runs polypythias -o "$folder/units" --jobs "$jobs" \
    --cache-dir "$folder/hub" --cache-limit "${CACHE:-100GB}" \
    --merge "$folder/polypythias-weights.nc" --overwrite || [ $? -eq 1 ]
polystab audit "$folder/polypythias-weights.nc" || [ $? -eq 1 ]

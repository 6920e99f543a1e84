#!/bin/sh
# The released evaluations of Pythia (one run a size, up to 12B; zero-shot and five-shot) as one cube.
#
#   sh recipes/pythia-evals.sh [FOLDER]
#
# Run it again to go on after a stop. Needs polystab and git.
#
# Labels come from the content of each file. One whose folder says something else is refused as label-mismatch. Two
# different values for one cell: the first file in sorted order counts, and the other is kept in the audit.
set -eu
folder=${1:-pythia-evals}
commit=a19eecb807ec2c79a39ebf18108816e6ffffc1d5
mkdir -p "$folder"
[ -d "$folder/pythia/.git" ] ||
    git clone --filter=blob:none --no-checkout https://github.com/EleutherAI/pythia "$folder/pythia"
git -C "$folder/pythia" sparse-checkout set evals/pythia-v1
git -C "$folder/pythia" checkout --quiet "$commit"
polystab read lm-eval "$folder/pythia/evals/pythia-v1" -o "$folder/pythia-evals.nc" --overwrite \
    --on-duplicate first --title "Pythia: released evaluations"
polystab audit "$folder/pythia-evals.nc" || [ $? -eq 1 ]

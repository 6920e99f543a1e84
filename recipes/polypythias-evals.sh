#!/bin/sh
# The released evaluations of PolyPythias (50 runs, 27 checkpoints each; about 8,500 files) as one cube.
#
#   sh recipes/polypythias-evals.sh [FOLDER]
#
# Run it again to go on after a stop: files that are there are not fetched again. Needs polystab and the command `hf`
# of huggingface_hub (pip install 'polystab[fill]').
#
# Labels come from the content of each file. One whose folder says something else is refused as label-mismatch: some
# 1,100 files below pythia-410m-seed1..9 hold results of pythia-410m. Where a checkpoint was evaluated twice, the later
# file counts, as in the notebook of the paper, and what it replaced is kept in the audit.
set -eu
folder=${1:-polypythias-evals}
mkdir -p "$folder"
hf download EleutherAI/polypythias-evals --repo-type dataset --local-dir "$folder/results"
polystab read lm-eval "$folder/results" -o "$folder/polypythias-evals.nc" --overwrite \
    --on-duplicate latest --title "PolyPythias: released evaluations"
polystab audit "$folder/polypythias-evals.nc" || [ $? -eq 1 ]

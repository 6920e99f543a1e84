# %% [markdown]
# # What do runs represent, and do they agree?
#
# Two runs of one recipe can reach the same score in different ways. This notebook looks inside, with the bundled cube `nano` (three sizes of a small GPT-NeoX, ten seeds each): what linear probes can read from the hidden states, whether two seeds store it in the same directions, and whether they give the same answers. Put your own runs in its place: `polystab fill probes -O probes.data=my.conllu --runs runs.csv -o fill/`, then `ps.open_tree("fill.nc")`.
#
# Every takeaway is written by the numbers above it.

# %%
import numpy as np
import pandas as pd
from IPython.display import Markdown, display

import polystab as ps
from polystab import plots
from polystab.analysis import item_stability, probe_angles, probe_codelengths, rank_agreement

tree = ps.load_tree("nano")
cube = ps.load_cube("nano")
last = int(cube["step"][-1])
models = [str(name) for name in cube["model"].values]


def takeaway(text, *points):
    """Show a sentence that the numbers wrote, and what belongs to it."""
    display(Markdown("\n".join([f"**Takeaway:** {text}", "", *(f"- {point}" for point in points)])))


# %% [markdown]
# ## 1. What can be read from the hidden states?
#
# A *probe* is a linear classifier on frozen hidden states. How well it classifies depends on how hard one trains it; how *short* the labels become, given the states and the probe, does not. That is the codelength (Voita and Titov 2020): the smaller, the more the states say. *Compression* is the codelength of guessing uniformly over it: 1 says nothing, 5 says that the labels need a fifth of the space.
#
# `nano` comes with gold labels for every word: part of speech, number, depth in the tree, and distance to the head.

# %%
found = probe_codelengths(tree)
best = found["compression"].max("layer")  # the layer that says most
at_end = best.sel(step=last)
print("compression at the end, median over seeds")
print(at_end.median("seed").to_pandas().round(2).to_string())
print("\nlargest over smallest seed")
print((at_end.max("seed") / at_end.min("seed")).to_pandas().round(2).to_string())

middle = at_end.median("seed").sel(model=models[-1]).to_series()
takeaway(
    f"in {models[-1]} the states say most about {middle.idxmax().removeprefix('nano.')} "
    f"(compression {middle.max():.1f}) and least about {middle.idxmin().removeprefix('nano.')} ({middle.min():.1f})."
)

# %% [markdown]
# Much of that is in the word itself: even an untrained network keeps words apart. So compare with the start of training, and with the same probe on shuffled labels (control).

# %%
start = found["start_compression"].max("layer").sel(step=last).median("seed")
print("codelength of the untrained network over the one at the end")
print(start.to_pandas().round(2).to_string())

change = best.median("seed").sel(model=models[-1])
when = {}
for task in found["task"].values:
    curve = change.sel(task=task).dropna("step")
    low, high = float(curve.isel(step=0)), float(curve.max())
    reached = curve["step"].values[np.argmax(curve.values >= (low + high) / 2)]
    when[str(task).removeprefix("nano.")] = (int(reached), high / low)
takeaway(
    f"in {models[-1]}, half of what is ever gained is there by step "
    + ", ".join(f"{step} for {task} (gain x{gain:.1f})" for task, (step, gain) in when.items())
    + "."
)

# %%
plots.curves(cube, metric="probe/nano.depth/codelength@layer2")

# %% [markdown]
# **When not to trust it.** A probe is trained too, and another random seed of the *probe* alone moves the codelength of one checkpoint by 1 to 5 % here: differences between seeds of that size are nothing. Published settings stop earlier and scatter more (`Probes(decay=False, patience=1)`).

# %% [markdown]
# ## 2. Do seeds use the same directions?
#
# The probe's weights span the directions that carry the labels. The angle between two such subspaces is 0 if they are the same and 90 degrees if they have nothing in common; random subspaces of that size have the expected angle beside it. Hidden units of different seeds have no common names, so across seeds nothing but the random angle should be expected. Along one run it is another matter.

# %%
between = probe_angles(tree, between="seeds", rng=0)
along = probe_angles(tree, between="steps", rng=0)
kept = [int(step) for step in along["step"].values if np.isfinite(along["mean_angle"].sel(step=step)).any()]
task = "nano.pos"
across = between["mean_angle"].sel(task=task, step=last).max("layer").median("pair")
chance = between["expected"].sel(task=task)
same = along["mean_angle"].sel(task=task, step=last).max("layer").median("seed")
since = int(along["since"].sel(step=last).max()) if "since" in along else kept[-2]
angles = {"two seeds": across, "random": chance, f"one run, since step {since}": same}
print(f"{task}, angle in degrees at step {last}, the layer with the largest, median over pairs or seeds\n")
print(pd.DataFrame({name: angle.to_series() for name, angle in angles.items()}).loc[models].round(0).to_string())
takeaway(
    f"between seeds the angles are within {float(abs(across - chance).max()):.0f} degrees of what random subspaces have: an "
    f"angle between seeds is no measure of how different they are. Within a run the subspace has turned by "
    f"{float(same.median()):.0f} degrees in the last {last - since} steps."
)

# %% [markdown]
# **When not to trust it.** A small angle in a small space means little: always read it beside `expected`. The bundled cube keeps the probes of six checkpoints only; with all of them `between="steps"` shows when the subspaces come to rest.

# %% [markdown]
# ## 3. Do seeds give the same answers?
#
# Two runs with an accuracy of 80 % may answer the same items correctly, or different ones. Cohen's kappa is the agreement beyond chance: 0 is chance, 1 is always. Over *choices* it asks whether they say the same; over *correctness*, whether they fail on the same items.

# %%
same_answers = ps.agreement(tree)
pairs = same_answers.sel(statistic="all_pairs", task="pooled")
steps = [step for step in (0, 100, 250, 500, last) if step in pairs["step"].values]
for answer in ("choice", "correct"):
    if answer in same_answers["answer"].values:
        print(f"kappa over all pairs of seeds, {answer}, by step")
        print(
            pairs["agreement"]
            .sel(answer=answer, step=steps)
            .transpose("step", "model")
            .to_pandas()
            .round(2)
            .to_string()
        )

names = [str(name) for name in same_answers["answer"].values]
end = pairs.sel(step=last, model=models[-1])
said = {name: [float(end[part].sel(answer=name)) for part in ("agreement", "lower", "upper")] for name in names}
takeaway(
    "at the end, seeds of "
    + models[-1]
    + " agree with a kappa of "
    + " and ".join(f"{value:.2f} [{low:.2f}, {high:.2f}] over {name}" for name, (value, low, high) in said.items())
    + ". "
    + (
        "They choose alike because they are right, not because they share their errors."
        if said[names[0]][0] > 2 * said[names[-1]][0]
        else "They share their errors, too."
    )
)

# %%
own = same_answers.sel(statistic="last_step", task="pooled", answer=names[0])
when = own["agreement"].transpose("step", "model").to_pandas()
print("agreement of a run with its own last step, mean over seeds")
print(when.loc[steps].round(2).to_string())

# %% [markdown]
# ## 4. Which items depend on the seed?
#
# An item is easy if at least 90 % of the seeds answer it correctly, hard if at most 10 % do, and unstable in between. `depends_share` counts the items that not all seeds answer alike.

# %%
items = item_stability(tree).sel(model=models[-1], step=last)
ps.summary(items[["depends_share", "easy_share", "unstable_share", "hard_share"]])

# %%
unstable = items["unstable_share"].drop_sel(task="pooled").to_series()
takeaway(
    f"in {models[-1]} most unstable items are in {unstable.idxmax()}: "
    f"{100 * unstable.max():.0f} % of its items are right in some seeds and wrong in others."
)

# %% [markdown]
# ## 5. Does the seed change which model wins?
#
# Draw one seed of each model and see which is best: how often is that another model than the one that is best on average? `flips` is that share, with an interval over runs; `tau` is Kendall's rank correlation of the models between two such draws, 1 if they always come in the same order.

# %%
ranks = rank_agreement(ps.select(cube, family="eval")).sel(step=last)
ps.summary(ranks)

# %%
flips = ranks["flips"].to_series()
takeaway(
    f"of one seed of each model, the winner is not the model that is best on average in {100 * flips.min():.0f} to "
    f"{100 * flips.max():.0f} % of the draws, depending on the benchmark; equal models would give "
    f"{100 * float(ranks['flips_by_chance'].max()):.0f} %."
)
tree.close()

# %% [markdown]
# **When not to trust it.** Three sizes and ten seeds: the intervals over runs are wide, and they are there to be read. Agreement that is high because every run solves the task says nothing about representations; agreement that is low at chance says nothing either.

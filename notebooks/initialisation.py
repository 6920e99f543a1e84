# %% [markdown]
# # What if training began where it ends?
#
# Weights begin as normal numbers of one size and end as something else: wider, some with heavy tails, gains far from 1. *Basic facts about language models during training* (Millidge and Winsor, 2023) drew these distributions over training, and its readers asked: what if a model *began* with the final distribution? It would not know anything, for every weight would be in the wrong place. But would it learn faster?
#
# The cube `nano-init` answers for one small model. Its runs begin in four ways, five seeds each:
#
# | model | first weights |
# | --- | --- |
# | `nano-33k` | the ordinary initialisation of Pythia: normal, biases 0, gains 1 |
# | `nano-33k-permute` | those of a finished run, shuffled within every matrix and vector |
# | `nano-33k-histogram` | drawn from the histogram of every finished matrix |
# | `nano-33k-normal` | normal, with mean and standard deviation of every finished matrix: the control, which keeps the size and loses the shape |
#
# Seed *k* of all four sees the same documents in the same order, so they are compared pair by pair. The finished run whose weights seed *k* begins with is none of the compared ones: it had another initialisation and another order. `polystab train SUITE --init-from CHECKPOINT --init-how permute` does the same to your recipe.
#
# Each *Takeaway* is written by the numbers.

# %%
import numpy as np
import pandas as pd
from IPython.display import Markdown, display
from scipy.stats import fisher_exact

import polystab as ps
from polystab import plots
from polystab.analysis import failed_runs, variance_ratio

cube = ps.load_cube("nano-init")
with ps.load_tree("nano-init") as tree:
    log, items = tree["log"].to_dataset().load(), tree["items"].to_dataset().load()

ordinary, *begun = [str(name) for name in cube["model"].values]  # the ordinary one comes first
loss = "loss/validation/cross_entropy"


def compared(values, base=ordinary, others=tuple(begun), **options):
    """Other minus base, seed by seed: the mean difference with its 95 % t interval and p, one row for each other."""
    rows = {}
    for other in others:
        sides = [values.sel(model=name).reset_coords(drop=True) for name in (base, other)]
        found = ps.multibootstrap(*sides, design="paired", rng=0, **options).sel(side="difference", interval="t")
        rows[other] = {name: float(found[name]) for name in ("estimate", "lower", "upper", "p")}
    return pd.DataFrame(rows).T


def said(row, digits=3):
    return f"{row['estimate']:+.{digits}f} [{row['lower']:+.{digits}f}, {row['upper']:+.{digits}f}]"


def sign(row, low, high, unclear):
    """A word for a difference that is below 0, above 0, or not clearly either."""
    return low if row["upper"] < 0 else high if row["lower"] > 0 else unclear


def takeaway(text, *points):
    """Show a sentence that the numbers wrote, and what belongs to it."""
    display(Markdown("\n".join([f"**Takeaway:** {text}", "", *(f"- {point}" for point in points)])))


# %% [markdown]
# ## 1. Before the first update
#
# A model that knows nothing should say so: give every one of the 120 words about the same probability, for a loss of ln 120 = 4.79 nats. The ordinary initialisation is made for that. Weights of a finished model are several times as large; shuffled, they are sure of themselves, and wrong.

# %%
first = cube["value"].sel(metric=loss, step=0)
table = pd.DataFrame(
    {"mean": first.mean("seed"), "lowest": first.min("seed"), "highest": first.max("seed")}, index=first["model"]
)
print(table.round(2).to_string())
takeaway(
    f"at step 0 the ordinary model has a loss of {table['mean'][ordinary]:.2f} nats; models that begin with "
    f"finished distributions have {table['mean'][begun].min():.2f} to {table['mean'][begun].max():.2f}, "
    f"{table['mean'][begun].min() - np.log(120):.1f} nats or more above knowing nothing."
)

# %% [markdown]
# **When not to trust it.** How confident a shuffled model is depends on the gain of its final layer norm and on its output matrix, which weight decay and the length of training decide. Other recipes end elsewhere.

# %% [markdown]
# ## 2. The loss curve
#
# Validation loss at every checkpoint: the median seed and the middle half of the seeds.

# %%
plots.curves(cube, metric=loss)

# %% [markdown]
# Medians and bands of five seeds overlap easily. Because seed *k* saw the same batches in all four, we can subtract: the loss of the *same* batches, update by update, one run minus its ordinary twin. Averaged over a stretch of updates, that gives one number for each of five pairs; the interval is Student's t of these five (`multibootstrap`, paired design, seeds resampled). Below zero: better than the ordinary initialisation.

# %%
last = int(log["update"][-1])
stretches = [(1, 10), (11, 50), (51, 100), (101, 250), (251, 500), (501, last)]


def mean_losses(low, high):
    """Loss of each batch of a stretch of updates, as items of a run."""
    return log["loss"].sel(update=slice(low, high)).rename(update="item")


by_stretch = {stretch: compared(mean_losses(*stretch), resample="seeds") for stretch in stretches}
text = {f"{low}-{high}": rows.apply(said, axis=1) for (low, high), rows in by_stretch.items()}
print("difference of the mean training loss from the ordinary twin, in nats, by updates\n")
print(pd.DataFrame(text).T.to_string())

n = len(stretches) * len(begun)
for name in begun:
    clear = [
        f"{low}-{high} {sign(rows.loc[name], 'better', 'worse', '')}"
        for (low, high), rows in by_stretch.items()
        if rows.loc[name, "p"] <= 0.05 / n
    ]
    takeaway(
        f"{name}, after paying for {n} comparisons: {', '.join(clear) if clear else 'no stretch is clearly different'}."
    )

# %% [markdown]
# **When not to trust it.** Five pairs. The interval is right for five numbers that scatter like a bell curve, and a single odd run among five widens it until it says nothing. The stretches are cut by hand; that is why there is a price for the number of comparisons (Bonferroni: p below 0.05 divided by it).

# %% [markdown]
# ## 3. How many updates does it save, or cost?
#
# A difference in nats means little by itself. So: after how many updates is the loss, as a mean over 25 updates, for the first time below a level, and how many updates sooner or later is that than in the ordinary twin?

# %%
smooth = log["loss"].rolling(update=25).mean()
target = smooth.sel(model=ordinary)
levels = [round(float(target.sel(update=at).median("seed")), 1) for at in (100, 250, 500)]
rows = {}
for level in levels:
    below = smooth < level
    reached = below["update"].where(below).min("update")  # NaN: never
    missed = int(reached.isnull().sum())
    found = compared(reached.expand_dims(item=1), resample="seeds")
    rows |= {(level, name): {"updates": said(row, 0), "p": round(row["p"], 4)} for name, row in found.iterrows()}
    if missed:
        print(f"{missed} runs never get below {level}; their pairs are left out")
print("updates later (+) or sooner (-) than the ordinary twin")
print(pd.DataFrame(rows).T.to_string())

# %% [markdown]
# ## 4. Where it ends
#
# Does the beginning still matter at the last step? Validation loss, again in pairs; then the four abilities, where the items are resampled too, since another 300 items would have given other scores.

# %%
end = cube["value"].isel(step=-1)
at_end = compared(end.sel(metric=loss).expand_dims(item=1), resample="seeds")
print("validation loss at the last step, minus that of the ordinary twin, in nats\n")
print(at_end.round(4).to_string())

correct = items["correct"].isel(step=-1).where(items["correct"].isel(step=-1) >= 0)
abilities = {}
for task in np.unique(items["task"]):
    abilities[task] = compared(correct.sel(item=items["task"] == task)).apply(lambda row: said(100 * row, 1), axis=1)
print("\nshare of items answered correctly, difference in points\n")
print(pd.DataFrame(abilities).to_string())

print("\nnano_recall of every run at the end, in points, to see what a mean hides\n")
recall = end.sel(metric="eval/nano_recall/acc").transpose("model", "seed")
print((100 * recall).round(0).to_pandas().to_string())

ends = []
for name, row in at_end.iterrows():
    what = sign(row, "ends better than", "ends worse than", "is not clearly better or worse than")
    ends.append(f"{name} {what} the ordinary initialisation: {said(row, 4)} nats, p = {row['p']:.3f}.")
takeaway("in validation loss, at the end,", *ends)

# %% [markdown]
# **When not to trust it.** An ability that a run either finds or does not (`nano_recall` has two heaps in `nano`) makes the mean of five runs a count of lucky ones. Look at the runs, and remember that "not clearly different" with five pairs is mostly "too few".

# %% [markdown]
# ## 5. Does the seed decide more?
#
# Equal means do not make equal runs. Two questions about the last step: how many times as large is the standard deviation between seeds as that of ordinary runs (`variance_ratio`), and how many runs have found each ability, that is, are more than half way from guessing to all correct? Here pairs do not matter, so the ordinary initialisation is represented by all ten seeds of `nano`, of which our five are the first. That matters: with five, it looked steadier than it is.

# %%
nano = ps.load_cube("nano").sel(model=[ordinary], metric=cube["metric"].values)
both = ps.merge_cubes([cube.sel(model=begun), nano])
ratios = {name: variance_ratio(both, models=(name, ordinary)).isel(step=-1).sel(metric=loss) for name in begun}
columns = ("sd_ratio", "sd_lower", "sd_upper", "p")
spread = pd.DataFrame({name: {key: float(ratio[key]) for key in columns} for name, ratio in ratios.items()}).T
print("standard deviation of the last validation loss between seeds, over that of the ordinary initialisation\n")
print(spread.round(4).to_string())


def found_by(scores):
    """How many runs are more than half way from chance to 1, for each task."""
    tasks = scores.sel(metric=scores["family"] == "eval")
    return (tasks > (1 + tasks["chance"]) / 2).sum("seed").transpose("model", "metric").to_pandas()


print("\nruns that found the ability, of 5, and of the 10 seeds of nano\n")
ten = found_by(nano["value"].isel(step=-1)).rename(index="{} in nano".format)
print(pd.concat([found_by(end), ten]).to_string())
wider = [
    f"{name} ({row['sd_ratio']:.1f} times [{row['sd_lower']:.1f}, {row['sd_upper']:.1f}])"
    for name, row in spread.iterrows()
    if row["sd_lower"] > 1
]
takeaway(f"clearly more spread between seeds than ordinary runs: {', '.join(wider) if wider else 'none of them'}.")

n_begun, n_ten = len(begun) * cube.sizes["seed"], nano.sizes["seed"]
for metric, k_ten in ten.iloc[0].items():
    k = int(found_by(end)[metric][begun].sum())
    p = fisher_exact([[k, n_begun - k], [k_ten, n_ten - k_ten]]).pvalue * ten.shape[1]
    takeaway(
        f"{metric} was found by {k} of {n_begun} begun with finished weights, {k_ten} of {n_ten} ordinary (p = {min(p, 1):.2f})."
    )

# %% [markdown]
# **When not to trust it.** The interval of a ratio of standard deviations supposes losses that scatter like a bell curve. Where some runs find an ability and others do not, losses come in heaps, and the ratio says in one number what the counts say better. And the counts are small, their p (Fisher's exact test, times the number of tasks) too kind: the runs of one seed share their order of documents, and those that begin with finished weights share the finished run, so three models are not three times the evidence.

# %% [markdown]
# ## 6. Is it the shape, or only the size?
#
# The finished distribution differs from the ordinary one in two ways: most matrices are *wider*, and some have another *shape*. The control `nano-33k-normal` has the width and not the shape. If the others do not differ from it, shape does not matter here.

# %%
control = "nano-33k-normal"
shaped = [name for name in begun if name != control]
whole, early = (compared(mean_losses(*stretch), control, shaped, resample="seeds") for stretch in ((1, last), (1, 100)))
print("mean training loss, minus that of the control with the same seed, in nats")
print(
    pd.DataFrame(
        {"updates 1-100": early.apply(said, axis=1), f"updates 1-{last}": whole.apply(said, axis=1)}
    ).to_string()
)
against = compared(mean_losses(1, last), resample="seeds")
words = [
    f"{name} is {sign(row, 'better than', 'worse than', 'not clearly different from')} it"
    for name, row in whole.iterrows()
]
takeaway(
    f"over all of training the control differs from the ordinary initialisation by {said(against.loc[control])} nats; "
    f"{'; '.join(words)}."
)

# %% [markdown]
# **When not to trust it.** A permutation has exactly the finished elements, a histogram draws independent ones, and the normal control keeps the mean of every matrix. What all three lose is which weight stands where; what all three keep, besides the size, is the difference in size *between* matrices, and finished gains and biases, each shuffled or drawn. An experiment with `--init-vectors fresh` would tell gains and biases from matrices.

# %% [markdown]
# ## 7. Did any run go wrong?
#
# A mean over runs of which one diverged is worth nothing, so this should be looked at first. The rules compare a run with the other runs of its model: `high-loss` and `missing-ability` are the heaps of section 5 again.

# %%
with ps.load_tree("nano-init") as tree:
    wrong = failed_runs(tree)
print(wrong["failed"].sum("seed").to_pandas().astype(int).to_string())
takeaway(f"{int(wrong['wrong'].sum())} of {int(wrong['known'].sum())} runs went wrong by the rules of `failed_runs`.")

# %% [markdown]
# ## What to remember
#
# - A distribution is not knowledge. A model with the weights of a finished one in the wrong places starts *worse* than one that knows nothing, and has to unlearn its certainty.
# - What is lost at the start is soon made up: here the mean curves meet again within some tens of updates. What might stay is not in the mean: which abilities a run finds (section 5). Five seeds hint at it and cannot show it.
# - Compare initialisations in pairs that see the same batches: what batches have in common cancels, and five seeds tell more.
# - Have a control. Without the normal one, whatever the finished distribution does would be credited to its shape.
# - One size (33,000 parameters), one recipe (Adam, peak rate 0.01, 1,000 updates), one little language, five seeds. Nothing here says what happens to a large model; the command above tries it on yours.

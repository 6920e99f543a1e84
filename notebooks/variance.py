# %% [markdown]
# # Is my one-point gain the seed?
#
# You changed something in your recipe, trained it once, and a benchmark went up by one point. Would the old recipe have gone up too, with another seed? This notebook answers with the bundled cube `nano`: three sizes of a small GPT-NeoX, ten seeds each, real training. Put your own cube in its place: `polystab read lm-eval results/ -o cube.nc`, then `ps.open_cube("cube.nc")`.
#
# No statistics are needed. Each section asks a question, shows numbers, says in a sentence what they mean (a sentence written by the numbers: with your cube it will say something else), and ends with when not to trust it.

# %%
from itertools import combinations

import numpy as np
from IPython.display import Markdown, display

import polystab as ps
from polystab import plots
from polystab.analysis import (
    checkpoint_noise,
    decision_study,
    final_components,
    item_components,
    noise_floor,
    seed_variances,
    seeds_needed,
    variance_by_size,
    variance_fractions,
    variance_over_windows,
    variance_ratio,
)

cube = ps.select(ps.load_cube("nano"), family=["eval", "loss"])
score = "eval/nano_brackets/acc"  # the benchmark of most sections: 300 items, far from its ceiling and its floor
loss = "loss/validation/cross_entropy"


def takeaway(text, *points):
    """Show a sentence that the numbers wrote, and what belongs to it."""
    display(Markdown("\n".join([f"**Takeaway:** {text}", "", *(f"- {point}" for point in points)])))


# %% [markdown]
# ## 1. Look at the seeds first
#
# Ten runs of one recipe that differ in nothing but the seed. Take any two of them and pretend that one is the old recipe and one the new.

# %%
runs = cube["value"].sel(model="nano-96k", metric=score).isel(step=-1)
gaps = np.array([abs(a - b) for a, b in combinations(runs.values, 2)])

print((100 * runs).round(1).values)
takeaway(
    f"of {len(gaps)} pairs of runs of the same recipe, {np.sum(gaps >= 0.01)} are a point or more apart; "
    f"the median gap is {100 * np.median(gaps):.1f} points and the largest {100 * gaps.max():.1f}."
)

# %% [markdown]
# **When not to trust it.** Ten runs show what is common, not what is rare: the largest gap of ten runs says little about the worst of a hundred.

# %% [markdown]
# ## 2. Who is responsible for the spread?
#
# Scores differ for three reasons. The *models* differ; that is what you want to measure. The *seeds* differ: initialisation and data order. And the *test items* are only 300: another 300 would have given other scores. `variance_components` splits the spread of all runs into these parts, at every step and for every metric.
#
# Variances add up but are hard to picture, so the table has their square roots: a standard deviation (`sd`), in units of the score. `share` is the part of the whole variance.

# %%
parts = ps.variance_components(cube)
shares = variance_fractions(parts)
end = final_components(parts, shares)

ours = end.sel(metric=score, component=["model", "seed", "items"])
picture = ours[["fraction", "fraction_lower", "fraction_upper", "p"]].assign(sd=np.sqrt(ours["variance"]))
display(ps.summary(picture[["sd", "fraction", "fraction_lower", "fraction_upper", "p"]]))


def share(component, metric=score, of=end):
    found = of.sel(component=component, metric=metric)
    return f"{100 * found['fraction']:.0f} % [{100 * found['fraction_lower']:.0f}, {100 * found['fraction_upper']:.0f}]"


takeaway(
    f"at step {int(end['step'].sel(metric=score))} the model explains {share('model')} of the spread in "
    f"{score}, the seed {share('seed')} and the test items {share('items')}."
)

# %% [markdown]
# The brackets hold the interval: had we trained other models and other seeds of the same kind, 95 % of such intervals would contain the true share.
#
# **Why are they so wide?** Not because of the seeds. A share is a part of a whole, and the whole contains the spread *between models*, of which there are three. Three numbers say next to nothing about how much numbers of their kind spread. The spread between the runs of a model rests on 3 x 10 runs and is known well. So read shares as "mostly the model" or "half and half", and take decisions on the standard deviation between runs.

# %%
within = end.sel(component="within", metric=score)
low, sd, high = (100 * float(within[name]) ** 0.5 for name in ("lower", "variance", "upper"))
between = end.sel(component="model", metric=score)
low_model, high_model = (100 * float(between[name]) ** 0.5 for name in ("lower", "upper"))

takeaway(
    f"runs of one model have a standard deviation of {sd:.1f} points [{low:.1f}, {high:.1f}], known to a "
    f"factor of {high / low:.1f} from end to end. That between models may be anything from {low_model:.1f} to "
    f"{high_model:.0f} points, a factor of {high_model / low_model:.0f}."
)

# %% [markdown]
# The same over training, drawn as a stack. Read it as "whose fault is it that scores differ at this step?"

# %%
plots.variance_shares(shares, metric=score)

# %%
late_shares = 100 * shares["fraction"].sel(metric=score, component="model").isel(step=slice(-10, None))
takeaway(
    f"over the last {late_shares.size} checkpoints the model's share in {score} moves between "
    f"{float(late_shares.min()):.0f} and {float(late_shares.max()):.0f} %: read the trend, not one step. "
    f"Of the spread in {loss} at the end, the model explains {share('model', loss)} and the seed {share('seed', loss)}."
)

# %% [markdown]
# **When not to trust it.** (1) `items` comes from the standard error of the score, which counts the difficulty of the items as well. All runs answer the same items, so difficulty does not make runs differ: `items` is the most, `seed` the least it can be. Section 6 does better where answers to single items were kept. (2) The bands of the picture have no intervals; with few models every one of them can be off by a third of the picture. (3) `seed` is everything that differs between the runs of a model: `parts.attrs["confounded"]` says what cannot be told apart. (4) Early steps, where all runs are at chance: shares of almost nothing.

# %% [markdown]
# ## 3. Do all models spread alike?
#
# The number above is one for all models. If small models depend more on the seed than large ones, it is right for none of them.

# %%
# Only the last step goes in: p_adjusted pays for all tests made, and over training they would be hundreds.
spread = seed_variances(cube.isel(step=[-1])).isel(step=0)
sds = np.sqrt(spread["variance"]).transpose("metric", "model").to_pandas().round(4)
print(sds.assign(p=spread["p"].values.round(4), p_adjusted=spread["p_adjusted"].values.round(4)).to_string())

unequal = [str(name) for name in spread["metric"].values[spread["p_adjusted"].values <= 0.05]]
takeaway(
    f"{len(unequal)} of {spread.sizes['metric']} metrics have models that spread differently at the end"
    + (f": {', '.join(unequal)}. There, one number for all models misleads." if unequal else ".")
    + f" For {score}, p = {float(spread['p'].sel(metric=score)):.2f}: "
    + ("one number will do." if score not in unequal else "take the model's own.")
)

# %% [markdown]
# **When not to trust it.** "Not different" mostly means "too few seeds to see it": with ten runs each, this test finds a model that spreads twice as much as another only once in three times, and three times as much twice in three. And a benchmark at its ceiling has no room to spread: a large model that solves the task looks stable for a reason that has nothing to do with its training.

# %% [markdown]
# ## 4. Does the seed last, or is it the checkpoint?
#
# If a run is lucky at step 950, is it still lucky at step 1,000? What lasts (`seed`) is a property of the run. What does not (`seed:step`) is checkpoint noise, and averaging checkpoints removes it for free, without training anything. `variance_over_windows` tells them apart within a window of steps; `checkpoint_noise` says how much each single run scatters over its last checkpoints.

# %%
windows = variance_over_windows(cube, windows=[(250, 500), (500, 750), (750, 1000)])
names = ["model", "seed", "step", "model:step", "seed:step"]
print("standard deviations, in points, in the windows that end at the steps", windows["last_step"].values)
print((100 * np.sqrt(windows["variance"].sel(metric=score, component=names))).round(2).to_pandas())

scatter = checkpoint_noise(cube, last=6)
print("\nscatter of a run over its last 6 checkpoints, in points, about its own trend: median over seeds")
print((100 * scatter["sd_detrended"].sel(metric=score)).median("seed").round(2).to_pandas())

# %%
late = windows.isel(window=-1).sel(metric=score)
lasting, passing = (float(late["variance"].sel(component=name)) for name in ("seed", "seed:step"))
one = 100 * (lasting + passing) ** 0.5
averaged = 100 * (lasting + passing / float(late["n_effective"])) ** 0.5
takeaway(
    f"in the last window {100 * passing / (lasting + passing):.0f} % of the variance between sibling runs is "
    f"checkpoint noise. The mean of its {int(late['n_checkpoints'])} checkpoints has a standard deviation of "
    f"{averaged:.2f} points between seeds, where a single checkpoint has {one:.2f}; more checkpoints cannot get below "
    f"{100 * lasting**0.5:.2f}."
)

slow = windows.isel(window=-1).sel(metric=loss)
rho = float(slow["autocorrelation"])
ends = [float(slow[name].sel(component="seed")) ** 0.5 for name in ("lower", "upper")]
takeaway(
    f"for {loss} the noise has an autocorrelation of {rho:.2f}: "
    + (
        f"what a run does at one checkpoint it still does at the next, so within this window lasting and passing cannot be "
        f"told apart. The seed's standard deviation is somewhere from {ends[0]:.3f} to {ends[1]:.3f} nat, and averaging "
        f"checkpoints gains nothing."
        if rho > 0.9
        else f"averaging {int(slow['n_checkpoints'])} checkpoints is worth {float(slow['n_effective']):.1f} independent ones."
    )
)

# %% [markdown]
# **When not to trust it.** The window has to be flat. Where curves still climb, `step` and `model:step` hold the learning curve, and a run that learns the task 100 steps later than its siblings looks like noise that lasts for the whole window: an autocorrelation near 1 says so. At a decaying learning rate, checkpoints of the last window are more alike than those of a constant one.

# %% [markdown]
# ## 5. Initialisation or data order?
#
# In `nano` both change together. The cube `nano-factorial` has five initialisations, each trained on each of five data orders, so they can be told apart. `variance_components` sees that by itself.

# %%
factorial = ps.select(ps.load_cube("nano-factorial"), family=["eval", "loss"])
crossed = ps.variance_components(factorial)
crossed_end = final_components(crossed, variance_fractions(crossed))

main = ["initialisation", "order", "residual"]
both = crossed_end.sel(component=main)
print("shares in %, and the standard deviation of all 25 runs")
shares_of = (100 * both["fraction"]).transpose("metric", "component").round(0).to_pandas()
print(shares_of.assign(sd=np.sqrt(crossed_end["variance"].sel(component="total")).round(4)).to_string())
print("\n" + crossed.attrs["confounded"])

# %%
found = [
    f"{kind} in {metric} (p = {float(crossed_end['p'].sel(component=kind, metric=metric)):.3f}, of a standard "
    f"deviation of {float(crossed_end['variance'].sel(component='total', metric=metric)) ** 0.5:.4f} in all)"
    for kind in ("initialisation", "order")
    for metric in crossed_end["metric"].values
    if float(crossed_end["p"].sel(component=kind, metric=metric)) <= 0.01
]
takeaway(
    f"in {loss} the initialisation explains {share('initialisation', loss, crossed_end)} of the spread, the data "
    f"order {share('order', loss, crossed_end)}, and {share('residual', loss, crossed_end)} is neither by itself. "
    f"Clear (p <= 0.01): {'; '.join(found) if found else 'nothing'}."
)

# %% [markdown]
# **When not to trust it.** Five of each is few: an effect with a share of 0 % may well have 30 or 40 %, as its interval says. The residual holds the interaction (an order that is lucky with one initialisation only), run noise and test items; to split it, train some combinations twice. Look at the standard deviations before you believe a p-value: `nano_induction` is solved by every run, its scores differ by one item of 300 in a few runs, and a share of that is a share of nothing.

# %% [markdown]
# ## 6. More seeds, or more test items?
#
# Seeds cost training. Items cost evaluation. Which buys more? The cube keeps the answer of every run to every item (the group `items`, read with `load_tree`), so we can split the spread of single answers and then ask what a score *would* be worth with other numbers of both.

# %%
with ps.load_tree("nano") as tree:
    answers = item_components(tree).isel(step=-1).sel(task="nano_brackets")
display(ps.summary(answers[["variance", "lower", "upper"]]))

study = decision_study(answers, n_seeds=[1, 3, 10, 20], n_items=[150, 300, 600, 1200])
print("\nstandard error of a model's score, in points: all models answer the same items (comparing models)")
print((100 * study["stderr_same_items"]).round(2).to_pandas())
print("\nthe same if the items, too, are only a sample (what the task is worth in general)")
print((100 * study["stderr"]).round(2).to_pandas())


# %%
def cheaper(kind):
    """Whether twice the seeds or twice the items go further from 10 seeds and 300 items."""
    error = 100 * study[kind]
    now, seeds, items = (float(error.sel(n_seeds=s, n_items=i)) for s, i in ((10, 300), (20, 300), (10, 600)))
    pays = "items pay more" if items < seeds else "seeds pay more"
    if abs(seeds - items) < 0.05 * now:
        pays = "it hardly matters which"
    return f"twice the seeds take {now:.2f} points of error to {seeds:.2f}, twice the items to {items:.2f}: {pays}"


one_run = 100 * float(study["stderr_same_items"].sel(n_seeds=1, n_items=300)) * 2**0.5
exact, least = (100 * float(found["variance"].sel(component="seed")) ** 0.5 for found in (answers, ours))
takeaway(
    f"to compare models on these items, {cheaper('stderr_same_items')}. To say how good a model is at the task in "
    f"general, {cheaper('stderr')}. The difference of two single runs on 300 items has a standard error of {one_run:.1f} "
    f"points. Single answers put the seed's standard deviation at {exact:.2f} points; section 2 could only say that it is "
    f"no less than {least:.2f} or so."
)

# %% [markdown]
# **When not to trust it.** The forecast is as good as the components, and their intervals are above. It supposes that new items are like the old ones: more items of an easier kind are worth less. And it is one number for all models, as in section 3; `item_components(tree, by_model=True)` gives each its own.

# %% [markdown]
# ## 7. How many seeds do I need?
#
# `noise_floor` is the gap that two recipes must show before seeds stop being an explanation. `seeds_needed` is the number of runs *of each recipe* with which a true gain of one point is found in four of five attempts.

# %%
floors = {n: noise_floor(cube, n_seeds=n).isel(step=-1).sel(metric=score) for n in (1, 3, 10)}
print("gap that two recipes must show, in points")
for n, floor in floors.items():
    by_model = [f"{model} {100 * gap:.1f}" for model, gap in floor["floor"].to_series().items()]
    print(f"{n:2d} runs of each: {', '.join(by_model)}")

needed = seeds_needed(cube, difference={score: 0.01}).isel(step=-1).squeeze("metric", drop=True)
print("\nruns of each recipe to find a gain of one point")
display(ps.summary(needed[["needed", "lower", "upper"]]))

# %%
most = needed.isel(model=int(needed["needed"].argmax("model")))
single = floors[1].sel(model=most["model"])
takeaway(
    f"is the one-point gain the seed? With single runs of {most['model'].item()} it may well be: they must be "
    f"{100 * float(single['floor']):.1f} points apart before seeds are no explanation "
    f"[{100 * float(single['lower']):.1f}, {100 * float(single['upper']):.1f}]. To find one point, train "
    f"{int(most['needed'])} runs of each recipe [{int(most['lower'])}, {int(most['upper'])}]."
)

# %% [markdown]
# **When not to trust it.** The plan rests on a standard deviation from ten runs, and the number of seeds goes with its square: that is why the interval is so wide. Plan by its upper end if a miss is expensive. A floor is where noise stops being an explanation, not where gains begin to be found: a true gain right at the floor is found half of the time. Both suppose that runs of the new recipe spread like those of the old.

# %% [markdown]
# ## 8. Does one recipe depend more on the seed than another?
#
# A recipe can be worth having because it is *stable*. Here the two recipes are the smallest and the largest size; the ratio of their standard deviations has an exact interval.

# %%
pair = ("nano-33k", "nano-215k")
ratio = variance_ratio(cube, models=pair).isel(step=-1)
display(ps.summary(ratio[["sd_ratio", "sd_lower", "sd_upper", "p"]]))


def verdict(metric):
    at = ratio.sel(metric=metric)
    low, high = float(at["sd_lower"]), float(at["sd_upper"])
    what = "less" if high < 1 else "more" if low > 1 else "not clearly different"
    return f"{what} in {metric} ({float(at['sd_ratio']):.2f} times [{low:.2f}, {high:.2f}])"


takeaway(f"spread of {pair[0]} over that of {pair[1]}: {'; '.join(verdict(m) for m in (score, loss))}.")

# %% [markdown]
# **When not to trust it.** The interval is exact for scores that scatter like a bell curve and badly wrong for scores with two heaps. `nano_recall` has two: runs that found out how to recall, and runs that did not. Its "standard deviation" is a fraction of runs in disguise. Look at the values (section 1) before you compare spreads. A ratio of hundreds is a ceiling, not stability.

# %% [markdown]
# ## 9. Do larger models spread less?
#
# The slope of log variance on log size: -1 means that ten times the size has a tenth of the variance, 0 that size does not matter.

# %%
trend = variance_by_size(cube).isel(step=-1)
display(ps.summary(trend[["slope", "lower", "upper", "p_fit"]]))


def slope(metric):
    at = trend.sel(metric=metric)
    value, low, high = (float(at[name]) for name in ("slope", "lower", "upper"))
    if float(at["p_fit"]) <= 0.05:
        return f"in {metric} sizes do not lie on a line (p = {float(at['p_fit']):.3f}): its slope means little"
    what = "falls with size" if high < 0 else "grows with size" if low > 0 else "shows no clear trend"
    return f"the spread in {metric} {what} (slope {value:.1f} [{low:.1f}, {high:.1f}])"


takeaway(f"{slope(score)}; {slope(loss)}; {slope('eval/nano_recall/acc')}.")

# %% [markdown]
# **When not to trust it.** Three sizes within a factor of seven are a short lever: slopes within 0.7 of each other are the same here. `p_fit` says whether the sizes lie on a line at all. And the trap of section 3 again: a task that large models have solved and small ones have not "spreads less with size".

# %% [markdown]
# ## What to remember
#
# - Report the standard deviation between seeds beside every score, with its interval. It needs three runs at the very least; with ten it is known to about a factor of 1.8.
# - A gain smaller than the noise floor of the runs you have is not a finding, however good the idea was.
# - Shares are for understanding, standard deviations for decisions. With three models no share is known well.
# - Averaging late checkpoints is free; more items are cheap; more seeds are expensive. Ask in this order, and only where the numbers say it helps.
# - Every number here supposes runs that differ in nothing but the seed. Copies of runs count once (`duplicate_runs`), diverged runs are left out and counted (`seed_spread`, `failed_runs`): look at them before you look at any variance.

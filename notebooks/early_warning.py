# %% [markdown]
# # Which run is going wrong, and could one have known?
#
# Most training runs go well. Some spike and do not recover, some never learn what their siblings learn. This notebook asks who goes wrong and how, what moved first, and how early one could have known; then it watches runs as if they were training now.
#
# Sections 1 to 8 use the bundled cube `nano-edge`: one small GPT-NeoX without gradient clipping, twelve seeds at each of six recipes, some of which are too hot. Sections 9 and 10 go to the public speedrun logs of modded-nanogpt, which are not in the package. A cell that needs them looks in the folder that the environment variable `POLYSTAB_SHARED` names, or else in `shared/data` here or in a folder above, and says so where it finds nothing. They are two tables, `modded-nanogpt/train_loss.csv.gz` and `modded-nanogpt/val_loss.csv.gz` (columns `track`, `record`, `run`, `step` and the loss), read out of the logs in the folder `records` of github.com/KellerJordan/modded-nanogpt.
#
# Every sentence that begins with *Takeaway* is written by the numbers above it.

# %%
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr
from IPython.display import Markdown, display

import polystab as ps
from polystab import plots
from polystab.analysis import (
    EarlyWarning,
    audit_cube,
    evaluate_warning,
    failed_runs,
    lead_lag,
    outlier_runs,
    outlier_scores,
    prefix_features,
    shared_events,
    spike_scores,
)
from polystab.analysis.early_warning import prefix
from polystab.monitor import Reference, RunWatcher
from polystab.sources.training_logs import read_training_log_by_model

tree = ps.load_tree("nano-edge")
cube = ps.load_cube("nano-edge")
models = [str(name) for name in cube["model"].values]
last = int(cube["step"][-1])
quarter = last // 4

named = os.environ.get("POLYSTAB_SHARED")
places = [Path(named)] if named else [above / "shared" / "data" for above in (Path.cwd(), *Path.cwd().parents)]
speedruns = next((place / "modded-nanogpt" for place in places if (place / "modded-nanogpt").is_dir()), None)
skipped = f"Skipped: there is no folder modded-nanogpt in {named or 'shared/data, here or in a folder above'} (see the first cell)."


def short(model):
    return model.removeprefix("nano-96k-")


def seeds_of(tree, seeds):
    """The cube and the log of some seeds."""
    parts = {"/": tree.to_dataset(), "/log": tree["log"].to_dataset()}
    return xr.DataTree.from_dict({name: part.sel(seed=seeds) for name, part in parts.items()})


def takeaway(text, *points):
    """Show a sentence that the numbers wrote, and what belongs to it."""
    display(Markdown("\n".join([f"**Takeaway:** {text}", "", *(f"- {point}" for point in points)])))


# %% [markdown]
# ## 1. Who goes wrong, and how?
#
# `failed_runs` says it after the fact, by four rules: a loss or gradient that is not finite; a loss spike (an update whose loss is 6 standard deviations above the mean of the 128 before); a final loss 0.1 nat above that of the good runs; an ability that most siblings have and this run lacks. `seen_at` is the update at which the first of them could have said so. It is the line that an early warning has to beat.

# %%
labels = failed_runs(tree)
named_shortly = labels.reset_coords(drop=True).assign_coords(model=[short(model) for model in models])
wrong, failed, seen_at = (named_shortly[name] for name in ("wrong", "failed", "seen_at"))

kinds = failed.sum("seed").to_pandas()
print(kinds.assign(wrong=wrong.sum("seed").values, of=labels.sizes["seed"]).to_string())

# %%
n_wrong, n_good = int(wrong.sum()), int((~wrong).sum())
by_rate = wrong.sum("seed").to_series()
by_rule = failed.sum(["model", "seed"]).to_series()
at_end = int((seen_at >= last).sum())
mixed = by_rate[(by_rate > 0) & (by_rate < labels.sizes["seed"])]
takeaway(
    f"{n_wrong} of {n_wrong + n_good} runs go wrong, {by_rule['spike']} of them with a spike and "
    f"{by_rule['missing-ability']} without an ability that their siblings have. {by_rate.idxmax()} alone has {by_rate.max()}. "
    f"{at_end} are only known at the end of training; the median of the others is seen at update "
    f"{float(seen_at.where(seen_at < last).median()):.0f} of {last}."
)

# %% [markdown]
# Within one recipe, some seeds go wrong and some do not. Here are both kinds at the recipe that has the most of each.

# %%
hot = models[int(np.argmax((wrong.sum("seed") * (~wrong).sum("seed")).values))]
gone = labels["wrong"].sel(model=hot).values
fates = {"go wrong": cube.sel(model=[hot], seed=gone), "stay well": cube.sel(model=[hot], seed=~gone)}
by_fate = ps.merge_cubes([runs.assign_coords(model=[f"{short(hot)}: {fate}"]) for fate, runs in fates.items()])
plots.curves(by_fate.sel(step=slice(50, None)), metric="loss/validation/cross_entropy")

# %% [markdown]
# **When not to trust it.** The labels are rules, with thresholds. A run just below the threshold is "good", and "an ability that most siblings have" needs siblings that have it: where all runs of a recipe fail alike, this rule is silent.

# %% [markdown]
# ## 2. Is the data sound?
#
# Before a run is called ill, ask whether its file is. `audit_cube` looks for copies, restarts, frozen or misplaced checkpoints, impossible values and holes.

# %%
findings = audit_cube(tree)
kinds = findings[["kind", "severity"]].to_dataframe().reset_index(drop=True).value_counts()
print(kinds.rename("findings").to_string())
examples = [
    findings.isel(finding=int(np.argmax(findings["kind"].values == kind))) for kind in np.unique(findings["kind"])
]
lines = [
    f"- `{one['kind'].item()}`, for example: {one['evidence'].item()} *{one['advice'].item()}*" for one in examples
]
display(Markdown("\n".join(lines)))

# %%
entries = tree["audit"].to_dataset()
unlike = entries["path"].values[entries["reason"].values == "unrelated-step-0"]
noted = Counter(short(path.split("/")[2]) for path in unlike)
per_seed = {
    model: len({path.split("/")[3] for path in unlike if short(path.split("/")[2]) == model}) for model in noted
}
print("checkpoints whose weights are noted as unlike those of step 0:", dict(noted))

grave = [kind for (kind, severity), n in kinds.items() if severity != "info"]
takeaway(
    (f"look at these first: {', '.join(grave)}. " if grave else "no error and no warning. ")
    + "Seeds of one number have equal values at the start in several recipes: "
    + ("the same initialisation, as intended. " if "same-start" in findings["kind"].values else "not so here. ")
    + "So runs of one seed number are no independent runs, and an evaluation must hold them out together. Weights unlike those "
    + f"of step 0 are noted in {', '.join(f'{n} of {len(gone)} seeds of {model}' for model, n in per_seed.items())}: "
    + (
        "whole recipes, so it is what such a rate does and no swapped file."
        if min(per_seed.values(), default=0) == len(gone)
        else "look at these."
    )
)

# %% [markdown]
# **When not to trust it.** An audit sees values. That two runs have the same values it can tell; which of the two names is right it cannot.

# %% [markdown]
# ## 3. Which runs are outliers, and what moved first?
#
# *Outlier* and *wrong* are two things. `outlier_runs` asks which runs left their siblings, over all metrics at once, with a false-alarm rate of 5 % for a whole set of runs.

# %%
verdicts = outlier_runs(cube, draws=499)
outlier = verdicts["outlier"].reset_coords(drop=True).assign_coords(model=wrong["model"])
# Where most runs go wrong, nobody stands out; and a spike may be over by the next checkpoint.
counts = {"wrong": wrong, "outlier": outlier, "both": wrong & outlier}
print(pd.DataFrame({name: runs.sum("seed").to_series() for name, runs in counts.items()}).to_string())

# %%
of_hot = [(hot, int(seed)) for kind in (True, False) for seed in cube["seed"].values[gone == kind]]
plots.outliers(outlier_scores(ps.select(cube.sel(model=[hot]), family="loss")), runs=of_hot)

# %%
both = int((wrong & outlier).sum())
missed = (wrong & ~outlier).sum("seed").to_series()
takeaway(
    f"{int(outlier.sum())} runs are outliers, and {both} of them went wrong. {n_wrong - both} of {n_wrong} runs that went "
    f"wrong are no outliers, {missed.max()} of them in {missed.idxmax()}, where {by_rate[missed.idxmax()]} of {labels.sizes['seed']} go wrong. "
    f"In the picture (training and validation loss only) the first {int(gone.sum())} rows of {short(hot)} went wrong, and the others did not."
)

# %% [markdown]
# For runs that are outliers, `lead_lag` says in which order parts of the network left the siblings (-1: never). With checkpoints 50 steps apart it knows the order to 50 steps.

# %%
parts = lead_lag(verdicts, by="component")
onsets = parts["first_onset"].reset_coords(drop=True).assign_coords(model=wrong["model"]).stack(run=["model", "seed"])
chosen = onsets.isel(run=(wrong & outlier).stack(run=["model", "seed"]).values).transpose("group", "run")
print(chosen.to_pandas().loc[lambda table: (table >= 0).any(axis=1)].to_string())

first = (
    lead_lag(verdicts)["first_onset"].where(lambda onset: onset >= 0).min("group").assign_coords(model=wrong["model"])
)
ahead = (seen_at - first).where(wrong & outlier).to_series().dropna()
print(
    "\nsteps from the first onset of any metric until the rule of section 1 could see it (negative: the rule was first)"
)
print(ahead.astype(int).to_string())

# %%
earliest = Counter(
    str(part)
    for column in chosen.transpose("run", "group").values
    for part, onset in zip(chosen["group"].values, column, strict=True)
    if onset >= 0 and onset == column[column >= 0].min()
)
takeaway(
    f"in {int((ahead > 0).sum())} of {len(ahead)} runs something left the siblings at a checkpoint before the rule "
    f"could see it. First, or among the first at the same checkpoint: "
    + ", ".join(f"{part} ({n} of {len(ahead)} runs)" for part, n in earliest.most_common(4))
    + "."
)

# %% [markdown]
# **When not to trust it.** The first onset is the earliest of all metrics of the cube, and the earliest of many is early by chance, too: outlier runs that stayed well have onsets as well. An onset comes later for a metric that is noisy among siblings, so "first" also means "quiet before". An order within one or two checkpoints says little, and a handful of runs is a handful of stories.

# %% [markdown]
# ## 4. What has a run told by a quarter of training?
#
# `prefix_features` turns the beginning of each curve into numbers: level, slope, roughness, peaks, memory, spikes so far. They use values up to the step and nothing after it; that can be checked by taking the future away.

# %%
features = ["log/loss:level", "log/loss:roughness", "log/loss:peak", "log/grad_norm:level"]
told = prefix_features(tree, steps=[quarter], families=["log"])
without_future = prefix_features(prefix(tree, quarter), steps=[quarter], families=["log"])
print("the same without the future:", told.equals(without_future))

value = told["feature_value"].sel(step=quarter, feature=features).assign_coords(model=wrong["model"])
value = value.where(~(seen_at <= quarter))  # those that the rule has seen are no prediction
columns = {
    "all, will go wrong": value.where(wrong),
    "all, will not": value.where(~wrong),
    f"{short(hot)}, will": value.where(wrong).sel(model=[short(hot)]),
    f"{short(hot)}, will not": value.where(~wrong).sel(model=[short(hot)]),
}
medians = pd.DataFrame({name: part.median(["model", "seed"]).to_series() for name, part in columns.items()})
print("\nmedians at step", quarter, "(natural logarithms of loss and gradient norm)")
print(medians.round(3).to_string())

# %%
gaps = medians.iloc[:, 0] - medians.iloc[:, 1], medians.iloc[:, 2] - medians.iloc[:, 3]
takeaway(
    f"over all recipes, the loss level of runs that will go wrong is a factor of {np.exp(gaps[0].iloc[0]):.2f} that of the "
    f"others; within {short(hot)} it is a factor of {np.exp(gaps[1].iloc[0]):.2f}. "
    + (
        "The level tells the recipe more than it tells the run."
        if abs(gaps[1].iloc[0]) < abs(gaps[0].iloc[0]) / 2
        else "So the level tells runs of one recipe apart, too."
    )
)

# %% [markdown]
# ## 5. An early warning, with a budget for false alarms
#
# `EarlyWarning` learns from runs whose end is known and warns of others, step by step. `false_alarm=0.05` is a promise about a whole training: of stable runs at most 5 % *ever* have an alarm. It is kept by ranking a run among the stable training runs, so it needs at least 19 of them. Here it learns from eight seeds and warns of the other four.

# %%
steps = [5, 50, 100, 200, 300, 400, 600, 750]
few = {"families": ["log", "loss", "gradient"], "views": ["all"]}  # with some tens of runs, few columns do better
learn, watch = [seeds.tolist() for seeds in np.split(cube["seed"].values, [8])]

warning = EarlyWarning(steps=steps, **few).fit(seeds_of(tree, learn), labels)
said = warning.warn(seeds_of(tree, watch)).assign_coords(model=wrong["model"])
runs = said["first_alarm"].to_dataframe().join(wrong.to_dataframe()).join(seen_at.to_dataframe())
print(runs[runs["wrong"] | (runs["first_alarm"] >= 0)].to_string())


def in_words(runs):
    caught = runs["wrong"] & (runs["first_alarm"] >= 0) & (runs["first_alarm"] < runs["seen_at"])
    false = ~runs["wrong"] & (runs["first_alarm"] >= 0)
    return f"{caught.sum()} of {runs['wrong'].sum()} caught before seen, {false.sum()} false alarms in {(~runs['wrong']).sum()} good runs"


# %%
print("mean probability of going wrong, held-out seeds")
print(said["probability"].mean("seed").to_pandas().round(2).to_string())

status = dict(zip(said["status"].attrs["flag_values"], said["status"].attrs["flag_meanings"].split(), strict=True))
at_first = Counter(status[code] for code in said["status"].isel(step=0).values.ravel().tolist())
print(f"\nat step {steps[0]}: {', '.join(f'{n} runs {name}' for name, n in at_first.items())}")
ranked = said["probability"].mean(["seed", "step"]).to_series()
takeaway(
    f"{in_words(runs)}. The probability is highest for {ranked.idxmax()}, which has {by_rate[ranked.idxmax()]} bad runs of "
    f"{labels.sizes['seed']}: the warning knows hot recipes. With fewer than {warning.min_points} values of any curve it abstains."
)


# %% [markdown]
# **Without labels.** Where nobody has said which runs went wrong, `novelty` asks how far a run is from the stable ones. If the past runs are not all stable, it takes the bad ones for normal. So leave out what you know to be bad.


# %%
def novelty(known):
    found = EarlyWarning(method="novelty", steps=steps, **few).fit(seeds_of(tree, learn), known)
    return runs.assign(first_alarm=found.warn(seeds_of(tree, watch))["first_alarm"].values.ravel()), found.n_stable_


for name, known in (("all past runs taken for stable", None), ("bad ones left out", labels)):
    alarms, n_stable = novelty(known)
    print(f"novelty, {name} ({n_stable} runs): {in_words(alarms)}")

# %% [markdown]
# **When not to trust it.** Four seeds prove nothing, and neither does the split. The promise holds for runs of the recipes that it learned from. Section 6 holds every run out once, section 7 whole recipes.

# %% [markdown]
# ## 6. Is it better than looking at the loss?
#
# `evaluate_warning` holds out each run once (seeds of one number together), leaves out runs that the rule has already seen, and puts baselines beside the method: the last loss, its slope, the spikes so far, and the robust z among siblings. `auroc` compares all runs. `auroc_within` compares runs of the same recipe only: knowing that a recipe is hot earns nothing there. 0.5 is chance.

# %%
methods = {
    "logistic": EarlyWarning(steps=steps[1:], **few),
    "novelty": EarlyWarning(method="novelty", steps=steps[1:], **few),
}
judged = evaluate_warning(tree, labels, methods=methods, n_resamples=1000)
for measure in ("auroc", "auroc_within"):
    print(f"\n{measure} against step")
    print(judged["value"].sel(measure=measure).to_pandas().round(2).to_string())
print("\nruns", judged[["n_wrong", "n_good", "n_already", "n_pairs"]].to_dataframe().T.to_string(), sep="\n")

# %%
columns = [f"{name}{end}" for name in ("false_alarms", "caught") for end in ("", "_lower", "_upper")] + ["median_lead"]
display(ps.summary(judged[columns]))

in_time = judged["lead"].notnull().assign_coords(model=wrong["model"])
print("\ncaught before the rule could see it, by recipe")
print(in_time.sum("seed").transpose("model", "warning").to_pandas().assign(wrong=by_rate).to_string())


# %%
def against_baseline(found, measure):
    """The first method against the baseline that is best at a quarter of training."""
    at = found.sel(step=quarter, measure=measure)
    gain, low, high = (float(at[name]) for name in ("gain", "gain_lower", "gain_upper"))
    clear = "clearly better" if low > 0 else "clearly worse" if high < 0 else "not clearly different"
    own = float(at["value"].sel(warning="logistic"))
    return f"{own:.2f} against {own - gain:.2f} of {at['best_baseline'].item()}, difference {gain:+.2f} [{low:+.2f}, {high:+.2f}]: {clear}"


def alarms_in_words(found, methods):
    """What the methods and the best of the baselines caught."""
    best = found["caught"].sel(warning=found["baseline"].values).to_series().idxmax()
    words = []
    for name in [*methods, best]:
        own = found.sel(warning=name)
        share, low, high, false = (
            100 * float(own[part]) for part in ("caught", "caught_lower", "caught_upper", "false_alarms")
        )
        words.append(
            f"{name + ', the best baseline,' if name == best else name} catches {share:.0f} % [{low:.0f}, {high:.0f}] of the bad runs "
            f"before they are seen, at {false:.0f} % false alarms"
        )
    return "; ".join(words)


brier = judged[["brier", "brier_base"]].sel(warning="logistic", step=quarter)
caught = in_time.sum("seed").transpose("warning", "model").to_pandas()
everyone = [name for name, n in by_rate.items() if n == labels.sizes["seed"]]
of_caught = [
    f"Of the runs that {name} catches, {caught.loc[name, everyone].sum()} of {caught.loc[name].sum()} are at {', '.join(everyone) or 'no recipe'}, "
    f"where every run goes wrong; at recipes with both kinds it catches {caught.loc[name, mixed.index].sum()} of {mixed.sum()}."
    for name in methods
]
takeaway(
    f"{alarms_in_words(judged, methods)}.",
    *of_caught,
    f"At step {quarter}, AUROC of logistic over all runs {against_baseline(judged, 'auroc')}.",
    f"Within a recipe {against_baseline(judged, 'auroc_within')} ({int(judged['n_pairs'].sel(step=quarter))} pairs).",
    f"Its probabilities have a mean squared error of {float(brier['brier']):.3f}; giving all runs the same share has "
    f"{float(brier['brier_base']):.3f}.",
)

# %% [markdown]
# What this means: an early warning that has seen a recipe go wrong recognises it early in the next run, and that is worth having when recipes are swept. Which of twelve *equal* runs will go wrong, nothing here has been shown to say at a quarter of training, the loss included: read the line "within a recipe". There is a reason. Runs at two of these rates were trained to step 200, and each was then continued six times on other data (`benchmarks/forks_nano_edge.py`): continuations of one state end as differently as those of different states (intraclass correlation −0.03 and −0.07). At most 0.20 and 0.13 of the variance can lie in the state (approximate 95 % limits): most of what decides comes after the quarter.
#
# **When not to trust it.** The settings of `few` were chosen on runs like these, and that flatters. `benchmarks/bench_early_warning.py` in the repository chooses them anew inside every split. Few pairs within a recipe make wide intervals: "not clearly different" also means that a modest gain could not have been seen.

# %% [markdown]
# ## 7. A recipe that it has never seen
#
# The hardest case, and the honest one for a new recipe: hold out all runs of a recipe, learn from the other five.

# %%
unseen = evaluate_warning(
    tree, labels, methods={"logistic": methods["logistic"]}, leave="learning_rate", n_resamples=1000
)
display(ps.summary(unseen[columns]))

false, budget = float(unseen["false_alarms"].sel(warning="logistic")), unseen.attrs["false_alarm"]
takeaway(
    f"on recipes that it has not seen, {alarms_in_words(unseen, ['logistic'])}.",
    f"At step {quarter}, AUROC of logistic over all runs {against_baseline(unseen, 'auroc')}.",
    f"The budget of {100 * budget:.0f} % is not kept ({100 * false:.0f} %): it is a promise about runs like those it learned from."
    if false > budget
    else f"The budget of {100 * budget:.0f} % is kept here, though nothing guarantees it.",
)

# %% [markdown]
# ## 8. Live
#
# While a run trains, the question is simpler: is it still where past runs of the recipe were? A `Reference` lays out past runs, without those that went wrong, and a `RunWatcher` takes the values that a run logs, one step after the other. Its rate of false alarms is for a whole training and follows from the number of past runs: n of them give 1 / (n + 1) at best.

# %%
log = tree["log"].to_dataset().load()
reference = Reference(tree, model=hot)
print(reference)
print(*reference.notes, sep="\n")


def follow(watcher, seed):
    """Feed a recorded run to a watcher, update by update, until there is an alarm."""
    run = log.sel(model=hot, seed=seed)
    for update, loss, norm in zip(run["update"].values, run["loss"].values, run["grad_norm"].values, strict=True):
        watcher.update(update, {"loss/train/cross_entropy": loss, "gradient/all/norm": norm})
        if watcher.alarms:
            return watcher.alarms[0]
    return None


bad = int(cube["seed"].values[gone][0])
alarm = follow(RunWatcher(reference), bad)
print(f"\nseed {bad}, seen by the rule at update {float(labels['seen_at'].sel(model=hot, seed=bad)):.0f}:")
print(alarm.message if alarm else "no alarm")

# %% [markdown]
# Each of the twelve runs in turn, with itself left out of the reference:

# %%
rows = {}
for seed in cube["seed"].values.tolist():
    others = Reference(seeds_of(tree, [other for other in cube["seed"].values if other != seed]), model=hot)
    found = follow(RunWatcher(others), seed)
    rows[seed] = {
        "wrong": bool(labels["wrong"].sel(model=hot, seed=seed)),
        "seen_at": float(labels["seen_at"].sel(model=hot, seed=seed)),
        "alarm": found.step if found else -1,
        "rule": found.rule if found else "",
        "metric": found.metric if found else "",
        "false_alarm": others.false_alarm,
    }
live = pd.DataFrame(rows).T.rename_axis("seed").infer_objects()
print(live.round(2).to_string())

ill, well = live[live["wrong"]], live[~live["wrong"]]
late = (ill["alarm"] - ill["seen_at"])[ill["alarm"] >= 0]
takeaway(
    f"an alarm in {(ill['alarm'] >= 0).sum()} of {len(ill)} bad runs, a median of {late.median():.0f} updates after the rule could "
    f"see it (from {late.min():.0f} to {late.max():.0f}), and in {(well['alarm'] >= 0).sum()} of {len(well)} good ones, where "
    f"{well['false_alarm'].sum():.1f} may be expected at most. A band sees a spike, it does not foresee it. Stopping there "
    f"would save a median of {100 * (1 - ill['alarm'][ill['alarm'] >= 0].median() / last):.0f} % of the training of a bad run."
)

# %% [markdown]
# In your own training, that is five lines. The callback takes at most 2 % of the time of training, writes what it measured as a training log, and stops the run at an alarm if `stop=True`:
#
# ```python
# from transformers import Trainer
# from polystab.monitor import Reference, StabilityCallback
#
# callback = StabilityCallback(Reference("past_runs.nc", model="my-recipe"), stop=True)
# Trainer(model, args, train_dataset=data, callbacks=[callback]).train()
# ```
#
# For any other job that appends to a CSV, a JSONL or a `trainer_state.json`: `polystab watch LOG --reference past_runs.nc`. Without past runs, a run is compared with its own past.
#
# **When not to trust it.** The rate holds for runs of the same recipe that are logged at the same steps and in the same way: a mean over ten updates scatters less than single ones. With so few past runs the rate cannot be lower, however well the band separates.

# %% [markdown]
# ## 9. Speedruns: a spike that everybody has is no outlier
#
# Now data from elsewhere: records of modded-nanogpt, most of them one recipe each, run up to 75 times. Early records logged the training loss of every update. `spike_scores` finds spikes by the rule of section 1, and whether the siblings have them too; `shared_events` asks the same of any metric and any checkpoints (single points that are off while their neighbours agree).

# %%
names = {"model": "track+record", "seed": "run"}
records = {}
if speedruns is None:
    print(skipped)
else:
    records = read_training_log_by_model(speedruns / "train_loss.csv.gz", columns=names)

rows = {}
for record, runs_of in records.items():
    if runs_of.sizes["seed"] >= 4:
        found = spike_scores(runs_of).sel(rule="6 sd of 128").sum("seed").isel(model=0)
        rows[record.split("/")[1]] = {
            "runs": runs_of.sizes["seed"],
            **{name: int(found[name]) for name in ("n_spikes", "n_shared", "n_own")},
            "shared_events": int(shared_events(runs_of)["n_shared"].sum()),
            "outliers": int(outlier_runs(runs_of, draws=199)["outlier"].sum()),
        }
spikes = pd.DataFrame(rows).T
if len(spikes):
    print(spikes.to_string())
    total = spikes.sum()
    takeaway(
        f"of {total['n_spikes']} updates that spike, {100 * total['n_shared'] / max(total['n_spikes'], 1):.0f} % are shared by most runs of "
        f"the record at the same update: that is the data or the schedule, and no run's own doing. {total['outliers']} of {total['runs']} runs are outliers."
    )

# %%
spiky = max(records, key=lambda name: records[name].sizes["seed"]) if records else None
plots.curves(records[spiky], metric="loss/train/cross_entropy") if spiky else print(skipped)

# %% [markdown]
# **When not to trust it.** "Shared" needs siblings with the same data order. Runs that read the data in another order have spikes of their own even where a kind of batch is to blame.

# %% [markdown]
# ## 10. Speedruns: one trajectory under two names
#
# Validation losses exist for over a thousand runs. Are they all different runs? Records of one period are put into one cube and audited.

# %%
curves = {} if speedruns is None else read_training_log_by_model(speedruns / "val_loss.csv.gz", columns=names)
copies = Counter()
for year in ("2024", "2025") if curves else ():
    part = [runs.to_dataset() for record, runs in curves.items() if record.startswith(f"track_1_short/{year}")]
    if not part:
        continue
    found = audit_cube(ps.merge_cubes(part))
    print(f"{year}, {len(part)} records:", dict(Counter(found["kind"].values.tolist())))
    same = found.isel(finding=found["kind"].values == "identical-run")
    copies.update(zip(same["model"].values.tolist(), same["other_model"].values.tolist(), strict=True))
    if same.sizes["finding"]:
        print(f"  {same['evidence'].values[0]}\n  {same['advice'].values[0]}")
if copies:
    doubled = [
        f"{n} of {curves[record].sizes['seed']} runs of {record} also stand under {other}"
        for (record, other), n in copies.most_common()
    ]
    takeaway("runs that stand under two records, and would be counted twice:", *doubled)
if not curves:
    print(skipped)

# %% [markdown]
# Last, a verdict on every record with at least eight runs. In records of one recipe, 5 % may have an outlier by chance.

# %%
whole_copies = {record for (record, _), n in copies.items() if n == curves[record].sizes["seed"]}
found_in = {
    record: outlier_runs(runs_of, draws=199)
    for record, runs_of in curves.items()
    if runs_of.sizes["seed"] >= 8 and record not in whole_copies
}
rows = {
    record: {"runs": found.sizes["seed"], "outliers": int(found["outlier"].sum())} for record, found in found_in.items()
}
some = pd.DataFrame(rows.values(), index=list(rows), columns=["runs", "outliers"]).query("outliers > 0")
some = some.sort_values("outliers", ascending=False)
if len(some):
    print(some.to_string())
    takeaway(
        f"{len(some)} of {len(rows)} records have an outlier; {0.05 * len(rows):.0f} would by chance if all were runs of one "
        f"recipe. {some.index[0]} has {some['outliers'].iloc[0]} in {some['runs'].iloc[0]} runs: look whether that is one recipe. "
        f"{(some['outliers'] == 1).sum()} records have a single one, which is what chance looks like, too."
    )
elif rows:
    takeaway(f"none of {len(rows)} records has an outlier.")
else:
    print(skipped)


# %%
def picture(record):
    """When the outliers of a record, and some of its other runs, stand out."""
    is_outlier = found_in[record]["outlier"].isel(model=0).to_series()
    first_outliers = is_outlier.sort_values(ascending=False, kind="stable").index
    return plots.outliers(
        outlier_scores(curves[record]), runs=[(record, int(seed)) for seed in first_outliers], limit=20
    )


picture(some.index[0]) if len(some) else print("Nothing to draw." if rows else skipped)

# %% [markdown]
# **When not to trust it.** Nothing in these logs says what a run was. Some folders hold several configurations, and then runs "deviate" because they are something else. An outlier is a question to whoever trained it, not an answer.

# %% [markdown]
# ## What to remember
#
# - First the file, then the run: copies, restarts and frozen checkpoints look like outliers and are none.
# - *Wrong*, *outlier* and *alarm* are three things. A run that goes wrong is no outlier where its siblings go wrong as well; an outlier need not be bad.
# - Judge an early warning by runs that it has not seen, within a recipe, beside the last loss, at a stated share of false alarms. Most early warnings look good without one of these.
# - A warning that knows a recipe's past recognises a hot recipe. It does not foresee the spike of one seed among equal ones.
# - A live band does not foresee either, but it costs nothing and stops a run that has left the others.

# %%
tree.close()

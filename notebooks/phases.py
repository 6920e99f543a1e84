# %% [markdown]
# # When does training change character?
#
# Losses fall smoothly, abilities often do not: a model that could not do something learns it within a few hundred steps. This notebook looks for such phases in two ways, and asks each time whether to believe them:
#
# 1. **Change points**: at which step does *one curve* change, and do other seeds agree?
# 2. **Training maps**: which states does *a whole run* pass through (a hidden Markov model over many metrics)?
#
# Sections 1 to 5 use the bundled cube `nano` (three sizes, ten seeds each, real training). Sections 6 to 9 repeat published training maps of Pythia with published numbers beside ours; they need two files that are not in the package and are skipped where these are not found. The sentences that begin with *Takeaway* are written by the numbers: with your cube they say something else.

# %%
import os
from pathlib import Path

import numpy as np
import pandas as pd
from IPython.display import Markdown, display

import polystab as ps
from polystab import plots
from polystab.analysis import (
    consensus_change_points,
    map_agreement,
    performance_from_occupancy,
    phase_size_trend,
    state_occupancy,
    state_paths,
    state_transitions,
    transition_effects,
)

cube = ps.select(ps.load_cube("nano"), family=["eval", "loss"])
evals = [str(name) for name in cube["metric"].values if name.startswith("eval/")]
induction, agreement, recall = (f"eval/nano_{task}/acc" for task in ("induction", "agreement", "recall"))

# Pythia70m_Hu_metrics.tsv (branch hmm-training-maps, folder hmm-training-maps/results) and training_maps.tsv (folder
# polypythias/data) of github.com/EleutherAI/pythia, looked for here and in the folders above, or where POLYSTAB_SHARED says.
named = os.environ.get("POLYSTAB_SHARED")
places = [Path(named)] if named else [above / "shared" / "data" for above in (Path.cwd(), *Path.cwd().parents)]
published = next((at for place in places if (at := place / "pythia-training-maps").is_dir()), None)
skipped = "Skipped: put the two files of the first cell into shared/data/pythia-training-maps, or see POLYSTAB_SHARED."


def table(found, digits=4):
    """A result as a table, without the labels that say what a metric or a model is."""
    return found.reset_coords(drop=True).to_dataframe().round(digits)


def takeaway(text, *points):
    """Show a sentence that the numbers wrote, and what belongs to it."""
    display(Markdown("\n".join([f"**Takeaway:** {text}", "", *(f"- {point}" for point in points)])))


# %% [markdown]
# ## 1. Change points of single curves
#
# Accuracy at copying a repeated piece of text. The band is the middle half of ten seeds.

# %%
plots.curves(cube, metric=induction)

# %% [markdown]
# `change_points` cuts every curve (each run, each metric) into phases of one level. How many phases is not a matter of taste: a change is reported if a curve *without* any change, but with the same noise and the same autocorrelation, would show one as strong in at most 5 % of cases. So some of what is found is chance, and we know how much.

# %%
changes = ps.change_points(cube, rng=0)
print(changes["n_changes"].mean("seed").transpose("metric", "model").to_pandas().round(1))
takeaway(
    f"{changes.attrs['n_curves_with_changes']} of {changes.attrs['n_curves']} curves change; if nothing ever "
    f"changed, about {changes.attrs['n_expected_by_chance']:.0f} would all the same. "
    f"After paying for the number of curves, {int((changes['q'] <= 0.05).sum())} are left (q <= 0.05)."
)

# %% [markdown]
# **When not to trust it.** Levels are a way of describing a curve, not a law. A loss that falls smoothly is no staircase, and has to be cut somewhere if it is described by one: `loss/...` is cut in the first steps in nearly every run. For a curve whose *slope* changes ask for lines: `ps.change_points(cube, cost="linear", x="log_step")`. And a checkpoint grid that is dense early and sparse late finds early changes more precisely.

# %% [markdown]
# ## 2. Do the seeds agree?
#
# One run can have a bad week. A change that most seeds of a model share, at about the same step, is a property of training. `consensus_change_points` looks for steps at which more runs change than unrelated runs would; the interval is for the median step, `first` and `last` are the earliest and latest seed.

# %%
shared = consensus_change_points(changes, rng=0)
columns = ["step", "lower", "upper", "first", "last", "n_runs", "size", "p"]
found = table(shared[columns].sel(metric=evals), 3).query("step >= 0")
print(found.droplevel("change").to_string())

# %%
plots.change_points(shared, metrics=evals, steps=cube["step"].values)

# %%
alone = shared["n_extra"].sel(metric=recall).sum("seed").to_series()
changed = [
    f"{metric} in {model}: {row['n_runs']:.0f} of 10 seeds, around step {row['step']:.0f} (seeds from "
    f"{row['first']:.0f} to {row['last']:.0f}), by {row['size']:+.2f}"
    for (model, metric, _), row in found.iterrows()
]
takeaway(
    f"these changes in {len(evals)} benchmarks are shared by at least half of the seeds of a model; changes in {recall} "
    f"that belong to one seed alone are {', '.join(f'{n} in {model}' for model, n in alone.items())}.",
    *changed,
)

# %% [markdown]
# **When not to trust it.** A consensus says that seeds change *together*, not that they change *abruptly*: a smooth rise that all share is cut at about the same place too. Compare `size` with the whole range of the metric, and look at the curves. Ten seeds on the same documents also share the documents; that alone can line them up.

# %% [markdown]
# ## 3. Glitches, and how a glitch can be a phase
#
# A single bad checkpoint (a corrupted file, a crashed evaluation) must not become a phase. Points whose neighbours on both sides agree with each other but not with them are left out and reported as `glitch`. Here they are, counted over the ten seeds of each model:

# %%
at_once = changes["glitch"].sum("seed")
counts = at_once.where(at_once > 0).to_series().dropna().astype(int).rename("runs")
print(counts.sort_values(ascending=False).to_string())

together = int(counts[counts >= 3].sum())
takeaway(
    f"{counts.sum()} glitches, of which {together} come where three or more seeds of a model have one at the same "
    f"checkpoint. {'Files do not break in three runs at the same step: look at the curves.' if together else 'No reason to worry.'}"
)

# %%
plots.curves(cube, metric=agreement)

# %%
chance = float(cube["chance"].sel(metric=agreement))
dip = cube["value"].sel(metric=agreement).median("seed")
low = dip.isel(step=dip.argmin("step"))
depths = [
    f"{float(low.sel(model=model)):.2f} in {model} (step {int(low['step'].sel(model=model))})"
    for model in cube["model"].values
]
takeaway(f"{agreement} (chance {chance:.2f}) falls to a median over seeds of {', '.join(depths)}.")

# %% [markdown]
# That is no glitch. In every item of this task a noun of the other number stands between the subject and its verb. All seeds first learn to agree with the *nearest* noun, which is wrong each time, and fall far below chance before they learn the rule. The phase is real, it lasts three or four checkpoints, and to a method that looks at one curve at a time it looks like two bad files.
#
# **When not to trust it.** `glitch` is a statement about one curve. If siblings have it at the same checkpoint, believe the siblings. Then denser checkpoints are the cure: a phase has to last at least three of them to be seen.

# %% [markdown]
# ## 4. Does the phase come earlier in larger models?
#
# The slope of log step on log size: -0.3 means twice as early for ten times the size.

# %%
trend = phase_size_trend(changes)
display(ps.summary(trend[["slope", "lower", "upper", "p"]].sel(metric=evals)))
print("\nmedian step, and runs without any change (which count for nothing)")
display(ps.summary(trend[["step", "n_without"]].sel(metric=[induction, agreement])))


def earlier(metric):
    at = trend.sel(metric=metric)
    low, high, missing = float(at["lower"]), float(at["upper"]), int(at["n_without"].sum())
    when = "earlier in larger models" if high < 0 else "later in larger models" if low > 0 else "with no clear trend"
    doubt = f", but {missing} runs without a change are left out" if missing > 3 else ""
    return f"{metric} changes {when} (slope {float(at['slope']):.2f} [{low:.2f}, {high:.2f}]{doubt})"


takeaway(f"{earlier(induction)}; {earlier(agreement)}.")

# %% [markdown]
# **When not to trust it.** The interval is about more runs of these sizes, not about other sizes. Where many small models never get there, those that do are the quick ones, and the trend looks flatter than it is: look at `n_without`. And with a checkpoint every 50 steps nobody can see a difference of 20.

# %% [markdown]
# ## 5. A training map of `nano`
#
# Now all metrics at once. A training map is a hidden Markov model: every checkpoint of every run is in one of a few *states*, a state is a typical value of each metric, and runs move from state to state. Three seeds of each model are held out; the map has to explain runs that it never saw.

# %%
nano_map = ps.fit_training_map(cube, n_states=range(1, 6), held_out=[7, 8, 9], n_restarts=4, rng=0)
judged = ["log_likelihood", "n_parameters", "bic", "held_out_per_checkpoint", "optimum_share"]
display(ps.summary(nano_map.selection[judged]))
print()
for note in nano_map.notes:
    print("note:", note)

# %% [markdown]
# Read the notes. The criterion always asks for the largest number of states: learning is a drift, and a drift can be cut ever finer. The number of states is how closely we want to look, not a discovery.
#
# The states of all runs, one strip each:

# %%
plots.map_strips(nano_map.states)

# %%
plots.transition_graph(state_transitions(nano_map.states), model="nano-96k")

# %%
moves = table(transition_effects(nano_map)[["n_runs", "largest_metric"]])
print("which metric moves most at each transition (held-out runs included)")
print(moves[(moves["n_runs"] > 0) & (moves["largest_metric"] != "")].to_string())

paths = state_paths(nano_map.states)
takeaway(
    "most seeds go "
    + "; ".join(
        f"{path} in {model} ({n} of 10)"
        for model, path, n in zip(
            cube["model"].values, paths["modal_path"].values, paths["n_modal"].values, strict=True
        )
    )
    + "."
)

# %% [markdown]
# Before you tell a story about these states, look at the *raw* values in them. By default every model is put on a scale of its own, so that sizes can share a map. A metric that never leaves chance in one model is scaled up until its noise looks like everybody else's progress.

# %%
in_state = cube["value"].sel(metric=recall).where(nano_map.states["state"] == nano_map.n_states - 1)
means = in_state.mean(("seed", "step")).to_series()
visits = state_occupancy(nano_map.states)["n_visiting"].isel(map_state=-1).to_series()
print(
    f"mean {recall} (chance {float(cube['chance'].sel(metric=recall)):.2f}) in the last state, and runs that are ever in it"
)
print(pd.DataFrame({"mean": means.round(2), "runs": visits}))
others = ps.fit_training_map(cube, n_states=nano_map.n_states, held_out=[0, 1, 2], n_restarts=4, rng=0)
same = map_agreement(nano_map.states, others.states)
takeaway(
    f"the last state means {recall} of {means.max():.2f} in {means.idxmax()} and {means.min():.2f} in {means.idxmin()}: "
    + ("the same number of a state, another thing." if means.max() - means.min() > 0.1 else "the same thing in all.")
    + f" A map fitted to other seeds puts {100 * float(same['matched']):.0f} % of all checkpoints into the corresponding state "
    f"(adjusted Rand index {float(same['ari']):.2f}; 1 would be full agreement)."
)

# %% [markdown]
# **When not to trust it.** If a map from other seeds, or with one state more, moves the boundaries, then they are the map's and not training's. Boundaries that survive, and that a change point of section 2 has too, are worth a sentence in a paper.

# %% [markdown]
# ## 6. Published maps: Pythia 70M in paper mode
#
# The training maps of PolyPythias (van der Wal et al. 2025, after Hu et al. 2023) are fitted to 14 statistics of the weights. `recipe="polypythias"` does what their code does, to the letter, so that numbers can be checked.

# %%
if published:
    weights = ps.read_table(published / "Pythia70m_Hu_metrics.tsv", model="pythia-70m", family="weight").to_dataset()
    paper = ps.fit_training_map(weights, recipe="polypythias", n_states=[1, 2, 3, 4])
    check = table(paper.selection[["log_likelihood", "n_parameters", "bic"]], 4)
    check["published_bic"] = [6259.4976, 4477.57, 3399.3, 2994.43]  # their pipeline's, on this file
    check["difference"] = (check["bic"] - check["published_bic"]).round(2)
    print(check.to_string())
    takeaway(
        f"the log-likelihood of one state is {check['log_likelihood'].iloc[0]:.4f} (published: -3059.2315), and the "
        f"BIC differs from the published one by at most {check['difference'].abs().max():.2f}."
    )
else:
    print(skipped)

# %% [markdown]
# ## 7. The same file with the defaults
#
# The papers' way of judging a map splits *checkpoints*, so that the neighbours of every judged checkpoint were fitted, and it scales every run by its own mean and spread over the *whole* of training. By default runs are scaled by reference runs, and here whole runs are held out, each in its turn. (The module `polystab.analysis.training_maps` says where else the default differs, and why.)

# %%
if published:
    tries = {
        f"rng={rng}": ps.fit_training_map(
            weights, n_states=[2, 3, 4, 5], held_out="each", n_restarts=3, rng=rng
        ).selection
        for rng in (0, 1)
    }
    held_out = pd.DataFrame({name: tried["held_out_per_checkpoint"].to_series() for name, tried in tries.items()})
    bic = pd.DataFrame({name: tried["bic"].to_series() for name, tried in tries.items()})
    print("log-likelihood of a checkpoint in a run that was left out (higher is better), from two random beginnings")
    print(held_out.round(1).to_string())
    print("\nBIC (lower is better)")
    print(bic.round(0).to_string())

    asked, best = sorted(set(bic.idxmin())), sorted(set(held_out.idxmax()))
    takeaway(
        f"BIC asks for {' or '.join(map(str, asked))} states of 2 to 5. Runs that were left out are predicted best "
        f"with {' or '.join(map(str, best))}"
        + (", depending on chance alone: these data do not say how many states there are." if len(best) > 1 else ".")
    )
else:
    print(skipped)

# %% [markdown]
# **When not to trust it.** Fits from different beginnings end in different maps that fit nearly equally well and predict a new run very differently. Before you take a number of states from a table, make the table again with another `rng`. The map below has four states because four are easy to look at.

# %%
plots.map_strips(ps.fit_training_map(weights, n_states=4).states) if published else skipped

# %% [markdown]
# ## 8. How a late restart rewrites the past
#
# Suppose seed 0 is restarted by accident at step 100,000 and runs through its first steps again. What it did *before* is what it was. Does the map say so? We paste the restart into the healthy run and decode it with a map of the five healthy runs, under three ways of scaling.

# %%
if published:
    late = weights["step"].values >= 100_000
    restarted = weights.copy(deep=True)
    restarted["value"][0, 0, late] = weights["value"].values[0, 0, : late.sum()]

    changed = {}
    for normalise in ("reference", "causal", "run"):
        fitted = ps.fit_training_map(weights, n_states=4, normalise=normalise)
        before, after = (
            states["state"].isel(model=0, seed=0).values for states in (fitted.states, fitted.decode(restarted))
        )
        changed[normalise] = int((before != after)[~late].sum())
    takeaway(
        f"of the {np.sum(~late)} checkpoints before the restart, {changed['reference']} change their state under the "
        f"default scale (reference runs), {changed['causal']} under the causal one, and {changed['run']} under the z-score per "
        f"run of the papers."
    )
else:
    print(skipped)

# %% [markdown]
# Under the z-score per run an early state depends on how the run *ends*. That outlier runs "leave the path long before their scores fall" cannot be concluded from states on such a scale; neither can they serve as an early warning.

# %% [markdown]
# ## 9. From map to performance: an R squared that does not travel alone
#
# For Pythia 410M the final score of ten seeds was regressed on how much of its time each run spends in each state. The published states and scores give a splendid R squared. Four more numbers belong beside it, and a doubt: by its column `group` the file has two fits, one of seeds 3 and 4 and one of the other eight, and a state number means the same only within one fit.

# %%
if published:
    rows = pd.read_csv(published / "training_maps.tsv", sep="\t").set_index(["seed", "step"])
    states, scores = rows["state"].to_xarray(), rows["score"].to_xarray().isel(step=-1, drop=True)
    worth = performance_from_occupancy(states, scores)
    without = " and ".join(str(seed) for seed in worth["without_two"].values)
    print(
        f"R squared                                {float(worth['r2']):6.2f}  ({float(worth['r2']):.3f})\n"
        f"expected if scores were dealt at random  {float(worth['expected_r2']):6.2f}  ({int(worth['rank'])} coefficients, "
        f"{int(worth['n_runs'])} runs; p = {float(worth['p_value']):.2f})\n"
        f"Q squared, each run predicted by others  {float(worth['q2']):6.2f}\n"
        f"R squared without seeds {without}          {float(worth['smallest_without_two']):6.2f}"
    )

    routes = state_paths(states).isel(model=0)
    forks = {int(s): int(f) for s, f in zip(routes["seed"], routes["fork_step"], strict=True) if f >= 0}
    print(f"modal path {routes['modal_path'].item()}; seeds that leave it, and at which step: {forks}")
    verdict = "worse than their mean does" if float(worth["q2"]) < 0 else "better than their mean does"
    takeaway(
        f"the map explains {100 * float(worth['r2']):.0f} % of the scores that it was fitted to, and predicts scores it "
        f"has not seen {verdict} (Q squared {float(worth['q2']):.2f}). Without seeds {without} there is nothing left to explain "
        f"({100 * float(worth['smallest_without_two']):.0f} %)."
    )
else:
    print(skipped)

# %% [markdown]
# Two seeds went wrong, and the map sees that: they leave the path of the others. That is worth knowing. That states *predict* performance among the eight healthy runs is not in these data.

# %% [markdown]
# ## When to trust a phase
#
# The shared changes of section 2 once more, with what speaks for and against each: how many seeds, how far apart, and how much of the metric's whole range is covered by the one change.

# %%
spans = (cube["value"].max("step") - cube["value"].min("step")).median("seed").sel(metric=evals).to_series()
rows_of = []
for (model, metric, _), row in found.iterrows():
    rows_of.append(
        {
            "model": model,
            "metric": metric.removeprefix("eval/nano_").removesuffix("/acc"),
            "step": int(row["step"]),
            "seeds": int(row["n_runs"]),
            "apart": f"{row['first']:.0f} to {row['last']:.0f}",
            "of_range": round(abs(row["size"]) / spans[model, metric], 2),
            "p": row["p"],
        }
    )
verdicts = pd.DataFrame(rows_of)
passed = (verdicts["seeds"] >= 8) & (verdicts["of_range"] >= 0.5) & (verdicts["p"] <= 0.01)
verdicts["trust"] = np.where(passed, "yes", "look again")
print(verdicts.to_string(index=False))
takeaway(f"{passed.sum()} of {len(verdicts)} shared changes pass all three.")

# %% [markdown]
# The limits in the last column (eight of ten seeds, half of the range, p of at most 0.01) are ours, for this cube. Choose yours *before* you look. Trust a phase if
#
# - **seeds share it**, each of them analysed on its own, and you have at least five;
# - **it is large** against the noise *and* against the whole range of the metric, so that it is not one of several cuts through a smooth rise;
# - **the checkpoints are dense enough**: three or more in each phase, and no change pinned to a place where the grid gets coarser;
# - **another way of asking finds it too**: lines in place of levels, another number of states, a map from other seeds, another `rng`;
# - **nothing after it was needed to see it**, if you want to warn rather than to tell a story: `state_online`, `normalise="reference"`, never a z-score over the whole run;
# - **raw values agree**: a state is a number, look at what the metrics are in it, model by model.
#
# Do not trust a number of states because a criterion chose it, an R squared without its Q squared, or a glitch that all seeds have.

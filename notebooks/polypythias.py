# %% [markdown]
# # PolyPythias, analysis by analysis
#
# *PolyPythias* (van der Wal et al., ICLR 2025, [arXiv 2503.09543](https://arxiv.org/abs/2503.09543)) trained five Pythia sizes, 14M to 410M, with ten seeds each, and asked what the seed does to scores (section 3), to representations (section 4) and to the phases of training (section 5). This notebook does each of these analyses again. A heading names the section of the paper.
#
# Each is done on the bundled cube `nano` (three sizes of a small GPT-NeoX, ten seeds each, real training) and, where we have them, on published numbers of Pythia itself. Those are not in the package. A cell that needs them looks in the folder that the environment variable `POLYSTAB_SHARED` names, or else in `shared/data` here or in a folder above, and says so where it finds nothing. They come from github.com/EleutherAI/pythia: `pythia-evals/evals` (its folder `evals`) and `pythia-training-maps` (`Pythia70m_Hu_metrics.tsv` and `eval-harness` of branch `hmm-training-maps`, `training_maps.tsv` of `polypythias/data`).
#
# `nano` is no Pythia: its models are a thousand times smaller, train for 1,000 steps and are tested on four small tasks. Where its numbers agree with the paper, the finding travels far; where they do not, the difference may be the scale. What the paper found is told in our words. The sentences that begin with *Takeaway* are written by the numbers.

# %%
import os
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr
from IPython.display import Markdown, display

import polystab as ps
from polystab import plots
from polystab.analysis import (
    consensus_change_points,
    failed_runs,
    outlier_runs,
    performance_from_occupancy,
    probe_angles,
    probe_codelengths,
    seed_reliability,
    seed_spread,
    state_paths,
    transition_effects,
)

tree = ps.load_tree("nano")
cube = ps.load_cube("nano")
evals = ps.select(cube, family="eval")
induction, recall, agreement_task = (f"eval/nano_{task}/acc" for task in ("induction", "recall", "agreement"))
models = [str(name) for name in cube["model"].values]
last = int(cube["step"][-1])

# %%
named = os.environ.get("POLYSTAB_SHARED")
places = [Path(named)] if named else [above / "shared" / "data" for above in (Path.cwd(), *Path.cwd().parents)]
shared = next((place for place in places if place.is_dir()), None)


def published(name):
    """A folder of published numbers, or None, which is then said."""
    if shared is not None and (shared / name).is_dir():
        return shared / name
    where = named or "shared/data, here or in a folder above"
    print(f"Skipped: there is no folder {name} in {where} (see the first cell; POLYSTAB_SHARED names another place).")
    return None


skipped = "Skipped: the numbers are not there, see above."


def table(found, digits=3):
    """A result as a table, without the labels that say what a metric or a model is."""
    return found.reset_coords(drop=True).to_dataframe().round(digits)


def short(metric):
    return metric.removeprefix("eval/").removeprefix("nano_").removesuffix("/acc")


takeaways = []


def takeaway(section, text):
    takeaways.append((section, text))
    display(Markdown(f"**Takeaway:** {text}"))


# %% [markdown]
# ## Section 3: downstream performance
#
# **The paper** draws accuracy over training, median and middle half of the seeds, a line for each size (ARC-Easy and SciQ in the main text), and finds highly consistent curves across seeds, better scores for larger models, and benchmarks that still improve long after the compute-optimal number of tokens.

# %%
plots.curves(cube, metric=induction)

# %%
plots.curves(cube, metric=recall)

# %%
spread = seed_spread(evals)
display(ps.summary(spread[["mean", "sd", "sd_lower", "sd_upper", "sd_over_stderr"]]))

sd = spread["sd"].to_series()
wide = sd[sd > 0.1]
takeaway(
    "3 nano",
    f"the scores of ten seeds have an SD below two points in {(sd < 0.02).sum()} of {len(sd)} cells, and above ten "
    "points in "
    f"{len(wide)}: "
    f"{', '.join(f'{short(metric)} in {model} ({100 * v:.0f})' for (model, metric), v in wide.items()) or 'none'}. "
    + (
        "The paper's 'highly consistent' holds for some tasks only."
        if len(wide)
        else "As in the paper, curves are alike."
    ),
)

# %% [markdown]
# `sd_over_stderr` compares the seeds with the error of having few test items: near 1, the spread is no more than a coin would give. A large SD means that some seeds have learned the task and others have not (yet). Intervals (`sd_lower`, `sd_upper`) are wide because ten seeds know their SD only to a factor of 0.69 to 1.83.
#
# Do scores still rise after 20 tokens for each parameter, the rule of thumb for compute-optimal training (Hoffmann et al. 2022)?

# %%
TOKENS_PER_PARAMETER = 20


def later_gain(scores, sizes):
    """Median score at the first checkpoint past the compute-optimal tokens, at the end, and how many metrics gained."""
    rows = {}
    for model, size in sizes.items():
        of_model = scores["value"].sel(model=model).median("seed")
        enough = np.flatnonzero(scores["tokens"].values >= TOKENS_PER_PARAMETER * size)
        if len(enough):
            gain = of_model.isel(step=-1, drop=True) - of_model.isel(step=enough[0], drop=True)
            rows[model] = {"from step": int(scores["step"][enough[0]]), **(100 * gain).to_series().round(1)}
    return pd.DataFrame(rows).T.rename(columns=short)


gains = later_gain(evals, dict(zip(models, evals["n_parameters"].values.tolist(), strict=True)))
print("gain in points since then (median over seeds)")
print(gains.to_string())
rose = gains.drop(columns="from step")
takeaway(
    "3 nano",
    f"{(rose > 0).sum().sum()} of {rose.size} scores rise after {TOKENS_PER_PARAMETER} tokens for each parameter, most "
    f"{rose.max().idxmax()} (+{rose.max().max():.0f} points); "
    f"{', '.join(sorted(set(models) - set(gains.index))) or 'no model'} "
    "ends before that.",
)

# %% [markdown]
# **Pythia itself.** The evaluations of 2023: 27 checkpoints, one seed for each size, so that there are no bands.

# %%
sizes = {"pythia-70m": 70e6, "pythia-160m": 160e6, "pythia-410m": 410e6, "pythia-1b-bf16": 1e9, "pythia-1.4b": 1.4e9}
if folder := published("pythia-evals"):
    of_sizes = [ps.read_lm_eval(folder / "evals/pythia-v1" / name / "zero-shot") for name in sizes]
    pythia = ps.merge_cubes([tree_of_size.to_dataset() for tree_of_size in of_sizes]).sel(model=list(sizes))
    tasks = [f"eval/{task}/acc" for task in ("arc_easy", "lambada_openai", "piqa", "sciq")]
    gains = later_gain(pythia.sel(metric=tasks), sizes)
    print(gains.to_string())
    rose = gains.drop(columns="from step")
    curves = pythia["value"].sel(metric=tasks, seed=0)
    lost = (100 * (curves.max("step") - curves.isel(step=-1))).to_series()
    model, task = lost.idxmax()
    ranked = curves.isel(step=-1).diff("model") > 0
    agrees = "as the paper says" if (rose > 0).all(axis=None) else "where the paper says all"
    takeaway(
        "3 Pythia",
        f"{(rose > 0).sum().sum()} of {rose.size} scores are higher at the end than at {TOKENS_PER_PARAMETER} "
        "tokens for each "
        f"parameter, by {rose.min().min():.0f} to {rose.max().max():.0f} points, {agrees}. But {model} ends "
        f"{lost.max():.0f} points below its best in {short(task)}, {(lost > 3).sum()} of {len(lost)} curves end "
        "more than three below. "
        f"At the end the next larger model is better in {int(ranked.sum())} of {ranked.size} comparisons.",
    )
else:
    pythia = None

# %%
plots.curves(pythia, metric="eval/arc_easy/acc") if pythia is not None else skipped

# %%
plots.curves(pythia, metric="eval/sciq/acc") if pythia is not None else skipped

# %% [markdown]
# Five seeds of Pythia 70M were evaluated at the end of training only. That is enough to ask how large the seed is beside the model.

# %%
if folder := published("pythia-training-maps"):
    seeds70m = ps.read_lm_eval(folder / "eval-harness")
    accuracy = ps.select(seeds70m, measure="acc")
    spread70m = seed_spread(accuracy).isel(model=0)
    display(ps.summary(spread70m[["mean", "sd", "sd_lower", "sd_upper", "sd_over_stderr"]]))
    sd = 100 * spread70m["sd"].to_series()
    takeaway(
        "3 Pythia",
        f"five seeds of Pythia 70M have an SD of {sd.min():.1f} to {sd.max():.1f} points, depending on the "
        "benchmark (each known "
        f"to a factor of {float(spread70m['factor_lower'].max()):.1f} to "
        f"{float(spread70m['factor_upper'].max()):.1f}).",
    )
else:
    seeds70m = None

# %%
if pythia is not None and seeds70m is not None:
    both = sorted(set(pythia["metric"].values) & set(seeds70m["metric"].values))
    shared_metrics = [name for name in both if name.rsplit("/", 1)[1] in ("acc", "pct_stereotype")]
    then = pythia["value"].sel(model="pythia-70m", seed=0, step=143000, metric=shared_metrics)
    now = seeds70m["value"].sel(model="pythia-70m", seed=0, step=143000, metric=shared_metrics)
    moved = (100 * (now - then)).to_series().rename("points").rename(short)
    sd = 100 * seed_spread(seeds70m)["sd"].isel(model=0).sel(metric=shared_metrics).to_series().rename(short)
    print(pd.DataFrame({"newer minus older": moved, "SD over seeds": sd}).round(2).to_string())
    takeaway(
        "3 Pythia",
        f"the same checkpoint (70M, seed 0, the last) was evaluated twice, with two versions of the harness. In "
        f"{(abs(moved) > sd).sum()} of {len(moved)} benchmarks they differ by more than the SD over seeds, most in "
        f"{abs(moved).idxmax()} ({moved[abs(moved).idxmax()]:+.1f} points)"
        + (": do not compare runs across versions." if (abs(moved) > sd).any() else "."),
    )
else:
    print(skipped)


# %% [markdown]
# **When not to trust it.** A single seed for each size shows that larger is better on average, not that it is for your next run. The paper's bands (middle half of ten seeds) show how runs scatter; they are no confidence intervals.

# %% [markdown]
# ## Section 3.2: outlier seeds
#
# **The paper** calls a run an outlier that lies more than two SD from the mean of the seeds, on several benchmarks. It finds two: seeds 3 and 4 of 410M. Its appendix A traces them to spikes of the loss.
#
# With ten seeds that rule has two weaknesses. Among 40 normal scores (ten seeds, four benchmarks) about one lies outside by chance. And no run of ten can be further out than 2.85 SD, because an outlier widens the SD that it is measured with; two outliers hide each other. `outlier_runs` asks once for the whole of training and all benchmarks, and raises a false alarm for about 5 % of clean models.


# %%
def beyond_two_sd(scores):
    """The paper's rule, for each checkpoint and benchmark."""
    value = scores["value"]
    return abs(value - value.mean("seed")) > 2 * value.std("seed", ddof=1)


outside = beyond_two_sd(evals).sum("metric")  # benchmarks on which a run is outside
verdict = outlier_runs(evals, rng=0)
seen = xr.Dataset(
    {
        "two_sd_at_the_end": outside.sel(step=last, drop=True) >= 2,
        "two_sd_ever": (outside >= 2).any("step"),
        "outlier": verdict["outlier"],
        "p": verdict["p_value"],
        "from_step": verdict["from_step"],
    }
)
listed = table(seen).query("two_sd_ever or outlier")
print(listed.to_string())
apart = ((verdict["p_value"] <= 0.05) & ~verdict["outlier"]).sum("seed").to_series()
apart = " and ".join(f"{n} of 10 in {model}" for model, n in apart.items() if n)
takeaway(
    "3.2 nano",
    f"outside two SD on at least two of four benchmarks: {int(seen['two_sd_at_the_end'].sum())} of 30 runs at the end, "
    f"{int(seen['two_sd_ever'].sum())} at some checkpoint. outlier_runs names {int(seen['outlier'].sum())}, of "
    "which the rule has "
    f"{int((seen['two_sd_ever'] & seen['outlier']).sum())}."
    + (f" ({apart} are as far apart; half of the runs are no outliers, so none of them is named.)" if apart else ""),
)

# %%
at = verdict["strength"].where(verdict["outlier"], 0).argmax(["model", "seed"])
farthest = verdict.isel(at)
print(f"the strongest outlier: {farthest['model'].item()} seed {farthest['seed'].item()}")
plots.run_scores(
    evals, metric=str(farthest["because"].values[0]), model=farthest["model"].item(), runs=[farthest["seed"].item()]
)

# %% [markdown]
# Do outliers come from spikes of the loss? `nano` was trained gently. `nano-edge` has twelve runs at each of six settings on the edge of stability; its group `log` holds the loss of every update. A spike is a loss above the mean of the 128 before by six of their SD.

# %%
edge = ps.load_tree("nano-edge")
edge_cube = edge.to_dataset()
wrong = failed_runs(edge)
spiked = wrong["failed"].sel(rule="spike", drop=True)
out = outlier_runs(ps.select(edge_cube, family="loss"), rng=0)["outlier"]
loss = edge_cube["value"].sel(metric="loss/validation/cross_entropy").isel(step=-1, drop=True)
by_setting = xr.Dataset(
    {
        "spikes": spiked.sum("seed"),
        "outliers_by_loss": out.sum("seed"),
        "both": (spiked & out).sum("seed"),
        "loss_with_spike": loss.where(spiked).median("seed"),
        "loss_without": loss.where(~spiked).median("seed"),
    }
)
display(ps.summary(by_setting))
n_spikes, n_out, n_both = (int(by_setting[name].sum()) for name in ("spikes", "outliers_by_loss", "both"))
takeaway(
    "3.2 nano-edge",
    f"{int(failed_runs(tree)['failed'].sel(rule='spike').sum())} of 30 runs of nano and {n_spikes} of {spiked.size} "
    "of nano-edge have "
    f"a spike of the loss. {n_both} of the {n_out} runs of nano-edge that are outliers by their loss are among them"
    + (", as in the paper" if n_out and n_both > n_out / 2 else "")
    + f"; but {n_spikes - n_both} runs with a spike are no outliers: a spike is a reason to look, not a verdict.",
)

# %% [markdown]
# **When not to trust it.** The verdict rests on runs that scatter normally. `nano` is still learning when it ends, and some of its seeds have an ability while others do not: two heaps, not one. What is found then is a run that learns at another time. The next cell has the two runs of the paper, which fell behind after they had been as good as the others.

# %%
if folder := published("pythia-training-maps"):
    scores410m = ps.read_table(
        folder / "training_maps.tsv", model="pythia-410m", metrics={"score": "eval/average/score"}
    ).to_dataset()
    found410m = outlier_runs(scores410m, rng=0).isel(model=0)
    rule = beyond_two_sd(scores410m).isel(model=0, metric=0)
    ends = table(found410m[["outlier", "p_value", "from_step", "until_step"]])
    ends["two_sd_at_the_end"] = rule.isel(step=-1).values
    ends["checkpoints_beyond_two_sd"] = rule.sum("step").values
    print(ends.to_string())
    named_now = [int(seed) for seed in found410m["seed"].values[found410m["outlier"].values]]
    named_then = [int(seed) for seed in rule["seed"].values[rule.isel(step=-1).values]]
    takeaway(
        "3.2 Pythia",
        f"outlier_runs names seeds {' and '.join(map(str, named_now))} of 410M"
        + (", those of the paper" if named_now == [3, 4] else ", where the paper has 3 and 4")
        + f", from step {' and '.join(f'{int(s):,}' for s in found410m['from_step'].sel(seed=named_now))} on. Two "
        "SD at the last "
        f"checkpoint name seed {' and '.join(map(str, named_then)) or '(none)'}"
        + (": the worst run hides the other." if len(named_then) < len(named_now) else "."),
    )
else:
    scores410m = None

# %%
if scores410m is not None:
    print("each run's distance from the median of the ten (robust z)")
plots.run_scores(scores410m, metric="eval/average/score") if scores410m is not None else skipped

# %% [markdown]
# ## Section 3: self-consistency and agreement between seeds
#
# **The paper** compares answers, item by item, with Cohen's kappa: of a run with its own last checkpoint (self-consistency), and of each seed with seed 0 at the same checkpoint (inter-seed agreement). Agreement between seeds grows over training to about 0.5. What exactly was compared, the chosen option or whether it was right, is not public; here are both. Item-level answers of Pythia are not among the published numbers, so this is `nano` alone.

# %%
same = ps.agreement(tree)
plots.agreement_curves(same, comparison="last_step", tasks=["nano_agreement", "nano_recall"])

# %%
plots.agreement_curves(same, comparison="reference", tasks=["nano_agreement", "nano_recall"])

# %%
with_seed_0 = same.sel(statistic="reference", step=last)
every_pair = same.sel(statistic="all_pairs", step=last, task="pooled")
for answer in same["answer"].values:
    print(f"kappa with seed 0 at the last step, {answer}")
    print(with_seed_0["agreement"].sel(answer=answer).to_pandas().round(2).to_string())

pooled = with_seed_0.sel(task="pooled")
own = same["agreement"].sel(statistic="last_step", answer="choice", task="pooled", model=models[-1])
settled = int(own["step"][(own > 0.5).values.argmax()])


def stated(found, answer):
    at = found.sel(answer=answer, model=models[-1])
    return f"{float(at['agreement']):.2f} [{float(at['lower']):.2f}, {float(at['upper']):.2f}]"


takeaway(
    "3 nano",
    f"a run of {models[-1]} agrees with its own last step with a kappa above 0.5 from step {settled} on. At the end "
    f"its seeds agree with seed 0 with a kappa of {stated(pooled, 'choice')} over choices and "
    f"{stated(pooled, 'correct')} over correctness (all pairs: {stated(every_pair, 'choice')} and "
    f"{stated(every_pair, 'correct')}); "
    "the paper has about 0.5.",
)

# %% [markdown]
# **When not to trust it.** A kappa depends on what is compared and on how hard the items are: compare sizes and steps, not papers. Runs that solve a task agree because the answer is right. Over correctness such runs leave a handful of errors, and kappa says little. The comparison with one reference seed takes its accidents for the rule: `all_pairs` does not.

# %% [markdown]
# ## Section 3: bias measures
#
# **The paper** follows three measures of gender bias (BLiMP gender agreement, CrowS-Pairs gender, simple co-occurrence) and finds that they vary so much between seeds that they are poorly reliable.
#
# *Reliability* has a definition: the share of the variance of single runs that is due to the model. At 1, one run tells the models apart; at 0 the seed is all there is. `nano` has no bias measure; the same question for its benchmarks:

# %%
reliable = seed_reliability(evals, n_seeds=[1, 10]).sel(step=last)
display(ps.summary(reliable[["reliability", "lower", "upper"]]))
one = reliable.sel(n_seeds=1)["reliability"].to_series()
takeaway(
    "3 nano",
    f"a single run tells the three sizes apart with a reliability of {one.min():.2f} ({short(one.idxmin())}) to "
    f"{one.max():.2f} "
    f"({short(one.idxmax())}), the mean of ten runs with {float(reliable['reliability'].sel(n_seeds=10).min()):.2f} "
    "or more.",
)

# %%
if pythia is not None and seeds70m is not None:
    spread70m = seed_spread(seeds70m).isel(model=0)
    at_end = pythia["value"].isel(seed=0, step=-1)
    rows = spread70m[["mean", "sd", "sd_over_stderr"]].sel(metric=shared_metrics).reset_coords(drop=True).to_dataframe()
    rows["gain 70M to 1.4B"] = (
        (at_end.sel(model="pythia-1.4b") - at_end.sel(model="pythia-70m")).sel(metric=shared_metrics).values
    )
    rows["gain / sd"] = abs(rows["gain 70M to 1.4B"]) / rows["sd"]
    rows = rows.rename(index=short)
    print(rows.sort_values("gain / sd").round(3).to_string())
    bias = rows.index.str.contains("crows")
    takeaway(
        "3 Pythia",
        "from 70M to 1.4B, accuracies move by "
        f"{rows.loc[~bias, 'gain / sd'].min():.0f} to {rows.loc[~bias, 'gain / sd'].max():.0f} SD of the 70M seeds, "
        "CrowS-Pairs by "
        f"{rows.loc[bias, 'gain / sd'].min():.1f} to {rows.loc[bias, 'gain / sd'].max():.1f}: "
        + (
            "the seed is as large as the effect, as the paper says of bias measures."
            if rows.loc[bias, "gain / sd"].max() < 3
            else "the seed blurs them more than accuracies, but one run does tell these sizes apart."
        ),
    )
else:
    print(skipped)

# %% [markdown]
# **When not to trust it.** A measure that does not move between models cannot be reliable, however little seeds vary: reliability is a property of these models too. Three sizes leave wide intervals. The SD of five seeds of one size need not be that of the others.

# %% [markdown]
# ## Section 4: representations, by probing
#
# **The paper** trains linear probes on the hidden states for seven tasks, and follows macro-F1, codelength and the angles between the subspaces of probes. It finds phases that all sizes and seeds share (an initial phase at steps 1,000 to 10,000, a critical one up to 100,000), and trajectories of macro-F1 that correlate at about 0.99 between sizes. `nano` has four tasks with gold labels. There are no published probe results for Pythia in our folder.

# %%
plots.curves(cube, metric="probe/nano.pos/macro_f1@layer2")

# %%
f1 = ps.select(cube, family="probe", measure="macro_f1")
shared_steps = consensus_change_points(ps.change_points(f1, rng=0), rng=0)
phases = table(shared_steps[["step", "first", "last", "n_runs", "size"]]).query("step >= 0").droplevel("change")
phases["task"] = [name.split("/")[1] for name in phases.index.get_level_values("metric")]
print("shared changes of macro-F1, all layers of a task together")
print(phases.groupby(["task", "model"], sort=False)["step"].agg(["min", "max", "count"]).to_string())

when = phases.groupby("model", sort=False)["step"].agg(["min", "median", "max"])
takeaway(
    "4 nano",
    f"all shared changes of macro-F1 lie between steps {phases['step'].min():.0f} and {phases['step'].max():.0f} of "
    f"{last:,} (median "
    + ", ".join(f"{row['median']:.0f} in {model}" for model, row in when.iterrows())
    + "): "
    + (
        "one early phase, as early in all sizes"
        if when["median"].max() <= 2 * when["median"].min()
        else f"later in {when['median'].idxmax()} than in {when['median'].idxmin()}"
    )
    + f"; of the paper's second, long phase there is {'no sign' if phases['step'].max() <= last / 4 else 'a sign'} "
    "here.",
)

# %% [markdown]
# Correlations of trajectories come out high for any two curves that rise and then stay. What is left when each step is compared with the one before says more:

# %%
median = f1["value"].median("seed").sel(metric=f1["layer"].values <= int(cube["n_layers"].min()))
first, third = median.sel(model=models[0]), median.sel(model=models[-1])
levels = xr.corr(first, third, "step").to_series()
changes = xr.corr(first.diff("step"), third.diff("step"), "step").to_series()
print(pd.DataFrame({"levels": levels, "changes": changes}).round(2).to_string())
takeaway(
    "4 nano",
    f"macro-F1 of {models[0]} and {models[-1]} correlates at {levels.median():.2f} (median over tasks and layers), "
    "its changes "
    f"from checkpoint to checkpoint at {changes.median():.2f}"
    + (": most of the high number is that both curves rise." if changes.median() < levels.median() / 2 else "."),
)

# %%
found = probe_codelengths(tree)
best = found["compression"].max("layer").sel(step=last)
print("compression of the labels at the end: smallest and largest seed")
print(best.min("seed").to_pandas().round(1).to_string())
print(best.max("seed").to_pandas().round(1).to_string())

small = tree.sel(model=[models[-1]])  # angles of one size: every pair of seeds takes a moment
between = probe_angles(small, between="seeds", rng=0)
along = probe_angles(small, between="steps", rng=0)

# %% [markdown]
# Müller-Eberstein et al. (2023, [arXiv 2310.16484](https://arxiv.org/abs/2310.16484)), whose probes the paper uses, are reported to find angles of 5 to 20 degrees between neighbouring checkpoints at the end of training and of more than 80 between seeds. Here is how far the subspaces turn between two checkpoints whose probes `nano` keeps. Mind that the last two are close to each other.

# %%
plots.probe_angles(along)

# %%
across = between["mean_angle"].sel(step=last).median(("model", "pair", "layer"))
turned = along["mean_angle"].median(("model", "seed", "layer")).dropna("step", how="all")
at = int(turned["step"][-1])
angles = pd.DataFrame(
    {
        "two seeds": across.to_series(),
        "random": between["expected"].isel(model=0).to_series(),
        "one run": turned.sel(step=at).to_series(),
    }
)
print(angles.round(1).to_string())
since = int(along["since"].sel(step=at).max())
takeaway(
    "4 nano",
    f"subspaces of two seeds are {angles['two seeds'].min():.0f} to {angles['two seeds'].max():.0f} degrees apart, "
    "random ones "
    f"{angles['random'].min():.0f} to {angles['random'].max():.0f}: "
    + (
        "large angles between seeds are what chance gives. "
        if abs(angles["two seeds"] - angles["random"]).max() < 10
        else "seeds differ from chance. "
    )
    + f"Those of one run turn by {angles['one run'].min():.0f} to {angles['one run'].max():.0f} degrees from step "
    f"{since} to {at}.",
)

# %% [markdown]
# **When not to trust it.** Macro-F1 depends on how hard the probe was trained; codelength less so. `representations.ipynb` goes into both, and into what another seed of the *probe* changes.

# %% [markdown]
# ## Section 5: training maps
#
# **The paper** fits a hidden Markov model to 14 statistics of the weights (after Hu et al. 2023), one for each size; calls five states "optimal (or close to optimal)"; regresses scores on the share of time in each state (table 1; R squared 0.99 for 410M); decodes 410M with maps of smaller sizes (table 2; R squared above 0.9); and reads off which statistics change at a transition (table 3). Outlier seeds leave the path of the others, "long before they show worse scores".
#
# `recipe="polypythias"` does what the paper's code does, to the letter. The default differs in four points: it can judge by whole runs instead of checkpoints, scales all runs of a size alike instead of each by its own whole trajectory, reads each run by itself, and keeps states from closing on a handful of points.

# %%
middle = cube.sel(model=[models[1]])
tried = {
    "recipe": ps.fit_training_map(middle, recipe="polypythias", n_states=range(1, 7)).selection,
    "default": ps.fit_training_map(middle, n_states=range(1, 7), held_out="each", n_restarts=2, rng=0).selection,
}
choice = pd.DataFrame(
    {
        f"{name}, {what}": found[what].to_series()
        for name, found in tried.items()
        for what in ("bic", "held_out_per_checkpoint")
    }
)
print(choice.round(1).to_string())
takeaway(
    "5 nano",
    f"for {models[1]} the BIC of the recipe asks for {choice['recipe, bic'].idxmin()} states, that of the default for "
    f"{choice['default, bic'].idxmin()} of 6, and runs that were left out for "
    f"{choice['default, held_out_per_checkpoint'].idxmax()}; "
    "the paper has five.",
)

# %% [markdown]
# The recipe judges by a fifth of the checkpoints, drawn at random: with the 31 checkpoints of a `nano` run these are six for a run, where Pythia has 31. From here on maps have five states, as in the paper.

# %%
maps = {
    (name, way): ps.fit_training_map(cube.sel(model=[name]), n_states=5, rng=0, recipe=recipe)
    for name in models
    for way, recipe in (("recipe", "polypythias"), ("default", None))
}
plots.map_strips(maps[models[1], "recipe"].states)

# %%
plots.map_strips(maps[models[1], "default"].states)

# %%
for (name, way), fitted in maps.items():
    paths = state_paths(fitted.states).isel(model=0)
    print(f"{name}, {way:8s}{int(paths['n_modal']):3d} of 10 runs go {paths['modal_path'].item()}")

off = int(sum((~state_paths(maps[name, "default"].states)["on_modal_path"]).sum() for name in models))
off_recipe = int(sum((~state_paths(maps[name, "recipe"].states)["on_modal_path"]).sum() for name in models))
takeaway(
    "5 nano",
    f"{off} of 30 runs leave the path of their siblings on the default maps, {off_recipe} on those of the recipe; "
    "by their scores "
    f"(section 3.2) {int(verdict['outlier'].sum())} runs were outliers.",
)


# %% [markdown]
# ### Tables 1 and 2: does the map explain the scores?
#
# The score of a run is its mean z-score over the benchmarks at the end, as in the paper. An R squared rises with every state that is added. So three numbers stand beside it: `expected_r2`, what scores dealt to the runs at random would give; `p_value` of that; and `q2`, each run predicted by a fit to the others (below 0: worse than their mean). The rows with two different models are the paper's zero-shot transfer: a map of one size reads another.


# %%
def mean_z(scores):
    """The paper's score of a run: its z-scores among the seeds, averaged over benchmarks."""
    return ((scores - scores.mean("seed")) / scores.std("seed")).mean("metric")


def worth(states, scores):
    found = performance_from_occupancy(states, scores)
    return {name: found[name].item() for name in ("r2", "expected_r2", "p_value", "q2")}


nano_scores = mean_z(evals["value"].sel(step=last, drop=True))
rows = {}
for (name, way), fitted in maps.items():
    for other in (name, models[-1]) if name != models[-1] else (name,):
        scale = {"reference": cube["seed"].values.tolist()} if way == "default" and other != name else {}
        states = fitted.decode(cube.sel(model=[other]), **scale)
        rows[way, name, other] = worth(states, nano_scores.sel(model=[other]))
explained = pd.DataFrame(rows).T.rename_axis(["way", "map of", "read"])
print(explained.round(2).to_string())
takeaway(
    "5 nano",
    f"R squared is at most {explained['r2'].max():.2f} (the paper: 0.99) and chance alone gives up to "
    f"{explained['expected_r2'].max():.2f}; the smallest p of {len(explained)} is {explained['p_value'].min():.2f} "
    "and Q squared is "
    f"{'never' if explained['q2'].max() <= 0 else 'sometimes'} above 0: "
    + (
        "in nano the path through the states does not tell the score."
        if explained["p_value"].min() > 0.05
        else "in some of nano the path through the states tells the score."
    ),
)

# %% [markdown]
# Is that because too little went wrong in `nano`? In `nano-edge` more did. The score is the loss at the end.

# %%
rows = {}
for name in edge_cube["model"].values:
    fitted = ps.fit_training_map(edge_cube.sel(model=[name]), recipe="polypythias", n_states=5)
    rows[name] = worth(fitted.states, loss.sel(model=[name]).where(np.isfinite))
explained = pd.DataFrame(rows).T
explained["went wrong"] = wrong["wrong"].sum("seed").to_series()
print(explained.round(2).to_string())
takeaway(
    "5 nano-edge",
    f"{explained['went wrong'].sum():.0f} of {edge_cube['model'].size * edge_cube['seed'].size} runs went wrong, "
    "and R squared of the recipe is "
    f"{explained['r2'].min():.2f} to {explained['r2'].max():.2f} (smallest p {explained['p_value'].min():.2f}), Q "
    "squared at most "
    f"{explained['q2'].max():.2f}: "
    + (
        "no sign of the paper's finding."
        if explained["p_value"].min() > 0.05
        else "at some settings the map fits the loss."
    ),
)


# %% [markdown]
# ### Table 3: what changes at a transition?


# %%
def largest_changes(fitted, pick=4):
    """At each transition that runs take, the largest effects (in standard deviations of the states)."""
    found = transition_effects(fitted)
    effects = (
        found["effect"].where(found["n_runs"] > 0).stack(move=["map_state", "to_state"]).transpose("move", "metric")
    )
    rows = {}
    for (start, end), row in effects.dropna("move", how="all").to_pandas().iterrows():
        if start != end:
            top = row.loc[row.abs().nlargest(pick).index]
            rows[f"{start} > {end}"] = ", ".join(f"{name.rsplit('/', 1)[1]} {size:+.1f}" for name, size in top.items())
    return pd.Series(rows)


moves = largest_changes(maps[models[1], "default"])
print("\n".join(f"{move}   {what}" for move, what in moves.items()))
takeaway(
    "5 nano", f"at the first transition of {models[1]} the largest changes are {moves.iloc[0]} (standard deviations)."
)

# %% [markdown]
# ### The same on Pythia
#
# First the weights of five seeds of 70M, with the numbers of states around the paper's five. Then the map of 410M that was published with its scores.

# %%
if folder := published("pythia-training-maps"):
    weights = ps.read_table(folder / "Pythia70m_Hu_metrics.tsv", model="pythia-70m", family="weight").to_dataset()
    theirs = ps.fit_training_map(weights, recipe="polypythias", n_states=[4, 5, 6])
    ours = ps.fit_training_map(weights, n_states=5, rng=0)
    display(ps.summary(theirs.selection[["log_likelihood", "n_parameters", "aic", "bic"]]))
    by_run = theirs.decode(weights, one_sequence=False)
    changed = int((theirs.states["state"] != by_run["state"]).sum())
    takeaway(
        "5 Pythia",
        f"on the weights of 70M the recipe chooses {theirs.n_states} states of 4 to 6 (the paper: 5). Reading all "
        "seeds as one long run, "
        f"as its code does, gives {changed} of {by_run['state'].size} checkpoints another state than reading each "
        "run by itself.",
    )
else:
    weights = None

# %% [markdown]
# The map of the recipe three times: read as one long run; read run by run; and, below, the default map. A map that never goes back to its first state cannot begin again with the next seed.

# %%
plots.map_strips(theirs.states) if weights is not None else skipped

# %%
plots.map_strips(by_run) if weights is not None else skipped

# %%
plots.map_strips(ours.states) if weights is not None else skipped

# %%
if weights is not None:
    benchmarks = [f"eval/{task}/acc" for task in ("arc_easy", "lambada_openai", "piqa")]
    scores70m = mean_z(seeds70m["value"].isel(step=0, drop=True).sel(metric=benchmarks))
    ways = {"recipe, as one run": theirs.states, "recipe, run by run": by_run, "default": ours.states}
    explained = pd.DataFrame({name: worth(states, scores70m) for name, states in ways.items()}).T
    print(explained.round(2).to_string())
    print("\nlargest changes at the transitions of the default map")
    print("\n".join(f"{move}   {what}" for move, what in largest_changes(ours).items()))
    takeaway(
        "5 Pythia",
        f"for the five seeds of 70M R squared is {explained['r2'].min():.2f} to {explained['r2'].max():.2f}, where "
        "chance gives "
        f"{explained['expected_r2'].min():.2f} to {explained['expected_r2'].max():.2f}; the smallest p is "
        f"{explained['p_value'].min():.2f}"
        + (": five runs do not show it." if explained["p_value"].min() > 0.05 else "."),
    )
else:
    print(skipped)

# %%
if scores410m is not None:
    rows = pd.read_csv(shared / "pythia-training-maps" / "training_maps.tsv", sep="\t").set_index(["seed", "step"])
    states410m = (
        rows["state"].to_xarray().to_dataset().expand_dims(model=["pythia-410m"]).assign_coords(map_state=range(5))
    )
    final = scores410m["value"].isel(metric=0, step=-1, drop=True)
    value = performance_from_occupancy(states410m, final).isel(model=0)
    paths = state_paths(states410m).isel(model=0)
    forks = {int(s): int(f) for s, f in zip(paths["seed"], paths["fork_step"], strict=True) if f >= 0}
    without = " and ".join(str(seed) for seed in value["without_two"].values)
    takeaway(
        "5 Pythia",
        f"of 410M, R squared is {float(value['r2']):.2f}, the paper's 0.99. Scores dealt at random would give "
        f"{float(value['expected_r2']):.2f} "
        f"(p = {float(value['p_value']):.2f}), Q squared is {float(value['q2']):.2f}, and without seeds {without} R "
        "squared is "
        f"{float(value['smallest_without_two']):.2f}: "
        + (
            "the map tells two runs from eight, and nothing about the eight."
            if value["smallest_without_two"] < value["expected_r2"]
            else "the map tells more than which runs are outliers."
        ),
    )
    takeaway(
        "5 Pythia",
        "the seeds that leave the path of the others do so at step "
        + " and ".join(
            f"{step:,} (seed {seed}; its score stands out from {int(found410m['from_step'].sel(seed=seed)):,})"
            for seed, step in forks.items()
        )
        + (
            ", earlier than their scores tell, as the paper says."
            if all(step < int(found410m["from_step"].sel(seed=seed)) for seed, step in forks.items())
            else "."
        ),
    )
else:
    print(skipped)

# %%
plots.map_strips(states410m) if scores410m is not None else skipped

# %% [markdown]
# **When not to trust it.** That the states fork "long before" cannot be used as an early warning as it stands. The published states are on a scale that is each run's own mean and spread over the *whole* of training, so that what happens late moves the states of the beginning: `phases.ipynb` pastes a late restart into a healthy run and counts the earlier states that change. To warn, use `state_online` on a scale that knows no future (`normalise="reference"` or `"causal"`).
#
# The file of 410M has a column `group` that puts seeds 3 and 4 apart from the other eight. If states were numbered for each group by itself, then the forks, and an R squared over all ten, compare states that are not the same. The caption of the paper's figure speaks of one map; the file does not settle it.
#
# The weight statistics of 410M are not in the published files, so tables 2 and 3 cannot be checked for the outlier seeds, nor which statistic makes them fork.

# %% [markdown]
# ## All takeaways in one place

# %%
display(Markdown("\n".join(f"- *{section}*: {text}" for section, text in takeaways)))
tree.close()
edge.close()

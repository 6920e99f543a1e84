# %% [markdown]
# # Basic facts about weights, ten seeds later
#
# [*Basic facts about language models during training*](https://www.lesswrong.com/posts/2JJtxitp6nqu6ffak/basic-facts-about-language-models-during-training-1) (Conjecture, 2023) walked through the checkpoints of Pythia and wrote down how weights, activations and gradients change while a language model learns. It had **one run of each size**. Which of its facts are facts about the recipe, and which about that one run? Its readers asked for a second seed.
#
# This notebook takes the same walk over the bundled cube `nano`: three sizes of a small GPT-NeoX, ten seeds each. Every section says in a sentence what the study found in Pythia, and then what ten seeds say here; the last section counts in how many runs a reader of one run per size would have seen each of these things. Lines are medians over the seeds of a size, bands their middle half. Three numbers in a row are the sizes, from the smallest to the largest. Every takeaway is written by the numbers above it.
#
# `nano` is not Pythia: 33 to 215 thousand parameters instead of 70 million and more, 120 words, 1,000 steps. Where it disagrees with the study, nothing is refuted. What it does show is what a claim of this kind needs before it can be believed. Put your own runs in its place: `polystab fill weights activations directions embedding -O activations.text=my.txt --runs runs.csv -o fill/ --merge mine.nc`, then `ps.open_tree("mine.nc")`.

# %%
import numpy as np
from IPython.display import Markdown, display

import polystab as ps
from polystab import plots
from polystab.analysis import (
    asymptotes,
    curve_consistency,
    curve_peaks,
    direction_overlap,
    embedding_matrix,
    embedding_similarity,
    forecast_final,
    outlier_persistence,
)
from polystab.sources.weights.spectra import singular_values, spectrum_measures
from polystab.suites.grammar import vocabulary

tree = ps.load_tree("nano")
cube = ps.load_cube("nano")
models = [str(name) for name in cube["model"].values]
last = int(cube["step"][-1])
QKV, OUT, UP, DOWN = MATRICES = [
    "attention.query_key_value",
    "attention.dense",
    "mlp.dense_h_to_4h",
    "mlp.dense_4h_to_h",
]


def takeaway(text, *points):
    """Show a sentence that the numbers wrote, and what belongs to it."""
    display(Markdown("\n".join([f"**Takeaway:** {text}", "", *(f"- {point}" for point in points)])))


# %%
claims = {}


def holds(claim, runs):
    """Note in which runs (model, seed) a claim holds, and count them."""
    share = runs.transpose("model", "seed").mean("seed")
    claims[claim] = [*share.values, float(share.prod())]
    counts = runs.transpose("model", "seed").sum("seed").values
    if len(set(counts)) == 1:
        return f"{counts[0]} of {runs.sizes['seed']} runs of every size"
    return ", ".join(f"{n} of {runs.sizes['seed']} runs of {m}" for m, n in zip(models, counts, strict=True))


def rises(claim, numbers):
    """Note how often a number grows with size if one run of each size is drawn: 1/6 of the draws by chance."""
    small, middle, large = numbers.transpose("model", "seed").values
    found = (small[:, None, None] < middle[None, :, None]) & (middle[None, :, None] < large)
    claims[claim] = [np.nan, np.nan, np.nan, float(found.mean())]
    return f"{100 * found.mean():.0f} % of the draws"


def part(measure, parts=MATRICES, family="weight"):
    """One measure (model, seed, step, metric) of some parts of the network, which name the metrics."""
    return cube["value"].sel(metric=[f"{family}/{name}/{measure}" for name in parts]).assign_coords(metric=parts)


def listed(values, digits=2, unit=""):
    """The medians over seeds, from the smallest model to the largest, as a text."""
    middle = values.median("seed") if "seed" in values.dims else values
    *first, final = (f"{value:,.{digits}f}{unit}" for value in middle.values)
    return f"{', '.join(first)} and {final}"


def table(values, digits=2):
    return values.reset_coords(drop=True).to_pandas().round(digits).to_string()


# %% [markdown]
# ## 1. How weights are distributed
#
# **The study:** weights start Gaussian and end with heavier tails, near a logistic distribution; in the MLPs the change comes within the first few thousand of 143,000 steps, in the query-key-value matrices suddenly at about 20,000, and the output matrix of attention stays near Gaussian throughout.
#
# A reader proposed the yardstick used here: fit Student's t and read its degrees of freedom ν. Infinite ν is a Gaussian; a logistic distribution has the kurtosis of ν = 9; below 5 tails are heavy. A fit stops at 10,000.

# %%
plots.statistics(cube, measure="t_nu", parts=MATRICES)

# %%
nu = part("t_nu")
gaussian = float(nu.sel(step=0).min())  # the smallest of all initialisations, which are Gaussian by construction
since = nu["step"].where(nu < gaussian).min("step")  # the first step at which it is no Gaussian
print(f"first step with nu < {gaussian:.0f}, median over the seeds that get there")
print(table(since.median("seed"), 0))
print("\nnu at the end, median over seeds")
print(table(nu.sel(step=last).median("seed"), 1))

when = {name: 100 * since.sel(model=models[-1], metric=name) / last for name in MATRICES}
mlp_first = (since.sel(metric=[UP, DOWN]) < since.sel(metric=QKV)).all("metric")
out_last = nu.sel(step=last, metric=OUT) > nu.sel(step=last).drop_sel(metric=OUT).max("metric")
ends = nu.sel(step=last)
takeaway(
    f"at step 0 no kind of matrix of any run has a nu below {gaussian:.0f}; at the end "
    f"{100 * float((ends < gaussian).mean()):.0f} % of them are below that and {100 * float((ends < 9).mean()):.0f} % "
    f"below 9, heavier than a logistic. In {models[-1]} they are first below it at "
    + "; ".join(
        f"{float(v.median()):.0f} % of training ({float(v.min()):.0f} to {float(v.max()):.0f}) for {name}"
        for name, v in when.items()
    )
    + f". Both MLP matrices change before query-key-value: {holds('MLP weights grow tails before query-key-value', mlp_first)}. "
    f"The attention output ends as the most Gaussian: {holds('attention output ends as the most Gaussian', out_last)}."
)

# %% [markdown]
# What does such a ν look like? Here are the quantiles of as many drawn numbers, with the ν with which the output matrices of the largest model's MLPs end. A Gaussian lies on the dashed line; these leave it only far out, where few elements are.

# %%
rng = np.random.default_rng(0)
ending = float(ends.sel(model=models[-1], metric=DOWN).median())
plots.qq(rng.standard_t(ending, size=(256, 64)), subject=f"a draw with nu = {ending:.1f}")

# %%
pooled = cube["value"].sel(metric="weight/all/t_nu", step=0)
takeaway(
    f"all weights of the network together have a nu of {listed(pooled, 0)} at step 0, in {int((pooled < gaussian).sum())} "
    f"of {pooled.size} runs below the {gaussian:.0f} of the least Gaussian kind of matrix: different variances, thrown together, look like heavy tails. "
    "Histograms of several matrices at once say as much about their scales as about their tails."
)

# %% [markdown]
# **When not to trust it.** (1) The same holds, more mildly, for the panels above: the bundled cube pools each kind of matrix over the layers, and layers grow apart in scale during training. (2) A ν above 100 is Gaussian, whatever it is; a few thousand elements cannot tell more. (3) A threshold makes a gradual change look like an event. Histograms, QQ plots of real weights and single layers need the checkpoints (`polystab train nano -o nano/` keeps them):
#
#     polystab fill weights --runs nano/ -o fill/ --merge details.nc \
#         -O 'weights.sets=["core","histograms","singular_values"]' -O 'weights.levels=["parameter"]'
#
#     details = ps.open_tree("details.nc")
#     plots.histogram(details, subject="layers.0.mlp.dense_4h_to_h")
#     plots.qq(details, subject="layers.0.mlp.dense_4h_to_h")
#     plots.animate(details, "tails.gif", what="histogram", subject="layers.0.mlp.dense_4h_to_h")

# %% [markdown]
# ## 2. Gradients
#
# **The study:** gradients are Gaussian with shrinking variance at first, turn logistic suddenly at about 20,000 steps, and their tails are like those of the weights.

# %%
plots.layer_curves(cube, family="gradient", measure="t_nu", part=DOWN)

# %%
plots.statistics(cube, family="gradient", measure="rms", parts=["all", "embed_in"])

# %%
matrices = (cube["family"] == "gradient") & (cube["measure"] == "t_nu") & (cube["layer"] >= 0)
tails = cube["value"].sel(metric=matrices).median("metric")  # of a run: the median over its matrices
weights = nu.median("metric")
size = part("rms", ["all"], "gradient").isel(metric=0)
lowest = size["step"].isel(step=size.argmin("step"))
takeaway(
    f"the nu of the gradients, by size, is {listed(tails.sel(step=0), 1)} at step 0 and {listed(tails.sel(step=last), 1)} at "
    f"the end: Gaussian at the start in {holds('gradients start Gaussian', tails.sel(step=0) >= gaussian)}. Weights end at "
    f"{listed(weights.sel(step=last), 1)}: with lighter tails than gradients in {holds('weights have lighter tails than gradients', (weights > tails).sel(step=last))}. "
    f"Gradients shrink by a factor of {listed(size.sel(step=0) / size.min('step'), 0)} until step {listed(lowest, 0)}, and end "
    f"{listed(size.sel(step=last) / size.min('step'), 1)} times above that; smaller than they started in "
    f"{holds('gradients end smaller than they start', size.sel(step=last) < size.sel(step=0))}."
)

# %% [markdown]
# **When not to trust it.** Gradients are of one batch, the same at every checkpoint. In a small batch a rare word moves a few rows of a matrix and nothing else, which alone makes tails. Gradients of training are clipped and averaged by the optimizer; these are not.

# %% [markdown]
# ## 3. Outliers in the residual stream
#
# **The study:** the largest activation rises fast, crests and slowly declines; larger models have larger ones, crest later and fall less. The first blocks are very low, it is formed by block 2 or 3, stays level, and drops in the last blocks.

# %%
plots.layer_curves(cube, family="activation", measure="max_abs", part="residual")

# %%
plots.layer_profile(cube, family="activation", measure="max_abs", part="residual", steps=[0, 16, 100, 300, last])

# %%
residual = "activation/layers.1.residual/max_abs"  # the deepest block that all sizes have
crest = curve_peaks(cube.sel(metric=[residual]), rng=0).isel(metric=0)
print("crest of the largest activation after block 1")
display(ps.summary(crest[["runs_step", "runs_lower", "runs_upper", "runs_p", "n_peaks"]].reset_coords(drop=True)))

blocks = [f"layers.{i}.residual" for i in range(int(cube["n_layers"].max()))]
ever = part("max_abs", blocks, "activation").max("step").assign_coords(metric=range(len(blocks)))
final_block = ever.sel(metric=cube["n_layers"] - 1)  # smaller models have fewer
print("\nlargest activation ever, by block, median over seeds")
print(table(ever.median("seed").transpose("metric", "model"), 0))
takeaway(
    f"that it crests and declines is more than noise in {holds('largest activation crests and declines', crest['p'] <= 0.05)} taken "
    f"by itself, and for all runs of a size together at p = {listed(crest['runs_p'], 4)}: a spiky curve needs several seeds. It falls by "
    f"{listed(100 * crest['relative'], 0, ' %')}. Drawing one run of each size, it is larger in larger models in {rises('largest activation grows with size', ever.max('metric'))}, "
    f"crests later in {rises('largest activation crests later in larger models', crest['step'])} and falls less in "
    f"{rises('largest activation falls less in larger models', -crest['relative'])}. The last block does not have the largest one in "
    f"{holds('largest activation drops in the last block', final_block < ever.max('metric'))}."
)

# %% [markdown]
# Few large values can mean a few large *dimensions* that stand out in every token. The group `dimensions` follows them: a row a run, a number the dimension that is largest, darker where it stands out more.

# %%
plots.outlier_dimensions(tree, site=blocks[-1])

# %%
stays = outlier_persistence(tree, factor=3.0)
at_end = stays["count"].sel(site=blocks[-1], model=models[-1])
kept = stays["largest_persistence"].sel(site=blocks[-1], model=models[-1])
takeaway(
    f"after the last block of {models[-1]}, {float(at_end.sel(step=last).mean()):.1f} dimensions per run exceed three "
    f"times the median at the end ({float(at_end.sel(step=last).min()):.0f} to {float(at_end.sel(step=last).max()):.0f}), "
    f"{float(at_end.sel(step=100).mean()):.1f} at step 100. From one checkpoint to the next the largest dimension stays the same in "
    f"{100 * float(kept.mean()):.0f} % of cases ({100 * float(kept.min()):.0f} to {100 * float(kept.max()):.0f} % by seed)."
)

# %% [markdown]
# **When not to trust it.** A maximum grows with the number of tokens and dimensions it is taken over, so sizes of different width are not quite comparable, and neither are batches. A network of four blocks has hardly a middle. "After the last block" is before the final layer norm; whether a study reads before or after it decides what its last block looks like. Which dimension stands out means nothing across seeds.

# %% [markdown]
# ## 4. Norms
#
# **The study:** the norms of MLP weights rise, peak at 20,000 to 40,000 of 143,000 steps (14 to 28 % of training) and decline, the less the larger the model; attention output does alike, with more differences between blocks; query-key-value grows most in the last blocks.

# %%
plots.statistics(cube, measure="l2", parts=MATRICES)

# %%
norms = curve_peaks(cube.sel(metric=[f"weight/{name}/l2" for name in ["all", *MATRICES]]), rng=0)
norms = norms.assign_coords(metric=["all", *MATRICES])
display(ps.summary(norms[["runs_step", "runs_lower", "runs_upper", "runs_decline", "runs_p", "n_peaks"]]))

peaked = norms["p"] <= 0.05
early = norms["step"].sel(metric="all").pipe(lambda step: (step >= 0.14 * last) & (step <= 0.28 * last))
by_kind = 100 * norms["relative"].sel(metric=MATRICES)
takeaway(
    f"the norm of all weights peaks at step {listed(norms['runs_step'].sel(metric='all'), 0)}: within 14 to 28 % of training "
    f"in {holds('weight norm peaks at 14 to 28 % of training', early)}. Norms of both MLP matrices peak and decline in "
    f"{holds('MLP norms peak and decline', peaked.sel(metric=[UP, DOWN]).all('metric'))}; of the attention output in "
    f"{holds('attention output norm peaks and declines', peaked.sel(metric=OUT))}. They decline by "
    + ", ".join(f"{float(by_kind.sel(metric=name).median()):.1f} % ({name})" for name in MATRICES)
    + f" at the median run. Drawing one run of each size, all weights decline less in larger models in {rises('weight norm declines less in larger models', -norms['relative'].sel(metric='all'))}."
)

# %% [markdown]
# **The study:** gains of layer norms fall in block 0 and rise with depth; biases grow almost without exception, and by very different amounts. Its explanation is that weight decay shrinks the matrices and what is not decayed makes up for it.

# %%
LISTS = ["input_layernorm", "post_attention_layernorm", *(f"{name}.bias" for name in MATRICES)]
plots.statistics(cube, measure="l2", parts=LISTS)

# %%
biases = LISTS[2:]
falls = curve_peaks(cube.sel(metric=[f"weight/{name}/l2" for name in biases]), rng=0).assign_coords(metric=biases)
growth = part("l2", biases).sel(step=last)
gain = part("mean", LISTS[:2]).sel(step=last)
same = np.array_equal(*(part("l2", [f"{name}.bias"]).values for name in (OUT, DOWN)))
takeaway(
    "no bias declines by more than noise in "
    f"{holds('biases only grow', (falls['p'] > 0.05).all('metric'))}. At the end their norms are "
    + "; ".join(f"{listed(growth.sel(metric=name), 1)} ({name})" for name in biases)
    + (
        ". Those of attention output and MLP output are one and the same curve: both blocks are added to one stream, so their biases get the same gradient"
        if same
        else ""
    )
    + f". Mean gains end at {listed(gain.sel(metric=LISTS[0]))} before attention and {listed(gain.sel(metric=LISTS[1]))} before the MLP, "
    "having started at 1 in every run."
)

# %% [markdown]
# **When not to trust it.** In `nano`, too, matrices are decayed and biases and gains are not, so the same pattern fits the same explanation; it does not test it. A test trains with and without decay. The learning rate falls on a cosine all along: a peak that sits at the same share of training in every seed and size may be a property of the schedule (section 10 asks how far it moves with size). Pooled layers hide what the study saw in single blocks, such as gains that fall in block 0 only; with `weights.levels=["parameter"]` (section 1), `plots.layer_curves` draws them. Means, spreads and extremes are drawn alike: `measure="mean"`, `"std"`, `"max_abs"`.

# %% [markdown]
# ## 5. Distance from the start
#
# **The study:** the distance of weights to their initialisation follows the norms; it peaks between 20,000 and 40,000 steps in all models, query-key-value jumps near 20,000 in some. Training seemed to have two phases, fast learning and slow refinement.

# %%
plots.statistics(cube, measure="distance", parts=MATRICES)

# %%
plots.statistics(cube, measure="cosine", parts=["all", OUT])

# %%
ways = curve_peaks(cube.sel(metric=[f"weight/{name}/distance" for name in MATRICES]), rng=0).assign_coords(
    metric=MATRICES
)
distance, kept = (part(name, ["all"]).isel(metric=0) for name in ("distance", "cosine"))
half = distance["step"].where(distance >= distance.max("step") / 2).min("step")
print("runs whose distance peaks and declines by more than noise")
print(table((ways["p"] <= 0.05).sum("seed"), 0))
print("\nchance of it in all runs together, were there no peak")
print(table(ways["runs_p"], 4))
turned = ways["p"].sel(metric=OUT) <= 0.05
takeaway(
    f"half of the longest distance is covered by step {listed(half, 0)}, before the norm peaks at step "
    f"{listed(norms['runs_step'].sel(metric='all'), 0)}. That of the attention output peaks and declines in "
    f"{holds('distance of attention output peaks and declines', turned)}; all weights end "
    f"{listed(100 * (1 - distance.sel(step=last) / distance.max('step')), 1, ' %')} nearer to their start than at the farthest. "
    f"The cosine to the start is still {listed(kept.sel(step=last))} (0.00 would be a run that forgot where it began), "
    f"and seeds differ by {float(kept.sel(step=last).std('seed', ddof=1).max()):.3f} (standard deviation) at most."
)

# %% [markdown]
# **When not to trust it.** A random walk moves away from its start as well, so a distance by itself says nothing of learning. Two phases cannot be read off a smooth curve by eye: `phases.ipynb` asks for change points against noise, and whether seeds share them. The study wondered whether the learning rate switches where weights peak; Pythia's warm-up ends after 1 % of training, and so does the one of `nano`, long before.

# %% [markdown]
# ## 6. Embedding
#
# **The study:** the embedding's norm rises and slowly decays; the unembedding's goes its own way at each size. The correlations between the embeddings of the first 256 tokens show blocks of digits and of letters, learned very early and stable ever after.

# %%
plots.curves(cube, metric="activation/embed_in/rms")

# %%
plots.embedding_matrix(tree)

# %% [markdown]
# Tokens 4 to 35 are nouns, singular and plural in turn; then come verbs without an object, and from 52 on verbs with one.

# %%
matrix = embedding_matrix(tree).sel(model=models[-1], step=last).median("seed")
words = vocabulary()
pairs = matrix.where(matrix["token"] < matrix["other_token"]).stack(pair=("token", "other_token")).dropna("pair")
top = pairs.sortby(pairs, ascending=False).isel(pair=slice(0, 8))
print("most alike at the end, in", models[-1])
for (one, other), value in zip(top["pair"].values, top.values, strict=True):
    print(f"  {words[one]} and {words[other]}: {value:.2f}")

nouns, verbs = np.arange(4, 36), np.arange(36, 52)
block, off = matrix.values[np.ix_(nouns, nouns)], ~np.eye(len(nouns), dtype=bool)
number = nouns[:, None] % 2 == nouns % 2
takeaway(
    f"two nouns of one number have a correlation of {block[number & off].mean():.2f}, a singular and a plural "
    f"{block[~number].mean():.2f}, a noun and a verb {matrix.values[np.ix_(nouns, verbs)].mean():.2f}."
)

# %%
plots.embedding_similarity(tree, against="last")

# %%
to_end, to_seeds = (embedding_similarity(tree, against=other)["similarity"] for other in ("last", "seeds"))
known = [int(step) for step in to_end["step"].values if to_end.sel(step=step).notnull().any()]
scale = curve_peaks(cube.sel(metric=["activation/embed_in/rms"]), rng=0).isel(metric=0)
print("similarity of the correlations to those at the end, median over seeds")
print(table(to_end.sel(step=known).median("seed")))
takeaway(
    f"at step 100, a tenth of training, the arrangement already has a similarity of {listed(to_end.sel(step=100))} to the "
    f"final one: 0.8 or more in {holds('embedding is arranged after a tenth of training', to_end.sel(step=100) >= 0.8)}. Two seeds end with "
    f"{listed(to_seeds.sel(step=last))}"
    + (
        ": the arrangement belongs to the language more than to the run"
        if float(to_seeds.sel(step=last).min()) > 0.8
        else ""
    )
    + ". The scale of the embedding rises and "
    f"decays in {holds('embedding scale rises and decays', scale['p'] <= 0.05)}."
)

# %% [markdown]
# **When not to trust it.** The curve of scale is over the words of a batch, not over the table, so that frequent words count more; norms of the embedding, the unembedding and the final layer norm themselves need the checkpoints (`weights.levels=["parameter"]`, subjects `embed_in`, `embed_out`, `final_layer_norm`). The bundled cube keeps the correlations of six checkpoints. A similarity between seeds is not 1 even for equal ones: correlations over few dimensions are noisy, as step 0 shows in the picture.

# %% [markdown]
# ## 7. Spectra
#
# **The study:** the singular values of MLP matrices follow a power law from the first checkpoint on and change little; attention output stays flat, near Gaussian; query-key-value grows outlying values late, in some blocks.
#
# "Follows a power law" has to be compared with something. A fit finds an exponent in anything, so first see what it finds in fresh Gaussian matrices of the shape of an MLP matrix.

# %%
fresh = [spectrum_measures(singular_values(rng.normal(size=(64, 256))), (64, 256)) for _ in range(20)]
names = ["power_law_alpha", "power_law_ks", "power_law_n", "stable_rank", "mp_outliers"]
noise = {name: np.array([found[name] for found in fresh]) for name in names}
for name, values in noise.items():
    print(f"{name:16s} {values.min():6.2f} to {values.max():6.2f}")
takeaway(
    f"a power law is fitted to pure noise with exponents from {noise['power_law_alpha'].min():.1f} to "
    f"{noise['power_law_alpha'].max():.1f}, from {noise['power_law_n'].min():.0f} to {noise['power_law_n'].max():.0f} of 64 values. "
    f"Values beyond the edge of Marchenko and Pastur are what noise hardly has: {noise['mp_outliers'].sum():.0f} in {len(fresh)} "
    f"matrices. Count those before you read an exponent."
)

# %% [markdown]
# The bundled cube has averages over matrices: the largest singular value (`lambda_max`) and the Frobenius norm (`L2`). Their squared ratio is close to the stable rank: how many directions share the weight. In noise it is large and stays; a spectrum with a few strong directions has a small one.

# %%
plots.curves(cube, metric="weight/hu2023-corrected/lambda_max")

# %%
edge, whole = (cube["value"].sel(metric=f"weight/hu2023-corrected/{name}") for name in ("lambda_max", "L2"))
rank = (whole / edge) ** 2
steps = [0, 16, 50, 100, 300, last]
print("squared ratio of Frobenius and spectral norm, median over seeds")
print(table(rank.sel(step=steps).median("seed"), 1))
gone = (rank.sel(step=0) - rank.sel(step=100)) / (rank.sel(step=0) - rank.min("step"))
takeaway(
    f"the stable rank falls from {listed(rank.sel(step=0), 1)} to {listed(rank.min('step'), 1)}; {listed(100 * gone, 0, ' %')} "
    f"of that within a tenth of training. It is lower at the end than at the start in "
    f"{holds('spectra concentrate', rank.sel(step=last) < rank.sel(step=0))}."
)

# %% [markdown]
# **When not to trust it.** The ratio of averages is not the average of ratios, and matrices that differ are thrown together. The spectra themselves (rank against singular value, by matrix, with bands over seeds) need the checkpoints, see section 1:
#
#     plots.spectrum(details, subject="layers.0.mlp.dense_h_to_4h")
#     plots.statistics(details, measure="mp_outliers")
#     plots.animate(details, "spectrum.gif", what="spectrum", subject="layers.0.attention.query_key_value")

# %% [markdown]
# ## 8. What singular directions say
#
# **The study:** the singular vectors of MLP matrices and of the attention's value-output products, read through the unembedding, point to lists of related tokens. These lists come to resemble the final ones late, about exponentially, and more closely in larger models.
#
# `shared` is the share of the top tokens that two checkpoints have in common, direction by direction. The vocabulary is small, so chance is not zero; it stands beside.

# %%
to_end = direction_overlap(tree, against="last")
shown = [f"layers.{i}.{name}" for i in (0, 1) for name in ("mlp.dense_h_to_4h", "attention.ov")]
plots.direction_overlap(to_end, matrices=shown)

# %%
between = direction_overlap(tree, against="seeds")
late, seeds = to_end["shared"].mean("matrix"), between["shared"].mean("matrix")
known = [int(step) for step in late["step"].values if late.sel(step=step).notnull().any()]
print("top tokens shared with the end of the run, median over seeds")
print(table(late.sel(step=known).median("seed")))
print("\ntop tokens shared with another seed")
print(table(seeds.sel(step=known).median("seed")))
chance, chance_best = (float(to_end[f"chance_{name}"].max()) for name in ("shared", "best"))
best = between["best"].mean("matrix").sel(step=last)
halfway = late.sel(step=500)
takeaway(
    f"chance is {chance:.2f}. After a tenth of training a run shares {listed(late.sel(step=100))} with its own end, at half time "
    f"{listed(halfway)}: less than half in {holds('at half time directions share less than half with the end', halfway < 0.5)}. Drawing one "
    f"run of each size, larger models are closer in {rises('directions settle earlier in larger models', halfway)}. Two seeds share {listed(seeds.sel(step=last))} at the "
    f"end, {float(seeds.sel(step=last).median()) / chance:.1f} times chance; with whichever direction fits best {listed(best)} (chance {chance_best:.2f}): "
    "groups of words come back in other seeds, their places in the order of directions do not."
)

# %%
tokens = tree["directions"]["token"].sel(model=models[-1], matrix=f"layers.3.{DOWN}", direction=0)
for step, seed in ((0, 0), (100, 0), (last, 0), (last, 1), (last, 2)):
    found = tokens.sel(step=step, seed=seed).values
    print(f"step {step:5d}, seed {seed}: " + " ".join(words[int(token)] for token in found))

# %% [markdown]
# **When not to trust it.** Directions with nearly equal singular values swap places or turn within their plane without anything changing; `plots.direction_overlap(to_end, overlap="best")` allows for swaps. Whether a list of tokens is *interpretable* is a reader's judgement, and readers find sense in random lists too: read the first line above as carefully as the last. Six checkpoints cannot tell an exponential from another rise.

# %% [markdown]
# ## 9. Where curves end, and whether one could have known
#
# **The study** closed with the hope that curves are regular enough to predict the final norms of a long run from its beginning. Two questions: does a curve tend to something at all, and does a prefix predict the end better than simply assuming that this run ends like its siblings?

# %%
CURVES = [f"weight/{name}" for name in (f"{QKV}.bias/l2", f"{DOWN}/distance", "all/l2", f"{UP}/l2")]
limits = asymptotes(cube.sel(metric=CURVES))
found = limits[["runs_asymptote", "runs_lower", "runs_upper", "n_asymptotes"]].sel(model=models[-1])
display(ps.summary(found.reset_coords(drop=True)))
some = limits["n_asymptotes"].sum("model").to_series()
takeaway(
    "runs of three sizes whose curve tends to a value that the data can tell: "
    + ", ".join(
        f"{int(n)} of {int(limits['n_looked_at'].sel(metric=name).sum())} for {name.removeprefix('weight/')}"
        for name, n in some.items()
    )
    + ". A curve that has turned, or is still moving, has no asymptote to fit."
)

# %%
told = forecast_final(cube.sel(metric=CURVES), at=[0.1, 0.25, 0.5, 0.75])
skill = told["skill_siblings"].sel(metric="weight/all/l2").drop_sel(predictor=["siblings"])
print("forecast of the final norm of all weights, from a share of training")
print("skill over the median of the other seeds: 1 is perfect, 0 no better; mean over sizes")
print(table(skill.mean("model").transpose("at", "predictor")))
drift = told["skill_siblings"].sel(predictor="drift", at=0.25)
good = told["p"].sel(predictor=["drift", "regression", "curve"], at=0.5) <= 0.05
takeaway(
    "a run that is a quarter through is told by its own value, plus what its siblings gained from there, with a skill of "
    + "; ".join(f"{listed(drift.sel(metric=name))} for {name.removeprefix('weight/')}" for name in CURVES)
    + ". Half way, something beats both baselines at p <= 0.05 in "
    f"{int(good.any('predictor').sum())} of {good.sizes['metric'] * good.sizes['model']} cases. Without siblings there is only the "
    "value so far and the extrapolated curve: one run per size has little to forecast with."
)

# %% [markdown]
# **When not to trust it.** The siblings are finished runs of the same recipe: that is what a second seed buys. The skill of ten runs is itself uncertain, and several predictors were tried. Forecasts take the schedule for granted; with another learning-rate schedule all of these curves end elsewhere.

# %% [markdown]
# ## 10. Are curves alike, across seeds and across sizes?
#
# **The study's closing claim:** nearly all effects are consistent across sizes. Any two curves that rise correlate, so the question is put three ways: curves as they are (`level`), what is left when a straight line over log-steps is taken out (`detrended`), and the changes from checkpoint to checkpoint (`increments`). `q` compares with unrelated curves of the same smoothness, corrected for the number of metrics.

# %%
inner = ps.select(cube, family=["weight", "gradient", "activation"])
alike = curve_consistency(inner, rng=0)
print("median over metrics of the correlation of curves")
print(table(alike["r"].median("metric").transpose("across", "kind")))
clear = (alike["q"] <= 0.05).where(alike["r"].notnull())
print("\nshare of the metrics that are more alike than unrelated curves")
print(table(clear.mean("metric").transpose("across", "kind")))

rest = alike.sel(kind="detrended")
print("\nmedian correlation, detrended, by family")
print(table(rest["r"].groupby("family").median("metric").transpose("family", "across")))

# %%
weak = rest["r"].sel(across="sizes").dropna("metric")
weak = weak.sortby(weak).isel(metric=slice(0, 5))
print("least alike across sizes, detrended:", ", ".join(f"{n} ({v:.2f})" for n, v in weak.to_series().items()))
r = {
    (a, k): float(alike["r"].sel(across=a, kind=k).median()) for a in ("seeds", "sizes") for k in ("level", "detrended")
}
bounds = [float(alike[f"peak_{name}"].sel(metric="weight/all/l2")) for name in ("slope", "lower", "upper")]
takeaway(
    f"over {inner.sizes['metric']} metrics, detrended curves correlate with {r['seeds', 'detrended']:.2f} between seeds and "
    f"{r['sizes', 'detrended']:.2f} between sizes (as they are: {r['seeds', 'level']:.2f} and {r['sizes', 'level']:.2f}). "
    f"{100 * float(clear.sel(across='seeds', kind='detrended').mean()):.0f} % of the metrics are alike between seeds beyond chance, "
    f"{100 * float(clear.sel(across='sizes', kind='detrended').mean()):.0f} % between sizes. The peak of the weight norm moves with size as "
    f"parameters to the power {bounds[0]:.2f} [{bounds[1]:.2f}, {bounds[2]:.2f}]."
)

# %% [markdown]
# **When not to trust it.** All runs share one learning-rate schedule, which by itself makes curves alike; alike does not mean caused by the same thing. Seeds are alike *in shape*: a correlation does not see that one run is twice as high. Intervals are over runs of these three sizes and say nothing about a fourth.

# %% [markdown]
# ## 11. What would one run have told us?
#
# The study had one run per size. So draw one run of each size at random from ours, and ask how likely it is that the claim is seen, in all three sizes at once or in the order of size. A claim near 1 did not need ten seeds. One near 0 is not to be seen in single runs: it is not true of `nano`, or too small for one run to tell from its noise (for that, sections 3 and 5 give p over all runs). In between, **the answer depends on the seed**. Orders of size come true in one draw of six by chance.

# %%
width = max(len(claim) for claim in claims)
print(f"{'':{width}s}  {'  '.join(models)}   one run of each size")
for claim, (*shares, seen) in sorted(claims.items(), key=lambda item: -item[1][-1]):
    by_size = "  ".join(
        f"{'' if np.isnan(s) else format(s, '.1f'):>{len(m)}s}" for m, s in zip(models, shares, strict=True)
    )
    print(f"{claim:{width}s}  {by_size}   {seen:20.2f}")

chances = np.array([values[-1] for values in claims.values()])
sure, never = int((chances >= 0.95).sum()), int((chances <= 0.05).sum())
takeaway(
    f"of {len(chances)} claims, {sure} would be seen by nearly every study of one run per size, {never} by nearly none, and "
    f"{len(chances) - sure - never} by some and not by others: there a single run reports its seed."
)
tree.close()

# %% [markdown]
# **When not to trust it.** Ten runs know a share of one half to within 0.2 to 0.8. The claims are this notebook's reading of the study's sentences, with thresholds (p ≤ 0.05, ν, shares) that the study did not have; a run that misses one by a hair counts as much as one that does the opposite. And once more: these are runs of `nano`. With the cube of Pythia's own seeds the cells above say what Pythia does.

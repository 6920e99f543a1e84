# %% [markdown]
# # Quickstart
#
# Open a cube, look at it, ask how much of a difference the seed makes, write the report.
#
# The bundled cube `nano` is real training: three small GPT-NeoX sizes, ten seeds each (`polystab cubes nano` prints its data card). Put your own cube in its place: `polystab read lm-eval results/ -o cube.nc`, then `ps.open_cube("cube.nc")`.

# %%
import polystab as ps
from polystab import plots
from polystab.analysis import seed_spread

cube = ps.load_cube("nano")
ps.summary(cube)

# %% [markdown]
# `ps.summary` makes a short table of a cube or of any result. What is behind it is plain xarray, and displays as such (`cube`); selecting is ordinary xarray, too. One metric, one model, at the last step, a number for each seed: can the model recall which attribute a person had? Some seeds can, some are at chance (0.25).

# %%
recall = cube["value"].sel(metric="eval/nano_recall/acc", model="nano-96k")
recall.isel(step=-1).to_series().round(2).to_frame("accuracy").T

# %% [markdown]
# Over training, with the middle half of the seeds as a band:

# %%
plots.curves(cube, metric="eval/nano_recall/acc")

# %% [markdown]
# How far apart are the seeds at the end, and how well do ten runs tell? `sd` is the standard deviation over runs; its interval is exact for normal data and wide, because ten runs know it only to a factor of 0.69 to 1.83. `sd_over_stderr` compares it with the error of having few test items: near 1, the seeds differ no more than luck with the items explains.

# %%
evals = ps.select(cube, family="eval", measure="acc")
ps.summary(seed_spread(evals)[["mean", "sd", "sd_lower", "sd_upper", "item_stderr", "sd_over_stderr"]])

# %% [markdown]
# Which runs are unlike the others? `outlier_scores` compares each run with its siblings at every step by robust z. `share_beyond` is the share of its values beyond the threshold, `expected_share` what noise alone would put there, `excess` their ratio. It is a list of where to look; verdicts with a false-alarm rate are those of `ps.outlier_runs`.

# %%
columns = ["share_beyond", "expected_share", "excess", "largest", "largest_step", "largest_metric"]
ps.summary(ps.outlier_scores(evals)[columns], rows=5)

# %% [markdown]
# And all of it on one page: `ps.report(cube, "report.html")` writes it, with pictures; as Markdown it begins like this.

# %%
from IPython.display import Markdown

page = ps.report(cube, format="md", sections=["takeaways"])
Markdown(page)

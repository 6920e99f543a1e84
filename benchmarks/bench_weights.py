"""Weight statistics against the usual way, against the limits of the machine, and against weightwatcher.

Give 1 or 2 as an argument for the number of threads, and features, memory or weightwatcher for a part. To compare with weightwatcher, name a Python that
has it in POLYSTAB_WEIGHTWATCHER; it gets the same matrices.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

THREADS = sys.argv[1] if len(sys.argv) > 1 and sys.argv[1] in ("1", "2") else os.environ.get("OMP_NUM_THREADS", "1")
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = THREADS

import numpy as np  # noqa: E402
from harness import in_fresh_process, print_ratio, report_line  # noqa: E402

ROUNDS = 3
SIZES = {"160m": (768, 12), "410m": (1024, 24)}
VOCABULARY = 50304


def weights(width: int, layers: int, *, embed_out: bool = False) -> dict[str, Any]:
    """Every parameter that the features look at, drawn as Pythia's initialisation draws them."""
    rng = np.random.default_rng(0)
    small, wang = math.sqrt(2 / (5 * width)), 2 / (layers * math.sqrt(width))
    found = {}

    def draw(name: str, rows: int, columns: int, sd: float) -> None:
        found[f"{name}.weight"] = rng.standard_normal((rows, columns), dtype=np.float32) * np.float32(sd)
        found[f"{name}.bias"] = rng.standard_normal(rows, dtype=np.float32) * np.float32(0.01)

    draw("gpt_neox.embed_in", VOCABULARY, width, small)
    del found["gpt_neox.embed_in.bias"]
    for layer in range(layers):
        for part, rows, columns, sd in (
            ("attention.query_key_value", 3, 1, small),
            ("attention.dense", 1, 1, wang),
            ("mlp.dense_h_to_4h", 4, 1, small),
            ("mlp.dense_4h_to_h", 1, 4, wang),
        ):
            draw(f"gpt_neox.layers.{layer}.{part}", rows * width, columns * width, sd)
    if embed_out:
        draw("embed_out", VOCABULARY, width, small)
    return found


def usual_way(matrices: list[Any], biases: list[Any]) -> dict[str, float]:
    """The 14 features by one torch call each, as they are usually written."""
    import torch

    rows = []
    for x in matrices:
        l1, l2, trace = x.abs().sum(), torch.linalg.matrix_norm(x), x.diagonal().sum()
        largest = torch.linalg.matrix_norm(x, ord=2)
        _, s, _ = torch.svd(x)
        s[s < 1e-5] = 0
        rows.append([float(v) for v in (l1, l2, l1 / l2, trace, largest, trace / largest, s.mean(), s.var())])
    names = ("L1", "L2", "L1_over_L2", "trace", "lambda_max", "trace_over_lambda", "mu_lambda", "sigma_lambda")
    found = dict(zip(names, np.mean(rows, axis=0).tolist(), strict=True))
    for letter, several in (("w", matrices), ("b", biases)):
        every = torch.cat([x.reshape(-1) for x in several])
        found[f"mu_{letter}"], found[f"sigma_{letter}"] = float(every.mean()), float(every.var())
        found[f"median_{letter}"] = float(every.median())
    return found


def reference(found: dict[str, Any]) -> dict[str, float]:
    """The same in double precision, with true decompositions."""
    matrices = [x.astype(np.float64) for x in found.values() if x.ndim == 2]
    rows = []
    for x in matrices:
        triangle = np.linalg.qr(x if x.shape[0] >= x.shape[1] else x.T, mode="r")
        s = np.linalg.svd(triangle, compute_uv=False)
        l1, l2, trace = np.abs(x).sum(), math.sqrt((x * x).sum()), np.trace(x)
        rows.append([l1, l2, l1 / l2, trace, s[0], trace / s[0], s.mean(), s.var(ddof=1)])
    names = ("L1", "L2", "L1_over_L2", "trace", "lambda_max", "trace_over_lambda", "mu_lambda", "sigma_lambda")
    result = dict(zip(names, np.mean(rows, axis=0).tolist(), strict=True))
    for letter, dims in (("w", 2), ("b", 1)):
        every = np.concatenate([x.reshape(-1) for x in found.values() if x.ndim == dims]).astype(np.float64)
        result[f"mu_{letter}"], result[f"sigma_{letter}"] = float(every.mean()), float(every.var(ddof=1))
        middle = (every.size - 1) // 2
        result[f"median_{letter}"] = float(np.partition(every, middle)[middle])
    return result


def third_and_fourth(x: Any) -> float:
    """The least that skewness and kurtosis take in numpy, in the cache: one product and two sums of products."""
    flat, total, space = x.reshape(-1), 0.0, np.empty(131_072, x.dtype)
    for start in range(0, flat.size, space.size):
        part = flat[start : start + space.size]
        square = np.multiply(part, part, out=space[: part.size])
        total += float(np.dot(square, part)) + float(np.dot(square, square))
    return total


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    """Processor time, which what else the machine does decides less than the clock; all threads together."""
    clock = time.process_time if THREADS == "1" else time.perf_counter
    start = clock()
    result = function()
    return clock() - start, result


def compare_features() -> None:
    """hu2023 against the usual way, the Gram products, and double precision; the moments against a sum."""
    import torch

    from polystab.sources.weights.features import hu2023
    from polystab.sources.weights.moments import array_moments

    torch.set_num_threads(int(THREADS))
    found = weights(*SIZES["160m"])
    matrices = [x for x in found.values() if x.ndim == 2]
    tall = [x if x.shape[0] >= x.shape[1] else x.T for x in matrices]
    tensors = [torch.from_numpy(x) for x in matrices]
    biases = [torch.from_numpy(x) for x in found.values() if x.ndim == 1]
    tall_tensors = [torch.from_numpy(x) for x in tall]
    ways: dict[str, Callable[[], Any]] = {
        "ours": lambda: hu2023(found.items),
        "gram": lambda: [x.T @ x for x in tall_tensors],
        "symmetric gram": lambda: [x.T @ x for x in tall],
        "usual": lambda: usual_way(tensors, biases),
        "moments": lambda: [array_moments(x, higher=False) for x in matrices],
        "all moments": lambda: [array_moments(x) for x in matrices],
        "third and fourth": lambda: [third_and_fourth(x) for x in matrices],
        "sum": lambda: [x.sum() for x in matrices],
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    result: dict[str, Any] = {}
    for turn in range(ROUNDS + 1):
        for name, way in ways.items():
            if name == "usual" and turn in (0, 2):
                continue
            taken, result[name] = timed(way)
            if turn:
                seconds[name].append(taken)
    usual = [sum(seconds["usual"]) / len(seconds["usual"])]
    print_ratio("hu2023, the usual way over ours", usual, seconds["ours"], wanted="at least 8", place=3)
    for name, what in (("gram", "Gram products (sgemm)"), ("symmetric gram", "symmetric Gram products (ssyrk)")):
        print_ratio(
            f"hu2023 over {what}",
            seconds["ours"],
            seconds[name],
            wanted="at most 2",
            names=("ours", "limit"),
            place=3,
        )
    for name in ("moments", "all moments", "third and fourth"):
        what = f"{name} over a plain sum"
        print_ratio(what, seconds[name], seconds["sum"], wanted="at most 2", names=("ours", "limit"), place=3)
    true = reference(found)
    worst = max(true, key=lambda name: abs(result["ours"][name] / true[name] - 1))
    off = {name: abs(values[worst] / true[worst] - 1) for name, values in result.items() if name in ("ours", "usual")}
    report_line(f"  worst relative difference from double precision: {worst} {off['ours']:.1e} (wanted 1e-5)")
    others = {name: abs(result["usual"][name] / true[name] - 1) for name in true}
    report_line(f"  that of the usual way: {max(others, key=others.__getitem__)} {max(others.values()):.1e}")
    everything(found, usual)


def everything(found: dict[str, Any], usual: list[float]) -> None:
    """All sets of section 7 at every level, from a file, with step 0 and the checkpoint before to compare with."""
    from polystab.sources.weights.measurer import Weights

    with tempfile.TemporaryDirectory() as folder:
        for step in (0, 1, 2):
            save({name: x + np.float32(1e-4) * step for name, x in found.items()}, Path(folder) / f"step{step}")
        sets = ("hu2023", "moments", "fits", "spectra", "changes")
        levels = ("parameter", "component", "layer", "all")
        whole = Weights(sets=sets, levels=levels)
        measure_folder(folder, 2, Weights())
        taken = [timed(lambda: measure_folder(folder, 2, whole)) for _ in range(2)]
        seconds = [one for one, _ in taken]
        what = f"all {taken[0][1]} statistics, the usual way of 14 over ours"
        print_ratio(what, usual, seconds, wanted="at least 1", place=3)


def save(found: dict[str, Any], folder: Path) -> None:
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    save_file({name: torch.from_numpy(x) for name, x in found.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt_neox"}))


def measure_folder(folder: str, step: int, measurer: Any) -> int:
    """Measure a checkpoint of a folder; how many values there are."""
    from polystab.sources.checkpoints import CheckpointOptions, open_checkpoint
    from polystab.sources.runs import Run

    run = Run("m", 0, location=f"{folder}/step{{step}}", steps=(0, 1, 2))
    with open_checkpoint(run, step, options=CheckpointOptions(device="cpu")) as checkpoint:
        return len(measurer.measure(checkpoint).values)


def measure_all(folder: str, step: int) -> int:
    from polystab.sources.weights.measurer import Weights

    return measure_folder(folder, step, Weights(sets="all", levels=("parameter", "component", "layer", "all")))


def memory() -> None:
    """Everything about a checkpoint of the size of Pythia-410M, compared with two others."""
    with tempfile.TemporaryDirectory() as folder:
        found = weights(*SIZES["410m"], embed_out=True)
        for step in (0, 1, 2):
            save(found, Path(folder) / f"step{step}")
        del found
        size = sum(path.stat().st_size for path in (Path(folder) / "step2").iterdir())
        warm = (
            "import numpy, torch, scipy.linalg, scipy.special, safetensors, xarray, polystab.sources.weights.measurer"
        )
        done = in_fresh_process(__file__, "measure_all", folder, 2, warm=warm)
    print_ratio(
        f"410M, {size / 2**30:.2f} GiB a file and three of them, limit over added memory",
        [1.5e9 / 2**20],
        [done.added_bytes / 2**20],
        wanted="above 1",
        unit="MiB",
        names=("limit", "ours"),
        place=3,
    )


_PEER = """
import sys, time, json, re, warnings, logging
warnings.simplefilter("ignore")
import numpy as np, torch, weightwatcher
def memory(field):
    with open("/proc/self/status") as status:
        return int(re.search(field + r":\\s+(\\d+) kB", status.read())[1]) * 1024
with open("/proc/self/clear_refs", "w") as refs:
    refs.write("5")
before = memory("VmRSS")
logging.disable(logging.CRITICAL)
torch.set_num_threads({threads})
found = np.load({path!r})
model = torch.nn.Module()
for name in found.files:
    layer = torch.nn.Linear(found[name].shape[1], found[name].shape[0], bias=False)
    layer.weight.data = torch.from_numpy(found[name])
    model.add_module(name, layer)
clock = time.process_time if {threads} == 1 else time.perf_counter
start = clock()
details = weightwatcher.WeightWatcher(model=model).analyze({options})
seconds = clock() - start
alphas = dict(zip(details["longname"], details["alpha"]))
print("RESULT" + json.dumps([seconds, memory("VmHWM") - before, alphas]))
"""


def compare_weightwatcher() -> None:
    """Power-law exponents, time and memory on the matrices of six layers with heavy-tailed spectra."""
    peer = os.environ.get("POLYSTAB_WEIGHTWATCHER")
    if not peer:
        report_line("weightwatcher: not compared; name a Python that has it in POLYSTAB_WEIGHTWATCHER.")
        return
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "matrices.npz")
        np.savez(path, **heavy_matrices())
        seconds, added, alphas = theirs(peer, path, "")
        plain, _, _ = theirs(peer, path, "randomize=False")
        warm = "import numpy, scipy.linalg, polystab.sources.weights.spectra"
        ours = in_fresh_process(__file__, "our_exponents", path, warm=warm)
    taken, least, found = ours.result
    off = max(abs(found[name] / alpha - 1) for name, alpha in alphas.items())
    report_line(
        f"  {len(alphas)} exponents {min(found.values()):.2f} to {max(found.values()):.2f}; worst relative difference {off:.1e}"
    )
    print_ratio("spectra and power laws, weightwatcher over ours", [seconds], [taken], wanted="at least 10", place=3)
    print_ratio("  without its comparison with shuffled weights", [plain], [taken], wanted="at least 10")
    print_ratio(
        "  over Gram products and their reduction, from which singular values follow", [seconds], [least], wanted="-"
    )
    print_ratio(
        "  added memory, weightwatcher over ours",
        [added / 2**20],
        [ours.added_bytes / 2**20],
        wanted="at least 3",
        place=3,
        unit="MiB",
    )


def theirs(peer: str, path: str, options: str) -> tuple[float, int, dict[str, float]]:
    """Seconds, added memory (its model included, which it needs as a whole) and exponents of weightwatcher."""
    code = _PEER.format(path=path, threads=int(THREADS), options=options)
    done = subprocess.run([peer, "-c", code], capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT")]
    if not lines:
        raise RuntimeError(done.stderr)
    seconds, added, alphas = json.loads(lines[0].removeprefix("RESULT"))
    return seconds, added, alphas


def heavy_matrices() -> dict[str, Any]:
    rng = np.random.default_rng(1)
    found = {}
    for i, (m, n) in enumerate([(2304, 768), (768, 768), (3072, 768), (768, 3072)] * 6):
        left, _ = np.linalg.qr(rng.standard_normal((m, min(m, n))))
        right, _ = np.linalg.qr(rng.standard_normal((n, min(m, n))))
        s = (1 - rng.random(min(m, n))) ** (-1 / (2 * (1.5 + i / 12)))  # eigenvalues of exponent 2.5 + i / 12
        found[f"matrix{i}"] = ((left * s) @ right.T).astype(np.float32)
    return found


def our_exponents(path: str) -> tuple[float, float, dict[str, float]]:
    """As weightwatcher chooses them; matrices are read one by one. The first steps are timed by themselves, too."""
    from polystab.sources.weights.spectra import reduced, singular_values, spectrum_measures

    taken, least, found = 0.0, 0.0, {}
    with np.load(path) as file:
        for name in file.files:
            x = file[name]
            seconds, said = timed(lambda x=x: spectrum_measures(singular_values(x), x.shape, power_law="weightwatcher"))
            taken += seconds
            least += timed(lambda x=x: reduced(x))[0]
            found[name] = said["power_law_alpha"]
    return taken, least, found


def main() -> None:
    report_line(f"{THREADS} thread(s)")
    parts = {"features": compare_features, "memory": memory, "weightwatcher": compare_weightwatcher}
    for part in [name for name in parts if name in sys.argv] or parts:
        parts[part]()


if __name__ == "__main__":
    main()

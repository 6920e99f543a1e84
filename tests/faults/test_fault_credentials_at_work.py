"""Secrets planted in what runs: measurers, clusters, trainers, proxies, options, samples and the names of runs."""

from __future__ import annotations

import json
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from planted_secrets import (
    ADDRESS,
    CANARY,
    PASSWORD,
    SIGNED,
    STRAY,
    TOKEN,
    assert_refused_without_secrets,
    run,
    write,
)

import polystab as ps
from polystab.testing import synthetic_cube

sys.path.append(str(Path(__file__).parents[1] / "cube"))  # for web_server
sys.path.append(str(Path(__file__).parents[1] / "sources"))  # for measurers_for_tests

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("planted")]

PRIVATE_KEY = f"-----BEGIN RSA PRIVATE KEY-----\n{STRAY}\n{CANARY}=\n-----END RSA PRIVATE KEY-----\n"


def filled(tmp_path: Path, measurer: Any, **how: Any) -> Any:
    from measurers_for_tests import make_checkpoints

    return ps.fill(measurer, runs=make_checkpoints(tmp_path / "in" / "c"), output=tmp_path / "out" / "units", **how)


def show(cube: Path, out: Path) -> None:
    """Have the texts of a cube shown and copied."""
    for ending in ("html", "json"):
        run("report", cube, "-o", out / f"page.{ending}", "--sections", "contents,audit,takeaways")
    for command in (("info",), ("info", "--json"), ("validate",)):
        run(command[0], cube, *command[1:])
    run("merge", cube, "-o", out / "merged.nc", "--json")
    run(
        "release",
        cube,
        "--name",
        "mine",
        "--version",
        "1",
        "--license",
        "CC0-1.0",
        "--no-audit",
        "-o",
        out / "released",
    )


# What measurers are told, and say


def test_the_settings_of_a_measurer(tmp_path: Path) -> None:
    from measurers_for_tests import Toy

    also = {"api_key": STRAY, "endpoint": ADDRESS, "args": [f"token={TOKEN}", {"password": PASSWORD}], "plain": "kept"}
    assert filled(tmp_path, Toy(also=also)).done == 6
    assert "kept" in (tmp_path / "out" / "units" / "settings" / "toy.json").read_text()
    cube = tmp_path / "out" / "cube.nc"
    run("fill", "-o", tmp_path / "out" / "units", "--merge", cube)
    show(cube, tmp_path / "out")


def test_settings_that_differ_in_a_secret_alone_are_the_same(tmp_path: Path) -> None:
    """A token that was renewed measures nothing else."""
    from measurers_for_tests import Toy

    filled(tmp_path, Toy(also={"api_key": STRAY}))
    assert filled(tmp_path, Toy(also={"api_key": f"{STRAY}-renewed"})).already_done == 6


def test_other_settings_are_refused(tmp_path: Path) -> None:
    from measurers_for_tests import Toy

    filled(tmp_path, Toy(also={"api_key": STRAY}))
    assert_refused_without_secrets(lambda: filled(tmp_path, Toy(also={"args": f"token={TOKEN}"})))


def test_what_a_measurement_says_of_itself(tmp_path: Path) -> None:
    from measurers_for_tests import Toy

    class Talkative(Toy):
        def measure(self, checkpoint: Any) -> Any:
            found = super().measure(checkpoint)
            found.provenance["command"] = f"lm_eval --api-key={STRAY}"
            found.notes.append(("fetched", SIGNED))
            found.details["items"].attrs["source"] = ADDRESS
            found.details["items"]["choice"].attrs["config"] = f"token={TOKEN}"
            return found

    assert filled(tmp_path, Talkative()).done == 6
    run("fill", "-o", tmp_path / "out" / "units", "--merge", tmp_path / "out" / "cube.nc")


def test_a_measurer_that_cannot_be_sent_to_workers(tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    from measurers_for_tests import Toy

    from polystab.sources.attempts import Plan
    from polystab.sources.schedulers import _packed

    class Stubborn(Toy):
        def __reduce__(self) -> Any:
            raise TypeError(f"cannot pickle a client of {ADDRESS}")

    plan = Plan.of(tmp_path / "out" / "units", {"toy": Stubborn()})
    assert_refused_without_secrets(lambda: _packed(plan))


# Clusters


@pytest.mark.parametrize(
    "certificates",
    [
        {},
        {"ca-file": PRIVATE_KEY},
        {"client": {"key": PRIVATE_KEY, "cert": PRIVATE_KEY}, "ca-file": PRIVATE_KEY},
        {"client": {"key": PRIVATE_KEY[:-60], "cert": f"/nowhere?token={STRAY}"}, "ca-file": f"/nowhere?token={STRAY}"},
    ],
)
def test_a_cluster_with_certificates_that_cannot_be_used(certificates: dict[str, Any], tmp_path: Path) -> None:
    """Dask takes keys from its configuration, as files or as they are."""
    pytest.importorskip("distributed")
    import dask
    from measurers_for_tests import Toy

    told = dask.config.merge(dask.config.get("distributed.comm.tls"), certificates)
    with dask.config.set({"distributed.comm.tls": told, "distributed.comm.timeouts.connect": "1s"}):
        assert_refused_without_secrets(lambda: filled(tmp_path, Toy(), scheduler="tls://127.0.0.1:1"))


def test_what_a_measurer_raises_in_a_worker(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Nor is it on the standard error that the workers share."""
    pytest.importorskip("distributed")
    from measurers_for_tests import Toy

    class Leaky(Toy):
        def measure(self, checkpoint: Any) -> Any:
            raise ConnectionError(f"GET {SIGNED} with Authorization: Basic {STRAY}")

    result = filled(tmp_path, Leaky(), scheduler="local", jobs=1)
    assert len(result.failed) == 6
    said = capfd.readouterr()
    assert CANARY not in (repr(result) + said.out + said.err).lower()


# Options


@pytest.mark.parametrize(
    "arguments",
    [
        ("fill", "weights", "--runs", "polypythias", "-o", "units", "-O", f"token={STRAY}"),
        ("fill", "weights", "--runs", "polypythias", "-o", "units", "-O", f"weights.token={STRAY}"),
        ("fill", "weights", "--runs", ADDRESS, "-o", "units"),
        ("fill", "weights", "--runs", "polypythias", "-o", "units", "--seeds", f"token={STRAY}"),
        ("read", "lm-eval", ".", "-o", "x.nc", "--revision", f"main?token={STRAY}"),
        ("read", "table", "x.csv", "-o", "x.nc", "--columns", f"model=={ADDRESS},seed"),
        ("read", "table", ADDRESS, "-o", "x.nc"),
        ("plan", "--runs", ADDRESS, "--sources", "weights"),
        ("info", ADDRESS),
        ("report", ADDRESS, "-o", "page.html"),
        ("cubes", ADDRESS),
        ("cubes", "remove", ADDRESS),
        ("watch", ADDRESS, "--once"),
        (f"--api-key={STRAY}",),
        ("info", f"--token={STRAY}"),
        (f"token={STRAY}",),
    ],
)
def test_a_command_that_was_mistyped(arguments: tuple[str, ...]) -> None:
    run(*arguments, code=2)


# The proxy


@pytest.mark.parametrize(
    "proxy",
    [
        f"http://me:{PASSWORD}@127.0.0.1:1", f"http://me:{PASSWORD}@127.0.0.1:port", f"me:{PASSWORD}@127.0.0.1:1",
        f"http:/me:{PASSWORD}@127.0.0.1", f"socks9://me:{PASSWORD}@127.0.0.1:1", f"http://me:{PASSWORD}@:1",
    ],
)  # fmt: skip
def test_a_proxy_that_cannot_be_used(
    proxy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    # It keeps one session for all, with the proxy that there was when it began.
    hub_library = pytest.importorskip("huggingface_hub")
    hub_library.close_session()
    request.addfinalizer(hub_library.close_session)
    from polystab.cube import fetching
    from polystab.sources import hub

    monkeypatch.setattr(fetching, "FIRST_WAIT", 0.0)
    monkeypatch.setattr(hub, "FIRST_WAIT", 0.0)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, proxy)
        monkeypatch.setenv(name.upper(), proxy)
    monkeypatch.setattr(urllib.request, "proxy_bypass", lambda host: False)
    run("cubes", "add", "http://cubes.example.org/registry.json", code=2)
    assert_refused_without_secrets(lambda: fetching.fetch_bytes("http://cubes.example.org/registry.json", limit=9))
    path = write(tmp_path / "in" / "runs.csv", "model,seed,location,revision,steps\ntoy,0,me/toy,step{step},1\n")
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.example.org")
    run(
        "fill",
        "weights",
        "--runs",
        path,
        "-o",
        tmp_path / "out" / "u",
        "--cache-dir",
        tmp_path / "out" / "h",
        code=None,
    )


# Samples


def test_the_text_of_items(tmp_path: Path) -> None:
    """An item may hold a secret: as its question, its answer, in the arguments of the request or the task's settings."""
    from test_items import row
    from test_items import write as write_evaluation

    texts = {
        "doc": {"question": f"print(token={TOKEN})", "api_key": STRAY},
        "target": f"password={PASSWORD}",
        "arguments": {"gen_args_0": {"arg_0": f"curl {ADDRESS}", "arg_1": f"Authorization: Bearer {STRAY}"}},
    }
    choices = [row(number, target=0) | {"doc": texts["doc"], "arguments": texts["arguments"]} for number in range(3)]
    written = [
        row(number, resps=[[f"token={STRAY}"]], filtered_resps=[f"token={STRAY}"]) | texts for number in range(3)
    ]
    for seed in (1, 2, 3):
        write_evaluation(tmp_path / "in" / f"a{seed}", choices, seed=seed)
        write_evaluation(tmp_path / "in" / f"b{seed}", written, task="told", seed=seed)
    cube = tmp_path / "out" / "cube.nc"
    run("read", "lm-eval", tmp_path / "in", "--items", "-o", cube)
    show(cube, tmp_path / "out")


def test_items_that_cannot_be_read(tmp_path: Path) -> None:
    from test_items import row
    from test_items import write as write_evaluation

    write_evaluation(
        tmp_path / "in" / "a", [row(0), row(1, filter=f"token={STRAY}"), row(2, metrics=[f"token={STRAY}"])]
    )
    path = write_evaluation(tmp_path / "in" / "b", [row(0), row(1)], seed=2)
    path.write_text(path.read_text() + f'{{"api_key": "{STRAY}", "doc": token={TOKEN}')
    run("read", "lm-eval", tmp_path / "in", "--items", "-o", tmp_path / "out" / "cube.nc", code=None)


# Names of runs and models, and texts of cubes


@pytest.mark.parametrize("name", [f"sweep-token={TOKEN}", f"lr=1e-3,api_key={STRAY}", TOKEN])
def test_the_names_of_runs_in_an_export(name: str, tmp_path: Path) -> None:
    rows = "".join(f"{step},{1 / step},{2 / step}\n" for step in range(1, 30))
    header = f'"Step","{name},a - train/loss","{name},b - train/loss"\n'
    path = write(tmp_path / "in" / "wandb.csv", header + rows)
    cube = tmp_path / "out" / "cube.nc"
    run("read", "training-log", path, "-o", cube, "--model", "toy")
    with ps.open_cube(cube) as found:
        assert found.sizes["seed"] == 2
    show(cube, tmp_path / "out")


def test_the_names_of_folders(tmp_path: Path) -> None:
    """As sweeps name them, by their configuration."""
    from test_items import write as write_evaluation

    place = f"lr=0.1,token={STRAY}"
    logs = [
        write(
            tmp_path / "in" / f"{place},{name}" / "log.csv",
            "step,loss\n" + "".join(f"{k},{1 / k}\n" for k in range(1, 9)),
        )
        for name in "ab"
    ]
    run("read", "training-log", *logs, "-o", tmp_path / "out" / "curves.nc", "--model", "toy")
    write_evaluation(tmp_path / "in" / "evals" / place, seed=1)
    (tmp_path / "in" / "evals" / f"{place},b").mkdir()
    write(tmp_path / "in" / "evals" / f"{place},b" / "results_1.json", "{")
    run("read", "lm-eval", tmp_path / "in" / "evals", "--items", "-o", tmp_path / "out" / "evals.nc")
    show(tmp_path / "out" / "curves.nc", tmp_path / "out")
    with ps.open_cube(tmp_path / "out" / "curves.nc") as found:
        assert found.sizes["seed"] == 2


@pytest.mark.parametrize("model", [ADDRESS, f"toy?token={STRAY}"])
def test_the_names_of_models_in_a_table(model: str, tmp_path: Path) -> None:
    rows = "".join(f"{model},{seed},{step},eval/a/acc,0.5\n" for seed in range(2) for step in range(3))
    path = write(tmp_path / "in" / "table.csv", f"model,seed,step,metric,value\n{rows}")
    cube = tmp_path / "out" / "cube.nc"
    run("read", "table", path, "-o", cube)
    show(cube, tmp_path / "out")


def test_columns_that_are_no_metrics(tmp_path: Path) -> None:
    rows = "".join(f"{step},{1 / step},{STRAY},7\n" for step in range(1, 30))
    path = write(tmp_path / "in" / "seed0" / "log.csv", f"step,loss,api_key,token={STRAY}\n{rows}")
    run("read", "training-log", path, "-o", tmp_path / "out" / "cube.nc", "--model", "toy")
    run("info", tmp_path / "out" / "cube.nc", "--json")
    run("watch", path, "--once", code=None)


def test_a_cube_of_somebody_else(tmp_path: Path) -> None:
    """Its texts stay as they are in its file, and go nowhere from there."""
    cube = synthetic_cube(n_models=1, n_seeds=3, rng=0)
    cube.attrs |= {
        "title": f"token={STRAY}", "summary": f"token={TOKEN}", "source": f"read from {ADDRESS}",
        "history": f"model_args token={STRAY}", "references": SIGNED, "mine": f"token={STRAY}",
    }  # fmt: skip
    path = tmp_path / "in" / "cube.nc"
    ps.save_cube(cube, path)
    show(path, tmp_path / "out")


# The trainer


def test_a_trainer_that_is_followed(tmp_path: Path) -> None:
    """Its arguments and what it logs; the log and the alarms are looked at."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    from polystab.monitor import StabilityCallback

    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path / "in" / f"token={STRAY}"), hub_token=TOKEN, run_name=f"token={STRAY}", report_to=[], use_cpu=True,
    )  # fmt: skip
    state, control = transformers.TrainerState(), transformers.TrainerControl()
    callback = StabilityCallback(every=1, window=10, log_path=tmp_path / "out" / "log.jsonl")
    own = StabilityCallback(every=1)
    state.is_world_process_zero = True
    for each in (callback, own):
        each.on_train_begin(arguments, state, control, model=torch.nn.Linear(2, 2))
        for step in range(1, 20):
            state.global_step = step
            logs = {"loss": float("inf"), "api_key": STRAY, "note": f"token={TOKEN}", f"token={STRAY}": 1.0}
            each.on_log(arguments, state, control, logs=logs)
        each.on_train_end(arguments, state, control)
    assert callback.alarms
    assert len(json.loads((tmp_path / "out" / "log.jsonl").read_text().splitlines()[0])) > 1
    assert CANARY not in repr(callback.alarms).lower()


def test_a_reference_with_an_address(tmp_path: Path) -> None:
    from polystab.monitor import Reference

    assert_refused_without_secrets(lambda: Reference(ADDRESS))

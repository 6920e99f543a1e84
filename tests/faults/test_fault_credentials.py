"""Secrets planted wherever users have them: none is in any file, on any stream or in any exception of ours.

Every planted secret holds the word of :data:`CANARY`, which is looked for in everything that comes out: text, the
names and texts of netCDF files, the members of unit files, and the chain of causes of what is raised.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from planted_secrets import (
    ADDRESS,
    CANARY,
    KEY,
    PASSWORD,
    SIGNED,
    STRAY,
    TOKEN,
    assert_refused_without_secrets,
    go_on_with,
    run,
    write,
)

import polystab as ps
from polystab.redaction import without_secrets

sys.path.append(str(Path(__file__).parents[1] / "cube"))  # for web_server
sys.path.append(str(Path(__file__).parents[1] / "sources"))  # for hub_server

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("planted")]


# The harness


def results(**config: Any) -> dict[str, Any]:
    """A results file with secrets where the harness and its users leave them."""
    args = {"pretrained": "EleutherAI/pythia-14m-seed1", "revision": "step1000", "token": TOKEN, "api_key": KEY}
    return {
        "results": {"arc_easy": {"acc,none": 0.25, "acc_stderr,none": 0.01, "alias": "arc_easy"}},
        "configs": {
            "arc_easy": {
                "num_fewshot": 0,
                "metadata": {"version": 1.0, "api_key": KEY},
                "dataset_kwargs": {"token": TOKEN},
            }
        },
        "versions": {"arc_easy": 1.0},
        "n-shot": {"arc_easy": 0},
        "higher_is_better": {"arc_easy": {"acc": True}},
        "n-samples": {"arc_easy": {"original": 100, "effective": 100}},
        "config": {
            "model": "hf",
            "model_args": ",".join(f"{name}={value}" for name, value in args.items()),
            "gen_kwargs": {"api_key": KEY, "extra": f"token={TOKEN}"},
            "limit": None,
            "headers": {"Authorization": f"Bearer {KEY}"},
            **config,
        },
        "git_hash": "abc1234",
        "date": 1.7e9,
        "pretty_env_info": f"HF_TOKEN={TOKEN}\nWANDB_API_KEY={KEY}\nhttp_proxy=http://me:{PASSWORD}@proxy:3128",
        "transformers_version": "4.40.0",
    }


def test_results_of_the_harness(tmp_path: Path) -> None:
    for seed in (1, 2, 3):
        said = json.dumps(results()).replace("14m-seed1", f"14m-seed{seed}")
        write(tmp_path / "in" / f"seed{seed}" / "results_1.json", said)
    cube = tmp_path / "out" / "cube.nc"
    run("read", "lm-eval", tmp_path / "in", "-o", cube)
    go_on_with(cube, tmp_path / "out")


@pytest.mark.parametrize(
    "config",
    [
        {"model_args": f"pretrained=EleutherAI/pythia-14m,token={TOKEN}"},
        {"model_args": f"pretrained=https://me:{PASSWORD}@hub.example.org/pythia-14m?token={KEY},revision=step1"},
        {"model_args": f"pretrained=EleutherAI/pythia-14m,revision=main?token={KEY}"},
        {"model_args": f"token={TOKEN}"},
        {"model_args": {"api_key": KEY, "iteration": f"token={KEY}"}},
        {"model_args": f"pretrained=EleutherAI/pythia-14m,revision=step1,token={TOKEN},more"},
        {"limit": f"token={KEY}"},
        {"model_args": [f"token={KEY}"]},
        {
            "model_args": f"pretrained=EleutherAI/pythia-14m,revision=step1,token={KEY}",
            "model_revision": f"x?token={KEY}",
        },
    ],
)
def test_results_that_are_refused(config: dict[str, Any], tmp_path: Path) -> None:
    write(tmp_path / "in" / "good" / "results_1.json", json.dumps(results()))
    write(tmp_path / "in" / "bad" / "results_2.json", results(**config))
    cube = tmp_path / "out" / "cube.nc"
    run("read", "lm-eval", tmp_path / "in", "-o", cube, "--json", code=None)
    if cube.exists():
        go_on_with(cube, tmp_path / "out")


def test_results_that_are_cut_inside_a_secret(tmp_path: Path) -> None:
    whole = json.dumps(results())
    write(tmp_path / "in" / "good" / "results_1.json", whole)
    for number, place in enumerate((whole.index(TOKEN) + 12, whole.index(KEY) + 9, len(whole) - 60)):
        write(tmp_path / "in" / f"cut{number}" / "results_2.json", whole[:place])
    run("read", "lm-eval", tmp_path / "in", "-o", tmp_path / "out" / "cube.nc", code=None)


# Logs and tables


def test_training_logs(tmp_path: Path) -> None:
    rows = [{"step": step, "loss": 2.0 / step, "api_key": KEY, "config": f"token={TOKEN}"} for step in range(1, 40)]
    for seed in range(3):
        folder = tmp_path / "in" / f"seed{seed}"
        write(folder / "log.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    cube = tmp_path / "out" / "cube.nc"
    run("read", "training-log", *sorted((tmp_path / "in").glob("*/log.jsonl")), "-o", cube, "--model", "toy")
    go_on_with(cube, tmp_path / "out")
    run("watch", tmp_path / "in" / "seed0" / "log.jsonl", "--once", code=None)


def test_the_state_of_a_trainer(tmp_path: Path) -> None:
    history = [{"step": step, "loss": 1.0 / step, "epoch": 0.1} for step in range(1, 30)]
    state = {
        "log_history": history,
        "trial_params": {"api_key": KEY},
        "trial_name": TOKEN,
        "best_model_checkpoint": ADDRESS,
    }
    path = write(tmp_path / "in" / "seed0" / "trainer_state.json", state)
    run("read", "training-log", path, "-o", tmp_path / "out" / "cube.nc", "--model", "toy")
    run("info", tmp_path / "out" / "cube.nc")
    run("watch", path, "--once", code=None)


def test_a_table_whose_cells_are_no_numbers(tmp_path: Path) -> None:
    path = write(tmp_path / "in" / "table.csv", f"model,seed,step,metric,value\ntoy,0,1,eval/a/acc,token={KEY}\n")
    run("read", "table", path, "-o", tmp_path / "out" / "cube.nc", code=None)


# Where runs lie


@pytest.mark.parametrize(
    "location", [ADDRESS, f"org/model?token={KEY}", f"https://me:{PASSWORD}@hub.example.org/org/model"]
)
@pytest.mark.parametrize("revision", ["step{step}", ""])
def test_a_run_table_with_addresses(location: str, revision: str, tmp_path: Path) -> None:
    path = tmp_path / "in" / "runs.csv"
    write(path, f'model,seed,location,revision,steps\ntoy,0,"{location}",{revision},1 2\n')
    run("fill", "weights", "--runs", path, "-o", tmp_path / "out" / "units", code=None)
    run("plan", "--runs", path, "--sources", "weights", code=None)


@pytest.mark.parametrize(
    "address", [f"tcp://me:{PASSWORD}@127.0.0.1:1", f"tls://127.0.0.1:1?key={KEY}", f"me:{PASSWORD}@here"]
)
def test_the_address_of_a_scheduler(address: str, tmp_path: Path) -> None:
    from measurers_for_tests import Toy, make_checkpoints

    table = make_checkpoints(tmp_path / "in" / "checkpoints")
    assert_refused_without_secrets(lambda: ps.fill(Toy(), runs=table, output=tmp_path / "out" / "u", scheduler=address))


def test_what_a_measurer_raises(tmp_path: Path) -> None:
    """It stands in the record of the failure, with its traceback."""
    from measurers_for_tests import Toy, make_checkpoints

    from polystab.sources.outputs import read_failures

    class Leaky(Toy):
        def measure(self, checkpoint: Any) -> Any:
            raise ConnectionError(f"GET {SIGNED} with Authorization: Basic {KEY} and {os.environ['WANDB_API_KEY']}")

    result = ps.fill(Leaky(), runs=make_checkpoints(tmp_path / "in" / "c"), output=tmp_path / "out" / "units")
    assert len(result.failed) == 6
    assert CANARY not in repr(result).lower()
    assert CANARY not in repr(read_failures(tmp_path / "out" / "units")).lower()


# The web


@pytest.mark.parametrize("status", [302, 401, 403, 404, 500])
def test_a_hub_that_fails(status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("huggingface_hub")
    from hub_server import HubServer

    from polystab.sources import hub

    monkeypatch.setattr(hub, "FIRST_WAIT", 0.0)
    monkeypatch.setattr("huggingface_hub.utils._http.time", SimpleNamespace(sleep=lambda seconds: None))
    path = write(tmp_path / "in" / "runs.csv", "model,seed,location,revision,steps\ntoy,0,me/toy,step{step},1 2\n")
    with HubServer().running() as server:
        server.add("me/toy", "step1", {"config.json": b"{}", "model.safetensors": b"x" * 100})
        signed = f"http://127.0.0.1:1/x?X-Amz-Signature={KEY}&X-Amz-Credential={KEY}"
        server.fail("/resolve/", status=status, headers={"Location": signed, "X-Error-Message": ADDRESS}, times=100)
        monkeypatch.setenv("HF_ENDPOINT", server.url.replace("//", f"//me:{PASSWORD}@"))
        cache = tmp_path / "out" / "hub"
        run("fill", "weights", "--runs", path, "-o", tmp_path / "out" / "units", "--cache-dir", cache, code=1)
    assert list((tmp_path / "out" / "units").rglob("failed/**/*.json"))


@pytest.fixture
def released(tmp_path: Path) -> Path:
    """A release whose cube had secrets in its texts."""
    with ps.load_tree("demo") as tree:
        cube = tree.load()
    cube.attrs |= {"source": f"read from {ADDRESS}", "history": f"model_args token={KEY}", "references": SIGNED}
    ps.save_cube(cube, tmp_path / "in" / "cube.nc")
    run("release", tmp_path / "in" / "cube.nc", "--name", "mine", "--version", "1", "-o", tmp_path / "out" / "released")
    return tmp_path / "out" / "released"


@pytest.mark.parametrize("damage", ["", "registry.json", "mine-1.nc"])
def test_cubes_from_an_address_with_a_password(released: Path, damage: str, tmp_path: Path) -> None:
    from web_server import Answer, Server

    with Server().running() as server:
        for path in released.iterdir():
            server.answers[f"/{path.name}"] = Answer(path.read_bytes()[: 100 if path.name == damage else None])
        address = f"{server.address.replace('//', f'//me:{PASSWORD}@')}/registry.json?token={KEY}"
        run("cubes", "add", address, code=2 if damage == "registry.json" else 0)
        run("info", "mine", code=2 if damage else 0)
        run("cubes", "add", address.replace("registry", "nothing"), code=2)
    run("cubes", "add", address, code=2)


# Texts


@pytest.mark.parametrize(
    "text",
    [
        f"token={TOKEN}", f"pretrained=a/b,token={KEY},dtype=float16", f'{{"api_key": "{KEY}"}}', f"{{'password': '{KEY}'}}",
        f"Authorization: Basic {KEY}", f"authorization: Bearer {KEY}", ADDRESS, SIGNED, f"WANDB_API_KEY={KEY}",
        f"export AWS_SECRET_ACCESS_KEY={KEY}", f"--api-key={KEY}", f"the key is {KEY}", TOKEN,
        f"/home/me/https:/me:{PASSWORD}@data.example.org/cube.nc", json.dumps({"said": json.dumps({"api_key": STRAY})}),
        f"-----BEGIN PRIVATE KEY-----\n{STRAY}\n", f"-----BEGIN EC PRIVATE KEY-----\n{STRAY}\n-----END EC PRIVATE KEY----- end",
    ],
)  # fmt: skip
def test_no_text_keeps_its_secret(text: str) -> None:
    assert CANARY not in without_secrets(text).lower()


@pytest.mark.parametrize(
    "text",
    [
        "tokenizer=gpt2,max_gen_toks=256", "300B tokens", "n_tokens=12345678901", "eos_token=<|endoftext|>", "max_tokens=2048",
        "metric eval/key_retrieval@5shot/acc", "basic authorization of readers", "layers.3.attention.query_key_value",
        "revision=step1000", "author=Biderman", "tokens_per_step=2097152", "keyword=something-long", "a,b,c=1",
        "c:/users/me@work/cube.nc", "-----BEGIN CERTIFICATE-----", "step 3: me@example.org",
    ],
)  # fmt: skip
def test_texts_without_secrets_stay(text: str) -> None:
    assert without_secrets(text) == text

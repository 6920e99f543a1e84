"""Checkpoints from a Hub: a real HTTP server on loopback, with its faults."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from contextlib import ExitStack
from email.utils import formatdate
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
hub_library = pytest.importorskip("huggingface_hub")

from hub_server import HubServer  # noqa: E402
from tiny_checkpoints import checkpoint_files, save_checkpoint  # noqa: E402

from polystab.sources.checkpoints import CheckpointError, CheckpointOptions, open_checkpoint  # noqa: E402
from polystab.sources.hub_cache import HubCache  # noqa: E402
from polystab.sources.runs import Run, RunTableError, catalog, read_runs  # noqa: E402

# Every test talks to a server, and several wait for it as long as the Hub would be waited for.
pytestmark = pytest.mark.slow

REPO = "org/tiny"
RUN = Run("tiny", 0, location=REPO, revision="step{step}", steps=(0, 1, 2))


@pytest.fixture(scope="session")
def files(tmp_path_factory) -> list[dict[str, bytes]]:
    """The files of three checkpoints, which differ in their weights."""
    return [checkpoint_files(tmp_path_factory.mktemp("tiny") / "saved", seed) for seed in range(3)]


@pytest.fixture
def hub(files, monkeypatch):
    """A Hub with three steps of one run, which the environment points to."""
    with HubServer().running() as server:
        for step, content in enumerate(files):
            server.add(REPO, f"step{step}", content)
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.setenv("HF_TOKEN_PATH", os.devnull)
        monkeypatch.setattr(hub_library.constants, "HF_HUB_OFFLINE", False)
        yield server
        hub_library.close_session()


@pytest.fixture(autouse=True)
def waits(monkeypatch) -> list[float]:
    """Nobody waits in these tests; how long they would have is kept."""
    waited: list[float] = []
    monkeypatch.setattr("polystab.sources.hub.time.sleep", waited.append)
    return waited


@pytest.fixture
def options(tmp_path) -> CheckpointOptions:
    return CheckpointOptions(cache_dir=str(tmp_path / "cache"), device="cpu")


def changed(options: CheckpointOptions, **changes: object) -> CheckpointOptions:
    return CheckpointOptions(**{**vars(options), **changes})


def weights_of(step: int, options: CheckpointOptions) -> dict[str, torch.Tensor]:
    with open_checkpoint(RUN, step, options=options) as checkpoint:
        return {name: tensor.clone() for name, tensor in checkpoint.tensors()}


def reason(step: int, options: CheckpointOptions, run: Run = RUN) -> str:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(run, step, options=options)
    return caught.value.reason


def cached_steps(hub: HubServer, options: CheckpointOptions) -> set[int]:
    cache = HubCache(Path(options.cache_dir))
    return {
        step
        for step in range(3)
        if (cache.snapshot(REPO, hub.branches[REPO][f"step{step}"]) / "model.safetensors").exists()
    }


# --- fetching ------------------------------------------------------------------------------------------------------


def test_a_checkpoint_is_fetched_and_loaded(hub, options):
    with open_checkpoint(RUN, 1, options=options) as checkpoint:
        assert checkpoint.sha == hub.branches[REPO]["step1"]
        assert checkpoint.tokenizer()("the cat sits .")["input_ids"] == [2, 3, 6, 7]
        assert torch.isfinite(checkpoint.model()(torch.tensor([[2, 3]])).logits).all()


def test_steps_have_their_own_weights(hub, options):
    name = "gpt_neox.embed_in.weight"
    assert not torch.equal(weights_of(0, options)[name], weights_of(1, options)[name])


def test_fetching_says_nothing(hub, options, capfd):
    weights_of(0, options)
    assert capfd.readouterr() == ("", "")


def test_nothing_is_fetched_twice(hub, options):
    weights_of(0, options)
    before = hub.downloads()
    weights_of(0, options)
    assert hub.downloads() == before


def test_only_needed_files_are_fetched(hub, options, files):
    others = ["optimizer.pt", "pytorch_model.bin", "flax_model.msgpack", "README.md", "code.py", "onnx/model.onnx"]
    hub.add(REPO, "step0", files[0] | dict.fromkeys(others, b"much"))
    weights_of(0, options)
    assert set(hub.downloads()) == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }


def test_pickles_are_fetched_where_there_are_no_safetensors(hub, options, files, tmp_path):
    content = dict(files[0])
    del content["model.safetensors"]
    torch.save({"w": torch.ones(2)}, tmp_path / "w.bin")
    hub.add(REPO, "step0", content | {"pytorch_model.bin": (tmp_path / "w.bin").read_bytes()})
    assert list(weights_of(0, options)) == ["w"]


def test_shards_are_fetched_as_the_index_says(hub, options, files, tmp_path):
    folder = save_checkpoint(tmp_path / "sharded", max_shard_size="8KB")
    content = {path.name: path.read_bytes() for path in folder.iterdir()}
    hub.add(REPO, "step0", content | {"model-00009-of-00009.safetensors": b"of an older upload"})
    assert len(weights_of(0, options)) == len(weights_of(1, options))
    assert "model-00009-of-00009.safetensors" not in hub.downloads()


def test_a_branch_that_moves_is_followed(hub, options, files):
    name = "gpt_neox.embed_in.weight"
    old = weights_of(0, options)
    hub.add(REPO, "step0", files[2])
    assert not torch.equal(weights_of(0, options)[name], old[name])


def test_a_commit_can_be_named(hub, options):
    run = Run("tiny", 0, location=REPO + "{step}", revision=hub.branches[REPO]["step0"], steps=(1,))
    hub.files[REPO + "1", run.revision] = hub.files[REPO, run.revision]
    with open_checkpoint(run, 1, options=options) as checkpoint:
        assert checkpoint.sha == run.revision


def test_the_token_is_sent(hub, options, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_made_up")
    weights_of(0, options)
    assert set(hub.tokens) == {"Bearer hf_made_up"}


def test_without_an_endpoint_the_library_decides(hub, options, monkeypatch):
    monkeypatch.delenv("HF_ENDPOINT")
    monkeypatch.setattr(hub_library.constants, "ENDPOINT", hub.url)
    monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", hub.url)
    monkeypatch.setattr(
        "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE",
        hub.url + "/{repo_id}/resolve/{revision}/{filename}",
    )
    assert weights_of(0, options)


def test_a_fresh_process_gets_the_endpoint_from_its_environment(hub, options):
    code = (
        "from polystab.sources.checkpoints import *; from polystab.sources.runs import Run\n"
        f"run = Run('tiny', 0, location={REPO!r}, revision='step{{step}}', steps=(0,))\n"
        f"print(open_checkpoint(run, 0, options=CheckpointOptions(cache_dir={options.cache_dir!r})).sha)"
    )
    done = subprocess.run([sys.executable, "-c", code], env=online(), capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == (hub.branches[REPO]["step0"], "")


def test_the_cache_is_polystabs_own_unless_one_is_named(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("POLYSTAB_HUB_CACHE", str(tmp_path / "own"))
    with open_checkpoint(RUN, 0) as checkpoint:
        assert checkpoint.folder.is_relative_to(tmp_path / "own")


# --- without the network -------------------------------------------------------------------------------------------


def test_what_was_fetched_is_found_without_the_network(hub, options):
    expected = weights_of(0, options)
    hub.requests.clear()
    found = weights_of(0, changed(options, local_files_only=True))
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert hub.requests == []


def test_the_offline_variable_of_the_library_counts(hub, options, monkeypatch):
    weights_of(0, options)
    monkeypatch.setattr(hub_library.constants, "HF_HUB_OFFLINE", True)
    hub.requests.clear()
    weights_of(0, options)
    assert hub.requests == []


def test_what_was_not_fetched_is_said_to_be_missing(hub, options):
    weights_of(0, options)
    assert reason(1, changed(options, local_files_only=True)) == "not-cached"


def test_half_a_checkpoint_is_not_taken_for_one(hub, options):
    hub.fail("model.safetensors", status=404, times=99)
    assert reason(0, options) == "missing-revision"
    HubCache(Path(options.cache_dir)).remember(REPO, "step0", hub.branches[REPO]["step0"])
    assert reason(0, changed(options, local_files_only=True)) == "not-cached"


# --- faults --------------------------------------------------------------------------------------------------------


def test_a_server_that_is_down_for_a_while_is_waited_for(hub, options, waits):
    hub.fail("/api/models", status=503, times=3)
    weights_of(0, options)
    assert waits == [1.0, 2.0, 4.0]


def test_a_server_that_stays_down_is_given_up(hub, options, waits):
    hub.fail("/api/models", status=503, times=99)
    assert reason(0, options) == "unreachable"
    assert len(waits) == options.retries


@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_a_file_that_fails_for_a_while_is_fetched(hub, options, method):
    hub.fail("model.safetensors", status=503, times=2, method=method)
    assert weights_of(0, options)


def test_retry_after_is_waited_for(hub, options, waits):
    hub.fail("/api/models", status=429, headers={"Retry-After": "17"})
    weights_of(0, options)
    assert waits == [17.0]


def test_retry_after_may_be_a_date(hub, options, waits):
    hub.fail("/api/models", status=429, headers={"Retry-After": formatdate(time.time() + 100, usegmt=True)})
    weights_of(0, options)
    assert 50 < waits[0] <= 100


def test_retry_after_of_a_file_is_waited_for(hub, options, waits):
    hub.fail("model.safetensors", status=429, headers={"Retry-After": "7"}, method="GET")
    weights_of(0, options)
    assert waits
    assert waits[0] >= 7


@pytest.mark.parametrize("times", [1, 3])
def test_a_connection_that_is_cut_within_a_file_is_taken_up_again(hub, options, times):
    hub.fail("model.safetensors", cut=5000, method="GET", times=times)
    cut = weights_of(0, options)
    weights = weights_of(1, options)
    assert set(cut) == set(weights)


def test_a_file_that_is_always_cut_leaves_nothing_behind(hub, options):
    hub.fail("model.safetensors", cut=0, method="GET", times=99)
    assert reason(0, changed(options, retries=1)) == "unreachable"
    assert not list(Path(options.cache_dir).rglob("*.incomplete"))
    assert cached_steps(hub, options) == set()


def test_no_server_at_all(options, monkeypatch, waits):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(hub_library.constants, "HF_HUB_OFFLINE", False)
    assert reason(0, options) == "unreachable"
    assert waits == [1.0, 2.0, 4.0, 8.0]


def test_a_missing_revision_names_near_ones_and_is_not_retried(hub, options, waits):
    with pytest.raises(CheckpointError, match="step1") as caught:
        open_checkpoint(RUN, 11, options=options)
    assert (caught.value.reason, waits) == ("missing-revision", [])


def test_a_missing_repository(hub, options, waits):
    run = Run("tiny", 0, location="org/tinny", revision="step{step}")
    assert (reason(0, options, run), waits) == ("missing-revision", [])


@pytest.mark.parametrize(
    ("status", "headers"),
    [(401, {}), (403, {}), (403, {"X-Error-Code": "GatedRepo"}), (401, {"X-Error-Code": "GatedRepo"})],
)
def test_a_closed_repository_asks_to_log_in(hub, options, waits, status, headers):
    hub.fail("/api/models", status=status, headers=headers, times=99)
    with pytest.raises(CheckpointError, match="log in") as caught:
        open_checkpoint(RUN, 0, options=options)
    assert (caught.value.reason, waits) == ("gated", [])


@pytest.mark.parametrize(
    ("name", "expected"), [("config.json", "missing-config"), ("model.safetensors", "missing-weights")]
)
def test_a_commit_that_lacks_a_file_is_refused_before_anything_is_fetched(hub, options, files, name, expected):
    hub.add(REPO, "step0", {other: data for other, data in files[0].items() if other != name})
    assert reason(0, options) == expected
    assert not hub.downloads()


def test_a_commit_that_lacks_a_shard_is_refused_before_the_others_are_fetched(hub, options, tmp_path):
    folder = save_checkpoint(tmp_path / "sharded", max_shard_size="8KB")
    content = {path.name: path.read_bytes() for path in folder.iterdir()}
    del content[max(name for name in content if name.startswith("model-"))]
    hub.add(REPO, "step0", content)
    assert reason(0, options) == "missing-shard"
    assert not any(name.startswith("model-") for name in hub.downloads())


def test_a_name_that_is_no_repository(hub, options):
    assert reason(0, options, Run("tiny", 0, location="org/ti ny", revision="step{step}")) == "missing-revision"


def test_a_cache_that_cannot_be_written(hub, options, tmp_path):
    (tmp_path / "file").write_text("")
    assert reason(0, changed(options, cache_dir=str(tmp_path / "file" / "cache"))) == "unwritable-cache"


# --- the limit -----------------------------------------------------------------------------------------------------


@pytest.fixture
def room_for_two(options, files) -> CheckpointOptions:
    size = sum(map(len, files[0].values()))
    return changed(options, cache_limit=int(2.5 * size))


def test_the_least_recently_used_goes_first(hub, room_for_two):
    for step in (0, 1, 0, 2):
        weights_of(step, room_for_two)
    assert cached_steps(hub, room_for_two) == {0, 2}


def test_what_is_in_use_stays(hub, room_for_two):
    with open_checkpoint(RUN, 0, options=room_for_two):
        for step in (1, 2):
            weights_of(step, room_for_two)
        assert cached_steps(hub, room_for_two) == {0, 2}


def test_what_another_process_uses_stays(hub, room_for_two):
    weights_of(0, room_for_two)
    code = (
        "from polystab.sources.hub_cache import *\n"
        f"HubCache(Path({room_for_two.cache_dir!r})).lease({REPO!r}, {hub.branches[REPO]['step0']!r})\n"
        "print('held', flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "held\n"
        for step in (1, 2):
            weights_of(step, room_for_two)
        assert cached_steps(hub, room_for_two) == {0, 2}
        other.communicate("done\n")


def test_a_limit_that_what_is_in_use_exceeds_is_noted(hub, room_for_two):
    with ExitStack() as all_open:
        opened = [all_open.enter_context(open_checkpoint(RUN, step, options=room_for_two)) for step in range(3)]
        assert [[code for code, _ in checkpoint.notes] for checkpoint in opened] == [[], [], ["cache-limit"]]


def test_a_checkpoint_above_the_limit_is_used_noted_and_removed(hub, options):
    with open_checkpoint(RUN, 0, options=changed(options, cache_limit=1000)) as checkpoint:
        assert [reason for reason, _ in checkpoint.notes] == ["cache-limit"]
        assert dict(checkpoint.tensors())
        assert cached_steps(hub, options) == {0}
    assert cached_steps(hub, options) == set()


def test_what_others_put_into_the_cache_is_not_removed(hub, room_for_two):
    hub_library.snapshot_download(REPO, revision="step0", cache_dir=room_for_two.cache_dir, endpoint=hub.url)
    for step in (0, 1, 2, 1, 2):
        weights_of(step, room_for_two)
    assert cached_steps(hub, room_for_two) == {0, 1, 2}


def test_what_others_fetch_again_after_its_removal_is_theirs(hub, room_for_two):
    for step in (0, 1, 2):
        weights_of(step, room_for_two)
    assert cached_steps(hub, room_for_two) == {1, 2}
    hub_library.snapshot_download(REPO, revision="step0", cache_dir=room_for_two.cache_dir, endpoint=hub.url)
    HubCache(Path(room_for_two.cache_dir), limit=1).make_room()
    assert cached_steps(hub, room_for_two) == {0}


def test_without_a_limit_everything_stays(hub, options):
    for step in range(3):
        weights_of(step, options)
    assert cached_steps(hub, options) == {0, 1, 2}


def test_files_that_steps_share_survive_the_removal_of_one(hub, room_for_two):
    for step in (0, 1, 2):
        weights_of(step, room_for_two)
    with open_checkpoint(RUN, 2, options=changed(room_for_two, local_files_only=True)) as checkpoint:
        assert checkpoint.tokenizer()("cat")["input_ids"] == [3]


def test_what_a_killed_download_left_is_removed_after_a_while(hub, room_for_two):
    weights_of(0, room_for_two)
    blobs = HubCache(Path(room_for_two.cache_dir)).repository(REPO) / "blobs"
    old, new = blobs / "old.incomplete", blobs / "new.incomplete"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 7200,) * 2)
    weights_of(1, room_for_two)
    assert (old.exists(), new.exists()) == (False, True)


def test_a_step_that_was_removed_is_fetched_again(hub, room_for_two):
    for step in (0, 1, 2):
        weights_of(step, room_for_two)
    assert weights_of(0, room_for_two)


# --- many at once --------------------------------------------------------------------------------------------------


def test_processes_that_fetch_and_remove_the_same_steps_get_whole_ones(hub, options, files):
    cache_limit = int(1.5 * sum(map(len, files[0].values())))
    sums = [hashlib.sha256(content["model.safetensors"]).hexdigest() for content in files]
    code = (
        "import hashlib; from polystab.sources.checkpoints import *; from polystab.sources.runs import Run\n"
        f"run = Run('tiny', 0, location={REPO!r}, revision='step{{step}}', steps=(0, 1, 2))\n"
        f"options = CheckpointOptions(cache_dir={options.cache_dir!r}, cache_limit={cache_limit})\n"
        "for step in [0, 1, 2] * 3:\n"
        "    with open_checkpoint(run, step, options=options) as checkpoint:\n"
        "        data = (checkpoint.folder / 'model.safetensors').read_bytes()\n"
        f"        assert hashlib.sha256(data).hexdigest() == {sums!r}[step]\n"
    )
    workers = [
        subprocess.Popen([sys.executable, "-c", code], env=online(), stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    assert [worker.communicate(timeout=120)[1] for worker in workers] == ["", "", ""]


def test_processes_that_fetch_the_same_file_load_it_once(hub, options):
    code = (
        "from polystab.sources.checkpoints import *; from polystab.sources.runs import Run\n"
        f"run = Run('tiny', 0, location={REPO!r}, revision='step{{step}}')\n"
        f"open_checkpoint(run, 0, options=CheckpointOptions(cache_dir={options.cache_dir!r})).close()"
    )
    workers = [
        subprocess.Popen([sys.executable, "-c", code], env=online(), stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    assert [worker.communicate(timeout=120)[1] for worker in workers] == ["", ""]
    assert hub.downloads()["model.safetensors"] == 1


def online() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}


# --- steps ---------------------------------------------------------------------------------------------------------


def test_steps_are_the_branches_that_match(hub, options, tmp_path, files):
    for branch in ("main", "step143000", "step07", "steps", "step5-old"):
        hub.add(REPO, branch, files[0])
    (tmp_path / "runs.csv").write_text(f"model,seed,location,revision\ntiny,0,{REPO},step{{step}}\n")
    assert read_runs(tmp_path, options=options).runs[0].steps == (0, 1, 2, 143000)


def test_steps_without_the_network_are_those_in_the_cache(hub, options, tmp_path):
    weights_of(1, options)
    (tmp_path / "runs.csv").write_text(f"model,seed,location,revision\ntiny,0,{REPO},step{{step}}\n")
    offline = changed(options, local_files_only=True)
    assert read_runs(tmp_path, options=offline).runs[0].steps == (1,)


def test_a_repository_without_such_branches(hub, options, tmp_path):
    (tmp_path / "runs.csv").write_text(f"model,seed,location,revision\ntiny,0,{REPO},global{{step}}\n")
    with pytest.raises(RunTableError, match="no branch of org/tiny"):
        read_runs(tmp_path, options=options)


def test_a_run_of_a_catalog_is_fetched_from_its_repository(hub, options, files):
    hub.add("EleutherAI/pythia-14m-seed3", "step1000", files[0])
    run = catalog("polypythias").select(models="pythia-14m", seeds=3).runs[0]
    with open_checkpoint(run, 1000, options=options) as checkpoint:
        assert json.loads((checkpoint.folder / "config.json").read_text())["hidden_size"] == 16

"""The callback in real runs of the Hugging Face trainer: healthy ones, and one that blows up."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import polystab as ps
from polystab.errors import AnalysisError, OutputError

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from polystab.monitor import Reference, RunWatcher, StabilityCallback  # noqa: E402
from polystab.monitor.logbook import Logbook  # noqa: E402

LOSS = "loss/train/cross_entropy"
STEPS = 60


def model_of(seed: int) -> Any:
    torch.manual_seed(seed)
    config = transformers.GPTNeoXConfig(
        vocab_size=32, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=16, use_cache=False,
    )  # fmt: skip
    return transformers.GPTNeoXForCausalLM(config)


def trained(
    folder: Path,
    *callbacks: Any,
    seed: int = 0,
    rate: float = 3e-3,
    steps: int = STEPS,
    resume: bool = False,
    **more: Any,
) -> Any:
    """A trainer that has trained a tiny GPT-NeoX to count in threes."""
    start = torch.randint(0, 32, (256, 1), generator=torch.Generator().manual_seed(seed))
    words = (start + 3 * torch.arange(16)) % 32
    settings: dict[str, Any] = {
        "max_steps": steps, "per_device_train_batch_size": 8, "learning_rate": rate, "logging_steps": 1, "seed": seed,
        "lr_scheduler_type": "constant", "report_to": [], "save_strategy": "no", "disable_tqdm": True, "use_cpu": True,
        "dataloader_pin_memory": False,
    }  # fmt: skip
    arguments = transformers.TrainingArguments(str(folder), **(settings | more))
    data = [{"input_ids": row, "labels": row} for row in words]
    trainer = transformers.Trainer(model_of(seed), arguments, train_dataset=data, callbacks=list(callbacks))
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.train(resume_from_checkpoint=resume)
    return trainer


# The rate rises at each step until training falls apart.
TOO_HIGH: dict[str, Any] = {"rate": 10.0, "lr_scheduler_type": "constant_with_warmup", "warmup_steps": 400}


@pytest.fixture(scope="module")
def past(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Logs of four healthy runs, as the callback writes them."""
    folder = tmp_path_factory.mktemp("past")
    for seed in range(4):
        trained(folder / f"seed{seed}", StabilityCallback(every=5, budget=0.9), seed=seed)
    return folder


@pytest.fixture(scope="module")
def reference(past: Path) -> Reference:
    return Reference(ps.read_training_log(str(past), model="tiny"), metrics=[LOSS, "gradient/all/norm"])


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "polystab_log.jsonl").read_text().splitlines()]


@pytest.mark.slow
class TestTraining:
    def test_a_run_that_blows_up_is_stopped(self, tmp_path: Path, reference: Reference) -> None:
        callback = StabilityCallback(reference, every=5, stop=True)
        trainer = trained(tmp_path, callback, seed=8, **TOO_HIGH)
        assert callback.alarms[0].rule == "band"
        assert trainer.state.global_step == callback.alarms[0].step < STEPS

    def test_it_goes_on_if_it_was_not_asked_to_stop(
        self, tmp_path: Path, reference: Reference, caplog: pytest.LogCaptureFixture
    ) -> None:
        callback = StabilityCallback(reference, every=5)
        with caplog.at_level(logging.WARNING, "polystab.monitor"):
            trainer = trained(tmp_path, callback, seed=8, **TOO_HIGH)
        assert trainer.state.global_step == STEPS
        assert callback.alarms[0].message in caplog.messages
        assert any(row.get("said") == "band" and row["alarm"] for row in rows_of(tmp_path))

    def test_without_past_runs_its_own_past_is_enough(self, tmp_path: Path) -> None:
        class Raise(transformers.TrainerCallback):  # type: ignore[misc,name-defined]
            def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                for group in kwargs["optimizer"].param_groups if state.global_step >= 40 else ():
                    group["lr"] = 1.0

        callback = StabilityCallback(every=5, stop=True, window=20)
        trainer = trained(tmp_path, Raise(), callback, seed=8)
        assert callback.alarms[0].rule == "spike"
        assert 40 < callback.alarms[0].since <= trainer.state.global_step < STEPS

    def test_a_run_that_does_better_is_left_alone(self, tmp_path: Path, past: Path) -> None:
        reference = Reference(ps.read_training_log(str(past), model="tiny"), metrics=[LOSS])
        callback = StabilityCallback(reference, every=5, stop=True)
        trainer = trained(tmp_path, callback, seed=5, per_device_train_batch_size=32)
        assert (trainer.state.global_step, callback.alarms) == (STEPS, [])

    def test_its_log_is_read_as_a_training_log(self, past: Path) -> None:
        cube = ps.read_training_log(str(past), model="tiny").to_dataset()
        assert {"weight/embed_out/spectral_norm", "activation/embed_out/max_abs", LOSS} <= set(cube["metric"].values)
        curve = cube["value"].sel(seed=2, metric=LOSS)
        assert np.isfinite(curve.values).sum() == STEPS

    def test_it_logs_what_the_trainer_logs(self, tmp_path: Path) -> None:
        trainer = trained(tmp_path, StabilityCallback(every=5), steps=10)
        wanted = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        assert [row["loss"] for row in rows_of(tmp_path) if "loss" in row] == wanted

    def test_training_is_the_same_with_and_without_it(self, tmp_path: Path) -> None:
        plain, followed = trained(tmp_path / "a"), trained(tmp_path / "b", StabilityCallback(every=1, budget=0.9))
        for one, other in zip(plain.model.parameters(), followed.model.parameters(), strict=True):
            assert torch.equal(one, other)

    def test_a_run_that_goes_on_from_a_checkpoint_goes_on_in_its_log(self, tmp_path: Path) -> None:
        saving = {"save_strategy": "steps", "save_steps": 20}
        trained(tmp_path, StabilityCallback(every=5), steps=30, **saving)
        (tmp_path / "checkpoint-30").rename(tmp_path / "lost")
        callback = StabilityCallback(every=5)
        trained(tmp_path, callback, resume=True, **saving)
        steps = [row["step"] for row in rows_of(tmp_path) if "loss" in row]
        assert steps == list(range(1, STEPS + 1))
        assert len(callback.watcher._history[LOSS]) == STEPS

    def test_a_new_run_keeps_the_log_of_the_old_one(self, tmp_path: Path) -> None:
        for _ in range(2):
            trained(tmp_path, StabilityCallback(every=5), steps=5)
        assert sorted(path.name for path in tmp_path.glob("polystab*")) == [
            "polystab_log.jsonl",
            "polystab_log.jsonl.old",
        ]

    def test_weights_that_become_nan_are_an_alarm_though_the_trainer_hides_the_loss(self, tmp_path: Path) -> None:
        class Spoil(transformers.TrainerCallback):  # type: ignore[misc,name-defined]
            def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                if state.global_step == 22:
                    with torch.no_grad():
                        next(kwargs["model"].parameters()).fill_(torch.nan)

        callback = StabilityCallback(every=5, stop=True, budget=0.9)
        trainer = trained(tmp_path, Spoil(), callback)
        assert callback.alarms[0].rule == "non-finite"
        assert trainer.state.global_step <= 25


def fake(step: int, **arguments: Any) -> tuple[Any, Any, Any]:
    """Arguments, state and control as the trainer hands them over."""
    return (
        SimpleNamespace(**({"output_dir": ".", "world_size": 1} | arguments)),
        SimpleNamespace(global_step=step, is_world_process_zero=True),
        SimpleNamespace(should_training_stop=False),
    )


class Clock:
    """Time that passes only when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class TestBudget:
    @pytest.fixture
    def clock(self, monkeypatch: pytest.MonkeyPatch) -> Clock:
        clock = Clock()
        monkeypatch.setattr("polystab.monitor.callback.time.perf_counter", clock)
        return clock

    def run(self, clock: Clock, tmp_path: Path, *, step: float, look: float, steps: int = 400) -> StabilityCallback:
        """A run in which training steps and looks take so long."""
        callback = StabilityCallback(every=10, budget=0.02, log_path=tmp_path / "log.jsonl")
        model = torch.nn.Linear(4, 4)
        callback.on_train_begin(*fake(0), model=model)
        assert callback._norms is not None
        plain = callback._norms.measure

        def slow() -> dict[str, float]:
            clock.now += look
            return plain()

        callback._norms.measure = slow  # type: ignore[method-assign]
        for at in range(1, steps + 1):
            callback.on_step_begin(*fake(at - 1), model=model)
            clock.now += step
            callback.on_step_end(*fake(at), model=model)
        callback.on_train_end(*fake(steps))
        return callback

    def test_looks_that_cost_little_are_all_taken(self, clock: Clock, tmp_path: Path) -> None:
        callback = self.run(clock, tmp_path, step=1.0, look=0.1)
        assert (callback.n_looks, callback.n_put_off) == (40, 0)

    def test_looks_that_cost_much_are_put_off_until_they_are_paid_for(self, clock: Clock, tmp_path: Path) -> None:
        callback = self.run(clock, tmp_path, step=1.0, look=1.0)
        assert callback.share <= 0.02
        assert callback.n_looks >= 7
        assert callback.n_looks + callback.n_put_off == 40

    def test_looks_are_at_multiples_whatever_was_put_off(self, clock: Clock, tmp_path: Path) -> None:
        self.run(clock, tmp_path, step=1.0, look=1.0)
        rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
        assert {row["step"] % 10 for row in rows} == {0}


class TestProcesses:
    def test_only_the_main_process_writes(self, tmp_path: Path) -> None:
        callback = StabilityCallback(log_path=tmp_path / "log.jsonl")
        arguments, state, control = fake(0)
        state.is_world_process_zero = False
        callback.on_train_begin(arguments, state, control, model=torch.nn.Linear(2, 2))
        callback.on_log(arguments, state, control, logs={"loss": 3.0})
        assert list(tmp_path.iterdir()) == []

    def test_all_stop_where_the_main_process_has_an_alarm(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # What the main process sends: an alarm.
        monkeypatch.setattr(torch.distributed, "broadcast", lambda flag, src: flag.fill_(1))
        callback = StabilityCallback(every=5, stop=True)
        arguments, state, control = fake(5, world_size=2, device="cpu")
        state.is_world_process_zero = False
        callback.on_step_end(arguments, state, control, model=torch.nn.Linear(2, 2))
        assert control.should_training_stop

    def test_none_stops_by_itself_between(self, tmp_path: Path) -> None:
        callback = StabilityCallback(every=5, stop=True, log_path=tmp_path / "log.jsonl")
        callback.on_train_begin(*fake(0), model=torch.nn.Linear(2, 2))
        arguments, state, control = fake(3, world_size=2)
        callback.on_log(arguments, state, control, logs={"loss": float("inf")})
        assert (len(callback.alarms), control.should_training_stop) == (1, False)


class TestArguments:
    @pytest.mark.parametrize("arguments", [{"every": 0}, {"budget": 0.0}, {"budget": 2.0}, {"window": 1}])
    def test_out_of_range_are_refused_at_once(self, arguments: dict[str, Any]) -> None:
        with pytest.raises(AnalysisError):
            StabilityCallback(**arguments)

    def test_a_matrix_that_is_not_there_is_refused_when_training_begins(self, tmp_path: Path) -> None:
        callback = StabilityCallback(matrices="nothing", log_path=tmp_path / "log.jsonl")
        with pytest.raises(AnalysisError, match="no matrix"):
            callback.on_train_begin(*fake(0), model=torch.nn.Linear(2, 2))

    def test_a_cube_is_taken_as_it_is(self) -> None:
        from live_cubes import cube_of, curves

        assert StabilityCallback(cube_of(loss=curves(4, 20, rng=0))).watcher.reference is not None


def test_a_log_that_was_cut_short_is_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1, "loss": 3.0}\n{"step": 2, "loss": 2.9}\n{"step": 3, "lo')
    assert [row["step"] for row in Logbook(path).start(2)] == [1, 2]
    assert path.read_text().count("\n") == 2


def test_a_log_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").mkdir()
    with pytest.raises(OutputError, match="it is a folder"):
        Logbook(tmp_path / "log.jsonl").start(0)


@pytest.mark.slow
def test_without_transformers_the_error_names_the_extra_and_the_rest_works() -> None:
    script = """
import sys
sys.modules["transformers"] = None
from polystab.monitor import RunWatcher
try:
    from polystab.monitor import StabilityCallback
except Exception as error:
    print(type(error).__name__, error)
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("ReadError StabilityCallback needs transformers")
    assert "polystab[fill]" in done.stdout


@pytest.mark.slow
def test_watching_a_log_needs_no_torch() -> None:
    script = "import sys, polystab.monitor as m; m.LogTail, m.watch_log, m.RunWatcher; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_watcher_of_a_callback_starts_anew_with_training(tmp_path: Path) -> None:
    callback = StabilityCallback(log_path=tmp_path / "log.jsonl")
    before = callback.watcher
    callback.on_train_begin(*fake(0), model=torch.nn.Linear(2, 2))
    assert isinstance(callback.watcher, RunWatcher)
    assert callback.watcher is not before

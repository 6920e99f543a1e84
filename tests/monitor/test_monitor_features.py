"""What the callback measures on a model in training."""

from __future__ import annotations

import numpy as np
import pytest

from polystab.errors import AnalysisError

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from polystab.monitor.features import LogitSize, SpectralNorms  # noqa: E402
from polystab.monitor.reference import LOGIT_MAX  # noqa: E402


def neox(layers: int = 4) -> torch.nn.Module:
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    torch.manual_seed(0)
    config = GPTNeoXConfig(
        vocab_size=32, hidden_size=16, num_hidden_layers=layers, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=16,
    )  # fmt: skip
    return GPTNeoXForCausalLM(config).train()


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return neox()


def truth_of(weight: torch.Tensor) -> float:
    return float(np.linalg.norm(weight.detach().double().numpy(), 2))


class TestSpectralNorms:
    def test_are_those_of_a_singular_value_decomposition(self, model: torch.nn.Module) -> None:
        norms = SpectralNorms(model, matrices="dense_4h_to_h|embed_out")
        for _ in range(30):
            found = norms.measure()
        assert found["weight/embed_out/spectral_norm"] == pytest.approx(
            truth_of(model.get_output_embeddings().weight), rel=1e-3
        )
        assert found["weight/layers.3.mlp.dense_4h_to_h/spectral_norm"] == pytest.approx(
            truth_of(model.gpt_neox.layers[3].mlp.dense_4h_to_h.weight), rel=1e-3
        )

    def test_are_never_above_it_and_near_it_at_the_first_look(self, model: torch.nn.Module) -> None:
        found = SpectralNorms(model, matrices="embed_out").measure()["weight/embed_out/spectral_norm"]
        exact = truth_of(model.get_output_embeddings().weight)
        assert 0.9 * exact < found < exact * (1 + 1e-5)

    def test_follow_a_matrix_that_grows(self) -> None:
        layer = torch.nn.Linear(20, 30)
        norms = SpectralNorms(layer)
        norms.measure()
        with torch.no_grad():
            layer.weight += 5 * torch.outer(torch.ones(30), torch.ones(20)) / np.sqrt(600)
        for _ in range(3):
            found = norms.measure()
        assert next(iter(found.values())) == pytest.approx(truth_of(layer.weight), rel=1e-3)

    def test_are_nan_where_weights_are_and_recover_with_them(self) -> None:
        layer = torch.nn.Linear(8, 8)
        norms, kept = SpectralNorms(layer), layer.weight.detach().clone()
        with torch.no_grad():
            layer.weight[0, 0] = torch.nan
        broken = norms.measure()
        with torch.no_grad():
            layer.weight.copy_(kept)
        assert np.isnan(list(broken.values())).all()
        assert np.isfinite(list(norms.measure().values())).all()

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
    def test_take_weights_of_any_precision(self, dtype: torch.dtype) -> None:
        layer = torch.nn.Linear(20, 30)
        plain = next(iter(SpectralNorms(layer).measure().values()))
        assert next(iter(SpectralNorms(layer.to(dtype)).measure().values())) == pytest.approx(plain, rel=0.02)

    def test_leave_the_global_random_state_alone(self, model: torch.nn.Module) -> None:
        torch.manual_seed(5)
        wanted = torch.rand(1)
        torch.manual_seed(5)
        SpectralNorms(model).measure()
        assert torch.rand(1) == wanted

    def test_are_of_first_middle_and_last_layer_and_the_words_by_default(self, model: torch.nn.Module) -> None:
        subjects = [metric.split("/")[1] for metric in SpectralNorms(model).metrics]
        assert {subject.split(".")[1] for subject in subjects if "." in subject} == {"0", "2", "3"}
        assert "embed_out" in subjects
        assert len(subjects) <= 12

    def test_of_an_unknown_architecture_are_of_whatever_is_a_matrix(self) -> None:
        made = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.LayerNorm(4), torch.nn.Linear(4, 2))
        assert SpectralNorms(made).metrics == ["weight/0.weight/spectral_norm", "weight/2.weight/spectral_norm"]

    def test_of_a_model_without_matrices_are_none(self) -> None:
        assert SpectralNorms(torch.nn.LayerNorm(4)).measure() == {}

    def test_weights_that_are_spread_over_processes_are_left_out(self) -> None:
        layer = torch.nn.Linear(4, 4)
        layer.weight = torch.nn.Parameter(torch.empty(0))  # as ZeRO 3 leaves it between uses
        norms = SpectralNorms(layer)
        assert (norms.metrics, norms.left_out) == ([], ["weight"])

    @pytest.mark.parametrize(("matrices", "said"), [("nothing_like_it", "no matrix has a name"), ("(", "no regular")])
    def test_refuse_names_that_find_nothing(self, model: torch.nn.Module, matrices: str, said: str) -> None:
        with pytest.raises(AnalysisError, match=said):
            SpectralNorms(model, matrices=matrices)


class TestLogitSize:
    @pytest.mark.slow
    def test_is_the_largest_of_the_forward_pass(self, model: torch.nn.Module) -> None:
        size = LogitSize(model)
        size.due = True
        logits = model(torch.arange(10)[None]).logits
        assert size.measure() == {LOGIT_MAX: float(logits.detach().abs().max())}
        size.close()

    def test_is_the_largest_over_accumulated_batches(self, model: torch.nn.Module) -> None:
        size = LogitSize(model)
        size.due = True
        passes = [model(torch.arange(n)[None]).logits.detach().abs().max() for n in (2, 9)]
        assert size.measure()[LOGIT_MAX] == float(max(passes))
        size.close()

    def test_is_taken_only_when_it_is_due(self, model: torch.nn.Module) -> None:
        size = LogitSize(model)
        model(torch.arange(10)[None])
        assert size.measure() == {}
        size.close()

    def test_is_not_taken_in_an_evaluation(self) -> None:
        model = neox(1).eval()
        size = LogitSize(model)
        size.due = True
        model(torch.arange(10)[None])
        assert size.measure() == {}

    def test_leaves_no_hook_behind(self) -> None:
        model = neox(1)
        LogitSize(model).close()
        assert not model.get_output_embeddings()._forward_hooks

    def test_of_a_model_without_words_is_none(self) -> None:
        assert LogitSize(torch.nn.Linear(3, 3)).measure() == {}

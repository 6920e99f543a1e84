"""The harness's own Hugging Face model, for a model that is loaded already and one of many alike."""

from __future__ import annotations

import functools
import hashlib
import math
from collections import defaultdict
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from polystab.sources.eval_tasks import Bench, Encoded, EvaluationError

if TYPE_CHECKING:
    import torch

# (log-likelihood, whether every token is the likeliest one), as the harness has them
Scored = tuple[float, bool]

# How far our log-likelihoods may be from the harness's, relative and in nats. A plan that mixed something up is off by
# far more; a sum over half-precision numbers in another order may be off by nearly as much.
_TOLERANCE = 1e-2


def scorer(model: Any, tokenizer: Any, *, bench: Bench, batch_size: int) -> Any:
    """An ``lm_eval`` model around a loaded one, which takes from the bench what earlier models left there.

    The first model of a kind is scored by the harness's own loop, which sorts requests,
    pads them into batches and picks answers out of the outputs one by one. Which answer
    stands where in which batch is remembered as a :class:`Plan`, and once its answers
    were found to be the harness's, later models run the same batches by it.

    Attributes ``requests`` and ``truncated`` count the prompts, and those among them
    that were longer than the model's context and lost their beginning.

    Raises
    ------
    EvaluationError
        ``no-text-end``: the tokenizer has neither a first nor a last token of a text.
    """
    if tokenizer.bos_token_id is None and tokenizer.eos_token_id is None:
        raise EvaluationError(
            "no-text-end",
            "the tokenizer has neither a bos_token nor an eos_token, which the harness starts texts with.",
        )
    return _scorer_class()(model, tokenizer, bench=bench, batch_size=batch_size)


@functools.cache
def _scorer_class() -> Any:
    """The class, made late because its base is in a library that is imported late."""
    from lm_eval.models.huggingface import HFLM

    class Scorer(HFLM):  # type: ignore[misc, unused-ignore]
        def __init__(self, model: Any, tokenizer: Any, *, bench: Bench, batch_size: int) -> None:
            super().__init__(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)
            self._max_length = self.max_length  # else worked out again for every request
            self._bench = bench
            self._key = (_fingerprint(tokenizer), self.backend, self.add_bos_token, self.prefix_token_id)
            self._plan_key = (self._key, batch_size, self.max_length, str(self.device))
            self._learning: Plan | None = None
            self.truncated = 0
            self.requests = 0

        def loglikelihood(self, requests: Any, disable_tqdm: bool = True) -> Any:
            encoded = self._bench.token_ids.get(self._key)
            if encoded is None:
                return super().loglikelihood(requests, disable_tqdm=disable_tqdm)
            plan = self._bench.plans.get(self._plan_key)
            if plan is None:
                return self._loglikelihood_tokens(encoded, disable_tqdm=disable_tqdm)
            self._count(encoded)
            return plan.run(self._model_call, self.softmax_dtype)

        def _loglikelihood_tokens(
            self, requests: Encoded, disable_tqdm: bool = True, override_bs: int | None = None
        ) -> Any:
            requests = list(requests)
            self._count(requests)
            if override_bs is not None:  # windows of a long text, which come batch by batch
                return super()._loglikelihood_tokens(requests, disable_tqdm=disable_tqdm, override_bs=override_bs)
            self._bench.remember(self._key, requests)
            self._learning = plan = Plan(requests, self.max_length)
            try:
                theirs = super()._loglikelihood_tokens(requests, disable_tqdm=disable_tqdm)
            finally:
                self._learning = None
            if not plan.agrees(theirs):
                return theirs
            self._bench.remember_plan(self._plan_key, plan)
            return plan.answers()  # as for every later model, down to the last bit

        def _model_call(self, inps: Any, *args: Any, **given: Any) -> Any:
            logits = super()._model_call(inps, *args, **given)
            if self._learning is not None:
                self._learning.learn(inps, logits, self.softmax_dtype)
            return logits

        def _count(self, requests: Encoded) -> None:
            lengths = [len(continuation) for _, _, continuation in requests]
            if min(lengths) == 0:
                text = next(text for text, _, continuation in requests if not continuation)
                raise EvaluationError("empty-option", f"the tokenizer makes no token of the option {text[1]!r:.80}.")
            if max(lengths) > self.max_length:
                raise EvaluationError(
                    "item-too-long",
                    f"an option of {max(lengths)} tokens does not fit into the model's context of {self.max_length}.",
                )
            room = self.max_length + 1
            self.truncated += sum(len(context) + len(rest) > room for _, context, rest in requests)
            self.requests += len(requests)

        def tok_batch_encode(self, strings: Any, *args: Any, left_truncate_len: int | None = None, **given: Any) -> Any:
            self.requests += len(strings)
            if left_truncate_len:
                self.truncated += sum(len(self.tok_encode(text)) > left_truncate_len for text in strings)
            return super().tok_batch_encode(strings, *args, left_truncate_len=left_truncate_len, **given)

    return Scorer


@dataclass
class _Batch:
    """Inputs of one forward pass, and where in its outputs the tokens of which requests stand."""

    inputs: torch.Tensor
    rows: torch.Tensor
    columns: torch.Tensor
    tokens: torch.Tensor
    requests: list[int]
    lengths: list[int]

    def answers(self, logits: torch.Tensor, dtype: Any) -> list[tuple[int, Scored]]:
        """Number and answer of each request, from the outputs over the whole batch."""
        from torch.nn.functional import log_softmax

        chosen = log_softmax(logits[self.rows, self.columns], dim=-1, dtype=dtype)
        likeliest = (chosen.argmax(dim=-1) == self.tokens).cpu()
        picked = chosen.gather(1, self.tokens.unsqueeze(-1)).squeeze(-1).cpu()
        if max(self.lengths) == 1:
            return list(zip(self.requests, zip(picked.tolist(), likeliest.tolist(), strict=True), strict=True))
        ends = list(accumulate(self.lengths))[:-1]
        parts = zip(self.requests, picked.tensor_split(ends), likeliest.tensor_split(ends), strict=True)
        return [(number, (float(values.sum()), bool(right.all()))) for number, values, right in parts]


class Plan:
    """Which tokens are to be picked out of which batch: learnt from the batches that the harness makes.

    It holds for every model that has the same tokens, context length and batch size.
    """

    def __init__(self, encoded: Encoded, max_length: int) -> None:
        self._batches: list[_Batch] = []
        self._found: dict[int, Scored] = {}
        self._count = len(encoded)
        self._endings = [rest for _, _, rest in encoded]
        self._sound = True
        # Requests by what the model is given for them; options of one token share it with each other.
        self._waiting: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for number, (_, context, rest) in enumerate(encoded):
            self._waiting[tuple((context + rest)[-(max_length + 1) : -1])].append(number)
        self._lengths = sorted({len(given) for given in self._waiting}, reverse=True)

    def learn(self, inputs: torch.Tensor, logits: torch.Tensor, dtype: Any) -> None:
        """Add a batch that the harness made, and score it from the outputs that it had."""
        import torch

        if not self._sound or logits.shape[:2] != inputs.shape:
            self._sound = False
            return
        places: list[tuple[int, int, int]] = []
        requests: list[int] = []
        for row, ids in enumerate(inputs.tolist()):
            end, numbers = self._requests_of(ids)
            for number in numbers:
                ending = self._endings[number]
                places += [(row, end - len(ending) + i, token) for i, token in enumerate(ending)]
            requests += numbers
        if not requests:
            self._sound = False
            return
        rows, columns, tokens = torch.tensor(places, device=inputs.device).unbind(dim=1)
        lengths = [len(self._endings[number]) for number in requests]
        batch = _Batch(inputs, rows, columns, tokens.contiguous(), requests, lengths)
        self._batches.append(batch)
        self._found.update(batch.answers(logits, dtype))

    def agrees(self, theirs: list[Scored]) -> bool:
        """Whether the answers are those of the harness, all of them and all finite."""
        if not self._sound or len(self._found) != self._count or len(theirs) != self._count:
            return False
        return all(
            math.isfinite(their[0])
            and math.isclose(our[0], their[0], rel_tol=_TOLERANCE, abs_tol=_TOLERANCE)
            and our[1] == their[1]
            for our, their in zip(self.answers(), theirs, strict=True)
        )

    def answers(self) -> list[Scored]:
        """The answers to all requests, in their order."""
        return [self._found[number] for number in range(self._count)]

    def run(self, model: Any, dtype: Any) -> list[Scored]:
        """The answers of another model, which is called with the inputs of each batch."""
        self._found = {}
        for batch in self._batches:
            self._found.update(batch.answers(model(batch.inputs), dtype))
        return self.answers()

    def _requests_of(self, ids: list[int]) -> tuple[int, list[int]]:
        """The requests that a row of inputs is for, and where it ends; the rest of the row is padding.

        Where padding makes the rows of two requests alike, it does not matter which is
        found: a causal model puts out the same for both.
        """
        for length in self._lengths:
            if (
                length <= len(ids)
                and not any(ids[length:])
                and (numbers := self._waiting.pop(tuple(ids[:length]), None))
            ):
                return length, numbers
        return 0, []


def _fingerprint(tokenizer: Any) -> object:
    """Equal only for tokenizers that make the same tokens of every text."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return object()  # nothing says all of what a slow tokenizer does, so its tokens are not shared
    # How texts are padded and cut stands at the beginning, changes with every call, and does not matter here.
    content = backend.to_str().partition('"added_tokens"')
    said = (type(tokenizer).__name__, sorted(tokenizer.special_tokens_map.items(), key=str), content[2] or content[0])
    return hashlib.sha256(repr(said).encode("utf-8", "surrogatepass")).hexdigest()

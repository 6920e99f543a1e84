"""What a model computes on a batch: residual stream, attention logits, gradients. The model is left as it was."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from polystab.sources.activations.batch import ActivationError, Ints
from polystab.sources.checkpoint_errors import library, memory_errors

if TYPE_CHECKING:
    import torch

Floats = npt.NDArray[np.float32]

# Attention logits that are looked at together; one sequence's are never split.
_LOGITS_AT_ONCE = 2**24


@dataclass
class Recorded:
    """What was seen of one batch.

    Attributes
    ----------
    stream : list of ndarray, each of shape (tokens, width)
        The residual stream in float32: first what goes into the first block, then what comes
        out of each.
    logits : dict of int to float
        Largest attention logit of each layer; empty where the model does not show them.
    gradients : dict of str to tensor
        Of the mean loss a token, by name of the parameter; empty where there is no loss.
        None for a parameter that has no part in it.
    loss : float
        Cross-entropy of the next token in nats; NaN where there is none.
    """

    stream: list[Floats] = field(default_factory=list)
    logits: dict[int, float] = field(default_factory=dict)
    gradients: dict[str, Any] = field(default_factory=dict)
    loss: float = math.nan


def record(model: Any, tokens: Ints, *, batch_size: int, gradients: bool) -> Recorded:
    """Run a model on a batch and keep what it computes.

    Parameters
    ----------
    model
        Of ``transformers``, in evaluation mode.
    tokens : ndarray of int, shape (rows, length)
    batch_size : int
        Rows in one pass.
    gradients : bool
        Also of the mean loss over all next tokens, in respect of every parameter. What
        parameters hold as ``grad`` is not touched.

    Raises
    ------
    ActivationError
        ``no-blocks``, ``no-text-model``.
    CheckpointError
        ``out-of-memory``.
    """
    torch = library("torch")
    found = Recorded()
    parameters = {name: p for name, p in model.named_parameters() if p.is_floating_point()} if gradients else {}
    device = next(iter(model.parameters())).device
    stream: list[list[Floats]] = []
    total = 0.0
    sums: list[Any] = [None] * len(parameters)
    n_targets = tokens.shape[0] * (tokens.shape[1] - 1)
    with (
        ExitStack() as stack,
        torch.inference_mode(mode=False),
        torch.set_grad_enabled(gradients),
        memory_errors(f"running the model on {batch_size} rows of {tokens.shape[1]} tokens at once"),
    ):
        stream = stack.enter_context(_stream_hooks(model))
        found.logits = stack.enter_context(_attention_logits(model))
        stack.enter_context(_all_require_grad(parameters.values()))
        for at in range(0, len(tokens), batch_size):
            words = torch.from_numpy(tokens[at : at + batch_size]).to(device)
            loss = _summed_loss(_run(model, words), words)
            if loss is None:
                continue
            total += float(loss.detach())
            if gradients:
                new = torch.autograd.grad(loss / n_targets, list(parameters.values()), allow_unused=True)
                sums = [b if a is None else a if b is None else a.add_(b) for a, b in zip(sums, new, strict=True)]
            found.loss = total / n_targets
    found.stream = [np.concatenate(site) for site in stream]
    if any(gradient is not None for gradient in sums):
        found.gradients = dict(zip(parameters, sums, strict=True))
    return found


def _run(model: Any, words: torch.Tensor) -> Any:
    try:
        return model(input_ids=words, use_cache=False)
    except TypeError as error:
        raise ActivationError(
            "no-text-model", f"{type(model).__name__} takes no token ids as a model of transformers does: {error}."
        ) from error


def _summed_loss(out: Any, words: torch.Tensor) -> Any:
    """Cross-entropy of the next tokens in nats, summed; None where the model has no head."""
    logits = getattr(out, "logits", None)
    if logits is None or logits.ndim != 3:
        return None
    functional = library("torch").nn.functional
    return functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), words[:, 1:].flatten(), reduction="sum")


@contextmanager
def _all_require_grad(parameters: Any) -> Iterator[None]:
    """Also of frozen parameters."""
    frozen = [parameter for parameter in parameters if not parameter.requires_grad]
    try:
        for parameter in frozen:
            parameter.requires_grad_(True)
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)


def blocks(model: Any) -> list[Any]:
    """The blocks of a model, in their order.

    Raises
    ------
    ActivationError
        ``no-blocks``: it has no list of as many modules as its configuration has layers.
    """
    modules = library("torch").nn
    config = getattr(model, "config", None)
    n = next(
        (getattr(config, name) for name in ("num_hidden_layers", "n_layer", "num_layers") if hasattr(config, name)), 0
    )
    lists: list[Any] = [
        part for part in model.modules() if isinstance(part, modules.ModuleList) and n and len(part) == n
    ]
    if not lists:
        raise ActivationError(
            "no-blocks",
            f"{type(model).__name__} has no list of {n} modules, as its configuration has layers: its residual stream "
            "cannot be found.",
        )
    return list(max(lists, key=_n_parameters))


def _n_parameters(part: Any) -> int:
    return sum(parameter.numel() for parameter in part.parameters())


@contextmanager
def _stream_hooks(model: Any) -> Iterator[list[list[Floats]]]:
    """Keep what goes into the first block and what comes out of each, while the block runs."""
    parts = blocks(model)
    stream: list[list[Floats]] = [[] for _ in range(len(parts) + 1)]

    def keep(number: int, state: Any) -> None:
        state = state[0] if isinstance(state, (tuple, list)) else state
        stream[number].append(state.detach().reshape(-1, state.shape[-1]).float().cpu().numpy())

    with ExitStack() as hooks:
        before = parts[0].register_forward_pre_hook(
            lambda _, args, kwargs: keep(0, args[0] if args else kwargs["hidden_states"]), with_kwargs=True
        )
        hooks.callback(before.remove)
        for number, part in enumerate(parts, 1):
            handle = part.register_forward_hook(lambda _, __, out, number=number: keep(number, out))
            hooks.callback(handle.remove)
        yield stream


@contextmanager
def _attention_logits(model: Any) -> Iterator[dict[int, float]]:
    """Keep the largest attention logit of each layer.

    Models of ``transformers`` look their attention up by name in an ``AttentionInterface``,
    and hand it queries and keys after rotary embeddings. What stands there under the
    model's name is wrapped as long as the block runs.
    """
    largest: dict[int, float] = {}
    own = {id(part): number for number, part in enumerate(model.modules())}

    def wrapped(theirs: Callable[..., Any] | None) -> Callable[..., Any]:
        def attention(module: Any, query: Any, key: Any, value: Any, mask: Any, *args: Any, **kwargs: Any) -> Any:
            if id(module) in own and query.shape[2] == key.shape[2]:
                layer = int(getattr(module, "layer_idx", len(largest)))
                found = _largest_logit(module, query.detach(), key.detach(), mask, kwargs.get("scaling"))
                # NaN, which comes out of weights that hold it, must stay.
                largest[layer] = found if math.isnan(found) else max(largest.get(layer, -math.inf), found)
            call = theirs or sys.modules[type(module).__module__].eager_attention_forward
            return call(module, query, key, value, mask, *args, **kwargs)

        return attention

    with ExitStack() as put_back:
        for interface, name in _interfaces(model):
            there = interface._local_mapping.get(name)
            interface._local_mapping[name] = wrapped(interface.get(name))
            if there is None:
                put_back.callback(interface._local_mapping.pop, name)
            else:
                put_back.callback(interface._local_mapping.__setitem__, name, there)
        yield largest


def _interfaces(model: Any) -> list[tuple[Any, str]]:
    """Where the parts of a model look their attention up, and under which name; none for other architectures."""
    found: dict[tuple[int, str], tuple[Any, str]] = {}
    for part in model.modules():
        interface = getattr(sys.modules.get(type(part).__module__), "ALL_ATTENTION_FUNCTIONS", None)
        name = getattr(getattr(part, "config", None), "_attn_implementation", None)
        if isinstance(name, str) and isinstance(getattr(interface, "_local_mapping", None), dict):
            found[id(interface), name] = (interface, name)
    return list(found.values())


def _largest_logit(module: Any, query: torch.Tensor, key: torch.Tensor, mask: Any, scaling: float | None) -> float:
    """The largest scaled product of a query and a key it may see; both (rows, heads, tokens, width)."""
    torch = library("torch")
    query, key = query.float(), key.float()
    if query.shape[1] != key.shape[1]:  # grouped-query attention: several heads share a key
        key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
    length = query.shape[2]
    scale = query.shape[3] ** -0.5 if scaling is None else scaling
    hidden = None
    if mask is not None:
        mask = mask[..., :length]
        hidden = ~mask if mask.dtype == torch.bool else mask <= torch.finfo(mask.dtype).min / 2
    elif getattr(module, "is_causal", True):
        hidden = torch.ones(1, 1, length, length, dtype=torch.bool, device=query.device).triu(1)
    rows = max(1, _LOGITS_AT_ONCE // (query.shape[1] * length**2))
    found = []
    for at in range(0, len(query), rows):
        logits = query[at : at + rows] @ key[at : at + rows].transpose(-1, -2) * scale
        if hidden is not None:
            logits.masked_fill_(hidden if len(hidden) == 1 else hidden[at : at + rows], -math.inf)
        found.append(logits.amax())
    return float(torch.stack(found).amax())

"""The variational linear probe, for all layers and tasks of a checkpoint at once.

A probe reads a label off a hidden state: logits ``y = W' (z * x) + b``, where each
weight, each bias and the scale z of each input has a normal posterior. What it costs
to send the labels with it is its codelength. All probes share their batches and their
noise, which is what makes them fast together: with common noise the input enters as a
few matrix products that have the tasks side by side, and no probe has a tensor of its
own over (row, input).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from polystab.sources.checkpoint_errors import library

if TYPE_CHECKING:
    from torch import Tensor

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

# Approximation of the KL divergence from the log-uniform prior (Molchanov et al. 2017, equation 14).
K1, K2, K3 = 0.63576, 1.87320, 1.48695
# Initial log-variance of every posterior, and the spread of the initial values about their mean.
START_LOG_VARIANCE, START_SPREAD = -9.0, 0.01
# Smallest square of a scale in its logarithm.
_TINY = 1e-8
# Rows whose logits are held at once when nothing is learned.
_ROWS = 8192
_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8


@dataclass(frozen=True)
class Training:
    """How probes are trained.

    Attributes
    ----------
    learning_rate : float
        Of Adam.
    batch_size : int
        Rows (words, or sequences) in a step.
    epochs : int
        At most so many passes over the training rows.
    patience : int
        A probe stops after more than so many epochs in a row without a better
        development loss; what it had at its best is kept.
    decay : bool
        Lower the rate to 0 over the second half of the steps, so that the probe comes to
        rest; else it is constant.
    """

    learning_rate: float = 5e-3
    batch_size: int = 64
    epochs: int = 30
    patience: int = 10
    decay: bool = True

    def rate(self, done: int, rows: int) -> float:
        """The learning rate after so many steps, with so many training rows.

        Examples
        --------
        >>> Training(0.1, batch_size=10, epochs=2).rate(3, rows=20)
        0.05
        """
        share = done / (self.epochs * -(-rows // self.batch_size))
        return self.learning_rate * (min(1.0, 2 * (1 - share)) if self.decay else 1.0)


@dataclass(frozen=True)
class Fitted:
    """Probes of L layers and T tasks, with up to C classes, after training.

    Attributes
    ----------
    codelength, kl : ndarray, shape (L, T)
        In nats, over the training rows: ``codelength`` is the summed cross-entropy of the
        mean weights plus ``kl``.
    epochs : ndarray of int, shape (L, T)
        Epochs until the best development loss; 0 where it never was finite, and the
        codelength is NaN.
    weights : ndarray, shape (L, T, C, d)
        Posterior means ``E[w z]``; NaN for classes that a task does not have.
    bias : ndarray, shape (L, T, C)
        Posterior means; minus infinity for classes that a task does not have.
    """

    codelength: Floats
    kl: Floats
    epochs: Ints
    weights: Floats
    bias: Floats


def fit_probes(
    train: Tensor,
    labels: Ints,
    dev: Tensor,
    dev_labels: Ints,
    *,
    classes: Sequence[int],
    training: Training,
    seeds: Sequence[Sequence[int]],
    seed: Sequence[int],
) -> Fitted:
    """Train the variational linear probes of all layers and tasks together.

    Parameters
    ----------
    train, dev : torch.Tensor, shape (L, N, d) and (L, M, d)
        Hidden states, float32, on any device.
    labels, dev_labels : ndarray of int, shape (T, N) and (T, M)
        Classes from 0; -1 where a row has no label in a task.
    classes : sequence of int
        Number of classes of each task, at least 2.
    training : Training
    seeds : sequence of sequences of int
        Of each task's initial values and noise; a probe comes out the same whatever
        is trained beside it, up to rounding.
    seed : sequence of int
        Of the order of the rows and the noise of the inputs, which all tasks share.

    Notes
    -----
    The posterior of the scales is ``z_j ~ N(m_j, s_j^2)`` against a log-uniform prior,
    that of weights and biases normal against N(0, 1) (a group normal-Jeffreys prior,
    [1]_); activations are sampled, not weights [2]_, with one draw of z for each row.
    With ``a_j = s_j^2 / m_j^2``

    ``KL = sum_j [k1 - k1 sigmoid(k2 + k3 log a_j) + softplus(-log a_j) / 2]
    + sum_w (exp(v_w) + m_w^2 - 1 - v_w) / 2``, [3]_,

    and each step descends the cross-entropy summed over its rows plus the KL times the
    rows' share of all. The development loss is the mean cross-entropy of its rows plus
    ``KL / N``: the same per label.

    References
    ----------
    .. [1] C. Louizos, K. Ullrich, M. Welling, Bayesian compression for deep learning,
       NeurIPS 2017, arXiv:1705.08665.
    .. [2] D. P. Kingma, T. Salimans, M. Welling, Variational dropout and the local
       reparameterization trick, NeurIPS 2015, arXiv:1506.02557.
    .. [3] D. Molchanov, A. Ashukha, D. Vetrov, Variational dropout sparsifies deep
       neural networks, ICML 2017, arXiv:1701.05369.
    """
    torch = library("torch")
    with torch.no_grad():
        probes = _Probes(train, labels, dev, dev_labels, classes, seeds)
        order = np.random.default_rng([*seed, 0])
        noise = np.random.default_rng([*seed, 1])
        for epoch in range(training.epochs):
            probes.epoch(order, noise, training)
            if probes.stopped(epoch, training.patience):
                break
        return probes.best()


class _Probes:
    """Parameters and their optimiser.

    Layout: parameters (L, T, C, d), activations (L, T, C, rows), so that what is reduced
    never lies innermost.
    """

    def __init__(
        self,
        train: Tensor,
        labels: Ints,
        dev: Tensor,
        dev_labels: Ints,
        classes: Sequence[int],
        seeds: Sequence[Sequence[int]],
    ) -> None:
        self.torch: Any = library("torch")
        self.x, self.dev, self.device = train, dev, train.device
        self.L, self.N, self.d = train.shape
        self.T, self.C = len(classes), max(classes)
        self.y, self.dev_y = self._tensor(labels), self._tensor(dev_labels)
        self.n = (self.y >= 0).sum(1).clamp(min=1).float()
        self.n_dev = (self.dev_y >= 0).sum(1).clamp(min=1)
        real = np.arange(self.C) < np.asarray(classes)[:, None]
        self.real = self._tensor(real)[:, :, None]
        self.absent = self._tensor(np.where(real, 0.0, -np.inf).astype(np.float32))[:, :, None]
        self.sizes = {
            "w": (self.L, self.T, self.C, self.d), "w_log": (self.L, self.T, self.C, self.d),
            "z": (self.L, self.T, 1, self.d), "z_log": (self.L, self.T, 1, self.d),
            "b": (self.L, self.T, self.C, 1), "b_log": (self.L, self.T, self.C, 1),
        }  # fmt: skip
        total = sum(math.prod(size) for size in self.sizes.values())
        self.flat, self.flat_grad, self.m, self.v = (self.torch.zeros(total, device=self.device) for _ in range(4))
        self.p, self.g = self._views(self.flat), self._views(self.flat_grad)
        self.updates = 0
        self.noise = [np.random.default_rng([*seed, 1]) for seed in seeds]
        self._start(classes, seeds)
        self.kept = self.flat.clone()
        self.best_loss = self.torch.full((self.L, self.T), math.inf, dtype=self.torch.float64, device=self.device)
        self.best_epoch = np.zeros((self.L, self.T), dtype=np.int64)
        self.done = np.zeros((self.L, self.T), dtype=np.bool_)

    def _tensor(self, array: npt.NDArray[Any]) -> Tensor:
        tensor: Tensor = self.torch.from_numpy(np.ascontiguousarray(array)).to(self.device)
        return tensor

    def _views(self, flat: Tensor) -> dict[str, Tensor]:
        """The parameters by name, as views of one vector."""
        parts = self.torch.split(flat, [math.prod(size) for size in self.sizes.values()])
        return {name: part.view(size) for (name, size), part in zip(self.sizes.items(), parts, strict=True)}

    def _start(self, classes: Sequence[int], seeds: Sequence[Sequence[int]]) -> None:
        """Initial values: the same for all layers, so that each probe starts as it would alone."""
        for t, (n, seed) in enumerate(zip(classes, seeds, strict=True)):
            rng = np.random.default_rng([*seed, 0])
            sizes = {"w": (n, self.d), "w_log": (n, self.d), "z": (1, self.d), "z_log": (1, self.d), "b_log": (n, 1)}
            for name, size in sizes.items():
                drawn = rng.standard_normal(size, dtype=np.float32)
                mean, spread = {"w": (0.0, self.d**-0.5), "z": (1.0, START_SPREAD)}.get(
                    name, (START_LOG_VARIANCE, START_SPREAD)
                )
                self.p[name][:, t, : size[0]] = self._tensor(mean + np.float32(spread) * drawn)

    def epoch(self, order: np.random.Generator, noise: np.random.Generator, training: Training) -> None:
        """One pass over the training rows."""
        rows = self._tensor(order.permutation(self.N))
        inputs = self._tensor(noise.standard_normal((self.N, self.d), dtype=np.float32))
        outputs = np.zeros((self.T, self.C, self.N), dtype=np.float32)
        for t, rng in enumerate(self.noise):
            width = int(self.real[t].sum())
            outputs[t, :width] = rng.standard_normal((width, self.N), dtype=np.float32)
        eta = self._tensor(outputs)
        for start in range(0, self.N, training.batch_size):
            part = slice(start, start + training.batch_size)
            self._gradient(rows[part], inputs[part], eta[..., part])
            self._descend(training.rate(self.updates, self.N))

    def _gradient(self, rows: Tensor, eps: Tensor, eta: Tensor) -> None:
        """Gradient of the loss on some rows, into ``self.g``."""
        torch, p, g = self.torch, self.p, self.g
        x = self.x[:, rows]
        noisy = x * eps
        first, second = torch.cat((x, noisy), 2), torch.cat((x * x, x * noisy, noisy * noisy), 2)
        spread, variance = torch.exp(p["z_log"] / 2), torch.exp(p["w_log"])
        # z = m + s eps, so that sum_j x_j z_j w_j is a product with (m w, s w), and its variance one with squares.
        scaled = torch.cat((p["z"] * p["w"], spread * p["w"]), 3).flatten(1, 2)
        both = 2 * p["z"] * spread
        squares = torch.cat((p["z"] ** 2 * variance, both * variance, spread**2 * variance), 3).flatten(1, 2)
        shape = (self.L, self.T, self.C, len(rows))
        mean = torch.bmm(scaled, first.mT).view(shape) + (p["b"] + self.absent)
        deviation = (torch.bmm(squares, second.mT).view(shape) + torch.exp(p["b_log"])).sqrt_()
        y = self.y[:, None, rows]
        known = y >= 0
        down = torch.softmax(mean.addcmul_(deviation, eta), 2)
        where = y.clamp(min=0).expand(self.L, -1, -1, -1)
        down.scatter_add_(2, where, down.new_full((), -1.0).expand(where.shape)).mul_(known)
        wide = down * eta / (2 * deviation)
        a, b = torch.bmm(down.flatten(1, 2), first).view(*shape[:3], -1).split(self.d, 3)
        s, c, e = torch.bmm(wide.flatten(1, 2), second).view(*shape[:3], -1).split(self.d, 3)
        share = (known.sum(2) / self.n[:, None])[..., None] * self.real
        torch.add(p["z"] * a + spread * b, share * p["w"], out=g["w"])
        by_variance = p["z"] ** 2 * s + both * c + spread**2 * e
        torch.mul(variance, by_variance, out=g["w_log"]).add_(share / 2 * (variance - 1))
        by_scale = (p["w"] * a + 2 * variance * (p["z"] * s + spread * c)).sum(2, keepdim=True)
        by_spread = (p["w"] * b + 2 * variance * (p["z"] * c + spread * e)).sum(2, keepdim=True)
        square = p["z"] ** 2 + _TINY
        log_ratio = p["z_log"] - torch.log(square)
        bent = torch.sigmoid(K2 + K3 * log_ratio)
        by_ratio = share[:, :1] * (K1 * K3 * bent * (1 - bent) + torch.sigmoid(-log_ratio) / 2)
        torch.add(by_scale, by_ratio * 2 * p["z"] / square, out=g["z"])
        torch.sub(by_spread * spread / 2, by_ratio, out=g["z_log"])
        own = torch.exp(p["b_log"])
        torch.add(down.sum(3, keepdim=True), share * p["b"], out=g["b"])
        torch.add(own * wide.sum(3, keepdim=True), share / 2 * (own - 1), out=g["b_log"])

    def _descend(self, rate: float) -> None:
        """A step of Adam."""
        self.updates += 1
        self.m.lerp_(self.flat_grad, 1 - _BETA1)
        self.v.mul_(_BETA2).addcmul_(self.flat_grad, self.flat_grad, value=1 - _BETA2)
        size = (self.v / (1 - _BETA2**self.updates)).sqrt_().add_(_EPSILON)
        self.flat.addcdiv_(self.m, size, value=-rate / (1 - _BETA1**self.updates))

    def kl(self) -> Tensor:
        """KL divergence of each probe from its prior, nats, shape (L, T)."""
        p = {name: part.double() for name, part in self.p.items()}
        total = scale_kl(p["z"], p["z_log"]).sum((2, 3))
        for name in ("w", "b"):
            total = total + (normal_kl(p[name], p[f"{name}_log"]) * self.real).sum((2, 3))
        return total

    def logits(self, x: Tensor) -> Tensor:
        """Logits of the mean weights, shape (L, T, C, rows)."""
        product = self.torch.bmm((self.p["z"] * self.p["w"]).flatten(1, 2), x.mT)
        shaped: Tensor = product.view(self.L, self.T, self.C, -1)
        return shaped + (self.p["b"] + self.absent)

    def cross_entropy(self, x: Tensor, y: Tensor) -> Tensor:
        """Summed cross-entropy of the labelled rows with the mean weights, nats, shape (L, T)."""
        total: Tensor = self.torch.zeros((self.L, self.T), dtype=self.torch.float64, device=self.device)
        for start in range(0, x.shape[1], _ROWS):
            part = slice(start, start + _ROWS)
            seen = y[:, None, part]
            logp = self.torch.log_softmax(self.logits(x[:, part]), 2)
            chosen = logp.gather(2, seen.clamp(min=0).expand(self.L, -1, -1, -1)) * (seen >= 0)
            total -= chosen[:, :, 0].sum(2, dtype=self.torch.float64)
        return total

    def stopped(self, epoch: int, patience: int) -> bool:
        """Look at the development loss after an epoch; whether no probe is to be trained on."""
        loss = self.cross_entropy(self.dev, self.dev_y) / self.n_dev + self.kl() / self.n
        better = (loss < self.best_loss) & self._tensor(~self.done)
        self.best_loss = self.torch.where(better, loss, self.best_loss)
        self.best_epoch[better.cpu().numpy()] = epoch + 1
        for name, kept in self._views(self.kept).items():
            self.torch.where(better[:, :, None, None], self.p[name], kept, out=kept)
        self.done |= epoch + 1 - self.best_epoch > patience
        return bool(self.done.all())

    def best(self) -> Fitted:
        """Every probe as it was at its best."""
        self.flat.copy_(self.kept)
        kl = self.kl()
        never = self._tensor(self.best_epoch == 0)
        codelength = (self.cross_entropy(self.x, self.y) + kl).masked_fill(never, math.nan)
        weights = self.torch.where(self.real, self.p["z"] * self.p["w"], math.nan)
        bias = (self.p["b"] + self.absent)[..., 0]
        numbers = [part.double().cpu().numpy() for part in (codelength, kl, weights, bias)]
        return Fitted(numbers[0], numbers[1], self.best_epoch, numbers[2], numbers[3])


def scale_kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL divergence, nats, of N(mean, variance) from the log-uniform prior, by Molchanov's approximation."""
    torch = library("torch")
    log_ratio = log_variance - torch.log(mean**2 + _TINY)
    kl: Tensor = K1 - K1 * torch.sigmoid(K2 + K3 * log_ratio) + torch.nn.functional.softplus(-log_ratio) / 2
    return kl


def normal_kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL divergence, nats, of N(mean, variance) from N(0, 1)."""
    torch = library("torch")
    kl: Tensor = (torch.exp(log_variance) + mean**2 - 1 - log_variance) / 2
    return kl

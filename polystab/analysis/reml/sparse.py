"""REML of designs with many levels, one response at a time, by sparse elimination.

The coefficient matrix N of the mixed model equations (Henderson) has the factors'
cross-counts and, on its diagonal, one over the variance ratios. The factor with most
levels, and factors nested in one another with it, are eliminated exactly: their blocks
are diagonal. What remains, with the fixed effects, is dense.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import numpy as np

from polystab.analysis.arrays import Floats, Ints
from polystab.analysis.reml.optimum import Pieces
from polystab.errors import AnalysisError, shown

# Side of the largest dense matrix that is built; a few of them are held at a time.
LARGEST_DENSE = 8000

# A ratio of zero is stood in for by this share of one over the rows of a level: the
# equations need a number, and the criterion changes by 1e-9 of its derivative.
_STAND_IN = 1e-9

# Eliminated levels whose dense borders are held at a time.
_COLUMNS = 4000


def one_thread() -> AbstractContextManager[Any]:
    """Linear algebra on one thread, where it can be limited.

    Matrices of a thousand columns gain little from more threads, and where other
    processes want the cores, threads that wait for one another took twenty times as long.
    """
    import scipy.linalg  # noqa: F401 - only libraries that are loaded are limited

    try:
        threadpoolctl = importlib.import_module("threadpoolctl")  # comes with scikit-learn
    except ImportError:
        return nullcontext()
    return cast(AbstractContextManager[Any], threadpoolctl.threadpool_limits(1))


class SparseDesign:
    """Cross-products of a design, made once; :meth:`factor` eliminates at given ratios."""

    def __init__(self, codes: Ints, levels: Sequence[int], names: Sequence[str], matrix: Floats) -> None:
        import scipy.sparse as sp

        n = len(codes)
        self.n, self.k, self.p = n, len(levels), matrix.shape[1]
        self.codes, self.levels = codes, tuple(levels)
        scale = np.linalg.norm(matrix, axis=0)
        self.basis, corner = np.linalg.qr(matrix / scale)
        self.corner = corner * scale
        self.chain = nested_chain(codes, levels)
        self.order = [*self.chain, *(k for k in np.argsort(levels)[::-1].tolist() if k not in self.chain)]
        dense = sum(levels[k] for k in self.order[len(self.chain) :]) + self.p
        if dense > LARGEST_DENSE:
            raise AnalysisError(
                f"the crossed factors {shown([names[k] for k in self.order[len(self.chain) :]])} and the fixed effects "
                f"have {dense} levels beside {names[self.chain[0]]!r}, and need matrices of that size; at most "
                f"{LARGEST_DENSE} are allowed. Leave out a factor, or fit parts of the table."
            )
        rows = np.arange(n)
        ones = np.ones(n)
        self.indicator: list[Any] = [
            sp.csr_matrix((ones, (rows, codes[:, k])), shape=(n, levels[k])) for k in range(self.k)
        ]
        whole = sp.hstack([self.indicator[k] for k in self.order], format="csr")
        counts = (whole.T @ whole).tocsr()
        cross = whole.T @ self.basis
        self.start = np.concatenate([[0], np.cumsum([levels[k] for k in self.order])]).astype(int)
        self.place = {k: slice(int(self.start[i]), int(self.start[i + 1])) for i, k in enumerate(self.order)}
        sparse_cross = sp.csr_matrix(cross)
        self.equations: Any = sp.bmat([[counts, sparse_cross], [sparse_cross.T, sp.identity(self.p)]], format="csr")
        self.gram = self._gram(counts, cross)

    def _gram(self, counts: Any, cross: Floats) -> Floats:
        """Traces of products of {I, C_k}, as in the dense engine, from the cross-counts."""
        gram = np.empty((self.k + 1, self.k + 1))
        gram[0, 0] = self.n - self.p
        inner = [cross[self.place[k]].T @ cross[self.place[k]] for k in range(self.k)]
        for i in range(self.k):
            gram[0, i + 1] = gram[i + 1, 0] = self.n - np.trace(inner[i])
            for j in range(i, self.k):
                block = counts[self.place[i], self.place[j]].tocoo()
                left, right = cross[self.place[i]][block.row], cross[self.place[j]][block.col]
                both = (block.data**2).sum() - 2 * (block.data * (left * right).sum(axis=1)).sum()
                gram[i + 1, j + 1] = gram[j + 1, i + 1] = max(both + (inner[i] * inner[j]).sum(), 0.0)
        return gram

    def effects(self, u: Floats) -> Floats:
        """Row values of coefficients (levels, then fixed effects), (rows, columns)."""
        value = self.basis @ u[self.start[-1] :]
        for k in range(self.k):
            value = value + u[self.place[k]][self.codes[:, k]]
        return np.asarray(value)

    def products(self, rows: Floats) -> Floats:
        """Indicators and basis times row values: right-hand sides."""
        parts = [self.indicator[k].T @ rows for k in self.order]
        return np.concatenate([*parts, self.basis.T @ rows])

    def factor(self, ratio: Floats) -> Elimination:
        """Eliminate at positive ratios, (factors,)."""
        return Elimination(self, ratio)


class Elimination:
    """N eliminated down to a dense Cholesky factor."""

    def __init__(self, design: SparseDesign, ratio: Floats) -> None:
        import scipy.linalg as sl
        import scipy.sparse as sp

        self.design, self.ratio = design, ratio
        added = np.zeros(design.equations.shape[0])
        for k, block in design.place.items():
            added[block] = 1 / ratio[k]
        left: Any = (design.equations + sp.diags(added)).tocsr()
        self.steps: list[tuple[Floats, Any]] = []
        self.logdet = 0.0
        for k in design.chain:
            size = design.levels[k]
            pivot = left.diagonal()[:size]
            border = left[size:, :size].tocsr()
            left = (left[size:, size:] - (border @ sp.diags(1 / pivot)) @ border.T).tocsr()
            self.steps.append((pivot, border))
            self.logdet += float(np.log(pivot).sum())
        dense = np.asfortranarray(left.toarray())
        self.cholesky = sl.cholesky(dense, lower=True, overwrite_a=True, check_finite=False)
        self.logdet += 2 * float(np.log(np.diagonal(self.cholesky)).sum())
        self.logdet += float(sum(size * np.log(ratio[k]) for k, size in enumerate(design.levels)))
        self._inverse: Floats | None = None

    def solve(self, right: Floats) -> Floats:
        """Solution of N x = right, (levels and fixed effects, columns)."""
        import scipy.linalg as sl

        heads, rest = [], right
        for pivot, border in self.steps:
            head = rest[: len(pivot)] / pivot[:, None]
            heads.append(head)
            rest = rest[len(pivot) :] - border @ head
        rest = sl.cho_solve((self.cholesky, True), rest, check_finite=False)
        for (pivot, border), head in zip(reversed(self.steps), reversed(heads), strict=True):
            rest = np.concatenate([head - (border.T @ rest) / pivot[:, None], rest])
        return np.asarray(rest)

    def inverse(self) -> Floats:
        """Inverse of the dense remainder: that block of the inverse of N."""
        import scipy.linalg as sl

        if self._inverse is None:
            lower, info = sl.lapack.dpotri(self.cholesky, lower=1)
            if info:
                raise AnalysisError("the mixed model equations are singular to working precision.")
            # dpotri fills one triangle; the other still holds what was there.
            lower = np.tril(lower)
            self._inverse = lower + np.tril(lower, -1).T
        return self._inverse

    def traces(self) -> Floats:
        """Trace of every factor's block of the inverse of N, (factors,)."""
        design, inverse = self.design, self.inverse()
        result = np.empty(design.k)
        offset = int(design.start[len(design.chain)])
        diagonal = np.diagonal(inverse)
        for k in design.order[len(design.chain) :]:
            block = design.place[k]
            result[k] = diagonal[block.start - offset : block.stop - offset].sum()
        for i, k in enumerate(design.chain):
            result[k] = self._chain_trace(i, inverse)
        return result

    def _chain_trace(self, i: int, inverse: Floats) -> float:
        """Derivative of log det N when the i-th eliminated diagonal grows: carried through the later steps."""
        import scipy.sparse as sp

        pivot, border = self.steps[i]
        total = float((1 / pivot).sum())
        if i == len(self.steps) - 1:
            scaled = (border @ sp.diags(1 / pivot)).tocsc()
            for start in range(0, len(pivot), _COLUMNS):
                some = scaled[:, start : start + _COLUMNS]
                total += float(some.multiply(inverse @ some).sum())
            return total
        change: Any = ((border @ sp.diags(1 / pivot**2)) @ border.T).tocsr()
        for pivot, border in self.steps[i + 1 :]:
            size = len(pivot)
            grown, widened = change.diagonal()[:size], change[size:, :size]
            total += float((grown / pivot).sum())
            scaled = border @ sp.diags(1 / pivot)
            mixed = widened @ scaled.T
            change = (change[size:, size:] - mixed - mixed.T + scaled @ sp.diags(grown) @ scaled.T).tocsr()
        change = change.tocoo()
        return total + float((change.data * inverse[change.row, change.col]).sum())


def nested_chain(codes: Ints, levels: Sequence[int]) -> list[int]:
    """Factors nested in one another, finest first, with as many levels together as possible."""
    order = np.argsort(levels, kind="stable")[::-1].tolist()

    def nested(fine: int, coarse: int) -> bool:
        pairs = np.unique(codes[:, fine] * (int(levels[coarse]) + 1) + codes[:, coarse])
        return len(pairs) == levels[fine]

    best: list[int] = []
    for first in order:
        chain = [first]
        for other in order[order.index(first) + 1 :]:
            if all(nested(fine, other) for fine in chain):
                chain.append(other)
        if sum(levels[k] for k in chain) > sum(levels[k] for k in best):
            best = chain
    return best


class SparseEngine:
    """The criterion of one response over a :class:`SparseDesign`."""

    def __init__(self, design: SparseDesign, y: Floats) -> None:
        fixed = design.basis.T @ y
        outside = y - design.basis @ fixed
        again = design.basis.T @ outside
        self.design, self.y = design, outside - design.basis @ again
        self.fixed = fixed + again
        self.right = design.products(self.y[:, None])
        self.right[design.start[-1] :] = 0.0
        self.df = np.array([float(design.n - design.p)])
        self.quadratic = np.array([[(self.right[design.place[k]] ** 2).sum() for k in range(design.k)]])
        sizes = np.array([self.df[0] / max(design.gram[0, k + 1], 1e-300) for k in range(design.k)])
        self._stand_in = _STAND_IN * sizes

    def evaluate(self, ratio: Floats, which: Ints) -> Pieces:  # noqa: ARG002 - one response only
        pieces = [self._evaluate(row) for row in ratio]
        return Pieces(
            logdet=np.stack([piece.logdet for piece in pieces]),
            rest=np.stack([piece.rest for piece in pieces]),
            trace=np.stack([piece.trace for piece in pieces]),
            score=np.stack([piece.score for piece in pieces]),
            product=np.stack([piece.product for piece in pieces]),
            traces=None,
        )

    def _evaluate(self, given: Floats) -> Pieces:
        design = self.design
        ratio = np.maximum(given, self._stand_in)
        factor = design.factor(ratio)
        u = factor.solve(self.right)
        left = self.y - design.effects(u)[:, 0]
        size = np.array([(u[design.place[k]] ** 2).sum() for k in range(design.k)])
        levels = np.array(design.levels, dtype=np.float64)
        # C_k W^-1 y on the rows: what a unit of the ratio adds.
        pushed = np.stack([u[design.place[k], 0][design.codes[:, k]] / ratio[k] for k in range(design.k)], axis=1)
        pulled = pushed - design.effects(factor.solve(design.products(pushed)))
        return Pieces(
            logdet=np.asarray(factor.logdet),
            rest=np.asarray(left @ left + (size / ratio).sum()),
            trace=np.maximum(levels / ratio - factor.traces() / ratio**2, 0.0),
            score=size / ratio**2,
            product=pushed.T @ pulled,
            traces=None,
        )

    def unexplained(self, ratio: Floats) -> float:
        """Sum of squares that the fixed effects and the shrunken levels leave."""
        left = self.y - self.design.effects(self.design.factor(ratio).solve(self.right))[:, 0]
        return float(left @ left)

    def fixed_effects(self, ratio: Floats, residual: float) -> tuple[Floats, Floats]:
        """Generalised least squares coefficients and their standard errors."""
        design = self.design
        factor = design.factor(np.maximum(ratio, self._stand_in))
        u = factor.solve(self.right)
        back = np.linalg.inv(design.corner)
        covariance = factor.inverse()[-design.p :, -design.p :]
        effects = back @ (self.fixed + u[design.start[-1] :, 0])
        return effects, np.sqrt(np.einsum("ij,jk,ik->i", back, covariance, back) * residual)

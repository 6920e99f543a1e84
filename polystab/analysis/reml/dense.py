"""REML of designs with few levels, for many responses at once, each with its own missing rows.

Everything outside the fixed effects and the factors only estimates the residual
variance. What is left is rotated to an orthonormal basis of the factors' column
space: z ~ N(0, s2 W) with W = I + sum of ratio_k C_k, beside a residual sum of squares.
Nothing cancels in this form, whatever the ratios are. Where the C_k commute (one
factor; balanced designs) W is diagonal in one basis and no matrix is factorised again.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from polystab.analysis.arrays import Bools, Floats, Ints
from polystab.analysis.reml.inputs import ALIASED
from polystab.analysis.reml.optimum import Pieces

# Directions of the factors with a smaller share of the largest squared length are rounding error.
NULL_SHARE = 1e-9


@dataclass(frozen=True)
class Designs:
    """Designs of some patterns of missing rows; arrays have one entry per pattern.

    Attributes
    ----------
    mask : numpy.ndarray
        Rows used, shape (patterns, rows).
    basis, corner : numpy.ndarray
        QR of the fixed effects, (patterns, rows, p) and (patterns, p, p).
    full_rank : numpy.ndarray
        Whether the fixed effects can be estimated.
    span : numpy.ndarray
        Orthonormal basis of the factors outside the fixed effects, (patterns, rows, r);
        unused columns are zero.
    loading : numpy.ndarray
        The factors' indicators in that basis, (patterns, levels, r).
    cross : numpy.ndarray
        Indicators times ``basis``, (patterns, levels, p).
    gram : numpy.ndarray
        Traces of products of {I, C_k}, (patterns, 1 + factors, 1 + factors).
    diagonal : numpy.ndarray or None
        Diagonals of the C_k where they commute, (patterns, factors, r).
    blocks : list of slice
        Levels of each factor.
    """

    mask: Bools
    basis: Floats
    corner: Floats
    full_rank: Bools
    span: Floats
    loading: Floats
    cross: Floats
    gram: Floats
    diagonal: Floats | None
    blocks: list[slice]


def design(codes: Ints, levels: tuple[int, ...], matrix: Floats, mask: Bools) -> Designs:
    """Factorise the designs left by each pattern of rows."""
    ends = np.cumsum(levels)
    blocks = [slice(int(end) - size, int(end)) for end, size in zip(ends, levels, strict=True)]
    indicator = np.zeros((len(codes), int(ends[-1])))
    indicator[np.arange(len(codes))[:, None], codes + np.array([block.start for block in blocks])] = 1.0
    scale = np.linalg.norm(matrix, axis=0)
    fixed = mask[:, :, None] * (matrix / scale)
    full_rank = mask.sum(axis=1) >= matrix.shape[1]
    basis, corner = np.linalg.qr(fixed)
    size = np.linalg.norm(fixed, axis=1)
    corner_size = np.abs(np.diagonal(corner, axis1=1, axis2=2))
    full_rank &= (corner_size > ALIASED * size).all(axis=1) & (size > 0).all(axis=1)
    cross = indicator.T @ basis
    outside = mask[:, :, None] * indicator
    for _ in range(2):
        outside = outside - basis @ (basis.mT @ outside)
    square = outside.mT @ outside
    length, vectors = np.linalg.eigh(square)
    null = length <= NULL_SHARE * np.maximum(1.0, length[:, -1:])
    root = np.sqrt(np.where(null, 0.0, length))
    span = outside @ (vectors * np.where(null, 0.0, 1 / np.where(null, 1.0, root))[:, None, :])
    loading = vectors * root[:, None, :]
    used = ~null.all(axis=0)
    span, loading = span[:, :, used], loading[:, :, used]
    diagonal = np.where(null, 0.0, length)[:, None, used] if len(levels) == 1 else None
    if diagonal is None and len(mask) == 1:
        turn, diagonal = _common_basis(loading[0], blocks)
        span, loading = span @ turn, loading @ turn
    return Designs(
        mask,
        basis,
        corner * scale,
        full_rank,
        span,
        loading,
        cross,
        _gram(square, blocks, mask.sum(axis=1) - matrix.shape[1]),
        diagonal,
        blocks,
    )


def _gram(square: Floats, blocks: list[slice], df: Ints) -> Floats:
    """Traces of products of {I, C_1, ...}: singular exactly where components are confounded."""
    k = len(blocks)
    gram = np.empty((len(square), k + 1, k + 1))
    gram[:, 0, 0] = df
    for i, rows in enumerate(blocks, start=1):
        gram[:, 0, i] = gram[:, i, 0] = np.trace(square[:, rows, rows], axis1=1, axis2=2)
        for j, columns in enumerate(blocks, start=1):
            gram[:, i, j] = (square[:, rows, columns] ** 2).sum(axis=(1, 2))
    return gram


def _common_basis(loading: Floats, blocks: list[slice]) -> tuple[Floats, Floats | None]:
    """A rotation in which all C_k are diagonal, and their diagonals, if there is one."""
    parts = [loading[block].T @ loading[block] for block in blocks]
    # Weights without a simple ratio keep different joint eigenvalues apart.
    mixed = sum(np.sqrt(2.0 + 3 * i) * part / max(np.trace(part), 1e-300) for i, part in enumerate(parts))
    turn = np.linalg.eigh(mixed)[1]
    turned = [turn.T @ part @ turn for part in parts]
    diagonals = np.stack([np.diagonal(part) for part in turned])
    off = max(float(np.abs(part - np.diag(np.diagonal(part))).max(initial=0.0)) for part in turned)
    if off > 1e-10 * max(1.0, float(np.abs(diagonals).max(initial=0.0))):
        return np.eye(loading.shape[1]), None
    return turn, np.maximum(diagonals, 0.0)[None]


@dataclass(frozen=True)
class Rotated:
    """Responses in the basis of their design: coefficients, residual sums of squares, degrees of freedom."""

    z: Floats
    rest: Floats
    df: Floats
    fixed: Floats  # coefficients in ``Designs.basis``
    quadratic: Floats  # y'Z_k Z_k'y outside the fixed effects, (responses, factors)
    total: Floats  # sum of squares outside the fixed effects


def rotate(designs: Designs, y: Floats, pattern: Ints) -> Rotated:
    """``y`` of shape (responses, rows), zero where missing."""
    one = len(designs.mask) == 1
    pick = slice(0, 1) if one else pattern
    basis, span, mask = designs.basis[pick], designs.span[pick], designs.mask[pick]

    def onto(columns: Floats, values: Floats) -> Floats:
        return np.asarray(values @ columns[0] if one else np.einsum("bn,bnr->br", values, columns))

    def back(columns: Floats, values: Floats) -> Floats:
        return np.asarray(values @ columns[0].T if one else np.einsum("br,bnr->bn", values, columns))

    fixed = onto(basis, y)
    outside = mask * (y - back(basis, fixed))
    again = onto(basis, outside)
    outside = outside - back(basis, again)
    z = onto(span, outside)
    left = outside - back(span, z)
    loading = designs.loading[pick]
    back_z = z @ loading[0].T if one else np.einsum("br,bqr->bq", z, loading)
    return Rotated(
        z=z,
        rest=(left**2).sum(axis=1),
        df=np.broadcast_to(mask.sum(axis=1) - basis.shape[2], len(y)).astype(np.float64),
        fixed=fixed + again,
        quadratic=np.stack([(back_z[:, block] ** 2).sum(axis=1) for block in designs.blocks], axis=1),
        total=(outside**2).sum(axis=1),
    )


@dataclass(frozen=True)
class DiagonalEngine:
    """The criterion where every C_k is diagonal; equal entries of a shared design are added up first."""

    df: Floats
    diagonal: Floats  # (1 or responses, factors, r)
    squares: Floats  # (responses, r)
    count: Floats  # (r,)
    rest: Floats

    def evaluate(self, ratio: Floats, which: Ints) -> Pieces:
        d = self.diagonal[which] if len(self.diagonal) > 1 else self.diagonal
        grown = (ratio[:, :, None] * d).sum(axis=1)
        inverse = 1 / (1 + grown)
        share = d * inverse[:, None, :]
        squares = self.squares[which] * inverse
        weighted = share * squares[:, None, :]
        return Pieces(
            logdet=np.log1p(grown) @ self.count,
            rest=self.rest[which] + squares.sum(axis=1),
            trace=share @ self.count,
            score=weighted.sum(axis=2),
            product=weighted @ share.mT,
            traces=(share * self.count) @ share.mT,
        )


def diagonal_engine(diagonal: Floats, rotated: Rotated) -> DiagonalEngine:
    """Engine of responses whose designs (one, or one each) have commuting C_k."""
    squares, count = rotated.z**2, np.ones(rotated.z.shape[1])
    if len(diagonal) == 1 and diagonal.shape[2]:
        size = np.maximum(diagonal[0].max(axis=1, keepdims=True), 1e-300)
        _, first, group = np.unique(np.round(diagonal[0] / size, 10), axis=1, return_index=True, return_inverse=True)
        member = np.zeros((len(count), len(first)))
        member[np.arange(len(count)), group.reshape(-1)] = 1.0
        count, squares = member.sum(axis=0), squares @ member
        diagonal = (diagonal @ member) / count
    return DiagonalEngine(rotated.df, diagonal, squares, count, rotated.rest)


@dataclass(frozen=True)
class DenseEngine:
    """The criterion for any C_k, as stacks of small matrices."""

    df: Floats
    parts: Floats  # C_k, (1 or patterns, factors, r, r)
    pattern: Ints
    z: Floats
    rest: Floats

    def evaluate(self, ratio: Floats, which: Ints) -> Pieces:
        parts = self.parts[self.pattern[which]] if len(self.parts) > 1 else self.parts
        w = np.eye(self.z.shape[1]) + np.einsum(
            "bk,bkij->bij", ratio, np.broadcast_to(parts, (len(ratio), *parts.shape[1:]))
        )
        inverse = np.linalg.inv(w)
        corner = np.linalg.cholesky(w)
        x = (inverse @ self.z[which][:, :, None])[:, :, 0]
        pushed = (parts @ x[:, None, :, None])[..., 0]
        product = inverse[:, None] @ parts
        k = ratio.shape[1]
        flat, flipped = product.reshape(len(ratio), k, -1), product.mT.reshape(len(ratio), k, -1)
        return Pieces(
            logdet=2 * np.log(np.diagonal(corner, axis1=1, axis2=2)).sum(axis=1),
            rest=self.rest[which] + (self.z[which] * x).sum(axis=1),
            trace=np.trace(product, axis1=2, axis2=3),
            score=(pushed * x[:, None, :]).sum(axis=2),
            product=pushed @ inverse @ pushed.mT,
            traces=flat @ flipped.mT,
        )


def dense_engine(designs: Designs, rotated: Rotated, pattern: Ints) -> DenseEngine:
    """Engine of responses with any design."""
    parts = np.stack([designs.loading[:, b].mT @ designs.loading[:, b] for b in designs.blocks], axis=1)
    return DenseEngine(rotated.df, parts, pattern, rotated.z, rotated.rest)


def fixed_effects(
    designs: Designs, rotated: Rotated, pattern: Ints, ratio: Floats, residual: Floats
) -> tuple[Floats, Floats]:
    """Generalised least squares coefficients and their standard errors, (responses, columns)."""
    one = len(designs.mask) == 1
    pick = slice(0, 1) if one else pattern
    loading, cross, corner = designs.loading[pick], designs.cross[pick], designs.corner[pick]
    wide = np.empty((len(ratio), loading.shape[1]))
    for k, block in enumerate(designs.blocks):
        wide[:, block] = ratio[:, k : k + 1]
    r = loading.shape[2]
    if designs.diagonal is not None:
        d = designs.diagonal[pick]
        solver = np.eye(r) / (1 + (ratio[:, :, None] * d).sum(axis=1))[:, None, :]
    else:
        solver = np.linalg.inv(np.eye(r) + loading.mT @ (wide[:, :, None] * loading))
    carried = (wide[:, :, None] * cross).mT @ loading  # B' G F
    x = solver @ rotated.z[:, :, None]
    basis_coefficients = rotated.fixed - (carried @ x)[:, :, 0]
    covariance = np.eye(cross.shape[2]) + cross.mT @ (wide[:, :, None] * cross) - carried @ solver @ carried.mT
    back = np.linalg.inv(corner)
    effects = (back @ basis_coefficients[:, :, None])[:, :, 0]
    spread = np.einsum(
        "bij,bjk,bik->bi", np.broadcast_to(back, covariance.shape), covariance, np.broadcast_to(back, covariance.shape)
    )
    return effects, np.sqrt(np.maximum(spread, 0.0) * residual[:, None])

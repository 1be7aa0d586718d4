"""The critic that the neural estimators train, and its training: log p(x,y|T) / (p(x|T) p(y|T)) in nats.

It starts from the answer for a Gaussian copula with the canonical correlations of the training samples; potentials
of either side and a critic of pairs (``critics.make_critic``) learn what that misses. A bounded critic alone is slow
to reach several nats, and its miss is what an estimate would report as missing information.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from modalign.estimators.calibration import calibrate
from modalign.estimators.samples import Array, Codes, Samples
from modalign.estimators.transforms import Canonical, NormalScores, Residual, cells
from modalign.information.critics import ContextEmbedding, ContinuousContext, LearnedContext, make_critic, zero_linear
from modalign.information.objectives import Form

Objective = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(scores, positive, negative) -> scalar to be maximized; see ``objectives``."""

CELL = 32
BATCH = {"separable": 256, "bilinear": 256, "mlp": 64}
STEPS, CHECK, PATIENCE = 600, 10, 5
BLOCK = {"separable": 2048, "bilinear": 2048, "mlp": 256}


@dataclass(frozen=True)
class Prepared:
    """Samples in canonical coordinates: ``x`` (n, F), ``y`` (n, G), contexts ``codes`` (n,), ``t`` (n, H) or None.

    >>> len(Prepared(torch.zeros(4, 2), torch.zeros(4, 3), np.zeros(4, int), None))
    4
    """

    x: Tensor
    y: Tensor
    codes: Codes
    t: Array | None

    def __len__(self) -> int:
        return len(self.x)


def prepare(samples: Samples, *parts: Codes) -> tuple[list[Prepared], Array]:
    """Each part (rows of the samples) in coordinates fitted to the first part, and the canonical correlations.

    >>> from modalign.estimators import paired_samples
    >>> x = np.random.default_rng(0).normal(size=(100, 2))
    >>> (train, test), correlations = prepare(paired_samples(x, x), np.arange(80), np.arange(80, 100))
    >>> train.x.shape, test.y.shape, bool(correlations.min() > 0.95)
    (torch.Size([80, 2]), torch.Size([20, 2]), True)
    """
    first, codes, t = parts[0], samples.codes, samples.t
    scaled_t = None
    if t is not None:
        nowhere = np.zeros(len(t), dtype=np.int64)
        scaled_t = NormalScores(t[first], nowhere[first])(t, nowhere)

    def marginal(values: Array) -> list[Array]:
        rows = [values[p] for p in parts]
        if scaled_t is not None:
            fit = Residual(rows[0], scaled_t[first])
            rows = [fit(v, scaled_t[p], fitted=p is first) for v, p in zip(rows, parts, strict=True)]
        scores = NormalScores(rows[0], codes[first])
        return [scores(v, codes[p]) for v, p in zip(rows, parts, strict=True)]

    xs, ys = marginal(samples.x), marginal(samples.y)
    canonical = Canonical(xs[0], ys[0])
    prepared = []
    for values, p in zip(zip(xs, ys, strict=True), parts, strict=True):
        x, y = (torch.as_tensor(v, dtype=torch.float32) for v in canonical(*values))
        prepared.append(Prepared(x, y, codes[p], None if scaled_t is None else scaled_t[p]))
    return prepared, canonical.correlations


class LogRatio(nn.Module):
    """f(x, y, T) = sum_k a_k x_k y_k + b_k x_k^2 + c_k y_k^2 + d + u(x) + v(y) + gain * critic(x, y, T), then
    ``scale`` * f + ``offset``. The coefficients a to d start at those of correlations rho_k,

        a = rho/(1-rho^2), b = c = -rho^2/(2(1-rho^2)), d = -1/2 sum log(1-rho^2),

    and move with T; u, v and gain start at 0.

    Args:
        dims: (F, G).
        correlations: rho (K,), K <= min(F, G).
        critic: name of the critic of pairs.
        contexts: 1 for none; otherwise the number of discrete contexts.
        t_features: H of a continuous context, or None.
        ceiling: no pair scores higher, so that one pair cannot carry an expectation of e^f.

    >>> ratio = LogRatio((2, 3), torch.tensor([0.5, 0.0]), "separable", contexts=1, t_features=None, ceiling=9.0)
    >>> ratio(torch.zeros(4, 2), torch.zeros(4, 3), torch.zeros(4, dtype=torch.int64)).detach().max().round(decimals=4)
    tensor(0.1438)
    """

    def __init__(
        self,
        dims: tuple[int, int],
        correlations: Tensor,
        critic: str,
        contexts: int,
        t_features: int | None,
        ceiling: float,
    ) -> None:
        super().__init__()
        rho2 = correlations**2
        square = -rho2 / (2 * (1 - rho2))
        constant = -torch.log1p(-rho2).sum().reshape(1) / 2
        self.coefficients = nn.Parameter(torch.cat([correlations / (1 - rho2), square, square, constant]))
        self.k, self.ceiling, self.block = len(correlations), ceiling, BLOCK[critic]
        self.embedding = _embedding(contexts, t_features)
        self.modulation = None
        if self.embedding is not None:
            self.modulation = zero_linear(self.embedding.width, len(self.coefficients))
        self.u, self.v = (
            nn.Sequential(nn.Linear(d, 64), nn.GELU(), nn.Linear(64, 64), nn.GELU(), zero_linear(64, 1)) for d in dims
        )
        # The separable critic's features are of length one; nothing follows this one, so it may start large.
        more = {"scale": 10.0} if critic == "separable" else {}
        self.critic = make_critic(critic, dims, _embedding(contexts, t_features), **more)
        self.gain = nn.Parameter(torch.zeros(()))
        self.scale, self.offset = 1.0, 0.0

    def forward(self, x: Tensor, y: Tensor, given: Tensor) -> Tensor:
        """Return all pairs (n, n): entry (i, j) scores (x_i, y_j, T_i)."""
        coefficients = self.coefficients.expand(len(x), -1)
        if self.modulation is not None:
            coefficients = coefficients + self.modulation(cast(nn.Module, self.embedding)(given))
        a, b, c, d = coefficients.split([self.k, self.k, self.k, 1], dim=1)
        x_k, y_k = x[:, : self.k], y[:, : self.k]
        of_x = (b * x_k**2).sum(1, keepdim=True) + d + self.u(x)
        pairs = torch.cat([a * x_k, c], 1) @ torch.cat([y_k, y_k**2], 1).mT
        learned = self.critic.pair(*self.critic.embed(x, y, given))
        scores = pairs + of_x + self.v(y).mT + self.gain * learned
        return scores.clamp(max=self.ceiling) * self.scale + self.offset


def fit_log_ratio(
    train: Prepared,
    valid: Prepared,
    correlations: Array,
    critic: str,
    contexts: int,
    train_objective: Objective,
    valid_objective: Objective,
    form: Form,
    random: np.random.Generator,
) -> LogRatio:
    """Train on ``train``, keep the weights best on ``valid``, then calibrate scale and offset there by ``form``.

    Weights are averaged over steps (Polyak and Juditsky 1992). Calibration (``calibrate``) matters because objectives
    that saturate, three-term NCE above all, leave the size of large logits loose.
    """
    torch.manual_seed(int(random.integers(2**31)))
    dims, rho = (train.x.shape[1], train.y.shape[1]), torch.as_tensor(correlations, dtype=torch.float32)
    t_features = None if train.t is None else train.t.shape[1]
    live = LogRatio(dims, rho, critic, contexts, t_features, ceiling=2 * math.log(len(train)))
    mean = copy.deepcopy(live)
    best, best_value, waited = copy.deepcopy(mean.state_dict()), -math.inf, 0
    blocks = list(pair_blocks(valid, live.block, random))
    optimizer = torch.optim.AdamW(live.parameters(), lr=2e-3, weight_decay=1e-2)
    batches = itertools.chain.from_iterable(pair_blocks(train, BATCH[critic], random) for _ in itertools.count())
    for step in range(STEPS):
        if step % CHECK == 0:
            with torch.no_grad():
                values = [valid_objective(score(mean, valid, rows), p, n) * len(rows) for rows, p, n in blocks]
                value = (torch.stack(values).sum() / len(valid)).item()
            if value > best_value + 1e-4:
                best, best_value, waited = copy.deepcopy(mean.state_dict()), value, -1
            waited += 1
            if waited > PATIENCE:
                break
        rows, positive, negative = next(batches)
        loss = -train_objective(score(live, train, rows), positive, negative)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(live.parameters(), 5.0)
        optimizer.step()
        with torch.no_grad():
            keep = min(0.95, (step + 1) / (step + 11))
            for slow, fast in zip(mean.parameters(), live.parameters(), strict=True):
                slow.lerp_(fast, 1 - keep)
    mean.load_state_dict(best)
    mean.requires_grad_(False)
    scored = [(score(mean, valid, rows).double(), p > 0, n) for rows, p, n in blocks]
    positive = torch.cat([s[p] for s, p, _ in scored])
    if len(positive):
        negative, weight = torch.cat([torch.stack([s, n.double()])[:, n > 0] for s, _, n in scored], dim=1)
        scale, offset = calibrate(positive, negative, weight, form)
        mean.scale, mean.offset = min(float(scale), 3.0), float(offset)
    return mean


def score(ratio: LogRatio, part: Prepared, rows: Codes) -> Tensor:
    """Compute scores (n, n) of all pairs among ``rows`` of a part.

    >>> ratio = LogRatio((2, 2), torch.zeros(2), "separable", contexts=1, t_features=None, ceiling=9.0)
    >>> score(ratio, Prepared(torch.zeros(4, 2), torch.zeros(4, 2), np.zeros(4, int), None), np.arange(3)).shape
    torch.Size([3, 3])
    """
    given = torch.as_tensor(part.codes) if part.t is None else torch.as_tensor(part.t, dtype=torch.float32)
    return cast(Tensor, ratio(part.x[rows], part.y[rows], given[rows]))


def pair_blocks(part: Prepared, size: int, random: np.random.Generator) -> Iterator[tuple[Codes, Tensor, Tensor]]:
    """Yield shuffled blocks of about ``size`` rows in which samples of one context come together.

    Negatives weigh 1/m_i, with m_i their number in row i, so that positives and negatives have the same share of
    each context; a row without negatives is in neither.

    >>> part = Prepared(torch.zeros(4, 2), torch.zeros(4, 2), np.array([0, 0, 0, 1]), None)
    >>> [(rows, positive, negative)] = pair_blocks(part, 8, np.random.default_rng(0))
    >>> positive.sum().item(), negative.sum().item()   # one sample is alone with its context
    (3.0, 3.0)
    """
    # Pairs are negatives within contexts, or within cells of a continuous T.
    codes = part.codes if part.t is None else cells(part.t, int(np.clip(len(part) // 20, 8, CELL)), random)
    together = max(16, size // (int(codes.max()) + 1)) if len(part) > size else len(part)
    order = np.lexsort((random.random(len(part)), codes))
    starts = np.flatnonzero(np.r_[True, np.diff(codes[order]) != 0])
    chunks = [c for run in np.split(order, starts[1:]) for c in np.array_split(run, -(-len(run) // together))]
    random.shuffle(chunks)
    rows = np.concatenate(chunks)
    for block in np.array_split(rows, max(1, round(len(rows) / size))):
        same = torch.as_tensor(codes[block][:, None] == codes[block][None, :])
        same.fill_diagonal_(False)
        count = same.sum(1, keepdim=True)
        yield block, torch.diag((count[:, 0] > 0).float()), same / count.clamp(min=1)


def _embedding(contexts: int, t_features: int | None) -> ContextEmbedding | None:
    if t_features is not None:
        return ContinuousContext(t_features)
    return LearnedContext(contexts) if contexts > 1 else None

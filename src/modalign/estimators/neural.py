"""The critics that the neural estimators train, and their training: log p(x,y|T) / (p(x|T) p(y|T)) in nats.

``LogRatio`` starts from the answer for a Gaussian copula with the canonical correlations of the training samples;
potentials of either side and a critic of pairs (``critics.make_critic``) learn what that misses. ``MixtureRatio`` holds
that x and y share a hidden class: it finds clusters, where the other finds directions. Which of them serves is told by
samples that neither was trained on (``held_out_gain``).
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
from torch.nn import functional as F

from modalign.estimators.calibration import calibrate
from modalign.estimators.samples import Array, Codes, Samples
from modalign.estimators.transforms import CanonicalByContext, NormalScores, Residual, cells
from modalign.information.critics import ContextEmbedding, ContinuousContext, LearnedContext, make_critic, zero_linear
from modalign.information.objectives import Form, log_h, log_not_h

Objective = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(scores, positive, negative) -> scalar to be maximized; see ``objectives``."""

CELL = 32
SMALL = 64  # pairs of a batch of ``mlp``, which pays for each
BATCH, BLOCK = 256, 2048
STEPS, CHECK, PATIENCE = 600, 10, 5
TURNED = 8
"""Coordinates of either side among which a continuous T may turn the dependence."""


@dataclass(frozen=True)
class Prepared:
    """Samples as critics see them.

    Attributes:
        x, y: (n, F) and (n, G) in canonical coordinates.
        plain_x, plain_y: the same as normal scores of single features.
        codes: (n,) contexts.
        t: (n, H) continuous context, or None.

    >>> two = torch.zeros(4, 2)
    >>> len(Prepared(two, two, two, two, np.zeros(4, int), None))
    4
    """

    x: Tensor
    y: Tensor
    plain_x: Tensor
    plain_y: Tensor
    codes: Codes
    t: Array | None

    def __len__(self) -> int:
        return len(self.x)

    def given(self, rows: Codes) -> Tensor:
        """Return T of ``rows``, as the embeddings of contexts take it."""
        return torch.as_tensor(self.codes[rows]) if self.t is None else torch.as_tensor(self.t[rows]).float()


@dataclass(frozen=True)
class Coordinates:
    """Parts of the samples in coordinates fitted to the first part, with ``correlations`` (contexts, K).

    >>> Coordinates([], np.zeros((1, 2))).correlations.shape
    (1, 2)
    """

    parts: list[Prepared]
    correlations: Array


def prepare(samples: Samples, *parts: Codes) -> list[Coordinates]:
    """Return each part (rows of the samples) in coordinates common to all contexts, and, where there are several
    discrete contexts, in coordinates of each context.

    >>> from modalign.estimators import paired_samples
    >>> x = np.random.default_rng(0).normal(size=(100, 2))
    >>> [common] = prepare(paired_samples(x, x), np.arange(80), np.arange(80, 100))
    >>> [part.x.shape for part in common.parts], bool(common.correlations.min() > 0.95)
    ([torch.Size([80, 2]), torch.Size([20, 2])], True)
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
    contexts = int(codes.max()) + 1
    found = []
    for own in (False, True) if contexts > 1 else (False,):
        canonical = CanonicalByContext(xs[0], ys[0], codes[first], contexts, own)
        prepared = []
        for x, y, p in zip(xs, ys, parts, strict=True):
            a, b, c, d = (torch.as_tensor(v, dtype=torch.float32) for v in (*canonical(x, y, codes[p]), x, y))
            prepared.append(Prepared(a, b, c, d, codes[p], None if scaled_t is None else scaled_t[p]))
        found.append(Coordinates(prepared, canonical.correlations))
    return found


class LogRatio(nn.Module):
    """f(x, y, T) = sum_k a_k x_k y_k + b_k x_k^2 + c_k y_k^2 + d + u(x) + v(y) + gain * critic(x, y, T), then
    ``scale`` * f + ``offset``. The coefficients a to d start at those of correlations rho_k,

        a = rho/(1-rho^2), b = c = -rho^2/(2(1-rho^2)), d = -1/2 sum log(1-rho^2),

    in each discrete context at its own, and move with a continuous T, which also adds sum_kl x_k M(T)_kl y_l over the
    first ``TURNED`` coordinates; u, v, M and gain start at 0.

    Args:
        dims: (F, G).
        correlations: rho (contexts, K), K <= min(F, G).
        critic: name of the critic of pairs.
        t_features: H of a continuous context, or None.
        ceiling: no pair scores higher, so that one pair cannot carry an expectation of e^f.

    >>> ratio = LogRatio((2, 3), torch.tensor([[0.5, 0.0]]), "separable", t_features=None, ceiling=9.0)
    >>> ratio(torch.zeros(4, 2), torch.zeros(4, 3), torch.zeros(4, dtype=torch.int64)).detach().max().round(decimals=4)
    tensor(0.1438)
    """

    plain = False
    """Whether it takes normal scores, not canonical coordinates."""

    def __init__(
        self, dims: tuple[int, int], correlations: Tensor, critic: str, t_features: int | None, ceiling: float
    ) -> None:
        super().__init__()
        rho2 = correlations**2
        square = -rho2 / (2 * (1 - rho2))
        constant = -torch.log1p(-rho2).sum(1, keepdim=True) / 2
        start = torch.cat([correlations / (1 - rho2), square, square, constant], dim=1)
        self.coefficients = nn.Parameter(start.mean(0))
        self.by_context = nn.Parameter(start - start.mean(0)) if len(start) > 1 else None
        contexts, self.k = correlations.shape
        self.turned, self.ceiling = min(self.k, TURNED), ceiling
        self.batch, self.block = (SMALL, BATCH) if critic == "mlp" else (BATCH, BLOCK)
        self.continuous = None if t_features is None else ContinuousContext(t_features)
        if self.continuous is not None:
            self.modulation = zero_linear(self.continuous.width, start.shape[1] + self.turned**2)
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
        turned: Tensor | float = 0.0
        if self.by_context is not None:
            coefficients = coefficients + self.by_context[given]
        if self.continuous is not None:
            more, turn = self.modulation(self.continuous(given)).split([coefficients.shape[1], self.turned**2], dim=1)
            coefficients = coefficients + more
            image = torch.einsum("ik,ikl->il", x[:, : self.turned], turn.view(-1, self.turned, self.turned))
            turned = image @ y[:, : self.turned].mT
        a, b, c, d = coefficients.split([self.k, self.k, self.k, 1], dim=1)
        x_k, y_k = x[:, : self.k], y[:, : self.k]
        of_x = (b * x_k**2).sum(1, keepdim=True) + d + self.u(x)
        pairs = torch.cat([a * x_k, c], 1) @ torch.cat([y_k, y_k**2], 1).mT + turned
        learned = self.critic.pair(*self.critic.embed(x, y, given))
        scores = pairs + of_x + self.v(y).mT + self.gain * learned
        return scores.clamp(max=self.ceiling) * self.scale + self.offset


class MixtureRatio(nn.Module):
    """f(x, y, T) = log sum_k R_k(T) p_k(x, T) p_k(y, T), then ``scale`` * f + ``offset``.

    It is the log-ratio where x and y are independent given T and a hidden class k with R_k = 1 / p(k|T). p_k are
    the outputs, which sum to one, of perceptrons with two hidden layers; T shifts their first and moves R.

    Args:
        dims: (F, G).
        contexts: 1 for none; otherwise the number of discrete contexts.
        t_features: H of a continuous context, or None.
        ceiling: no pair scores higher.
        classes: how many k.

    >>> ratio = MixtureRatio((2, 3), contexts=1, t_features=None, ceiling=9.0)
    >>> ratio(torch.zeros(4, 2), torch.zeros(4, 3), torch.zeros(4, dtype=torch.int64)).shape
    torch.Size([4, 4])
    """

    plain, batch, block = True, BATCH, BLOCK
    FLOOR = 1e-3  # of the ratio: no pair is impossible

    def __init__(
        self, dims: tuple[int, int], contexts: int, t_features: int | None, ceiling: float, classes: int = 32
    ) -> None:
        super().__init__()
        width = 64
        self.first = nn.ModuleList(nn.Linear(d, width) for d in dims)
        self.rest = nn.ModuleList(
            nn.Sequential(nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, classes)) for _ in dims
        )
        self.log_r = nn.Parameter(torch.full((classes,), math.log(classes)))
        self.embedding = _embedding(contexts, t_features)
        self.sizes, self.ceiling = [classes, width, width], ceiling
        self.modulation = None if self.embedding is None else zero_linear(self.embedding.width, sum(self.sizes))
        self.scale, self.offset = 1.0, 0.0

    def forward(self, x: Tensor, y: Tensor, given: Tensor) -> Tensor:
        """Return all pairs (n, n): entry (i, j) scores (x_i, y_j, T_i)."""
        hidden = [layer(v) for layer, v in zip(self.first, (x, y), strict=True)]
        log_r = self.log_r
        if self.modulation is not None:
            more, *shifts = self.modulation(cast(nn.Module, self.embedding)(given)).split(self.sizes, dim=1)
            hidden, log_r = [h + s for h, s in zip(hidden, shifts, strict=True)], log_r + more
        left, right = (F.softmax(2 * rest(h), dim=1) for rest, h in zip(self.rest, hidden, strict=True))
        scores = ((left * log_r.exp()) @ right.mT + self.FLOOR).log()
        return scores.clamp(max=self.ceiling) * self.scale + self.offset


Ratio = LogRatio | MixtureRatio


def fit_log_ratio(
    coordinates: list[Coordinates],
    critic: str,
    train_objective: Objective,
    valid_objective: Objective,
    form: Form,
    random: np.random.Generator,
) -> tuple[Ratio, list[Prepared]]:
    """Train a critic on the first part, keep the weights best on the second, calibrate it there by ``form``.

    ``LogRatio`` takes the coordinates in which its start, which nothing has trained, is best on the second part.
    Weights are averaged over steps (Polyak and Juditsky 1992). Calibration (``calibrate``) matters because objectives
    that saturate, three-term NCE above all, leave the size of large logits loose.

    Returns:
        The critic, and the parts in its coordinates.
    """
    torch.manual_seed(int(random.integers(2**31)))
    train, valid, *_ = coordinates[0].parts
    t_features, ceiling = None if train.t is None else train.t.shape[1], 2 * math.log(len(train))
    dims = (train.x.shape[1], train.y.shape[1])

    def value(ratio: Ratio, part: Prepared) -> float:
        with torch.no_grad():
            values = [valid_objective(score(ratio, part, rows), p, n) * len(rows) for rows, p, n in blocks]
        return float(torch.stack(values).sum()) / len(part)

    live: Ratio
    if critic == "mixture":
        live = MixtureRatio(dims, len(coordinates[0].correlations), t_features, ceiling)
        blocks = list(pair_blocks(valid, live.block, random))
        best_parts = coordinates[0].parts
    else:
        starts = [
            LogRatio(dims, torch.as_tensor(c.correlations).float(), critic, t_features, ceiling) for c in coordinates
        ]
        blocks = list(pair_blocks(valid, starts[0].block, random))
        chosen = max(range(len(starts)), key=lambda i: value(starts[i], coordinates[i].parts[1]))
        live, best_parts = starts[chosen], coordinates[chosen].parts
    train, valid, *_ = best_parts
    mean = copy.deepcopy(live)
    slow: list[Tensor] = [*mean.parameters()]
    fast: list[Tensor] = [*live.parameters()]
    best, best_value, waited = copy.deepcopy(mean.state_dict()), -math.inf, 0
    rate = 5e-3 if critic == "mixture" else 2e-3
    optimizer = torch.optim.AdamW(fast, lr=rate, weight_decay=1e-2, fused=True)
    batches = itertools.chain.from_iterable(pair_blocks(train, live.batch, random) for _ in itertools.count())
    for step in range(STEPS):
        if step % CHECK == 0:
            now = value(mean, valid)
            if now > best_value + 1e-3:
                best, best_value, waited = copy.deepcopy(mean.state_dict()), now, -1
            waited += 1
            if waited > PATIENCE:
                break
        rows, positive, negative = next(batches)
        loss = -train_objective(score(live, train, rows), positive, negative)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(fast, 5.0)
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(slow, fast, 1 - min(0.95, (step + 1) / (step + 11)))
    mean.load_state_dict(best)
    mean.requires_grad_(False)
    positive, negative, weight = _pairs([(score(mean, valid, rows), p, n) for rows, p, n in blocks])
    if len(positive):
        scale, offset = calibrate(positive, negative, weight, form)
        mean.scale, mean.offset = min(float(scale), 3.0), float(offset)
    return mean, best_parts


def held_out_gain(positive: Tensor, negative: Tensor) -> Tensor:
    """Compute each sample's log-likelihood of telling its own pair from pairs of the product, over what chance gives.

    E_pos[log h] + sum_j log(1-h_j), logit h = f - log m, less the same of f = 0. For a log-ratio f that was not
    fitted to these samples the mean is lower the further f is from the truth, so that critics, nearest neighbors and
    codes can be compared by it.

    Args:
        positive: (n,) log-ratios of the samples' own pairs, in nats.
        negative: (n, m) of m pairs each of p(x|T) p(y|T).

    >>> held_out_gain(torch.zeros(2), torch.zeros(2, 5))
    tensor([0., 0.])
    """
    m = negative.shape[1]
    prior = math.log(m)
    gained = log_h(positive - prior) + log_not_h(negative - prior).sum(1)
    chance = math.log1p(m) + m * math.log1p(1 / m)
    return gained + chance


def score(ratio: Ratio, part: Prepared, rows: Codes) -> Tensor:
    """Compute scores (n, n) of all pairs among ``rows`` of a part.

    >>> ratio, two = LogRatio((2, 2), torch.zeros(1, 2), "separable", t_features=None, ceiling=9.0), torch.zeros(4, 2)
    >>> score(ratio, Prepared(two, two, two, two, np.zeros(4, int), None), np.arange(3)).shape
    torch.Size([3, 3])
    """
    x, y = (part.plain_x, part.plain_y) if ratio.plain else (part.x, part.y)
    return cast(Tensor, ratio(x[rows], y[rows], part.given(rows)))


def pair_blocks(part: Prepared, size: int, random: np.random.Generator) -> Iterator[tuple[Codes, Tensor, Tensor]]:
    """Yield shuffled blocks of about ``size`` rows in which samples of one context come together.

    Negatives weigh 1/m_i, with m_i their number in row i, so that positives and negatives have the same share of
    each context; a row without negatives is in neither.

    >>> two = torch.zeros(4, 2)
    >>> part = Prepared(two, two, two, two, np.array([0, 0, 0, 1]), None)
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


def _pairs(scored: list[tuple[Tensor, Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    """Return scores of positives, scores of negatives and weights of negatives, of all blocks together."""
    positive = torch.cat([s[p > 0] for s, p, _ in scored])
    negative, weight = (torch.cat([block[i][block[2] > 0] for block in scored]) for i in (0, 2))
    return positive.double(), negative.double(), weight.double()


def _embedding(contexts: int, t_features: int | None) -> ContextEmbedding | None:
    if t_features is not None:
        return ContinuousContext(t_features)
    return LearnedContext(contexts) if contexts > 1 else None

"""Read out ModAlign: a mixture of the joint head and the product of the modalities' own posteriors (experts).

By Bayes' rule, with C classes and M modalities,

    log p(y | z_1..z_M) = sum_m log p(y | z_m) - (M - 1) log p(y)
                          + log [ p(z_1..z_M | y) / prod_m p(z_m | y) ] + const(z_1..z_M)

so the product of experts is optimal where the bracket does not depend on y, as where the modalities are independent
given the label. The mean of its logarithm is the conditional total correlation, for two modalities I(Z1; Z2 | Y).

The strength of the joint head, lambda = 1 - exp(-I), is a rule of thumb of this package and does *not* follow from the
above: information that modalities share alike in all classes (a common speaker, say) raises I and lambda, and says
nothing of the class. All information is in nats.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from modalign.errors import InputError


def context_aware_readout(
    joint_logits: Tensor,
    unimodal_logits: Mapping[str, Tensor],
    present: Tensor,
    strength: Tensor | float,
    log_prior: Tensor | None = None,
) -> Tensor:
    """Compute the mixture of the joint head and the product of experts, as log-probabilities.

    F = lambda log p_J + (1 - lambda) [ sum_{m present} log p_m - (n_present - 1) log p(y) ], normalized.
    Without ``log_prior`` the classes count as equally likely, and the correction drops out.

    With a single output (regression, survival) the scores themselves are mixed, the experts by their mean.

    Args:
        joint_logits: (B, C) of the joint head.
        unimodal_logits: modality name to (B, C), in the order of the columns of ``present``.
        present: (B, M) bool; absent modalities do not count.
        strength: lambda in [0, 1], a scalar or (B,).
        log_prior: (C,) logarithm of the class frequencies in training (``class_log_prior``).

    Returns:
        (B, C) log-probabilities in fp32. A row without any modality has the prior as its experts.

    Raises:
        InputError: the number of modalities and the columns of ``present`` disagree.

    >>> here, equal = torch.ones(1, 2, dtype=torch.bool), torch.zeros(1, 2)
    >>> context_aware_readout(equal, {"a": equal, "b": torch.tensor([[0.75, 0.25]]).log()}, here, 0.0).exp()
    tensor([[0.7500, 0.2500]])
    """
    weight = torch.as_tensor(strength, dtype=torch.float32, device=joint_logits.device).reshape(-1, 1)
    experts = product_of_experts(unimodal_logits, present, log_prior)
    if joint_logits.shape[1] == 1:
        mixed = weight * joint_logits.float() + (1 - weight) * experts
        return torch.where(present.any(1, keepdim=True), mixed, joint_logits.float())
    return (weight * joint_logits.float().log_softmax(1) + (1 - weight) * experts).log_softmax(1)


def product_of_experts(
    unimodal_logits: Mapping[str, Tensor], present: Tensor, log_prior: Tensor | None = None
) -> Tensor:
    """Compute the posterior of modalities that are independent given the label, as log-probabilities.

    Arguments and errors are those of ``context_aware_readout``. Of single outputs (regression, survival) it is the mean
    of the scores: where the product of Gaussians of equal variance has its maximum.

    Returns:
        (B, C) log-probabilities in fp32, or (B, 1) scores.

    >>> sure = torch.tensor([[0.75, 0.25]]).log()
    >>> product_of_experts({"a": sure, "b": sure}, torch.ones(1, 2, dtype=torch.bool)).exp()
    tensor([[0.9000, 0.1000]])
    """
    stacked = _stack(unimodal_logits, present)
    if stacked.shape[2] == 1:
        return (stacked * present.unsqueeze(2)).sum(1) / present.sum(1, keepdim=True).clamp(min=1)
    scores = (stacked.log_softmax(2) * present.unsqueeze(2)).sum(1)
    if log_prior is not None:
        surplus = present.sum(1, keepdim=True) - 1
        scores = scores - surplus * log_prior.to(scores).log_softmax(0)
    return scores.log_softmax(1)


def _stack(unimodal_logits: Mapping[str, Tensor], present: Tensor) -> Tensor:
    """(B, M, C) in fp32."""
    if len(unimodal_logits) != present.shape[1]:
        raise InputError(
            f"{len(unimodal_logits)} modalities have logits but 'present' has {present.shape[1]} columns; "
            "expected one column each, in the same order."
        )
    return torch.stack([logits.float() for logits in unimodal_logits.values()], 1)


def class_log_prior(counts: Sequence[int] | Tensor) -> Tensor:
    """Return (C,) logarithms of the class frequencies of training samples, one added to each of ``counts`` (C,).

    >>> class_log_prior([2, 0]).exp()
    tensor([0.7500, 0.2500])
    """
    smoothed = torch.as_tensor(counts) + 1.0
    return (smoothed / smoothed.sum()).log()


def fusion_strength(information: Tensor | float) -> Tensor:
    """Return lambda = 1 - exp(-max(0, I)) of information I in nats: a rule of thumb, see the top of this file.

    >>> fusion_strength(0.0).item()
    0.0
    """
    return -torch.expm1(-torch.as_tensor(information, dtype=torch.float32).clamp(min=0))


def total_correlation_bound(pairwise: Mapping[tuple[str, str], float | Tensor]) -> float:
    """Bound the (conditional) total correlation of M modalities from below by the information of pairs, in nats.

    The maximum-weight spanning tree of the pairs: for every tree p_T over the modalities,
    KL(p || p_T) = TC - sum of the tree's pairwise information >= 0, and this tree's sum is the largest (Chow and
    Liu 1968). For two modalities it is the information itself.

    Args:
        pairwise: (m, n) to I(Z_m; Z_n | T); estimates below zero count as zero.

    Raises:
        InputError: a pair of a modality with itself, or information that is not finite.

    >>> total_correlation_bound({("a", "b"): 1.0, ("b", "c"): 0.5, ("a", "c"): 0.25})
    1.5
    """
    tree = 0.0
    part = {name: name for pair in pairwise for name in pair}
    for (m, n), value in sorted(pairwise.items(), key=lambda entry: -float(entry[1])):
        information = float(value)
        if m == n or not math.isfinite(information):
            raise InputError(f"pair ({m!r}, {n!r}) with {information} nats: expected two modalities, a finite number.")
        if part[m] != part[n] and information > 0:
            tree += information
            joined, kept = part[n], part[m]
            part = {name: kept if root == joined else root for name, root in part.items()}
    return tree

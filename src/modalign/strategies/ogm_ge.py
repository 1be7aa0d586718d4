"""OGM-GE: slow down the modality that is ahead, and give back the lost gradient noise.

Paper: Peng, Wei, Deng, Wang and Hu, "Balanced Multimodal Learning via On-the-fly Gradient Modulation",
CVPR 2022.
Reference implementation: GeWu-Lab/OGM-GE_CVPR2022.

After the backward pass of the joint loss, with y^m_i = W_m z^m_i + b / M the part of modality m in the
logits:

    s_m   = sum_i softmax(y^m_i)[y_i]                                    evidence for the true class (Eq. 8)
    rho_m = mean over j != m of s_m / s_j                                who is ahead               (Eq. 9)
    k_m   = 1 - tanh(alpha rho_m)  if rho_m > 1,  else 1                 OGM                        (Eq. 10)
    g    <- k_m g + e,  e ~ N(0, sigma^2),  sigma = std(g) + 1e-8        GE, each encoder weight    (Eq. 11)

Inference is that of joint training. Deviations, and choices where paper and code differ:

- The paper defines two modalities; for more, rho_m is the mean of the pairwise ratios, as its authors
  advise. Each ratio uses only the samples that have both modalities; a modality that shares no sample
  keeps k = 1.
- Two modalities exactly alike (rho = 1): the code slows the first one by its "else", and so does this file; by the
  paper neither is slowed.
- Any fusion: the part of m is score(m alone) - (1 - 1/M) score(nothing), which is W_m z_m + b / M where
  the logits are a sum over modalities (concat, sum).
- Weights of two or more dimensions are modulated, embeddings excepted. The reference takes only those of
  four (2-D convolutions), which leaves transformers and multilayer perceptrons untouched without saying
  so.
- The paper draws the noise from the covariance of the gradient over samples; the code, and this file,
  from the spread of the elements of each tensor, modulated or not. ``noise = False`` is OGM without GE.
- Under Adam a constant factor on a gradient all but cancels; the method is meant for SGD.
- The reference stops after epoch 50 of 100; here that is a share of the budget.

Cost of a step over joint training: M + 1 small matrix products without gradient, and the noise (1.00 to
1.05).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from modalign.data.batch import Batch
from modalign.data.info import DataInfo
from modalign.domains import Checked, NonNegative, Share
from modalign.errors import InputError
from modalign.models.multimodal import MultimodalModel
from modalign.strategies.base import Stepper, Strategy


def paired_evidence(probability: Tensor, present: Tensor) -> Tensor:
    """Evidence of each modality beside each other one: entry (m, j) is sum_i p_im over samples with both.

    Args:
        probability: (B, M) probability of the true class from each modality alone.
        present: (B, M) bool.

    Returns:
        (M, M) fp32; the diagonal is s_m over all samples that have m.
    """
    both = present.unsqueeze(2) & present.unsqueeze(1)
    return (probability.float().unsqueeze(2) * both).sum(0)


def evidence_ratios(evidence: Tensor) -> Tensor:
    """Entry (m, j) is s_m / s_j over the samples that have both (M, M); 0 where none has, and for m = j."""
    known = (evidence > 0) & (evidence.T > 0) & ~torch.eye(len(evidence), dtype=torch.bool, device=evidence.device)
    return torch.where(known, evidence / evidence.T.clamp_min(torch.finfo(torch.float32).tiny), 0.0)


@torch.no_grad()
def true_class_probability(model: MultimodalModel, features: dict[str, Tensor], batch: Batch) -> Tensor:
    """(B, M) probability of the true class from each modality's part of the joint logits."""
    names, present = model.modalities, batch.present
    nothing = model.score_subset(features, present, (), batch.conditions).float() * (1 - 1 / len(names))
    alone = [model.score_subset(features, present, (name,), batch.conditions).float() - nothing for name in names]
    own = torch.stack([scores.softmax(1) for scores in alone], 1)
    return own.take_along_dim(batch.target.view(-1, 1, 1), 2).squeeze(2)


def lead(evidence: Tensor) -> Tensor:
    """rho_m (M,) from ``paired_evidence`` (M, M): Eq. 9, for any number of modalities."""
    ratios = evidence_ratios(evidence)
    return ratios.sum(1) / (ratios > 0).sum(1).clamp(min=1)


def coefficients(evidence: Tensor, alpha: float) -> Tensor:
    """k_m (M,) from ``paired_evidence`` (M, M): Eq. 9 and 10."""
    rho = lead(evidence)
    ahead = rho > 1
    if len(rho) == 2:
        ahead[0] |= rho[0] == 1  # of two that are equal the code slows the first
    return torch.where(ahead, 1 - torch.tanh(alpha * rho), 1.0)


def modulate(gradient: Tensor, coefficient: Tensor, generator: torch.Generator | None) -> None:
    """Replace a gradient by k g + N(0, (std(g) + 1e-8)^2) in place (Eq. 11); no noise without a generator."""
    if generator is None or gradient.numel() < 2:
        gradient.mul_(coefficient)
        return
    sigma = gradient.std() + 1e-8
    noise = torch.empty_like(gradient).normal_(generator=generator)
    gradient.mul_(coefficient).add_(noise.mul_(sigma))


def modulated_weights(encoder: nn.Module) -> list[nn.Parameter]:
    """Return what is modulated of an encoder: weights of two or more dimensions, embeddings excepted."""
    return [
        p
        for module in encoder.modules()
        if not isinstance(module, nn.Embedding | nn.EmbeddingBag)
        for name, p in module.named_parameters(recurse=False)
        # Weights under a parametrization (weight norm) are called original0, original1.
        if p.ndim >= 2 and ("weight" in name or name.startswith("original"))
    ]


@dataclass(frozen=True)
class OgmGeOptions(Checked):
    """Options of OGM-GE.

    Args:
        alpha: how strongly the leading modality is slowed; published commands use 0.1 to 0.8.
        noise: add the generalization enhancement (GE); off is plain OGM.
        until: share of the epochs during which gradients are modulated, the last of them included.
    """

    alpha: NonNegative = 0.8
    noise: bool = True
    until: Share = 0.5


class OgmGe(Strategy):
    """On-the-fly gradient modulation with generalization enhancement."""

    title = "OGM-GE"
    Options = OgmGeOptions
    space = {"alpha": (0.1, 1.0), "noise": [True, False]}
    minimum_modalities = 2
    tasks = ("classification",)
    options: OgmGeOptions
    evidence: Tensor
    coefficient: Tensor

    def __init__(self, model: MultimodalModel, info: DataInfo, options: OgmGeOptions | None = None) -> None:
        super().__init__(model, info, options)
        count = len(model.modalities)
        # Evidence adds up over the batches of one optimizer step and is zero between steps.
        self.register_buffer("evidence", torch.zeros(count, count), persistent=False)
        self.register_buffer("coefficient", torch.ones(count))
        self._weights = {name: modulated_weights(encoder) for name, encoder in model.encoders.items()}
        untouched = [name for name in model.modalities if not self._weights[name]]
        if untouched:
            raise InputError(
                f"ogm_ge has nothing to modulate in the encoder of {', '.join(untouched)}: it has no weight "
                "of two or more dimensions besides embeddings. Choose another encoder, or another strategy."
            )

    def step(self, batch: Batch, stepper: Stepper) -> dict[str, Tensor]:
        """Joint loss; note down how much evidence each modality gives for the true class."""
        features = self.model.encode(batch)
        loss = self.task.loss(self.model.fuse(features, batch.present, batch.conditions), batch.target)
        stepper.backward(loss)
        if self._active(stepper):
            self.evidence += paired_evidence(true_class_probability(self.model, features, batch), batch.present)
        return {"task": loss}

    def before_update(self, stepper: Stepper) -> None:
        """Modulate the gradients of the encoders, once an optimizer step."""
        if not self._active(stepper):
            self.coefficient.fill_(1.0)
            return
        self.coefficient.copy_(coefficients(stepper.all_reduce(self.evidence), self.options.alpha))
        self.evidence.zero_()
        index = 0
        for name, coefficient in zip(self.model.modalities, self.coefficient, strict=True):
            for weight in self._weights[name]:
                if weight.grad is not None:
                    modulate(weight.grad, coefficient, self._generator(stepper, index, weight.device))
                index += 1

    def metrics(self) -> dict[str, float]:
        """Return the latest coefficient of each modality."""
        values = self.coefficient.tolist()
        return {f"coefficient_{name}": value for name, value in zip(self.model.modalities, values, strict=True)}

    def _active(self, stepper: Stepper) -> bool:
        return stepper.epoch <= self.options.until * stepper.epochs

    def _generator(self, stepper: Stepper, index: int, device: torch.device) -> torch.Generator | None:
        """Noise that is the same in every process and after a resume; None without noise."""
        if not self.options.noise:
            return None
        seed = np.random.SeedSequence([stepper.seed, stepper.step_index, index]).generate_state(1)
        return torch.Generator(device).manual_seed(int(seed[0]))

"""Joint-Train: one cross-entropy on the head over the fused features.

Source: the plain baseline of the ModAlign paper (Table 1, Joint-Train [61]). Cost per step: the unit of comparison.
"""

from __future__ import annotations

from torch import Tensor

from modalign.data.batch import Batch
from modalign.strategies.base import Stepper, Strategy


class Joint(Strategy):
    """L = CE(p_J, y)."""

    title = "Joint-Train"

    def step(self, batch: Batch, stepper: Stepper) -> dict[str, Tensor]:
        """Take one step of joint training."""
        loss = self.task.loss(self.model(batch).logits, batch.target)
        stepper.backward(loss)
        return {"task": loss}

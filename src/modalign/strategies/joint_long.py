"""Joint-Train with a longer budget: the plain baseline, trained for three times the epochs of the recipe.

Many published gains over joint training are gains over joint training stopped early: methods that slow one modality,
or train them in turns, are reported at budgets at which the plain baseline was not run. This row says what the epochs
alone give. Its schedule of the learning rate is stretched with its budget; another length is set in a recipe, as
``strategies: {joint_long: {training: {epochs: 200}}}``. Cost per step: that of joint training; three times as many
steps.
"""

from __future__ import annotations

from modalign.strategies.joint import Joint


class JointLong(Joint):
    """L = CE(p_J, y), three times as long."""

    title = "Joint-Train, 3x epochs"
    epochs_factor = 3

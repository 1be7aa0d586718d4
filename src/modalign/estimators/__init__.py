"""Estimators of information and conditional information from samples, in nats."""

from modalign.estimators.calibration import calibrate, heldout_information
from modalign.estimators.estimate import METHODS, Estimate, estimate
from modalign.estimators.ksg import conditional_ksg_terms, ksg_terms
from modalign.estimators.samples import Samples, paired_samples

__all__ = [
    "METHODS", "Estimate", "Samples", "calibrate", "conditional_ksg_terms", "estimate", "heldout_information",
    "ksg_terms", "paired_samples",
]  # fmt: skip

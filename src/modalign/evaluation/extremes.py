"""Names of version 0.1 (experiments still import them from here); see ``contributions``."""

from modalign.evaluation.contributions import Example, Extremes, contrasting, extreme_samples

__all__ = ["Example", "Extremes", "contrasting", "extreme_samples"]

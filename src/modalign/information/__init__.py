"""The mathematics of ModAlign, usable alone in any PyTorch loop: objectives, critics, contexts, margin."""

from modalign.information.centering import ContextMeans
from modalign.information.contexts import ContextSource, pair_masks, same_context
from modalign.information.critics import (
    BilinearCritic,
    ContextEmbedding,
    ContinuousContext,
    Critic,
    FixedContext,
    LearnedContext,
    MLPCritic,
    SeparableCritic,
    SeparableCritics,
    make_critic,
)
from modalign.information.margin import Guarded, LossHinge, gradient_scale, guarded_gradients, ramp, squared_norms
from modalign.information.objectives import (
    Form,
    PairSums,
    conditional_nce,
    donsker_varadhan,
    info_nce,
    information,
    pointwise_information,
    two_term_nce,
)
from modalign.information.pairs import PairResult, score_pairs
from modalign.information.queue import FeatureMemory, RecentFeatures

__all__ = [
    "BilinearCritic", "ContextEmbedding", "ContextMeans", "ContextSource", "ContinuousContext", "Critic",
    "FeatureMemory", "FixedContext", "Form", "Guarded", "LearnedContext", "LossHinge", "MLPCritic", "PairResult",
    "PairSums", "RecentFeatures", "SeparableCritic", "SeparableCritics", "conditional_nce", "donsker_varadhan",
    "gradient_scale", "guarded_gradients", "info_nce", "information", "make_critic", "pair_masks",
    "pointwise_information", "ramp", "same_context", "score_pairs", "squared_norms", "two_term_nce",
]  # fmt: skip

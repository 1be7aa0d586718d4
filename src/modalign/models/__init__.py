"""Networks: encoders, fusion, heads, and the readout that combines them."""

from modalign.models.encoders import build_encoder
from modalign.models.fusion import FUSIONS, Fusion, build_fusion
from modalign.models.multimodal import MultimodalModel

__all__ = ["FUSIONS", "Fusion", "MultimodalModel", "build_encoder", "build_fusion"]

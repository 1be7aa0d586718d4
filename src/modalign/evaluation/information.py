"""Names of version 0.1 (experiments still import them from here); see ``diagnosis`` and ``pairs``."""

from modalign.evaluation.diagnosis import fusibility_and_complementarity
from modalign.evaluation.pairs import Complete, Reference

__all__ = ["Complete", "Reference", "fusibility_and_complementarity"]

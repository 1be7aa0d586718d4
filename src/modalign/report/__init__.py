"""Reports of runs: tables, figures, one page. Reads run folders, without torch.

``modalign.report(...)`` is a function of the package's door, and ``modalign.report`` is this package once one of its
modules is imported. So that the name means the same before and after, the package can be called as the function.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any


class _Report(ModuleType):
    def __call__(self, runs: Any, out: str | Path = "report.html") -> Path:
        """Write one page about runs: see ``modalign.report.page.write_report``."""
        from modalign.report.page import write_report

        return write_report(runs, out)


sys.modules[__name__].__class__ = _Report

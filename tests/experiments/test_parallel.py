"""Work side by side."""

from __future__ import annotations

import os

from modalign.experiments.parallel import side_by_side


def test_workers_follow_the_working_folder_from_call_to_call(tmp_path, monkeypatch):
    found = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        found.append(set(side_by_side(lambda _: os.path.basename(os.getcwd()), [1, 2], jobs=2)))
    assert found == [{"first"}, {"second"}]

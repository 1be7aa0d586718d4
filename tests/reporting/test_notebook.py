"""Curves in a notebook while a run trains."""

from __future__ import annotations

import builtins
import io
import sys
import types
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

import modalign
from modalign.data.dataset import MultimodalData
from modalign.reporting import notebook


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bytes]]:
    """What the cells of a notebook that is made up are told to show: ``new`` or ``again``, and a picture."""
    told: list[tuple[str, bytes]] = []

    class Handle:
        def update(self, picture: types.SimpleNamespace) -> None:
            told.append(("again", picture.data))

    def display(picture: types.SimpleNamespace, display_id: bool) -> Handle:
        told.append(("new", picture.data))
        return Handle()

    class ZMQInteractiveShell:
        pass

    fake = types.SimpleNamespace(Image=lambda data, format: types.SimpleNamespace(data=data), display=display)
    monkeypatch.setattr(builtins, "get_ipython", ZMQInteractiveShell, raising=False)
    for name in ("IPython", "IPython.display"):  # matplotlib asks the first whether it runs
        whole = types.SimpleNamespace(display=fake, version_info=(9, 0), get_ipython=lambda: None)
        monkeypatch.setitem(sys.modules, name, whole if name == "IPython" else fake)
    # Lines of a notebook go through IPython too; here they are those of a file.
    monkeypatch.setattr("modalign.training.progress.Console", lambda **_: notebook.Console(quiet=True))
    return told


def test_a_training_draws_its_curves_once_and_then_anew_in_their_place(
    shown: list[tuple[str, bytes]], small_data: Callable[..., MultimodalData], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    how = {"epochs": 3, "width": 4, "batch_size": 64}
    monkeypatch.setattr(notebook, "_EVERY", 0.0)
    seen: list[int] = []
    run = modalign.train(
        small_data(), "joint", out=tmp_path / "run", on_epoch=lambda record: seen.append(record["epoch"]), **how
    )
    assert [kind for kind, _ in shown] == ["new", "again", "again", "again"]
    assert all(Image.open(io.BytesIO(picture)).width > 300 for _, picture in shown)
    assert shown[0] != shown[1]
    assert seen == [0, 1, 2]
    shown.clear()
    monkeypatch.setattr(notebook, "_EVERY", 1e9)
    assert modalign.train(small_data(), "joint", out=tmp_path / "b", **how).metrics == run.metrics
    assert [kind for kind, _ in shown] == ["new", "again"]  # the first epoch, and the end
    shown.clear()
    modalign.train(small_data(), "joint", out=tmp_path / "c", quiet=True, **how)
    assert not shown


def test_curves_that_cannot_be_drawn_are_said_once_and_stop_nothing(
    shown: list[tuple[str, bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modalign.reporting.figures.training_curves", lambda folder: None)
    draw = notebook.live_curves(tmp_path / "none")
    assert draw is not None
    with pytest.warns(UserWarning, match="the curves could not be drawn"):
        draw()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw(last=True)
    assert not shown


def test_a_real_shell_shows_the_picture(tmp_path: Path) -> None:
    pytest.importorskip("IPython", reason="needs IPython")
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.utils.capture import capture_output

    class ZMQInteractiveShell(InteractiveShell):
        """As that of a notebook's kernel is called."""

    cell = f"""
    import modalign
    modalign.train("digits", "joint", epochs=1, batch_size=512, out={str(tmp_path / "run")!r})
    """
    shell = ZMQInteractiveShell.instance()
    with capture_output() as told:
        assert shell.run_cell(cell.replace("    ", "")).success
    ZMQInteractiveShell.clear_instance()
    pictures = [output.data["image/png"] for output in told.outputs if "image/png" in output.data]
    assert len(pictures) == 2

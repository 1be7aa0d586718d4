"""Real media files encoded on the spot, for miniature copies of the official downloads, and the way from there on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from modalign.cli import main
from modalign.data.media import miniature
from modalign.experiments.reproduce import TINY
from modalign.recipes import load_recipe

LFS_POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize 83278\n".format("0" * 64)


def ramp(frames: int, width: int = 48, height: int = 32) -> np.ndarray:
    """Frames (T, H, W, 3) uint8 of one gray each, from black to nearly white."""
    greys = (np.arange(frames) * 250 // max(1, frames - 1)).astype(np.uint8)
    return np.broadcast_to(greys[:, None, None, None], (frames, height, width, 3)).copy()


@pytest.fixture(scope="session")
def write_wav() -> Callable[..., None]:
    """``miniature.write_wav``."""
    return miniature.write_wav


@pytest.fixture(scope="session")
def write_video() -> Callable[..., None]:
    """``miniature.write_video``."""
    return miniature.write_video


@pytest.fixture(scope="session")
def write_image() -> Callable[..., None]:
    """Write pixels (H, W) or (H, W, 3), or one color at (height, width), as JPEG or PNG, by the ending."""

    def write(path: Path, pixels: np.ndarray | tuple[int, int, int], size: tuple[int, int] = (24, 32)) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(pixels, tuple):
            pixels = np.broadcast_to(np.array(pixels, np.uint8), (*size, 3))
        Image.fromarray(np.ascontiguousarray(pixels)).save(path)

    return write


@pytest.fixture(scope="session")
def tone_of() -> Callable[..., np.ndarray]:
    """``miniature.tone``."""
    return miniature.tone


@pytest.fixture(scope="session")
def ramp_of() -> Callable[..., np.ndarray]:
    """``ramp``."""
    return ramp


@pytest.fixture(scope="session")
def pointer() -> Callable[[Path], None]:
    """Put a git-LFS pointer at a path."""

    def write(path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(LFS_POINTER)

    return write


@pytest.fixture(scope="session")
def cut() -> Callable[..., None]:
    """Keep only the first bytes of a file, as a download that broke off."""

    def shorten(path: Path, share: float = 0.3) -> None:
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * share)])

    return shorten


@pytest.fixture(scope="session")
def same_bytes() -> Callable[[Path, Path], None]:
    """Assert that two folders hold the same files with the same bytes."""

    def compare(one: Path, two: Path) -> None:
        names = [sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file()) for root in (one, two)]
        assert names[0] == names[1]
        for name in names[0]:
            assert (one / name).read_bytes() == (two / name).read_bytes(), name

    return compare


@pytest.fixture(scope="session")
def by_command() -> Callable[..., dict[str, Any]]:
    """Train one method on a prepared folder for two epochs through the command line, and check the run.

    The recipe is the data set's own, with the networks it names shrunk to a few channels.
    """

    def run(recipe: str, folder: Path, out: Path, strategy: str, *arguments: str) -> dict[str, Any]:
        small = ["--training.epochs", "2", "--training.workers", "0", "--training.accelerator", "cpu"]
        for name, encoder in load_recipe(recipe).model.encoders.items():
            if encoder["name"] in TINY:
                shrunk = {**encoder, "pretrained": False, "config": TINY[encoder["name"]]}
                small += [f"--model.encoders.{name}", json.dumps(shrunk)]
        main(
            ["train", recipe, "--data.path", str(folder), "--strategy", strategy, "--out", str(out), *small, *arguments]
        )
        result = json.loads((out / "result.json").read_text())
        assert result["epochs"] == 2
        for part in ("valid", "test", "test_last"):
            assert np.isfinite(list(result["metrics"][part].values())).all(), result["metrics"]
        with np.load(out / "predictions_test.npz") as archive:
            found = dict(archive)
        samples, width, parts = len(found["ids"]), max(1, len(found["classes"])), len(found["modalities"])
        assert found["scores"].shape == found["joint"].shape == (samples, width)
        assert found["unimodal"].shape == (parts, samples, width)
        assert found["present"].shape == (samples, parts)
        assert np.isfinite(found["scores"]).all()
        return result | {"predictions": found}

    return run

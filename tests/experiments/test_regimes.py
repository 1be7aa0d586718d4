"""The map of regimes: what is varied, where data lie, and what is advised from it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from modalign.cli import main
from modalign.data.datasets.synthetic import generate
from modalign.errors import InputError, RunFolderError
from modalign.evaluation.place import PUBLISHED, Place, advise
from modalign.experiments.regimes import REGIMES, chosen_regimes, place
from modalign.reporting import style
from modalign.training.build import load_with_data


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small map, by the command line."""
    out = tmp_path_factory.mktemp("map")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(style, "KINDS", ("svg",))
        command = ["map", "--strategies", "joint,late_fusion", "--axes", "missing,shift", "--seeds", "1"]
        main([*command, "--epochs", "1", "--out", str(out), "--jobs", "1"])
    return out


@pytest.mark.slow
def test_a_map_from_the_command_line_says_who_leads_in_each_regime(made: Path) -> None:
    content = json.loads((made / "map.json").read_text())
    assert [one["name"] for one in content["regimes"]] == ["base", "shift 0.5", "shift 1", "missing 0.3", "missing 0.6"]
    for one in content["regimes"]:
        assert set(one["scores"]) == {"joint", "late_fusion"}
        assert one["scores"][one["lead"]["method"]] == max(one["scores"].values())
        low, mean, high = (one["lead"][k] for k in ("low", "mean", "high"))
        assert low <= mean <= high
        assert mean == pytest.approx(abs(one["scores"]["joint"] - one["scores"]["late_fusion"]))
    assert (made / "map.svg").exists()
    assert "| base |" in (made / "map.md").read_text()


@pytest.mark.slow
def test_what_is_varied_is_seen_where_data_lie(made: Path) -> None:
    places = {one["name"]: Place(**one["place"]) for one in json.loads((made / "places.json").read_text())["places"]}
    assert places["missing 0.6"].missing > places["missing 0.3"].missing > places["base"].missing == 0
    assert places["shift 1"].shift > 0.3 > places["base"].shift


def test_synergy_is_seen_in_features_that_have_it(made: Path) -> None:
    """Of the inputs themselves, as no network has learned anything yet: only the regime differs."""
    run = made / "runs" / "base" / "joint" / "seed0"
    strategy, data, _ = load_with_data(run)
    found = place(strategy, data)
    assert found is not None
    assert 0.99 < found.redundant + found.unique + found.synergy < 1.01
    assert found.labels == pytest.approx(np.log10(len(data.train) / 8))


def test_a_shift_moves_groups_apart_and_leaves_other_data_as_they_were() -> None:
    still, moved = generate(samples=400, groups=4), generate(samples=400, groups=4, shift=3.0)
    assert (still["y"] == moved["y"]).all()
    offset = moved["x1"] - still["x1"]
    for g in range(4):
        rows = offset[still["group"] == g]
        assert np.allclose(rows, rows[0], atol=1e-5)
    assert np.std([offset[still["group"] == g][0] for g in range(4)]) > 1


def _map(tmp_path: Path, regimes: int = 8) -> Path:
    """Regimes in a row along synergy: the first method leads below a half of it, the second above."""
    told = [
        {
            "name": f"r{i}",
            "place": {"redundant": 1 - s, "unique": 0.0, "synergy": s, "nuisance": 0.0, "labels": 2.0}
            | {"missing": 0.0, "shift": 0.0},
            "scores": {"a": 0.9 - 0.4 * s, "b": 0.5 + 0.4 * s},
        }
        for i, s in enumerate(np.linspace(0, 1, regimes))
    ]
    path = tmp_path / "map.json"
    path.write_text(json.dumps({"methods": {"a": "First", "b": "Second"}, "regimes": told}))
    return path


def test_advice_comes_from_the_nearest_regimes_and_says_how_far_it_was_right(tmp_path: Path) -> None:
    path = _map(tmp_path)
    little = advise(Place(0.9, 0.0, 0.1, 0.0, 2.0, 0.0, 0.0), path)
    much = advise(Place(0.05, 0.0, 0.95, 0.0, 2.0, 0.0, 0.0), path)
    assert next(iter(little.behind)) == "First"
    assert next(iter(much.behind)) == "Second"
    assert set(much.nearest) == {"r5", "r6", "r7"}
    assert little.followed < little.fixed  # following the map beats one method for all, where it should
    assert not little.outside


def test_data_far_from_all_regimes_are_said_to_be_outside(tmp_path: Path) -> None:
    assert advise(Place(0.5, 0.0, 0.5, 9.0, 2.0, 0.0, 0.0), _map(tmp_path)).outside


def test_the_map_of_the_package_is_whole() -> None:
    content = json.loads(PUBLISHED.read_text())
    assert {one["name"] for one in content["regimes"]} == {regime.name for regime in REGIMES}
    assert "modalign" in content["methods"]
    assert advise(Place(0.3, 0.6, 0.1, 0.3, 2.0, 0.0, 0.0)).behind


def test_what_is_no_map_is_refused(tmp_path: Path) -> None:
    (tmp_path / "map.json").write_text('{"regimes": [{"place": {"synergy": 1}}], "methods": {}}')
    with pytest.raises(RunFolderError, match="no map of `modalign map`"):
        advise(Place(0, 0, 0, 0, 0, 0, 0), tmp_path / "map.json")
    with pytest.raises(InputError, match="expected more than 3"):
        advise(Place(0, 0, 0, 0, 0, 0, 0), _map(tmp_path, 2))
    with pytest.raises(InputError, match="axis of the map 'noise'"):
        chosen_regimes(["noise"])

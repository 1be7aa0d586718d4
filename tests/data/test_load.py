"""Finding data by name and path, and reading files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from modalign.data.load import available, load_data
from modalign.data.tables.files import read_arrays
from modalign.errors import InputError
from modalign.settings import DataSettings


def table(n: int = 60) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "y": np.array(["no", "yes"])[np.arange(n) % 2],
            "audio_0": rng.normal(size=n),
            "audio_1": rng.normal(size=n),
            "age": rng.normal(size=n),
            "note": [f"text number {i}" for i in range(n)],
        }
    )


def test_data_sets_are_found_by_their_files() -> None:
    assert {"digits", "synthetic"} <= set(available())
    assert not {"arrays", "load", "files", "prepared", "manifest"} & set(available())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (DataSettings(name="digit"), r"unknown data set 'digit'; did you mean 'digits'"),
        (DataSettings(), r"no data named; expected a name of .*digits.*, or a path"),
        (DataSettings(name="digits", options={"swop": 1}), r"unknown option of the data 'digits': 'swop'"),
        (DataSettings(path="nowhere.npz"), r"no file or folder 'nowhere.npz'; expected the data there"),
    ],
)
def test_data_that_does_not_exist(settings: DataSettings, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_data(settings)


def test_unknown_option_of_a_path_names_the_nearest(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", a=np.ones((4, 2)), y=np.arange(4) % 2)
    with pytest.raises(InputError, match=r"unknown option .* 'inpute'; did you mean 'impute'"):
        load_data(DataSettings(path=str(tmp_path / "d.npz"), options={"inpute": "mean"}))


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_tables_join_columns_side_by_side(tmp_path: Path, suffix: str) -> None:
    frame, path = table(), tmp_path / f"d.{suffix}"
    frame.to_csv(path, index=False) if suffix == "csv" else frame.to_parquet(path)
    settings = DataSettings(path=str(path), modalities=["audio", "age", "note"], label="y", split="age>0.5")
    data = load_data(settings)
    assert {m: v.shape[0] for m, v in data.modalities.items()} == {"audio": 2, "age": 1, "note": 3}
    assert data.name == "d"
    row = int(data.test.ids[2])
    expected = frame[["audio_0", "audio_1"]].to_numpy()[row]
    np.testing.assert_allclose(data.test.__getitems__([2]).inputs["audio"][0], expected, rtol=1e-6)


def test_parquet_lists_and_missing_lists(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": [[1.0, 2.0], None, [3.0, 4.0]], "s": [[[1, 2]], [[3, 4]], [[5, 6]]]})
    frame.to_parquet(tmp_path / "d.parquet")
    arrays = read_arrays(tmp_path / "d.parquet")
    np.testing.assert_array_equal(arrays["a"], [[1, 2], [np.nan, np.nan], [3, 4]])
    assert arrays["s"].shape == (3, 1, 2)


def test_npz_and_parquet_of_the_same_numbers_give_the_same_split(tmp_path: Path) -> None:
    frame = table()
    frame.to_parquet(tmp_path / "d.parquet")
    stacked = frame[["audio_0", "audio_1"]].to_numpy()
    np.savez(tmp_path / "d.npz", audio=stacked, age=frame["age"], y=frame["y"].to_numpy(str))
    both = [
        load_data(DataSettings(path=str(tmp_path / f"d.{end}"), modalities=["audio", "age"], label="y"))
        for end in ("npz", "parquet")
    ]
    assert both[0].fingerprint == both[1].fingerprint


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "d.npz").write_bytes(b"PK no zip")
    with pytest.raises(InputError, match=r"d\.npz cannot be read .*expected an .npz file as numpy.savez writes"):
        read_arrays(tmp_path / "d.npz")
    np.savez(tmp_path / "o.npz", a=np.array([{}], dtype=object))
    with pytest.raises(InputError, match=r"array 'a' of .* holds Python objects, which are never unpickled"):
        read_arrays(tmp_path / "o.npz")
    (tmp_path / "d.txt").write_text("x")
    with pytest.raises(InputError, match=r"expected a file that ends in .npz, .parquet, .csv"):
        read_arrays(tmp_path / "d.txt")
    (tmp_path / "e.csv").write_text("a,b\n")
    with pytest.raises(InputError, match="has no rows"):
        read_arrays(tmp_path / "e.csv")
    (tmp_path / "f.csv").write_text("")
    with pytest.raises(InputError, match=r"f.csv cannot be read .*expected a table as CSV"):
        read_arrays(tmp_path / "f.csv")
    pd.DataFrame({"a": [[1.0], [1.0, 2.0]]}).to_parquet(tmp_path / "r.parquet")
    with pytest.raises(InputError, match=r"'a' has lists of another length than \(1,\) in rows 1"):
        read_arrays(tmp_path / "r.parquet")
    pd.DataFrame({"a_x": ["u", "v"], "a_y": [1, 2]}).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(InputError, match=r"of which a_x hold no numbers"):
        read_arrays(tmp_path / "t.parquet", ["a"])
    with pytest.raises(InputError, match=r"unknown modality 'a_z'; did you mean 'a_"):
        read_arrays(tmp_path / "t.parquet", ["a_z"])


def test_a_title_names_the_same_data_under_another_split() -> None:
    data = load_data(DataSettings(name="digits", title="digits-again"))
    assert data.name == "digits-again"
    assert data.fingerprint == load_data(DataSettings(name="digits")).fingerprint

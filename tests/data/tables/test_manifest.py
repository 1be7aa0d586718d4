"""The user's own table: read, checked as a whole, used."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from modalign.data.load import load_data
from modalign.data.tables.manifest import Manifest
from modalign.errors import InputError
from modalign.recipes import load_recipe, recipe_from_plain
from modalign.settings import DataSettings

N = 40


def rows() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "id": [f"s{i:02}" for i in range(N)],
            "split": np.array(["train", "train", "valid", "test"])[np.arange(N) % 4],
            "group": [f"g{i:02}" for i in range(N)],
            "label": np.array(["well", "ill"])[(np.arange(N) + np.arange(N) // 4) % 2],
            "note": [f"sample {i} felt fine" for i in range(N)],
            "labs_a": rng.normal(size=N),
            "labs_b": rng.normal(size=N),
            "site": np.array(["north", "south"])[np.arange(N) % 2],
        }
    )


ABOUT = "name: clinic\nmodalities: {note: text, labs: numbers, site: categories}\ncolumns: [site]\n"


def write(folder: Path, frame: pd.DataFrame, about: str = ABOUT) -> Path:
    frame.to_csv(folder / "my.csv", index=False)
    (folder / "my.yaml").write_text(about)
    return folder / "my.csv"


def test_a_good_manifest_is_used_as_it_is(tmp_path: Path) -> None:
    frame = rows()
    frame.loc[[4, 9], ["labs_a", "labs_b"]] = np.nan
    frame.loc[3, "note"] = None
    path = write(tmp_path, frame)
    assert Manifest.read(path).check() == []
    data = load_data(DataSettings(path=str(path)))
    assert data.name == "clinic"
    assert {m: v.kind for m, v in data.modalities.items()} == {"note": "text", "labs": "vector", "site": "vector"}
    assert (len(data.train), len(data.valid), len(data.test)) == (20, 10, 10)
    assert data.train.columns["site"].names == ("north", "south")
    assert "labs is absent in 2 of 40 samples" in data.notes
    assert "note is absent in 1 of 40 samples" in data.notes
    assert data.train.groups[0] == "g00"
    row = int(data.test.ids[1][1:])
    expected = frame[["labs_a", "labs_b"]].to_numpy()[row]
    np.testing.assert_allclose(data.test.__getitems__([1]).inputs["labs"][0], expected, rtol=1e-6)


def test_settings_go_before_the_yaml(tmp_path: Path) -> None:
    path = write(tmp_path, rows())
    settings = DataSettings(path=str(path), modalities=["note", "labs"], label="site", split="labs_a>0.5")
    data = load_data(settings)
    assert data.task.classes == ("north", "south")
    assert list(data.modalities) == ["note", "labs"]


def test_every_problem_is_found_at_once(tmp_path: Path) -> None:
    frame = rows().astype({"labs_a": object})
    frame.loc[1, "id"] = "s00"
    frame.loc[5, "split"] = "trian"
    frame.loc[6, "label"] = None
    frame.loc[8, "note"] = "  "
    frame.loc[10, "labs_b"] = np.inf
    (tmp_path / "scans").mkdir()
    frame["scan"] = [f"scans/{i}.png" for i in range(N)]
    for i in range(2, N):
        (tmp_path / "scans" / f"{i}.png").write_bytes(b"x")
    (tmp_path / "scans" / "0.png").write_bytes(b"")
    path = write(tmp_path, frame, ABOUT.replace("{", "{scan: {kind: image, size: 8}, "))
    problems = Manifest.read(path).check()
    text = "\n".join(problems)
    for part in (
        "ids stand more than once: s00",
        "label 'label' is missing in 1 rows (6)",
        "'note' has texts without a word in rows 8",
        "infinite or enormous values in 1 rows (10)",
        "'scan' names files that are missing or empty in rows 0, 1",
    ):
        assert part in text
    assert str(tmp_path / "scans" / "0.png") in text
    with pytest.raises(InputError, match=f"manifest 'clinic': {len(problems)} problems"):
        load_data(DataSettings(path=str(path)))


@pytest.mark.parametrize(
    ("column", "row", "value", "message"),
    [
        ("split", 5, "trian", r"values that name no split: 'trian'; expected train, valid or test"),
        ("group", 1, "g03", r"1 groups stand in more than one split: g03; expected each in one"),
        ("group", 1, None, r"group 'group' is missing in rows 1"),
        ("label", 3, "odd", r"classes without a training sample: odd; expected at least one of each"),
        ("id", 2, None, r"'id' is missing in rows 2"),
        ("labs_a", 2, "high", r"of which labs_a hold no numbers"),
    ],
)
def test_single_problems(tmp_path: Path, column: str, row: int, value: object, message: str) -> None:
    frame = rows().astype({column: object})
    frame.loc[row, column] = value
    with pytest.raises(InputError, match=message):
        load_data(DataSettings(path=str(write(tmp_path, frame))))


def test_rows_with_nothing_and_columns_with_nothing(tmp_path: Path) -> None:
    frame = rows()
    frame.loc[2, ["note", "site"]] = None
    frame.loc[2, ["labs_a", "labs_b"]] = np.nan
    with pytest.raises(InputError, match=r"rows 2 have no modality at all"):
        load_data(DataSettings(path=str(write(tmp_path, frame))))
    frame = rows().assign(note=None)
    with pytest.raises(InputError, match=r"'note' is absent everywhere"):
        load_data(DataSettings(path=str(write(tmp_path, frame))))


def test_files_have_to_be_prepared_first(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"x")
    path = write(tmp_path, rows().assign(cough="a.wav"), "modalities: {cough: audio, note: text}\n")
    manifest = Manifest.read(path)
    assert manifest.modalities["cough"] == {"kind": "audio"}
    assert manifest.check() == []
    with pytest.raises(InputError, match=r"has files to decode \(cough\); run modalign prepare .*my.csv"):
        load_data(DataSettings(path=str(path)))
    assert list(load_data(DataSettings(path=str(path), modalities=["note"])).modalities) == ["note"]


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ("modalities: {note: txt}", r"unknown kind of modality 'note': 'txt'; did you mean 'text'"),
        ("modalities: {nota: text}", r"unknown column of modality 'nota'; did you mean 'note'"),
        ("modalities: {note: {size: 3}}", r"modality 'note' has no kind"),
        ("modality: {note: text}", r"names no modalities; expected modalities: \{NAME: KIND, ...\}"),
        ("modalities: {note: text}\nlable: x", r"unknown key 'lable'; did you mean 'label'"),
        ("modalities: {note: text}\nlabel: lab", r"unknown label 'lab'; did you mean 'label'"),
        ("modalities: {note: text", r"is no YAML"),
    ],
)
def test_yaml_that_names_what_does_not_exist(tmp_path: Path, about: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Manifest.read(write(tmp_path, rows(), about))


def test_several_labels_are_a_list_in_a_manifest_a_recipe_and_python(tmp_path: Path) -> None:
    frame = rows().assign(cough=np.arange(N) // 4 % 2, fever=np.arange(N) // 5 % 2)
    about = "task: multilabel\nmodalities: {note: text, labs: numbers}\nlabel: "
    path = write(tmp_path, frame, about + "[cough, fever]\n")
    (tmp_path / "recipe.yaml").write_text("data: {path: my.csv, label: [fever, cough]}")
    assert load_data(str(path)).task.classes == ("cough", "fever")
    recipe = load_recipe(str(tmp_path / "recipe.yaml"))
    assert recipe.data.label == "fever,cough"
    assert load_data(replace(recipe.data, path=str(path))).task.classes == ("fever", "cough")
    assert load_data(frame, target=["fever", "cough"], modalities=["labs"], task="multilabel").task.several
    with pytest.raises(InputError, match=r"unknown label 'fver'; did you mean 'fever'"):
        Manifest.read(write(tmp_path, frame, about + "[cough, fver]\n"))
    with pytest.raises(InputError, match=r"data.label is \['cough', 3\]; expected a text, or a list"):
        recipe_from_plain({"data": {"label": ["cough", 3]}})


def test_missing_files_of_the_manifest(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no manifest at .*expected a table with a row for each sample"):
        Manifest.read(tmp_path / "no.csv")
    rows().to_csv(tmp_path / "my.csv")
    with pytest.raises(InputError, match=r"no file .*my.yaml', which says what the columns are.*audio, image"):
        Manifest.read(tmp_path / "my.csv")


def test_a_table_without_ids(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"the table has no column 'id'"):
        load_data(DataSettings(path=str(write(tmp_path, rows().drop(columns="id")))))


def test_settings_that_name_what_does_not_exist(tmp_path: Path) -> None:
    path = str(write(tmp_path, rows()))
    for settings, message in (
        (DataSettings(path=path, label="lable"), "unknown label 'lable'; did you mean 'label'"),
        (DataSettings(path=path, group="grp"), "unknown group 'grp'; did you mean 'group'"),
        (DataSettings(path=path, columns=["age"]), "unknown column 'age'"),
        (DataSettings(path=path, modalities=["notte"]), "unknown modality 'notte'; did you mean 'note'"),
    ):
        with pytest.raises(InputError, match=message):
            load_data(settings)


def test_rows_are_dropped_before_they_are_checked(tmp_path: Path) -> None:
    frame = rows()
    frame.loc[6, ["label", "labs_a"]] = None, np.inf
    frame.loc[8, "labs_a"] = np.nan
    path = str(write(tmp_path, frame))
    data = load_data(DataSettings(path=path, options={"drop_unlabelled": True, "impute": "mean"}))
    assert len(data.train) + len(data.valid) + len(data.test) == N - 1
    assert "1 of 40 rows left out: no label" in data.notes

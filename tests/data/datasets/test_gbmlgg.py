"""GBMLGG from a miniature of PathomicFusion's download: tables, pickles that must not be run, images."""

from __future__ import annotations

import os
import pickle
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from modalign.cli import main
from modalign.data.datasets.gbmlgg import FOLDS, UNITS, DataUnpickler, Inert, read_splits, read_tables
from modalign.data.load import load_data
from modalign.data.media.prepare import prepare
from modalign.errors import InputError
from modalign.settings import DataSettings

PATIENTS = [f"TCGA-02-{n:04d}" for n in range(1, 13)]
SMALL = {"size": 8, "workers": 1}
GENES = 80


def tables() -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Main table, grades and splits; patient 11 has no grade, patient 12 no molecular subtype."""
    rng = np.random.default_rng(0)
    main = pd.DataFrame(rng.normal(size=(12, GENES - 2)).round(3), columns=[f"gene{i}" for i in range(GENES - 2)])
    main.insert(0, "indexes", range(12))
    main.insert(1, "TCGA ID", PATIENTS)
    main["idh mutation"] = [1.0] * 11 + [np.nan]
    main["codeletion"] = [0.0] * 11 + [np.nan]
    main["censored"] = [i % 2 for i in range(12)]
    main["Survival months"] = [100 + 10 * i for i in range(12)]
    main.loc[3, "gene5"] = np.nan
    grades = pd.DataFrame(
        {
            "TCGA ID": PATIENTS,
            "Histology": ["astrocytoma"] * 10 + [None, "oligodendroglioma"],
            "Grade": [2.0, 3.0, 4.0, 2.0, 3.0, 4.0, 2.0, 3.0, 4.0, 2.0, np.nan, 3.0],
            "Molecular subtype": ["IDHwt"] * 11 + [None],
        }
    )
    folds = pd.DataFrame({"TCGA ID": PATIENTS})
    for k in range(FOLDS):
        folds[f"Randomization - {k + 1}"] = ["Test" if (i - k) % 12 < 3 else "Train" for i in range(12)]
    return main, grades, folds


@pytest.fixture(scope="module")
def raw(tmp_path_factory, write_image, cut) -> Path:
    """Tables, split file and, of each patient but the tenth, one region of interest; one is cut off."""
    root = tmp_path_factory.mktemp("raw") / "data" / "TCGA_GBMLGG"
    root.mkdir(parents=True)
    main, grades, folds = tables()
    main.to_csv(root / "all_dataset.csv", index=False)
    grades.to_csv(root / "grade_data.csv", index=False)
    folds.to_csv(root / "pnas_splits.csv", index=False)
    genes = pd.DataFrame({"gene": ["A", "B", "C"]}).set_index("gene")
    for name, patients in (("z-Scores_RNA_Seq", PATIENTS[:6]), ("Zscores", PATIENTS[6:])):
        table = genes.assign(**{f"{p}-01": [1.0, float(p[-2:]), np.nan if p == PATIENTS[7] else 0.5] for p in patients})
        path = root / f"mRNA_Expression_{name}_RSEM.txt"
        path.write_text("downloaded from cBioPortal\n" + table.to_csv(sep="\t"))
    region = np.zeros((1024, 1024, 3), np.uint8)
    region[:512, 512:] = (250, 0, 0)  # the patch at row 0, column 512
    for patient in [*PATIENTS[:9], *PATIENTS[10:]]:
        write_image(root / "gbmlgg" / "all_st" / f"{patient}-01Z-00-DX1.AB-12_1.png", region)
    cut(root / "gbmlgg" / "all_st" / f"{PATIENTS[8]}-01Z-00-DX1.AB-12_1.png", 0.5)
    (root / "splits").mkdir()
    write_splits(root / "splits" / "gbmlgg15cv_all_st_1_1_0.pkl", main, grades, folds)
    return root


def write_splits(path: Path, main: pd.DataFrame, grades: pd.DataFrame, folds: pd.DataFrame) -> None:
    """The published form: a table of pandas, and arrays for each fold, features scaled over its training rows."""
    features = main.drop(columns=["indexes", "TCGA ID", "censored", "Survival months"]).fillna(
        main.median(numeric_only=True)
    )
    values = features.to_numpy(float)
    splits = {}
    for k in range(1, FOLDS + 1):
        test = (folds.iloc[:, k] == "Test").to_numpy()
        shift, factor = values[~test].mean(0), values[~test].std(0)
        scaled = (values - shift) / np.where(factor > 0, factor, 1)
        splits[k] = {}
        for part, rows in (("train", ~test), ("test", test)):
            chosen = np.flatnonzero(rows & (np.arange(12) < 10))
            splits[k][part] = {
                "x_patname": [PATIENTS[i] for i in chosen],
                "x_path": np.array([f"./data/TCGA_GBMLGG/all_st/{PATIENTS[i]}.png" for i in chosen]),
                "x_grph": [],
                "x_omic": scaled[chosen],
                "e": (1 - main["censored"].to_numpy()[chosen]).astype(float),
                "t": main["Survival months"].to_numpy()[chosen].astype(float),
                "g": grades["Grade"].to_numpy()[chosen] - 2,
            }
    path.write_bytes(pickle.dumps({"data_pd": main.set_index("TCGA ID"), "cv_splits": splits}, protocol=3))


@pytest.fixture(scope="module")
def prepared(raw, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "gbmlgg"
    return out, prepare("gbmlgg", raw.parent, out, **SMALL)


def test_nine_patches_of_each_region_with_its_patients_genes(prepared):
    out, report = prepared
    assert report.samples == 8 * 9
    reasons = {entry["id"]: entry["reason"] for entry in report.unreadable}
    assert reasons[PATIENTS[10]] == "no grade"
    assert reasons[PATIENTS[11]] == "no molecular subtype"
    assert reasons[PATIENTS[9]] == "no region of this patient"
    broken = [key for key in reasons if key.startswith(PATIENTS[8])]
    assert len(broken) == 9
    assert "truncated" in reasons[broken[0]]
    assert np.load(out / "omic.npy").shape == (72, GENES)
    manifest = pd.read_parquet(out / "manifest.parquet")
    red = manifest["id"].str.endswith("_0_512").to_numpy()
    pixels = np.load(out / "image.npy")
    assert pixels.shape == (72, 3, 8, 8)
    assert red.sum() == 8
    assert (pixels[red] == np.array([250, 0, 0])[:, None, None]).all()
    assert (pixels[manifest["id"].str.endswith("_512_0")] == 0).all()
    assert report.warnings[0] == "12 patients in the tables; officially 769"


def test_tables_say_what_the_published_preparation_says(raw):
    patients, _ = read_tables(raw, rnaseq=False)
    main, *_ = tables()
    assert len(patients) == 10
    third = patients[PATIENTS[3]]
    assert (third.grade, third.event, third.time) == (0, 0, 130.0)
    assert patients[PATIENTS[2]].grade == 2
    assert third.features[5] == np.float32(main["gene5"].iloc[:10].median())
    assert (third.folds[0], third.folds[1], third.folds[2]) == ("train", "test", "test")
    more, lost = read_tables(raw, rnaseq=True)
    assert len(next(iter(more.values())).features) == GENES + 2  # gene C is not complete
    assert more[PATIENTS[3]].features[GENES + 1] == 4
    assert not [entry for entry in lost if entry["reason"] == "no mRNA"]


def test_a_table_of_five_splits_is_another_release(raw, tmp_path):
    for name in ("all_dataset.csv", "grade_data.csv"):
        os.symlink(raw / name, tmp_path / name)
    folds = tables()[2].iloc[:, :6]
    folds.to_csv(tmp_path / "pnas_splits.csv", index=False)
    with pytest.raises(InputError, match=r"splits.csv has 5 columns beside the id, of test, train; expected 15 .*Sou"):
        read_tables(tmp_path, rnaseq=False)


def test_the_split_file_gives_the_same_up_to_a_scale(raw, tmp_path):
    from_tables, _ = read_tables(raw, rnaseq=False)
    from_pickle, _ = read_splits(raw / "splits" / "gbmlgg15cv_all_st_1_1_0.pkl")
    assert set(from_pickle) == set(from_tables)
    for key, patient in from_pickle.items():
        other = from_tables[key]
        assert (patient.grade, patient.time, patient.event, patient.folds) == (
            other.grade,
            other.time,
            other.event,
            other.folds,
        )
    one, two = (np.stack([p[key].features for key in sorted(p)]) for p in (from_tables, from_pickle))
    correlation = [np.corrcoef(one[:, g], two[:, g])[0, 1] for g in range(GENES - 2) if g != 5]
    np.testing.assert_allclose(correlation, 1, atol=1e-5)


def test_a_download_without_tables_is_read_from_the_split_file(raw, tmp_path):
    root = tmp_path / "raw"
    for name in ("pnas_splits.csv", "splits", "gbmlgg"):
        root.mkdir(exist_ok=True)
        os.symlink(raw / name, root / name)
    report = prepare("gbmlgg", root, tmp_path / "out", **SMALL)
    assert report.samples == 72
    with pytest.raises(InputError, match=r"lacks all_dataset.csv"):
        prepare("gbmlgg", root, tmp_path / "out", tables="csv", **SMALL)


class Danger:
    """What a hostile file would hold."""

    def __reduce__(self):
        return os.system, ("touch /tmp/modalign-was-run",)


@pytest.mark.parametrize("bad", [Danger(), np.load, Path("/")])
def test_no_code_runs_from_a_data_file(bad, tmp_path):
    path = tmp_path / "splits.pkl"
    path.write_bytes(pickle.dumps({"cv_splits": {1: bad}}))
    with pytest.raises(InputError, match=r"nothing in it was run. Use the tables"):
        read_splits(path)
    assert not Path("/tmp/modalign-was-run").exists()


def test_tables_of_old_pandas_are_passed_over(tmp_path):
    path = tmp_path / "old.pkl"
    manager = b"cpandas.core.internals.managers\nBlockManager\n)R(K\x01K\x02tb"
    path.write_bytes(b"\x80\x02}(X\x07\x00\x00\x00data_pd" + manager + b"X\x01\x00\x00\x00nK\x07u.")
    with path.open("rb") as file:
        content = DataUnpickler(file, path).load()
    assert content["n"] == 7
    assert isinstance(content["data_pd"], Inert)


def test_a_pickle_of_another_form_is_refused(tmp_path):
    path = tmp_path / "splits.pkl"
    path.write_bytes(pickle.dumps({"cv_splits": {1: {"train": np.zeros(3)}}}))
    with pytest.raises(InputError, match="has not the published form"):
        read_splits(path)
    path.write_bytes(b"not a pickle")
    with pytest.raises(InputError, match=r"has not the published form|no pickle"):
        read_splits(path)


def test_a_name_tells_patch_region_and_patient():
    name = "TCGA-02-0001-01Z-00-DX1.AB-12_1_0_512"
    told = {unit: re.fullmatch(pattern, name)[1] for unit, pattern in UNITS.items()}
    assert told == {"patch": name, "region": "TCGA-02-0001-01Z-00-DX1.AB-12_1", "patient": "TCGA-02-0001"}


@pytest.mark.parametrize("fold", [1, 4, 15])
def test_no_patient_stands_in_two_parts_of_any_fold(prepared, fold):
    out, _ = prepared
    data = load_data(DataSettings(name="gbmlgg", path=str(out), valid_fraction=0.3, options={"fold": fold}))
    parts = [set(split.groups) for split in (data.train, data.valid, data.test)]
    assert sum(map(len, parts)) == len(set().union(*parts))
    folds = tables()[2].set_index("TCGA ID")
    tested = set(folds.index[folds.iloc[:, fold - 1] == "Test"])
    assert parts[2] == tested & set(PATIENTS[:8])
    assert data.task.classes == ("II", "III", "IV")
    assert all(len(set(split.ids)) == 9 * len(set(split.groups)) for split in (data.train, data.valid, data.test))


def test_survival_is_the_other_target(prepared):
    out, _ = prepared
    data = load_data(
        DataSettings(name="gbmlgg", path=str(out), valid_fraction=0.3, options={"target": "survival", "fold": 4})
    )
    assert data.task.kind == "survival"
    times = {group[:12]: row for group, row in zip(data.train.groups, data.train.target.tolist(), strict=True)}
    patient = sorted(times)[0]
    index = PATIENTS.index(patient)
    assert times[patient] == [100 + 10 * index, 1 - index % 2]
    with pytest.raises(InputError, match="fold is 16"):
        load_data(DataSettings(name="gbmlgg", path=str(out), options={"fold": 16}))
    with pytest.raises(InputError, match="expected one of grade, survival"):
        load_data(DataSettings(name="gbmlgg", path=str(out), options={"target": "grades"}))


def test_twice_the_same_bytes(raw, prepared, tmp_path, same_bytes):
    prepare("gbmlgg", raw, tmp_path / "again", **SMALL)
    same_bytes(prepared[0], tmp_path / "again")


@pytest.mark.slow
def test_from_download_to_results_by_the_command_line(raw, tmp_path, by_command, capsys):
    out = tmp_path / "prepared"
    main(["prepare", "gbmlgg", "--raw", str(raw.parent), "--out", str(out), "--options.size", "16", "--workers", "1"])
    assert "unreadable and left out" in capsys.readouterr().out
    fold = ("--data.options.fold", "4", "--data.valid_fraction", "0.3")
    for strategy in ("joint", "modalign"):
        result = by_command("gbmlgg", out, tmp_path / strategy, strategy, *fold)
        assert result["predictions"]["unimodal"].shape == (2, 27, 3)
    for strategy in ("joint", "late_fusion", "modalign"):
        folder = tmp_path / f"survival-{strategy}"
        result = by_command("gbmlgg", out, folder, strategy, *fold, "--data.options.target", "survival")
        assert result["task"] == "survival"
        assert set(result["metrics"]["test"]) == {"c_index", "c_uno", "ibs"}


def test_metrics_count_patients(raw, prepared, tmp_path, by_command):
    fold = ("--data.options.fold", "4", "--data.valid_fraction", "0.3")
    result = by_command("gbmlgg", prepared[0], tmp_path / "patient", "joint", *fold)
    found = result["predictions"]
    patients = sorted(set(found["groups"]))
    mean = np.stack([np.exp(found["scores"][found["groups"] == p]).mean(0) for p in patients])
    target = np.array([found["target"][found["groups"] == p][0] for p in patients])
    assert (len(found["ids"]), len(patients)) == (27, 3)
    assert result["metrics"]["test"]["nll"] == pytest.approx(-np.log(mean[np.arange(3), target]).mean(), rel=1e-5)
    assert result["metrics"]["test"]["accuracy"] == pytest.approx((mean.argmax(1) == target).mean())
    assert found["units"].tolist() == found["groups"].tolist()
    for name, value in result["metrics"]["test"].items():
        assert result["metrics"]["test_patient"][name] == value
    assert result["fold"] == [4, 15]
    rows = found["scores"][np.arange(27), found["target"]]
    assert result["metrics"]["test_patch"]["nll"] == pytest.approx(-rows.mean(), rel=1e-5)
    assert result["metrics"]["test_patch"]["nll"] != pytest.approx(result["metrics"]["test"]["nll"], rel=1e-5)
    each = result["metrics"]["test_patient"]
    assert np.nanmean([each[f"f1_{grade}"] for grade in ("II", "III", "IV")]) == pytest.approx(each["macro_f1"])
    again = by_command("gbmlgg", prepared[0], tmp_path / "patch", "joint", *fold, "--data.options.score", "patch")
    assert again["metrics"]["test_patch"]["nll"] == again["metrics"]["test"]["nll"]
    assert again["fingerprint"] != result["fingerprint"]
    rows = again["predictions"]["scores"][np.arange(27), again["predictions"]["target"]]
    assert again["metrics"]["test"]["nll"] == pytest.approx(-rows.mean(), rel=1e-5)

"""AnnData and MuData: trained on, predicted, written again; sparse until the batch; bad ones refused in words."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import modalign
from modalign import cli, files
from modalign.data.load import load_data
from modalign.data.samples import describe_inputs, read_samples
from modalign.data.tables.array_split import SparseRows
from modalign.data.tables.omics import annotate, open_omics, write_omics
from modalign.errors import DataError, InputError, SettingsError
from modalign.training.forward import outputs

mudata = pytest.importorskip("mudata", reason="needs pip install 'modalign[omics]'")
anndata = pytest.importorskip("anndata", reason="needs pip install 'modalign[omics]'")
h5py = pytest.importorskip("h5py", reason="needs pip install 'modalign[omics]'")

N, GENES, PROTEINS = 80, 12, 4
NAMES = [f"cell{i}" for i in range(N)]
TYPE = np.array(["B", "NK", "T"])[np.arange(N) % 3]
MEASURED = np.arange(N) % 4 != 1  # cells in which proteins were measured
SMALL = {"epochs": 1, "quiet": True, "accelerator": "cpu", "width": 4, "batch_size": 10}
pytestmark = pytest.mark.filterwarnings("ignore")  # mudata's, on what its next release will do


@pytest.fixture(autouse=True, scope="module")
def plain_text() -> Iterator[None]:
    """Texts that every release of anndata writes."""
    with pd.option_context("future.infer_string", False):
        yield


def counts() -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.poisson(0.3 + 2 * (np.arange(GENES) % 3 == np.arange(N)[:, None] % 3)).astype(np.int32)


def proteins() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(N, PROTEINS)).astype(np.float32)


def cells() -> Any:
    """Counts (sparse, with a layer) of all cells, proteins (dense) of most, in another order."""
    order = np.flatnonzero(MEASURED)[::-1]
    rna = anndata.AnnData(
        sparse.csr_matrix(np.log1p(counts(), dtype=np.float32)),
        obs=pd.DataFrame({"depth": counts().sum(1).astype(float)}, index=NAMES),
        var=pd.DataFrame(index=[f"gene{i}" for i in range(GENES)]),
        layers={"counts": sparse.csc_matrix(counts())},
    )
    protein = anndata.AnnData(
        proteins()[order],
        obs=pd.DataFrame({"batch": "b1"}, index=np.array(NAMES)[order]),
        var=pd.DataFrame(index=[f"p{i}" for i in range(PROTEINS)]),
    )
    made = mudata.MuData({"rna": rna, "protein": protein})
    made.obs["cell_type"], made.obs["donor"] = pd.Categorical(TYPE), np.arange(N) % 5
    made.obs["age"], made.obs["sex"] = np.arange(N) % 7 * 10.0, np.array(["f", "m"])[np.arange(N) // 3 % 2]
    return made


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory, plain_text: None) -> Path:
    """``cells`` as mudata writes them."""
    path: Path = tmp_path_factory.mktemp("omics") / "cells.h5mu"
    cells().write(path)
    return path


@pytest.fixture(scope="module")
def run(path: Path) -> modalign.Run:
    """One epoch on the file, by a recipe, through the command line."""
    (path.parent / "recipe.yaml").write_text(
        f"data: {{path: {path}, label: cell_type, group: donor, split: donor==4, columns: ['rna:depth']}}\n"
        "model: {width: 4}\ntraining: {epochs: 1, batch_size: 10, accelerator: cpu}\n"
    )
    words = ["--strategy", "joint_unimodal", "--out", str(path.parent / "run")]
    cli.main(["train", str(path.parent / "recipe.yaml"), *words])
    return modalign.load_run(path.parent / "run")


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stop:
        cli.main(words)
    assert stop.value.code == 2
    return " ".join(capsys.readouterr().err.split())


def test_predictions_and_features_are_written_into_a_copy_that_mudata_reads(path, run, capsys) -> None:
    before, out = path.read_bytes(), path.parent / "predicted.h5mu"
    cli.main(["predict", str(run.folder), str(path), "--out", str(out)])
    said, table = mudata.read_h5mu(out), run.predict(path)
    assert table["id"].tolist() == said.obs_names.tolist() == NAMES
    for column in table.columns.drop("id"):
        left, right = said.obs[f"modalign_{column}"].astype(object), table[column].astype(object)
        assert left.fillna("").tolist() == right.fillna("").tolist(), column
    assert set(said.obs["modalign_predicted"]) <= {"B", "NK", "T"}
    assert said.obs["modalign_protein_present"].tolist() == MEASURED.tolist()
    for m, features in outputs(run.strategy, read_samples(path, describe_inputs(run.data))).features.items():
        np.testing.assert_array_equal(said.obsm[f"X_modalign_{m}"], features.numpy())
    assert (said.obsm["X_modalign_protein"] != 0).any(1).tolist() == MEASURED.tolist()
    assert (said["rna"].layers["counts"].toarray() == counts()).all()
    assert path.read_bytes() == before
    assert "exists" in refused(["predict", str(run.folder), str(path), "--out", str(out)], capsys)


def test_an_object_is_annotated_in_place_and_only_on_request(run) -> None:
    held = cells()
    table = run.predict(held)
    assert not [key for key in [*held.obs, *held.obsm] if "modalign" in key]
    held.obs["modalign_p_of_another_run"], held.obsm["X_modalign_atac"] = 0.5, np.ones((N, 2))
    pd.testing.assert_frame_equal(modalign.predict(run, held, annotate=True), table)
    assert held.obs["modalign_confidence"].tolist() == table["confidence"].tolist()
    assert {key for key in held.obs if "modalign" in key} == {f"modalign_{key}" for key in table.columns.drop("id")}
    assert "X_modalign_atac" not in held.obsm
    with pytest.raises(SettingsError, match="annotate is for AnnData and MuData at hand; dict is no"):
        run.predict({"rna": np.zeros((1, GENES))}, annotate=True)
    with pytest.raises(DataError, match=r"view of other data; .*copy"):
        run.predict(held[:5], annotate=True)


def test_a_class_with_a_slash_in_its_name_can_be_written(tmp_path) -> None:
    held = cells()["rna"]
    annotate(held, pd.DataFrame({"id": NAMES, "p_B/plasma": np.arange(N) / N, "predicted": TYPE}), {})
    said = anndata.read_h5ad(write_omics(held, tmp_path / "said.h5ad"))
    assert said.obs["modalign_p_B_plasma"].tolist() == (np.arange(N) / N).tolist()
    assert said.obs["modalign_predicted"].tolist() == TYPE.tolist()


def test_sparse_matrices_stay_sparse_until_the_batch(monkeypatch, path) -> None:
    dense: list[tuple[int, ...]] = []
    for kind in (sparse.csr_matrix, sparse.csr_array, sparse.csc_matrix, sparse.csc_array):
        whole = kind.toarray
        monkeypatch.setattr(kind, "toarray", lambda self, *a, w=whole: (dense.append(self.shape), w(self, *a))[1])
    data = load_data(path, target="cell_type", layers={"rna": "counts"})
    saved = describe_inputs(data)
    new = read_samples(path, saved)
    assert not dense
    for split in (data.train, new):
        rows = split.stored["rna"]
        assert isinstance(rows, SparseRows)
        assert sparse.issparse(rows.matrix)
        assert rows.matrix.nnz == (counts() > 0).sum()
    batch = data.train.__getitems__([3, 1, 4])
    assert dense == [(3, GENES)]
    places = [NAMES.index(data.train.ids[i]) for i in (3, 1, 4)]
    assert batch.inputs["rna"].tolist() == counts()[places].tolist()
    assert batch.inputs["rna"].dtype.is_floating_point


def test_cells_without_a_modality_are_missing_there(path) -> None:
    data = load_data(path, target="cell_type")
    assert list(data.modalities) == ["rna", "protein"]
    assert "protein is absent in 20 of 80 samples" in data.notes
    for split in (data.train, data.valid, data.test):
        batch, places = split.__getitems__(list(range(len(split)))), [NAMES.index(i) for i in split.ids]
        assert batch.present[:, 0].all()
        assert batch.present[:, 1].tolist() == MEASURED[places].tolist()
        expected = np.where(MEASURED[places, None], proteins()[places], 0)
        np.testing.assert_array_equal(batch.inputs["protein"], expected)
    held = cells()
    held.mod["protein"].X = sparse.csr_matrix(held.mod["protein"].X)  # the same of a sparse one
    other, rows = load_data(held, target="cell_type"), list(range(len(data.test)))
    assert isinstance(other.test.stored["protein"], SparseRows)
    one, two = data.test.__getitems__(rows), other.test.__getitems__(rows)
    assert one.inputs["protein"].equal(two.inputs["protein"])
    assert one.present.equal(two.present)


def test_cells_without_a_modality_that_is_used_can_be_left_out(path) -> None:
    settings = {"target": "cell_type", "modalities": ["protein"]}
    with pytest.raises(DataError, match="have no modality at all"):
        load_data(path, **settings)
    data = load_data(path, drop="present_protein==0", **settings)
    assert len(data.train) + len(data.valid) + len(data.test) == MEASURED.sum()


def test_views_are_read_without_what_they_are_views_of() -> None:
    data = load_data(cells()[:40], target="cell_type")
    assert type(data.train.stored["rna"].matrix) is sparse.csr_matrix
    assert data.train.stored["rna"].matrix.shape == (40, GENES)


def test_training_is_that_on_the_same_arrays(tmp_path, path) -> None:
    values = np.where(MEASURED[:, None], proteins(), np.nan)
    arrays = {"rna": np.log1p(counts(), dtype=np.float32), "protein": values, "cell_type": TYPE, "id": NAMES}
    found = [
        modalign.train(source, "modalign", target="cell_type", out=tmp_path / f"{i}", **SMALL)
        for i, source in enumerate([arrays, cells()])
    ]
    saved = [np.load(run.folder / "predictions_test.npz") for run in found]
    assert saved[0]["ids"].tolist() == saved[1]["ids"].tolist()
    np.testing.assert_array_equal(saved[0]["scores"], saved[1]["scores"])
    assert found[0].metrics == found[1].metrics


def test_the_fingerprint_knows_every_stored_number(path) -> None:
    held, same, other = cells(), cells(), cells()
    other["rna"].X.data[5] += 1
    found = [load_data(one, target="cell_type").fingerprint for one in (held, same, other)]
    assert found[0] == found[1] != found[2]


def test_features_are_found_by_their_names(run) -> None:
    held, table = cells(), run.predict(cells())
    more = held["rna"][:, ::-1].copy()
    more.var_names = [*more.var_names[:-1], "gene0"]
    wide = anndata.AnnData(
        sparse.hstack([sparse.csr_matrix(np.ones((N, 2))), more.X]).tocsr(),
        obs=pd.DataFrame(index=NAMES), var=pd.DataFrame(index=["new1", "new2", *more.var_names]),
    )  # fmt: skip
    new = mudata.MuData({"rna": wide, "protein": held["protein"][::-1, ::-1].copy()})
    pd.testing.assert_frame_equal(run.predict(new), table)
    frame = pd.DataFrame(held["rna"].X.toarray(), columns=held["rna"].var_names)  # of a plain table too
    assert run.predict(frame)["predicted"].tolist() == run.predict(held, ["rna"])["predicted"].tolist()
    lost = mudata.MuData({"rna": held["rna"][:, 2:].copy(), "protein": held["protein"][:, :3].copy()})
    with pytest.raises(DataError, match="2 problems") as problem:
        run.predict(lost)
    assert "'rna' lacks features of training: gene0, gene1; expected all" in str(problem.value)
    assert "'protein' lacks features of training: p3;" in str(problem.value)


def test_columns_of_a_modality_alone_are_found_where_mudata_does_not_copy_them() -> None:
    with mudata.set_options(pull_on_update=False):
        held = cells()
    assert "rna:depth" not in held.obs
    data = load_data(held, target="cell_type", columns=["rna:depth", "protein:batch"])
    assert data.train.columns["protein:batch"].names == ("(none)", "b1")


def test_a_column_of_obs_is_not_taken_for_the_one_feature_of_its_name() -> None:
    held = cells()
    held.mod["size"] = anndata.AnnData(np.arange(N, dtype=np.float32)[:, None], obs=pd.DataFrame(index=NAMES))
    held["size"].var_names = ["age"]
    data = load_data(held, target="cell_type", modalities=["size"])
    assert read_samples(held, describe_inputs(data)).__getitems__([7, 9]).inputs["size"].tolist() == [[7], [9]]


def test_a_run_on_arrays_refuses_sparse_matrices_of_another_width() -> None:
    data = load_data({"rna": counts()[:, 1:], "cell_type": TYPE}, target="cell_type")
    with pytest.raises(DataError, match=r"'rna' is Modality.*\(12,\).*; expected Modality.*\(11,\).*as in training"):
        read_samples(cells(), describe_inputs(data))


def test_a_modality_that_a_new_file_lacks_is_missing(run) -> None:
    table = run.predict(mudata.MuData({"protein": cells()["protein"]}))
    assert not table["rna_present"].any()
    assert table["protein_present"].all()
    with pytest.raises(DataError, match="no modality is given; expected at least one of rna, protein"):
        run.predict(cells()["rna"])


def test_a_layer_is_read_at_training_and_at_prediction(path) -> None:
    data, other = load_data(path, target="cell_type", layers={"rna": "counts"}), cells()
    saved = describe_inputs(data)
    other["rna"].X = other["rna"].X * 0
    new = read_samples(other, saved).__getitems__([0, 1])
    assert new.inputs["rna"].tolist() == counts()[:2].tolist()
    del other["rna"].layers["counts"]
    with pytest.raises(InputError, match="unknown layer of modality 'rna': 'counts'; Known: X"):
        read_samples(other, saved)


def test_an_anndata_has_x_layers_and_obsm_as_modalities_and_columns_of_obs(tmp_path) -> None:
    frame = pd.DataFrame(proteins(), index=NAMES, columns=[f"p{i}" for i in range(PROTEINS)])
    one = anndata.AnnData(
        sparse.csr_matrix(counts()), obs=cells().obs[["cell_type", "age", "sex"]],
        obsm={"protein": frame, "X_pca": proteins()[:, :2]}, layers={"raw": counts()},
    )  # fmt: skip

    def shapes(**settings: Any) -> dict[str, tuple[int, ...]]:
        data = load_data(one, target="cell_type", **settings)
        return {m: about.shape for m, about in data.modalities.items()}

    assert shapes() == {"X": (GENES,), "protein": (PROTEINS,)}  # X_pca comes from X
    assert shapes(modalities=["raw", "X_pca", "age"]) == {"raw": (GENES,), "X_pca": (2,), "age": (1,)}
    assert shapes(layers={"rna": "raw", "p": "protein"}) == {"rna": (GENES,), "p": (PROTEINS,)}
    saved = describe_inputs(load_data(one, target="cell_type", layers={"rna": "raw"}))
    assert read_samples(one, saved).__getitems__([2]).inputs["rna"].tolist() == counts()[[2]].tolist()
    made_of = {"protein": [], "clinic": ["age", "sex"]}
    assert shapes(modalities=made_of) == {"protein": (PROTEINS,), "clinic": (3,)}
    saved = describe_inputs(load_data(one, target="cell_type", modalities=made_of))
    one.obsm["protein"] = frame[frame.columns[::-1]]
    one.write_h5ad(tmp_path / "one.h5ad")
    batch = read_samples(tmp_path / "one.h5ad", saved).__getitems__([0, 4])
    assert batch.inputs["protein"].tolist() == proteins()[[0, 4]].tolist()
    assert batch.inputs["clinic"].tolist() == [[0, 1, 0], [40, 0, 1]]


def test_bench_takes_an_object_and_splits_of_it(tmp_path) -> None:
    settings = {**SMALL, "seeds": 1, "splits": 2, "jobs": 1, "target": "cell_type"}
    found = modalign.bench(cells(), ["joint", "late_fusion"], out=tmp_path, **settings)
    assert set(found.table["strategy"]) == {"joint", "late_fusion"}


def broken(change: Callable[[Any], Any]) -> Any:
    held = cells()
    made = change(held)
    return held if made is None else made


def no_shared_cells(held: Any) -> Any:
    rna, protein = held["rna"].copy(), held["protein"].copy()
    protein.obs_names = [f"{name}-1" for name in protein.obs_names]
    return mudata.MuData({"rna": rna, "protein": protein})


def twice(axis: str) -> Callable[[Any], Any]:
    def change(held: Any) -> Any:
        for name in ("rna", "protein") if axis == "var_names" else ("rna",):
            table = held[name]
            names = [*getattr(table, axis)]
            setattr(table, axis, [names[1], *names[1:]])
        return held["rna"] if axis == "obs_names" else held

    return change


def with_nan(held: Any) -> None:
    held["rna"].X.data[:2] = np.nan, np.inf
    held["protein"].X[0, 0] = np.nan


def nested(held: Any) -> Any:
    return mudata.MuData({"rna": held["rna"], "both": mudata.MuData({"protein": held["protein"]})})


BAD = {
    "a column of obs that is not there": (lambda held: None, {"target": "cel_type"}, "did you mean 'cell_type'"),
    "a modality that is not there": (lambda held: None, {"modalities": ["atac"]}, "modality 'atac'; Known: rna"),
    "a layer that is not there": (lambda held: None, {"layers": {"rna": "count"}}, "did you mean 'counts'"),
    "a layer of no modality": (lambda held: None, {"layers": {"dna": "X"}}, "unknown modality in layers: 'dna'"),
    "obs_names that differ": (no_shared_cells, {}, "no cell is in two modalities .*cell79-1.*align obs_names"),
    "cells twice": (twice("obs_names"), {}, "obs_names stand more than once: cell1; expected each cell once"),
    "features twice": (twice("var_names"), {}, "features of modality 'rna' stand more than once: gene1"),
    "numbers that are none": (with_nan, {}, "'rna' has NaN or enormous values in cell0; expected finite"),
    "one name for two things": (lambda held: held.obs.__setitem__("rna", 1), {}, "'rna' is a modality and a column"),
    "a MuData in a MuData": (nested, {}, "modality 'both' is a MuData itself"),
    "shared features": (lambda h: mudata.MuData({"a": h["rna"], "b": h["rna"].copy()}, axis=1), {}, "axis 1"),
    "parts": (lambda held: {"train": held, "test": held}, {}, "in parts .train, test.; expected one: join them"),
    "another kind": (lambda held: None, {"kinds": {"rna": "image"}}, "rna is sparse, a vector; leave"),
    "text": (lambda h: h["rna"].layers.__setitem__("t", np.full((N, GENES), "a")), {"layers": {"rna": "t"}}, "a <U1"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_data_is_refused_in_words(case) -> None:
    change, settings, expected = BAD[case]
    with pytest.raises(InputError, match=expected):
        load_data(broken(change), **{"target": "cell_type", **settings})


def test_all_that_is_wrong_is_said_at_once() -> None:
    held = twice("var_names")(cells())
    held["rna"].layers["counts"].data = held["rna"].layers["counts"].data * np.nan
    with pytest.raises(DataError, match="2 problems") as problem:
        load_data(held, target="cell_type")
    assert all(f"features of modality '{m}' stand more than once" in str(problem.value) for m in ("rna", "protein"))


def test_what_is_backed_by_a_file_is_refused(tmp_path) -> None:
    cells()["protein"].write_h5ad(tmp_path / "one.h5ad")
    held = anndata.read_h5ad(tmp_path / "one.h5ad", backed="r")
    with pytest.raises(DataError, match="modality 'X' is a float32 Dataset; expected numbers in memory"):
        load_data(held, target="batch")
    held.file.close()


def huge(file: Any, folder: Path) -> None:
    file["mod/rna/layers"].create_dataset("huge", shape=(10**8, 10**8), dtype="f8", chunks=(1000, 1000))


def elsewhere(file: Any, folder: Path) -> None:
    file["mod/rna/uns/mine"] = h5py.ExternalLink(str(folder / "secret.h5"), "/")


def raw_bytes(file: Any, folder: Path) -> None:
    (folder / "secret.bin").write_bytes(b"12345678")
    file["mod/rna/obsm"].create_dataset("mine", shape=(8,), dtype="u1", external=[(str(folder / "secret.bin"), 0, 8)])


def virtual(file: Any, folder: Path) -> None:
    layout = h5py.VirtualLayout(shape=(4,), dtype="f4")
    layout[:] = h5py.VirtualSource(str(folder / "secret.h5"), "x", shape=(4,))
    file["mod/rna/obsm"].create_virtual_dataset("mine", layout)


def circle(file: Any, folder: Path) -> None:
    file["mod/rna/uns/again"] = h5py.SoftLink("/")


def hard_circle(file: Any, folder: Path) -> None:
    file["mod/rna/uns/again"] = file["/mod"]


def outside(file: Any, folder: Path) -> None:
    file["mod/rna/X/indices"][3] = 10**6


def cut(file: Any, folder: Path) -> None:
    del file["mod/rna/X/indptr"]


HOSTILE = {
    huge: "claims .*GiB", elsewhere: "mine lie in other files", raw_bytes: "mine lie in other files",
    virtual: "mine lie in other files", circle: "again lie in other files or are linked within",
    hard_circle: "linked within", outside: "'rna' is no sparse matrix: ", cut: "cannot be read",
}  # fmt: skip


@pytest.mark.parametrize("change", HOSTILE, ids=lambda change: change.__name__)
def test_a_file_reads_no_other_and_is_what_it_claims(change, tmp_path, path) -> None:
    (tmp_path / "bad.h5mu").write_bytes(path.read_bytes())
    with h5py.File(tmp_path / "secret.h5", "w") as secret:
        secret["x"] = np.arange(4.0)
    with h5py.File(tmp_path / "bad.h5mu", "a") as file:
        file.require_group("mod/rna/uns"), file.require_group("mod/rna/obsm")
        change(file, tmp_path)
    with pytest.raises(DataError, match=HOSTILE[change]):
        load_data(tmp_path / "bad.h5mu", target="cell_type")


def test_damaged_and_absent_files_are_said_to_be(tmp_path, path, run, capsys) -> None:
    (tmp_path / "half.h5mu").write_bytes(path.read_bytes()[:5000])
    (tmp_path / "text.h5ad").write_text("cells")
    for name, module in (("half.h5mu", "mudata"), ("text.h5ad", "anndata")):
        with pytest.raises(DataError, match=rf"{name} cannot be read .*expected HDF5 as {module} writes it"):
            load_data(tmp_path / name, target="cell_type")
    with pytest.raises(DataError, match="does not exist"):
        run.predict(tmp_path / "no.h5mu")
    assert "does not exist" in refused(["train", str(tmp_path / "no.h5mu"), "--out", str(tmp_path / "run")], capsys)
    assert not (tmp_path / "run").exists()


class Payload:
    """Leaves a mark where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def test_what_was_pickled_into_a_file_is_never_unpickled(tmp_path, path) -> None:
    mark, bad = tmp_path / "it ran", tmp_path / "bad.h5mu"
    bad.write_bytes(path.read_bytes())
    with h5py.File(bad, "a") as file:
        uns = file.require_group("mod/rna/uns")
        uns["opaque"] = np.void(pickle.dumps(Payload(mark)))
        uns["bytes"] = np.frombuffer(pickle.dumps(Payload(mark)), np.uint8)
    assert len(load_data(bad, target="cell_type").train) == 48
    assert not mark.exists()


def test_output_of_another_ending_and_options_of_other_data_are_refused(tmp_path, path, run, capsys) -> None:
    said = refused(["predict", str(run.folder), str(path), "--out", str(tmp_path / "a.h5ad")], capsys)
    assert "expected the ending that this has" in said
    with pytest.raises(SettingsError, match=r"unknown option of the data .*'layers'"):
        load_data({"a": np.ones((8, 2)), "y": np.arange(8) % 2}, layers={"a": "b"})


@pytest.mark.parametrize("module", ["mudata", "anndata", "h5py"])
def test_the_extra_is_named_where_it_is_not_installed(monkeypatch, module) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    name = "cells.h5ad" if module == "anndata" else "cells.h5mu"
    with pytest.raises(SettingsError, match=rf"{name} is read by .*: pip install 'modalign\[omics\]'"):
        open_omics(name)


def test_more_than_the_memory_is_refused_before_it_is_read(monkeypatch, path) -> None:
    monkeypatch.setattr(files, "memory_limit", lambda: 1000)
    with pytest.raises(DataError, match=r"cells.h5mu claims"):
        load_data(path, target="cell_type")

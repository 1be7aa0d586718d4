"""UPMC Food-101 from a miniature of its official download, defects included."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from modalign.cli import main
from modalign.data.load import load_data
from modalign.data.media.decoders import tokenizer
from modalign.data.media.prepare import prepare
from modalign.errors import InputError
from modalign.settings import DataSettings

SMALL = {"size": 16, "length": 12, "vocabulary": "train", "workers": 1}
COLOURS = {"apple_pie": (200, 30, 30), "breakfast_burrito": (20, 180, 40)}
LINES = {
    "train": [
        *(f'apple_pie_{n}.jpg,"Apple pie, easy no. {n}",apple_pie' for n in range(6)),
        *(f"breakfast_burrito_{n}.jpg,Breakfast burrito {n},breakfast_burrito" for n in range(6)),
        'breakfast_burrito_730.jpg,"Burrito 12" long and never closed,breakfast_burrito',
        "breakfast_burrito_731.txt,Next burrito,breakfast_burrito",
        "apple_pie_77.jpg,,apple_pie",
        "apple_pie_88.jpg,No such picture,apple_pie",
        "apple_pie_99.jpg,Broken picture,apple_pie",
        "apple_pie_5.jpg,Listed twice,apple_pie",
        "no line of this list",
    ],
    "test": [
        "image_path,text,food",
        *(f"apple_pie_{n}.jpg,Apple pie {n},apple_pie" for n in range(100, 103)),
        "breakfast_burrito_100.jpg,Burrito zebra,breakfast_burrito",
    ],
}


@pytest.fixture(scope="module")
def raw(tmp_path_factory, write_image, cut) -> Path:
    """Twenty-one pictures; titles as they are in the lists."""
    root = tmp_path_factory.mktemp("raw")
    for split, lines in LINES.items():
        (root / "texts").mkdir(exist_ok=True)
        (root / "texts" / f"{split}_titles.csv").write_text("\n".join(lines) + "\n", "utf-8")
        for line in lines:
            stem, label = line.split(".")[0], line.rsplit(",")[-1]
            if label in COLOURS and not stem.endswith("_88"):
                write_image(root / "images" / split / label / f"{stem}.jpg", COLOURS[label])
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    broken = root / "images" / "train" / "apple_pie" / "apple_pie_99.jpg"
    write_image(broken, noise)
    cut(broken, 0.5)
    write_image(root / "images" / "train" / "apple_pie" / "apple_pie_0.jpg", (9, 9, 9), (1, 1))
    return root


@pytest.fixture(scope="module")
def prepared(raw, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "food"
    return out, prepare("food101", raw, out, **SMALL)


def test_every_row_is_there_or_reported(prepared):
    out, report = prepared
    assert report.counts == {"train": 15, "test": 4}
    reasons = {entry["id"]: entry["reason"] for entry in report.unreadable}
    assert set(reasons) == {"train_titles.csv:18", "train_titles.csv:19", "apple_pie_88", "apple_pie_99"}
    assert "listed before" in reasons["train_titles.csv:18"]
    assert "no 'file,title,class'" in reasons["train_titles.csv:19"]
    assert "truncated" in reasons["apple_pie_99"]
    assert {(e["id"], e["reason"]) for e in report.remarks} == {
        ("apple_pie_0", "image of 1 x 1 pixels"),
        ("apple_pie_77", "empty text"),
    }
    assert np.load(out / "image.npy").shape == (19, 3, 16, 16)
    assert report.warnings[:2] == [
        "17 rows in train_titles.csv; officially 67972",
        "4 rows in test_titles.csv; officially 22716",
    ]


def test_pictures_titles_and_masks_are_those_of_the_row(prepared):
    out, _ = prepared
    data = load_data(DataSettings(name="food101", path=str(out)))
    assert data.task.classes == ("apple_pie", "breakfast_burrito")
    known = tokenizer(str(out / "vocab.txt"))
    text = data.modalities["text"]
    assert (text.shape, text.vocabulary, text.padding) == ((12,), len(known), 0)
    rows = {key: split.__getitems__([i]) for split in (data.train, data.valid) for i, key in enumerate(split.ids)}

    def words(key: str) -> list[str]:
        ids = rows[key].inputs["text"][0]
        return known.convert_ids_to_tokens(ids[ids != text.padding].tolist())

    assert words("breakfast_burrito_731") == ["[CLS]", "next", "burrito", "[SEP]"]
    assert words("breakfast_burrito_730")[1:4] == ["burrito", "12", '"']
    assert words("apple_pie_3")[:5] == ["[CLS]", "apple", "pie", ",", "easy"]
    assert words("apple_pie_77") == ["[CLS]", "[SEP]"]
    red = rows["apple_pie_3"].inputs["image"][0].float().mean((1, 2))
    np.testing.assert_allclose(red, COLOURS["apple_pie"], atol=4)


def test_words_of_the_test_titles_are_unknown(prepared):
    pieces = (prepared[0] / "vocab.txt").read_text().split()
    assert "burrito" in pieces
    assert "zebra" not in pieces


def test_twice_the_same_bytes(raw, prepared, tmp_path, same_bytes):
    prepare("food101", raw, tmp_path / "again", **SMALL)
    same_bytes(prepared[0], tmp_path / "again")


def test_a_wrong_root_and_a_small_validation_part(raw, prepared, tmp_path):
    with pytest.raises(InputError, match=r"lacks .*images/train .67,972 images"):
        prepare("food101", raw / "texts", tmp_path)
    data = load_data(DataSettings(name="food101", path=str(prepared[0]), valid_fraction=0.2))
    assert (len(data.train), len(data.valid), len(data.test)) == (12, 3, 4)


def test_from_download_to_results_by_the_command_line(raw, tmp_path, by_command, capsys):
    out = tmp_path / "prepared"
    small = ["--options.size", "32", "--options.length", "12", "--options.vocabulary", "train", "--workers", "1"]
    main(["prepare", "food101", "--raw", str(raw), "--out", str(out), *small])
    assert "4 unreadable and left out" in capsys.readouterr().out
    for strategy in ("joint", "modalign"):
        result = by_command("food101", out, tmp_path / strategy, strategy, "--data.valid_fraction", "0.2")
        assert len(result["predictions"]["ids"]) == 4
        assert result["predictions"]["classes"].tolist() == sorted(COLOURS)

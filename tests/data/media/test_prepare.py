"""The machinery shared by the readers: parallel, resumable, complete in what it reports, the same every time."""

from __future__ import annotations

import csv
import json
import pickle

import joblib
import numpy as np
import pytest

from modalign.data.batch import Modality
from modalign.data.datasets.gbmlgg import keep
from modalign.data.media import prepare as preparing
from modalign.data.media.decoders import Decoder, Unreadable
from modalign.data.media.prepare import Run, Sample, decode, locate, prepare
from modalign.data.task import classification
from modalign.errors import InputError


def make_samples(n: int) -> list[Sample]:
    return [
        Sample(
            f"s{i}",
            "test" if i % 4 == 3 else "train",
            "ab"[i % 2],
            {"x": (np.full(3, i, np.float32),)},
            {"speaker": f"p{i % 3}"},
        )
        for i in range(n)
    ]


def decoder(function=keep) -> dict[str, Decoder]:
    return {"x": Decoder(Modality("x", "vector", (3,)), "<f4", function)}


def picky(values):
    """Refuses every fifth sample, remarks on every seventh."""
    i = int(values[0])
    if i % 5 == 0:
        raise Unreadable(f"file {i} is broken")
    if i == 8:
        raise ZeroDivisionError("a bug in a decoder")
    return values, "odd" if i % 7 == 0 else ""


def run(tmp, samples, function=keep, settings=None, **how):
    how = {"workers": 1, **how}
    return decode("toy", samples, decoder(function), tmp, Run(**how), settings or {}, task=classification("ab"))


def test_everything_unreadable_is_reported_and_nothing_else_is_lost(tmp_path):
    report = run(tmp_path, make_samples(40), picky)
    broken = [0, 5, 8, 10, 15, 20, 25, 30, 35]
    assert [entry["id"] for entry in report.unreadable] == [f"s{i}" for i in broken]
    assert report.unreadable[2]["reason"] == "ZeroDivisionError: a bug in a decoder"
    assert [entry["id"] for entry in report.remarks] == ["s7", "s14", "s21", "s28"]
    stored = np.load(tmp_path / "x.npy")
    np.testing.assert_array_equal(stored[:, 0], [i for i in range(40) if i not in broken])
    with (tmp_path / "unreadable.csv").open() as file:
        assert list(csv.DictReader(file)) == report.unreadable
    assert report.samples == 31
    assert sum(report.counts.values()) == 31
    text = str(report)
    assert "9 unreadable and left out" in text
    assert "s5 [x] file 5 is broken" in text
    assert not (tmp_path / ".partial").exists()


def test_two_workers_give_the_bytes_of_one(tmp_path, same_bytes):
    run(tmp_path / "one", make_samples(50), picky)
    with joblib.parallel_config("threading"):  # processes cost seconds of imports; chunks come back as they will
        run(tmp_path / "two", make_samples(50), picky, workers=2)
    same_bytes(tmp_path / "one", tmp_path / "two")


def test_what_goes_to_other_processes_can(tmp_path):
    sources = [(0, {"x": (np.zeros(3, np.float32),)})]
    preparing.open_array(tmp_path, "x", (1, 3), "<f4")
    function, decoders = pickle.loads(pickle.dumps((preparing.decode_rows, decoder())))
    assert function(tmp_path, decoders, sources) == {"done": [0], "failed": [], "remarks": []}


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path, same_bytes):
    samples, calls = make_samples(70), []

    def killed(values):
        calls.append(int(values[0]))
        if len(calls) == 40:
            raise KeyboardInterrupt
        return picky(values)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "a", samples, killed)
    assert not (tmp_path / "a" / "meta.yaml").exists()
    with (tmp_path / "a" / ".partial" / "journal.jsonl").open("a") as journal:
        journal.write('{"done": [55, 5')  # the line a kill left behind
    seen = []

    def watched(values):
        seen.append(int(values[0]))
        return picky(values)

    report = run(tmp_path / "a", samples, watched)
    finished = [i for i in range(32) if i % 5 and i != 8]  # two chunks of 16
    assert report.resumed == len(finished)
    assert not set(seen) & set(finished)
    assert {0, 5, 8} <= set(seen)  # unreadable ones are tried again
    run(tmp_path / "b", samples, picky)
    same_bytes(tmp_path / "a", tmp_path / "b")


def test_what_was_repaired_before_going_on_is_in(tmp_path):
    samples = make_samples(40)

    def killed(values):
        if values[0] == 39:
            raise KeyboardInterrupt
        return picky(values)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, samples, killed)
    report = run(tmp_path, samples)
    assert report.unreadable == []
    assert (report.samples, report.resumed > 0) == (40, True)
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy")[:, 0], np.arange(40))


def test_without_resume_unfinished_work_is_begun_anew(tmp_path):
    def killed(values):
        if values[0] == 30:
            raise KeyboardInterrupt
        return values + 1, ""

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, make_samples(40), killed)
    report = run(tmp_path, make_samples(40), resume=False)
    assert report.resumed == 0
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy")[:, 0], np.arange(40))


def test_a_kill_while_unreadable_rows_are_cut_out_does_no_harm(tmp_path, same_bytes, monkeypatch):
    samples = make_samples(30)

    def killed(path, rows):
        decoding_compact(path, rows)
        raise KeyboardInterrupt

    decoding_compact = preparing.compact
    monkeypatch.setattr(preparing, "compact", killed)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "a", samples, picky)
    monkeypatch.undo()
    report = run(tmp_path / "a", samples)  # repaired meanwhile: too late, rows have moved
    assert len(report.unreadable) == 7
    run(tmp_path / "b", samples, picky)
    same_bytes(tmp_path / "a", tmp_path / "b")


def test_finished_work_is_kept_unless_something_changed(tmp_path):
    calls = []

    def counted(values):
        calls.append(1)
        return picky(values)

    first = run(tmp_path, make_samples(20), counted)
    again = run(tmp_path, make_samples(20), counted)
    assert len(calls) == 20
    assert (again.unreadable, again.counts, again.resumed) == (first.unreadable, first.counts, first.samples)
    with pytest.raises(InputError, match=r"in use: it holds toy, prepared with another size.*resume=False"):
        run(tmp_path, make_samples(20), counted, settings={"size": 2})
    with pytest.raises(InputError, match=r"in use: it holds toy, prepared from other samples"):
        run(tmp_path, make_samples(19), counted)
    assert len(calls) == 20
    run(tmp_path, make_samples(20), counted, settings={"size": 2}, resume=False)
    assert len(calls) == 40


def test_a_wrong_shape_is_the_samples_fault(tmp_path):
    report = run(tmp_path, make_samples(6), lambda v: (v[: 2 if v[0] == 1 else 3], ""))
    assert report.unreadable == [{"id": "s1", "modality": "x", "reason": "decoded to shape (2,); expected (3,)"}]


def test_duplicates_emptiness_and_total_failure_are_errors(tmp_path):
    samples = make_samples(4)
    with pytest.raises(InputError, match="1 ids stand for two samples: s0"):
        run(tmp_path, [*samples, samples[0]])
    with pytest.raises(InputError, match="no sample"):
        run(tmp_path, [])

    def broken(values):
        raise Unreadable("a git-LFS pointer")

    with pytest.raises(InputError, match="none of 4 samples can be read; the first: a git-LFS pointer"):
        run(tmp_path, samples, broken)


def test_counts_are_checked_as_strictly_as_asked():
    assert Run().expect({"clips": (3, 5), "lists": (2, 2)}) == ["3 clips; officially 5"]
    with pytest.raises(InputError, match="3 clips; officially 5"):
        Run(strict=True).expect({"clips": (3, 5)})


def test_a_partial_download_is_counted_and_completed(tmp_path):
    samples = make_samples(40)
    there = set(range(0, 40, 2))

    def fetched(values):
        if int(values[0]) not in there:
            raise Unreadable(f"no such file: s{int(values[0])}.flv")
        return values, ""

    report = run(tmp_path / "lax", samples, fetched)
    said = "20 of 40 samples cannot be read (20 no such file): the download is not whole"
    assert report.warnings == [f"{said}; complete it, and run again with resume=False"]
    lines = str(report).splitlines()
    assert (sum(line.startswith("  s") for line in lines), "20 unreadable and left out" in str(report)) == (20, True)
    with pytest.raises(InputError, match=r"toy: 20 of 40 .* such as s1, no such file: s1.flv. Complete it and run the"):
        run(tmp_path / "strict", samples, fetched, strict=True)
    assert not (tmp_path / "strict" / "meta.yaml").exists()
    there |= set(range(40)) - {39}
    completed = run(tmp_path / "strict", samples, fetched, strict=True)
    assert (completed.samples, completed.resumed, completed.warnings) == (39, 20, [])
    assert "39 samples (30 train, 9 test)" in str(completed)
    assert "20 of them decoded by an earlier run" in str(completed)


def test_a_long_list_is_printed_in_part(tmp_path):
    report = run(tmp_path, make_samples(200), picky)
    assert len(report.unreadable) == 41
    assert "  and 21 more" in str(report)
    assert str(report).count("[x] file") == 19  # and one that divides by zero


@pytest.mark.parametrize(
    ("name", "inside", "told"),
    [
        # Food-101 of Bossard et al. 2014: pictures without titles.
        ("food101", ("images/apple_pie", "meta"), r"lacks .*train_titles.csv .list of 67,972.*there: images, meta"),
        ("cremad", ("AudioWAV", "AudioMP3", "VideoFlash"), r"lacks .*train.csv.*6,698.*there: AudioMP3, AudioWAV"),
        ("ave", ("AVE", "Annotations.txt"), r"lacks .*testSet.txt .list of 402.*Found there: AVE, Annotations.txt"),
        # PathomicFusion's other cohort.
        ("gbmlgg", ("KIRC", "splits"), r"lacks .*pnas_splits.csv .the 15 splits.*Found there: KIRC, splits"),
    ],
)  # fmt: skip
def test_a_folder_of_another_release_is_told_from_the_right_one(tmp_path, name, inside, told):
    for place in inside:
        (tmp_path / "raw" / place).mkdir(parents=True)
    with pytest.raises(InputError, match=told + r".*Put what is missing there.*Source: "):
        prepare(name, tmp_path / "raw", tmp_path / "out")
    assert not (tmp_path / "out" / "meta.yaml").exists()


def test_a_wrong_root_says_what_should_lie_where(tmp_path):
    wanted = {"AudioWAV": "WAV files", "train.csv": "list"}
    with pytest.raises(InputError, match=r"no folder at .*nowhere; expected .*AudioWAV"):
        locate(tmp_path / "nowhere", wanted, "the web")
    (tmp_path / "AudioWAV").mkdir()
    with pytest.raises(InputError, match=r"lacks .*train.csv \(list\). Found there: AudioWAV.*the web"):
        locate(tmp_path, wanted, "the web")
    (tmp_path / "inner" / "AudioWAV").mkdir(parents=True)
    (tmp_path / "inner" / "train.csv").touch()
    assert locate(tmp_path, wanted, "the web") == tmp_path / "inner"


def test_names_and_options_are_checked(tmp_path):
    with pytest.raises(InputError, match="did you mean 'cremad'"):
        prepare("crema-d", tmp_path, tmp_path)
    with pytest.raises(InputError, match="did you mean 'frames'"):
        prepare("cremad", tmp_path, tmp_path, frame=3)


def test_the_report_is_there_for_machines_too(tmp_path):
    run(tmp_path, make_samples(20), picky)
    noted = json.loads((tmp_path / "report.json").read_text())
    assert noted["samples"] == 15
    assert len(noted["unreadable"]) == 5

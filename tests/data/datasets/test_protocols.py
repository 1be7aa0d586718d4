"""Published protocols, checked against values that are worked out here from the published scripts' formulas."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from modalign.cli import main
from modalign.data.augment import Crop, pick_frames, random_crop_flip
from modalign.data.load import load_data
from modalign.data.media.decoders import read_wave
from modalign.data.media.prepare import prepare
from modalign.data.samples import describe_inputs, read_samples
from modalign.data.tables.arrays import from_arrays
from modalign.errors import DataError, InputError, SettingsError
from modalign.experiments.bench import entries, run_bench
from modalign.experiments.reproduce import make_plan
from modalign.protocols import PROTOCOLS, protocol_of
from modalign.recipes import load_recipe, recipe_from_plain
from modalign.settings import DataSettings, TrainingSettings
from modalign.training.optimizers import learning_rate

IDS = [f"10{actor:02d}_DFA_{emotion}_XX" for actor in range(1, 6) for emotion in ("ANG", "SAD")]
FRAMES = 27  # at 10 frames a second: seven are left of the last whole second
# OGM-GE's script takes frames 5, 15, ... 95, counted from 1, and those beyond the end from 21 on, modulo seven.
HALF_SECONDS = [4, 14, 24, 20, 23, 26, 22, 25, 21, 24]


def slanted(frames: int, height: int = 24, width: int = 32) -> np.ndarray:
    """Frames (T, H, W, 3) that are told apart by their mean, from 30 to 220, each brighter to the right and below."""
    means = np.linspace(30, 220, frames)[:, None, None]
    slant = np.linspace(-12, 12, width)[None, None, :] + np.linspace(-12, 12, height)[None, :, None]
    return np.broadcast_to(np.round(means + slant)[..., None], (frames, height, width, 3)).astype(np.uint8)


def numbers(clip: np.ndarray | torch.Tensor, frames: int) -> list[int]:
    """Which of ``frames`` frames of ``slanted`` a clip (T, 3, H, W) is made of."""
    means = np.asarray(clip, np.float64).mean((1, 2, 3))
    return np.abs(means[:, None] - np.linspace(30, 220, frames)).argmin(1).tolist()


@pytest.fixture(scope="module")
def raw(tmp_path_factory, write_wav, write_video, tone_of) -> Path:
    """CREMA-D's layout: ten clips of 2.7 s; the sound is two tones and noise."""
    root, rng = tmp_path_factory.mktemp("raw") / "CREMA-D", np.random.default_rng(0)
    for number, key in enumerate(IDS):
        heard = tone_of(2.7, 16_000, 300 + 40 * number, 0.3) + tone_of(2.7, 16_000, 2500, 0.2)
        write_wav(root / "AudioWAV" / f"{key}.wav", heard + 0.05 * rng.uniform(-1, 1, len(heard)))
        write_video(root / "VideoFlash" / f"{key}.flv", slanted(FRAMES), None)
    (root / "train.csv").write_text("".join(f"{key},{key[9:12]}\n" for key in IDS[:8]))
    (root / "test.csv").write_text("".join(f"{key},{key[9:12]}\n" for key in IDS[8:]))
    return root


@pytest.fixture(scope="module")
def prepared(raw, tmp_path_factory) -> dict[str, Path]:
    """The download prepared under each protocol, frames of 24 pixels."""
    out = tmp_path_factory.mktemp("prepared")
    for name in PROTOCOLS["cremad"]:
        prepare("cremad", raw, out / name, protocol=name, size=24, workers=1)
    return {name: out / name for name in PROTOCOLS["cremad"]}


def under(protocol: str, folder: Path, **more):
    options = {"protocol": protocol, **more}
    return load_data(DataSettings("cremad", path=str(folder), options=options, valid_fraction=0.25))


# Sound: the published formulas, with sums and windows written out.


def tiled(wave: np.ndarray, length: int) -> np.ndarray:
    return np.clip(np.tile(wave, 1 + length // len(wave))[:length], -1, 1)


def stft_by_hand(path: Path, ends: str = "reflect") -> np.ndarray:
    """librosa.stft(n_fft=512, hop_length=353) of 3 s at 22,050 Hz, log(|.| + 1e-7): OGM-GE, ReconBoost."""
    wave = np.pad(tiled(read_wave(path, 22_050).astype(np.float64), 66_150), 256, mode=ends)  # type: ignore[call-overload]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(512) / 512)
    pieces = np.stack([wave[353 * k : 353 * k + 512] * hann for k in range(188)], 1)
    turns = np.exp(-2j * np.pi * np.outer(np.arange(257), np.arange(512)) / 512)
    return np.log(np.abs(turns @ pieces) + 1e-7)


def density_by_hand(path: Path, rate: int, length: int) -> np.ndarray:
    """scipy.signal.spectrogram(nperseg=512, noverlap=353), log(. + 1e-7), z-scored over the recording: PMR."""
    wave = tiled(read_wave(path, rate).astype(np.float64), length)
    at = np.arange(512)
    tukey = np.ones(512)
    edge = at < 0.125 * 512  # periodic, a quarter of it tapered
    tukey[edge] = 0.5 * (1 - np.cos(2 * np.pi * at[edge] / (0.25 * 512)))
    tukey[at > 512 * 0.875] = 0.5 * (1 - np.cos(2 * np.pi * (512 - at[at > 512 * 0.875]) / (0.25 * 512)))
    count = (length - 512) // 159 + 1
    pieces = np.stack([wave[159 * k : 159 * k + 512] for k in range(count)], 1)
    pieces = (pieces - pieces.mean(0)) * tukey[:, None]
    turns = np.exp(-2j * np.pi * np.outer(np.arange(257), at) / 512)
    power = np.abs(turns @ pieces) ** 2 / (rate * (tukey**2).sum())
    power[1:-1] *= 2  # one side stands for both
    logs = np.log(power + 1e-7)
    return (logs - logs.mean()) / (logs.std() + 1e-9)


def fbank_by_hand(path: Path) -> np.ndarray:
    """torchaudio.compliance.kaldi.fbank with 128 bins every 10 ms, zeros to 1,024 frames, scaled: MMPareto, D&R."""
    wave = read_wave(path, 16_000).astype(np.float64)
    wave = wave - wave.mean()
    pieces = np.stack([wave[160 * k : 160 * k + 400] for k in range((len(wave) - 400) // 160 + 1)])
    pieces = pieces - pieces.mean(1, keepdims=True)
    pieces = pieces - 0.97 * np.concatenate([pieces[:, :1], pieces[:, :-1]], 1)
    pieces = pieces * (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 399))
    turns = np.exp(-2j * np.pi * np.outer(np.arange(400), np.arange(257)) / 512)
    power = np.abs(pieces @ turns) ** 2
    mel = 1127 * np.log(1 + np.arange(257) * 16_000 / 512 / 700)
    low, high = 1127 * np.log(1 + 20 / 700), 1127 * np.log(1 + 8000 / 700)
    bank, step = np.zeros((257, 128)), (high - low) / 129
    for b in range(128):
        left, center, right = low + b * step, low + (b + 1) * step, low + (b + 2) * step
        bank[:, b] = np.maximum(0, np.minimum((mel - left) / (center - left), (right - mel) / (right - center)))
    logs = np.log(np.maximum(power @ bank, 1.1920928955078125e-07))
    filled = np.zeros((1024, 128))
    filled[: len(logs)] = logs
    return (filled + 4.503877) / (2 * 5.141276)


SOUNDS = {
    "ours": stft_by_hand,
    "ogm": stft_by_hand,
    "reconboost": lambda path: stft_by_hand(path, "constant"),  # librosa 0.10.1
    "pmr": lambda path: density_by_hand(path, 22_050, 160_000),
    "mmpareto": fbank_by_hand,
    "dr": fbank_by_hand,
}


@pytest.mark.parametrize("name", SOUNDS)
def test_sound_is_that_of_the_published_formula(name: str, raw: Path, prepared: dict[str, Path]) -> None:
    got = np.load(prepared[name] / "audio.npy")[3, 0]
    wanted = SOUNDS[name](raw / "AudioWAV" / f"{IDS[3]}.wav")
    assert got.shape == wanted.shape
    np.testing.assert_allclose(got, wanted, atol=1e-4)


def test_three_seconds_of_pmr_are_299_steps(raw: Path, tmp_path: Path) -> None:
    prepare("cremad", raw, tmp_path / "out", protocol="pmr", audio="pmr3s", size=8, workers=1)
    got = np.load(tmp_path / "out" / "audio.npy")[0, 0]
    assert got.shape == (257, 299)
    np.testing.assert_allclose(got, density_by_hand(raw / "AudioWAV" / f"{IDS[0]}.wav", 16_000, 48_000), atol=1e-4)


# Frames.

STORED = {
    "ours": [4, 13, 22],  # the middle of thirds
    "ogm": [0],
    "reconboost": [0],
    "pmr": [0, 10, 20],  # every int(fps)-th
    "mmpareto": HALF_SECONDS,
    "dr": [14, 22],  # frame_00002 and frame_00007
}


@pytest.mark.parametrize("name", STORED)
def test_frames_are_those_of_the_published_scripts(name: str, prepared: dict[str, Path]) -> None:
    assert numbers(np.load(prepared[name] / "video.npy")[5], FRAMES) == STORED[name]


def test_mmpareto_draws_one_frame_of_each_half_in_training_and_a_fixed_one_otherwise(prepared) -> None:
    data = under("mmpareto", prepared["mmpareto"], augment=[])
    assert data.modalities["video"].shape == (2, 3, 24, 24)
    for split in (data.train, data.valid, data.test):
        assert numbers(split.__getitems__([0]).inputs["video"][0], FRAMES) == [14, 22]
    drawn: list[set[int]] = [set(), set()]
    for epoch in range(30):
        data.train.set_epoch(epoch)
        found = [numbers(clip, FRAMES) for clip in data.train.__getitems__([0, 1]).inputs["video"]]
        for first, second in found:
            drawn[0].add(first)
            drawn[1].add(second)
        rng = np.random.default_rng((0, epoch, 1, 1))  # of the second sample: seed, epoch, its number, frames
        first, second = rng.integers(5, size=2)
        assert found[1] == [HALF_SECONDS[first], HALF_SECONDS[5 + second]]
    assert drawn == [set(HALF_SECONDS[:5]), set(HALF_SECONDS[5:])]
    data.test.set_epoch(3)
    assert numbers(data.test.__getitems__([0]).inputs["video"][0], FRAMES) == [14, 22]


def test_new_samples_get_the_fixed_frames(raw: Path, prepared: dict[str, Path]) -> None:
    data = under("mmpareto", prepared["mmpareto"])
    saved = json.loads(json.dumps(describe_inputs(data)))
    stored = read_samples(str(prepared["mmpareto"]), saved).__getitems__([8])
    files = {
        m: [str(raw / f / f"{IDS[8]}.{end}")]
        for m, f, end in (("audio", "AudioWAV", "wav"), ("video", "VideoFlash", "flv"))
    }
    decoded = read_samples(files, saved).__getitems__([0])
    for batch in (stored, decoded):
        assert numbers(batch.inputs["video"][0], FRAMES) == [14, 22]
    assert torch.equal(stored.inputs["audio"], decoded.inputs["audio"])


# Crops.


def bilinear_by_hand(box: np.ndarray, height: int, width: int) -> np.ndarray:
    """(..., h, w) brought to (..., height, width), pixels taken as areas."""

    def weights(new: int, old: int) -> np.ndarray:
        at = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, None)
        low = np.minimum(at.astype(int), old - 1)
        matrix = np.zeros((new, old))
        matrix[np.arange(new), low] += 1 - (at - low)
        matrix[np.arange(new), np.minimum(low + 1, old - 1)] += at - low
        return matrix

    return weights(height, box.shape[-2]) @ box @ weights(width, box.shape[-1]).T


def crops_by_hand(clip: np.ndarray, seed: tuple[int, ...], ratio: tuple[float, float]) -> np.ndarray:
    """torchvision's RandomResizedCrop with scale (.08, 1) and a flip, for each frame (3, S, S) of a clip anew."""
    rng, size, changed = np.random.default_rng(seed), clip.shape[-1], []
    for frame in clip:
        for _ in range(10):
            area, aspect = rng.uniform(0.08, 1), np.exp(rng.uniform(*np.log(ratio)))
            rows, columns = round(size * (area / aspect) ** 0.5), round(size * (area * aspect) ** 0.5)
            if rows <= size and columns <= size:
                break
        top, left = rng.integers(size - rows + 1), rng.integers(size - columns + 1)
        scaled = bilinear_by_hand(frame[:, top : top + rows, left : left + columns].astype(float), size, size)
        changed.append(scaled[..., ::-1] if rng.random() < 0.5 else scaled)
    return np.stack(changed)


@pytest.mark.parametrize("name", ["ogm", "pmr", "reconboost"])
def test_each_training_frame_is_cropped_by_itself_down_to_8_percent(name: str, prepared: dict[str, Path]) -> None:
    data, stored = under(name, prepared[name]), np.load(prepared[name] / "video.npy")
    order = [IDS.index(key) for key in data.train.ids]
    data.train.set_epoch(4)
    batch = data.train.__getitems__([*range(len(order))]).inputs["video"].numpy()
    for i, row in enumerate(order):
        wanted = crops_by_hand(stored[row], (0, 4, i), (9 / 16, 1.0))  # 3/4 to 4/3 of frames of 4 : 3
        np.testing.assert_allclose(batch[i], wanted, atol=1)  # bytes
    data.train.set_epoch(None)
    np.testing.assert_array_equal(data.train.__getitems__([0]).inputs["video"][0], stored[order[0]])


def test_crops_of_numbers_are_exact_and_the_areas_reach_8_percent() -> None:
    clip = torch.rand(1, 4, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    crop = Crop(area=(0.08, 1.0), each_frame=True, tries=10)
    changed = random_crop_flip(clip, [(0, 0, 7)], crop)
    np.testing.assert_allclose(changed[0], crops_by_hand(clip[0].numpy(), (0, 0, 7), (3 / 4, 4 / 3)), atol=1e-5)
    boxes = [crop.box(100, 100, np.random.default_rng(i))[2:] for i in range(500)]
    shares = np.prod(boxes, 1) / 100**2
    assert 0.07 < shares.min() < 0.1
    assert all(rows <= 100 and columns <= 100 for rows, columns in boxes)
    whole = [Crop(tries=1).box(100, 100, np.random.default_rng(i))[2:] for i in range(500)]
    assert min(np.prod(whole, 1)) > 0.25 * 100**2


def test_dr_trains_without_augmentation_unless_asked(prepared: dict[str, Path]) -> None:
    stored = np.load(prepared["dr"] / "video.npy")
    for augment, same in ((None, True), (["video"], False)):
        data = under("dr", prepared["dr"], **({} if augment is None else {"augment": augment}))
        data.train.set_epoch(0)
        got = data.train.__getitems__([0]).inputs["video"][0].numpy()
        assert (got == stored[IDS.index(data.train.ids[0])]).all() == same


# Training.


def test_training_settings_are_those_of_the_published_commands() -> None:
    said = {name: load_recipe("cremad", name).training for name in PROTOCOLS["cremad"] if name != "ours"}
    assert {name: (t.epochs, t.lr, t.weight_decay, t.schedule) for name, t in said.items()} == {
        "ogm": (100, 1e-3, 1e-4, "step"),
        "pmr": (130, 1e-3, 1e-4, "step"),
        "mmpareto": (50, 2e-3, 1e-4, "constant"),
        "dr": (90, 2e-3, 1e-4, "constant"),
        "reconboost": (800, 1e-2, 5e-4, "step"),
    }
    assert {(t.optimizer, t.momentum, t.batch_size, t.warmup) for t in said.values()} == {("sgd", 0.9, 64, 0.0)}
    assert load_recipe("cremad").training.lr == 0.01
    steps = {"ogm": [70], "pmr": [70], "reconboost": [240, 480, 720]}
    for name, epochs in steps.items():
        t = said[name]
        for k, epoch in enumerate(epochs):
            rates = [learning_rate(t, (epoch * 9 + step) / (t.epochs * 9)) / t.lr for step in (-1, 0)]
            np.testing.assert_allclose(rates, [0.1**k, 0.1 ** (k + 1)])
    late = load_recipe("ave", "reconboost").training
    assert [learning_rate(late, epoch / 800) for epoch in (319, 320, 799)] == [0.01, 0.005, 0.005]


def test_what_is_said_beside_a_protocol_goes_before_it() -> None:
    plain = {"data": {"name": "ave", "options": {"protocol": "pmr"}}, "training": {"epochs": 7, "workers": 2}}
    recipe = recipe_from_plain(plain)
    assert (recipe.training.epochs, recipe.training.workers, recipe.training.lr) == (7, 2, 1e-3)
    assert TrainingSettings().step_at == [0.7]


def test_a_run_says_which_protocol_it_follows_and_where_not(prepared, tmp_path, by_command) -> None:
    by_command("cremad", prepared["dr"], tmp_path / "run", "joint", "--data.options.protocol", "dr",
               "--data.valid_fraction", "0.25")  # fmt: skip
    (note,) = [n for n in json.loads((tmp_path / "run" / "environment.json").read_text())["notes"] if "protocol" in n]
    assert note == (
        "protocol dr of cremad, after Wei et al., Diagnosing and Re-learning, ECCV 2024; "
        "GeWu-Lab/Diagnosing_Relearning_ECCV2024; other than published: epochs is 2 (90)"
    )
    assert "lr: 0.002" in (tmp_path / "run" / "recipe.yaml").read_text()


# AVE.


@pytest.fixture(scope="module")
def ave(tmp_path_factory, write_video, tone_of) -> Path:
    """Eight videos of 4.5 s with an event from second 1 to 3; the first is listed under two labels."""
    root = tmp_path_factory.mktemp("raw") / "AVE_Dataset"
    for number in range(8):
        write_video(root / "AVE" / f"v{number}.mp4", slanted(45), tone_of(4.5, 22_050, 300 + 100 * number))
    named = [f"{('Bark', 'Horn')[n % 2]}&v{n}&good&1&3" for n in range(8)]
    (root / "trainSet.txt").write_text("\n".join([named[0], "Horn&v0&good&0&4", *named[1:4]]) + "\n")
    (root / "valSet.txt").write_text("\n".join(named[4:6]) + "\n")
    (root / "testSet.txt").write_text("\n".join(named[6:]) + "\n")
    return root


@pytest.mark.parametrize(
    ("name", "frames", "samples", "label"),
    [
        ("ours", [12, 17, 22, 27], 9, "Bark"),
        ("ogm", [4, 34, 44], 8, "Horn"),  # frame_00001, _00004, _00007 of the whole video; the last label
        ("pmr", [10, 20, 20, 30], 8, "Bark"),  # seconds 1 to 3, both counted; one is repeated for the fourth
        ("reconboost", [10, 20, 30], 8, "Bark"),
    ],
)
def test_ave_is_read_as_published(name, frames, samples, label, ave, tmp_path) -> None:
    report = prepare("ave", ave, tmp_path / "out", protocol=name, size=16, workers=1)
    data = load_data(DataSettings("ave", path=str(tmp_path / "out"), options={"protocol": name}))
    assert report.samples == samples
    assert data.task.classes[int(data.train.target[list(data.train.ids).index("v0")])] == label
    row = [*data.train.ids, *data.valid.ids, *data.test.ids].index("v1")
    assert numbers(np.load(tmp_path / "out" / "video.npy")[row], 45) == frames
    start, stop, rate = (0, None, 22_050) if name == "ogm" else (1, 3, 16_000)
    wave = read_wave(ave / "AVE" / "v1.mp4", rate, start, stop)
    assert abs(len(wave) / rate - (4.5 if name == "ogm" else 2)) < 0.1
    heard = np.load(tmp_path / "out" / "audio.npy")[row, 0]
    assert abs(int(heard.mean(1).argmax()) - 400 * 512 / rate) <= 1


# Bad input.


def test_protocols_that_are_not_there_are_named_with_those_that_are(raw, prepared, tmp_path, capsys) -> None:
    with pytest.raises(SettingsError, match=r"unknown protocol of cremad 'mmparetto'; did you mean 'mmpareto'"):
        prepare("cremad", raw, tmp_path / "o", protocol="mmparetto")
    with pytest.raises(SettingsError, match=r"'dr' was published for cremad, not for ave; expected one of ours, ogm"):
        load_recipe("ave", "dr")
    with pytest.raises(SettingsError, match=r"'ogm' is one of a recipe, not of data .*name the recipe \(cremad, ave\)"):
        load_recipe(str(prepared["ogm"]), "ogm")
    for words in (
        ["prepare", "food101", "--raw", str(raw), "--out", str(tmp_path / "o"), "--protocol", "ogm"],
        ["train", "food101", "--data.options.protocol", "ogm"],
    ):
        with pytest.raises(SystemExit):
            main(words)
        assert "food101 has no published protocols, only cremad and ave" in capsys.readouterr().err
    assert not (tmp_path / "o" / "meta.yaml").exists()
    with pytest.raises(SettingsError, match="unknown protocol 'omg'"):
        make_plan("table1", tmp_path / "o", raw=raw.parent, protocol="omg")


def test_a_folder_of_another_protocol_is_refused(raw, prepared, tmp_path) -> None:
    with pytest.raises(
        InputError, match=r"prepared under the protocol ogm, but data.options.protocol is pmr; .*prepare"
    ):
        under("pmr", prepared["ogm"])
    with pytest.raises(InputError, match=r"prepared under the protocol ogm, but data.options.protocol is ours"):
        load_data(DataSettings("cremad", path=str(prepared["ogm"])))
    with pytest.raises(InputError, match=r"prepared with another audio, frames, protocol"):
        prepare("cremad", raw, prepared["ogm"], protocol="pmr", size=24, workers=1)


def test_protocols_are_not_mixed_in_one_bench(prepared, tmp_path) -> None:
    recipes = {}
    for name in ("ogm", "pmr"):
        recipe = load_recipe("cremad", name)
        recipe.data.path, recipe.data.title = str(prepared[name]), f"CREMA-D {name}"
        recipes[name] = recipe
    with pytest.raises(SettingsError, match=r"2 protocols of cremad in one bench: ogm \(ogm\), pmr \(pmr\)"):
        run_bench(recipes, entries(["joint"]), 1, tmp_path / "bench")
    assert not (tmp_path / "bench").exists()


def test_crops_and_draws_that_cannot_be_are_refused() -> None:
    arrays = {"film": np.zeros((12, 4, 3, 8, 8), np.uint8), "y": np.arange(12) % 2}
    arrays["film"][:] = np.arange(12)[:, None, None, None, None]
    for options, said in (
        ({"crop": {"aera": [0.1, 1]}}, "unknown entry of data.options.crop: 'aera'; did you mean 'area'"),
        ({"crop": {"area": [0.1, 2]}}, r"data.options.crop.area is \[0.1, 2\]; expected"),
        ({"crop": {"ratio": [2, 1]}}, r"data.options.crop.ratio is \[2, 1\]; expected the smaller number first"),
        ({"draw": {"sound": 2}}, "unknown clip to draw frames of 'sound'"),
        ({"draw": {"film": 5}}, "data.options.draw.film is 5, but film has 4 frames"),
    ):
        with pytest.raises((SettingsError, DataError), match=said):
            from_arrays(arrays, ["film"], **options)
    data = from_arrays(arrays, ["film"], draw={"film": 2}, augment=["film"])
    assert data.train.__getitems__([0]).inputs["film"].shape == (1, 2, 3, 8, 8)
    assert data.contents != from_arrays(arrays, ["film"]).contents
    assert pick_frames(7, 2).tolist() == [0, 3]  # the seventh is never taken


def test_reproduce_takes_a_protocol_where_there_is_one(raw, ave, tmp_path) -> None:
    for made, name in ((raw, "CREMA-D"), (ave, "AVE_Dataset")):
        (tmp_path / "raw").mkdir(exist_ok=True)
        (tmp_path / "raw" / name).symlink_to(made)
    plan = make_plan("table1", tmp_path / "out", raw=tmp_path / "raw", protocol="mmpareto")
    first, second = plan.parts
    assert (first.protocol, second.protocol) == ("mmpareto", "ours")
    assert first.recipe.training.epochs == 50
    assert (first.prepared.name, second.prepared.name) == ("cremad-mmpareto", "ave")
    assert f"15.1 GB prepared, from {first.raw}, as mmpareto" in str(plan)
    assert protocol_of("cremad", "mmpareto").draw == 2

"""Decoding one file: values known beforehand, what is odd, what is broken."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.signal import get_window

from modalign.data.media import decoders
from modalign.data.media.decoders import (
    Unreadable,
    build_vocabulary,
    decode_audio,
    decode_image,
    decode_text,
    decode_video,
    read_wave,
    segment_centers,
    tokenizer,
)
from modalign.data.media.spectrograms import AUDIO_RECIPES, kaldi_fbank, log_mel, log_stft, mel_bank
from modalign.errors import InputError


@pytest.mark.parametrize("recipe", AUDIO_RECIPES)
def test_audio_has_its_shape_and_silence_is_finite(recipe, tmp_path, write_wav, tone_of):
    write_wav(tmp_path / "tone.wav", tone_of(0.7, 16_000))
    write_wav(tmp_path / "silent.wav", np.zeros(8000))
    heard, remark = decode_audio(tmp_path / "tone.wav", recipe=recipe)
    assert heard.shape == AUDIO_RECIPES[recipe].shape
    assert heard.dtype == np.float32
    assert remark == ""
    assert np.ptp(heard) > 1
    silent, remark = decode_audio(tmp_path / "silent.wav", recipe=recipe)
    assert remark == "silent recording"
    assert np.isfinite(silent).all()
    floor = {"ogm": math.log(1e-7), "digit": math.log(1e-7), "pmr": 0.0}
    if recipe in floor:
        np.testing.assert_allclose(silent, floor[recipe], rtol=1e-6, atol=1e-4)


def test_stft_of_a_tone_on_a_bin_is_known():
    # A cosine of level a on bin k: |X_k| = a/2 * sum of the window = a/2 * 256.
    hertz = 32 * 22_050 / 512
    wave = 0.25 * np.cos(2 * np.pi * hertz * np.arange(3 * 22_050) / 22_050)
    logs = log_stft(wave.astype(np.float32))[0]
    assert logs.shape == (257, 188)
    np.testing.assert_allclose(logs[32, 5:-5], math.log(0.25 * 128), atol=1e-4)
    assert (logs[:, 94].argmax(), logs[100, 94] < -8) == (32, True)


def test_stft_repeats_a_short_recording_and_agrees_with_a_loop():
    wave = np.random.default_rng(0).uniform(-1, 1, 20_000).astype(np.float32)
    whole = np.tile(wave, 4)[: 3 * 22_050].astype(np.float64)
    padded = np.pad(whole, 256, mode="reflect")
    window = get_window("hann", 512)
    for frame in (0, 50, 187):
        piece = padded[353 * frame : 353 * frame + 512] * window
        expected = np.log(np.abs(np.fft.rfft(piece)) + 1e-7)
        np.testing.assert_allclose(log_stft(wave)[0, :, frame], expected, atol=1e-4)


def test_fbank_pads_and_normalizes_as_published():
    logs = kaldi_fbank(np.random.default_rng(0).normal(size=16_000).astype(np.float32))[0]
    assert logs.shape == (1024, 128)
    np.testing.assert_allclose(logs[98:], 4.503877 / (2 * 5.141276), rtol=1e-6)  # 1 s makes 98 frames
    assert not np.isclose(logs[97], logs[98]).any()
    np.testing.assert_allclose(  # silence: log of float32's epsilon
        kaldi_fbank(np.zeros(400, np.float32))[0, 0], (math.log(2**-23) + 4.503877) / 10.282552, rtol=1e-5
    )


def test_fbank_agrees_with_a_loop():
    wave = np.random.default_rng(1).normal(size=2000)
    frame = wave[5 * 160 : 5 * 160 + 400] - wave.mean()
    frame = frame - frame.mean()
    emphasised = [frame[0] * (1 - 0.97)] + [frame[i] - 0.97 * frame[i - 1] for i in range(1, 400)]
    windowed = np.array(emphasised) * np.hanning(400)
    power = np.abs(np.fft.rfft(np.concatenate([windowed, np.zeros(112)]))) ** 2

    def mel(hertz: float) -> float:
        return 1127 * math.log(1 + hertz / 700)

    step = (mel(8000) - mel(20)) / 129
    for band in (0, 3, 60, 127):
        left, center, right = (mel(20) + step * (band + k) for k in range(3))
        energy = 0.0
        for k in range(256):
            at = mel(k * 16_000 / 512)
            if left < at < right:
                energy += power[k] * ((at - left) / step if at <= center else (right - at) / step)
        expected = (math.log(max(energy, 2**-23)) + 4.503877) / 10.282552
        np.testing.assert_allclose(kaldi_fbank(wave)[0, 5, band], expected, rtol=1e-4, atol=1e-5)


def test_mel_triangles_peak_where_a_tone_lies():
    bank = mel_bank(40, 256, 8000, 0.0).T
    assert bank.shape == (40, 129)
    assert (bank >= 0).all()
    assert (bank.max(1) > 0).all()
    wave = np.sin(2 * np.pi * 1000 * np.arange(8000) / 8000).astype(np.float32)
    corners = np.linspace(0, 1127 * math.log1p(4000 / 700), 42)[1:-1]
    nearest = np.abs(corners - 1127 * math.log1p(1000 / 700)).argmin()
    assert abs(int(log_mel(wave)[0, :, 25].argmax()) - int(nearest)) <= 1


def test_a_short_digit_is_centered_in_silence():
    logs = log_mel(np.ones(800, np.float32) * 0.5)[0]
    assert (logs[:, 0] == logs[:, -1]).all()
    assert logs[0, 25] > logs[0, 0]


def test_wave_is_cut_to_its_times(tmp_path, write_wav):
    samples = np.concatenate([np.zeros(16_000), np.full(16_000, 0.5)])
    write_wav(tmp_path / "step.wav", samples)
    np.testing.assert_allclose(read_wave(tmp_path / "step.wav", 16_000, 1, 2), 0.5, atol=1e-3)
    assert len(read_wave(tmp_path / "step.wav", 8_000, 0.5, 99)) == 12_000
    with pytest.raises(Unreadable, match="no audio in 5 s"):
        read_wave(tmp_path / "step.wav", 16_000, 5, 6)
    with pytest.raises(Unreadable, match="range of no length"):
        read_wave(tmp_path / "step.wav", 16_000, 1, 1)


@pytest.mark.parametrize("ending", ["flv", "mp4"])
def test_video_gives_the_middle_of_each_segment_in_order(ending, tmp_path, write_video, ramp_of, tone_of):
    path = tmp_path / f"clip.{ending}"
    write_video(path, ramp_of(30), tone_of(3, 22_050))
    clip, remark = decode_video(path, frames=3, size=16)
    assert (clip.shape, clip.dtype, remark) == ((3, 3, 16, 16), np.uint8, "")
    greys = np.array([5, 15, 25]) * 250 // 29
    np.testing.assert_allclose(clip.mean((1, 2, 3)), greys, atol=6)
    inside, _ = decode_video(path, 2, 3, frames=2, size=16)
    np.testing.assert_allclose(inside.mean((1, 2, 3)), np.array([22, 27]) * 250 // 29, atol=6)
    heard, _ = decode_audio(path, recipe="ogm")
    peak = heard[0, :, 20:160].mean(1).argmax()
    assert abs(int(peak) - 440 * 512 / 22_050) <= 1


def test_a_video_of_few_frames_repeats_them(tmp_path, write_video, ramp_of):
    write_video(tmp_path / "two.mp4", ramp_of(2), None)
    clip, remark = decode_video(tmp_path / "two.mp4", frames=3, size=8)
    assert remark == "only 2 frames"
    np.testing.assert_array_equal(clip[1], clip[2])
    with pytest.raises(Unreadable, match="no audio stream"):
        decode_audio(tmp_path / "two.mp4", recipe="ogm")


@pytest.mark.parametrize("ending", ["flv", "mp4", "wav"])
def test_a_broken_download_is_named(ending, tmp_path, write_video, write_wav, ramp_of, tone_of, cut):
    path = tmp_path / f"a.{ending}"
    if ending == "wav":
        write_wav(path, tone_of(2, 16_000))
    else:
        write_video(path, ramp_of(30), tone_of(3, 22_050))
    cut(path)
    with pytest.raises(Unreadable, match=r"cut off|cannot be decoded"):
        decode_audio(path, recipe="ogm")
    if ending != "wav":
        with pytest.raises(Unreadable, match=r"cut off|cannot be decoded"):
            decode_video(path, frames=3, size=8)


def test_what_is_no_file_is_named(tmp_path, pointer):
    pointer(tmp_path / "a.wav")
    (tmp_path / "empty.wav").touch()
    (tmp_path / "noise.wav").write_bytes(bytes(range(256)) * 4)
    with pytest.raises(Unreadable, match="git-LFS pointer"):
        decode_audio(tmp_path / "a.wav", recipe="ogm")
    with pytest.raises(Unreadable, match="empty file"):
        decode_audio(tmp_path / "empty.wav", recipe="ogm")
    with pytest.raises(Unreadable, match="no such file"):
        decode_audio(tmp_path / "absent.wav", recipe="ogm")
    with pytest.raises(Unreadable, match="cannot be decoded"):
        decode_audio(tmp_path / "noise.wav", recipe="ogm")
    with pytest.raises(Unreadable, match="not a readable image"):
        decode_image(tmp_path / "noise.wav", 8)
    with pytest.raises(InputError, match="did you mean 'fbank'"):
        decode_audio(tmp_path / "a.wav", recipe="fbanks")


def test_segment_centers_repeat_and_keep_order():
    assert segment_centers(30, 3) == [5, 15, 25]
    assert segment_centers(1, 4) == [0, 0, 0, 0]


def test_image_modes_sizes_and_parts(tmp_path, write_image, cut):
    write_image(tmp_path / "red.png", (200, 10, 30))
    pixels, remark = decode_image(tmp_path / "red.png", 16)
    assert (pixels.shape, remark) == ((3, 16, 16), "")
    np.testing.assert_array_equal(pixels[:, 3, 3], (200, 10, 30))
    write_image(tmp_path / "gray.png", np.full((9, 9), 77, np.uint8))
    assert (decode_image(tmp_path / "gray.png", 4)[0] == 77).all()
    write_image(tmp_path / "dot.png", (1, 2, 3), (1, 1))
    dot, remark = decode_image(tmp_path / "dot.png", 4)
    assert remark == "image of 1 x 1 pixels"
    assert (dot == np.array([1, 2, 3])[:, None, None]).all()
    halves = np.zeros((20, 20, 3), np.uint8)
    halves[:, 10:] = 255
    write_image(tmp_path / "halves.png", halves)
    assert (decode_image(tmp_path / "halves.png", 4, (10, 0, 20, 10))[0] == 255).all()
    with pytest.raises(Unreadable, match="has no part"):
        decode_image(tmp_path / "halves.png", 4, (15, 0, 25, 10))
    write_image(tmp_path / "noise.jpg", np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    cut(tmp_path / "noise.jpg", 0.5)
    with pytest.raises(Unreadable, match="truncated"):
        decode_image(tmp_path / "noise.jpg", 8)


def test_text_is_cut_padded_and_never_masked_out(tmp_path):
    titles = ["Apple pie", "apple tart", "Beef pie", "beef stew, easy"]
    path = build_vocabulary(titles, tmp_path / "vocab.txt")
    words = path.read_text().split()
    assert words[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    known = tokenizer(str(path))
    ids, remark = decode_text("Apple pie", str(path), 6)
    assert remark == ""
    assert known.convert_ids_to_tokens(ids.tolist()) == ["[CLS]", "apple", "pie", "[SEP]", "[PAD]", "[PAD]"]
    assert ((ids != known.pad_token_id) == [1, 1, 1, 1, 0, 0]).all()
    long, _ = decode_text("apple pie apple pie", str(path), 4)
    assert known.convert_ids_to_tokens(long.tolist())[-1] == "[SEP]"
    empty, remark = decode_text("  ", str(path), 4)
    assert remark == "empty text"
    assert (empty != known.pad_token_id).sum() == 2
    assert known.tokenize("beet") == ["b", "##e", "##e", "##t"]
    again = build_vocabulary(reversed(titles), tmp_path / "again.txt")
    assert again.read_bytes() == path.read_bytes()


def test_an_unknown_tokenizer_says_what_to_give(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    decoders.tokenizer.cache_clear()
    with pytest.raises(InputError, match="'train' to build one"):
        tokenizer(str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="no vocabulary file"):
        tokenizer(str(tmp_path / "vocab.txt"))

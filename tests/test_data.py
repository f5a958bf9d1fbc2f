"""Transforms against numbers worked out by hand, and what an item of the dataset holds."""

import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data import ClipDataset, augment, collate, normalise, swap_left_right  # noqa: E402
from table import make_annotations  # noqa: E402
from test_video import number_of, write_video  # noqa: E402
from video import packet_index  # noqa: E402


# ---------------------------------------------------------------- transforms

def test_boxes_follow_the_pixels_through_crop_and_flip():
    """A white rectangle is found again exactly where its transformed box says."""
    for seed in range(20):
        video = np.zeros((2, 60, 80, 3), np.uint8)
        video[:, 20:44, 30:50] = 255
        boxes = np.float32([[30 / 80, 20 / 60, 50 / 80, 44 / 60]])
        out, moved, kept, flipped = augment(video, boxes, 48, np.random.default_rng(seed))
        assert out.shape == (2, 3, 48, 48) and torch.equal(out[0], out[1])
        ys, xs = np.nonzero(out[0, 0].numpy())
        x1, y1, x2, y2 = (moved[0] * 48).round().astype(int)
        assert (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1) == (x1, y1, x2, y2) and kept[0]


def test_a_box_is_dropped_once_less_than_half_of_it_is_in_the_picture():
    # a generator that crops at the top left and never flips
    class Corner:
        integers, random = staticmethod(lambda low, high: 0), staticmethod(lambda: 0.9)
    video = np.zeros((1, 100, 100, 3), np.uint8)
    boxes = np.float32([[0.29, 0, 0.69, 0.2], [0.31, 0, 0.71, 0.2], [0.6, 0.6, 0.9, 0.9],
                        [0, 0, 0.5, 0.5]])
    _, moved, kept, flipped = augment(video, boxes, 50, Corner)
    assert kept.tolist() == [True, False, False, True] and not flipped
    np.testing.assert_allclose(moved[0], [0.58, 0, 1, 0.4], atol=1e-6)


def test_a_flip_exchanges_left_and_right_in_texts_as_whole_words():
    assert swap_left_right("a man turns left, his right hand up") == "a man turns right, his left hand up"
    assert swap_left_right("Left, LEFT and leftover upright") == "Right, RIGHT and leftover upright"


def test_normalisation_without_jitter_takes_out_imagenets_mean_and_deviation():
    out = normalise(torch.full((1, 1, 3, 1, 1), 255, dtype=torch.uint8))
    np.testing.assert_allclose(out.flatten(),
                               [(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225],
                               rtol=1e-6)


def test_colour_jitter_equals_torchvisions_clip_by_clip():
    from torchvision.transforms.v2 import functional as F
    video = torch.randint(0, 256, (2, 3, 3, 8, 8), dtype=torch.uint8,
                          generator=torch.Generator().manual_seed(0))
    jitter = torch.tensor([[1.2, 0.8, 1.1], [0.9, 1.15, 0.85]])
    out = normalise(video, jitter)
    for clip, factors, ours in zip(video, jitter.tolist(), out):
        x = F.adjust_brightness(clip.float() / 255, factors[0])
        # one mean for the clip, not one a frame
        mean = (x * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1).mean()
        x = ((x - mean) * factors[1] + mean).clamp(0, 1)
        x = F.adjust_saturation(x, factors[2])
        torch.testing.assert_close(ours, F.normalize(x, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]), atol=2e-3, rtol=0)


# ---------------------------------------------------------------- the dataset

@pytest.fixture
def table(tmp_path):
    """Two videos; keyframe 20 of the first has one person with two labels, one with one, and an unlabelled one."""
    files = [write_video(tmp_path / "a.mp4"), write_video(tmp_path / "b.mp4", size=(64, 96))]
    left, right, third = [0.1, 0.2, 0.5, 0.9], [0.5, 0.1, 0.9, 0.8], [0.2, 0.2, 0.8, 0.8]
    return make_annotations(["a", "b"], ["wave", "point left", "point right"], [0, 0, 0, 0, 1, 1],
                            [20, 20, 20, 20, 5, 9],
                            [left, left, right, third, third, [0, 0, 0, 0]], [0, 1, 2, -1, 0, -1],
                            files=files)


def test_a_keyframe_is_one_item_with_its_boxes_and_the_texts_of_each(table):
    clips = ClipDataset(table, 4, 2, short_side=32, patch=8)
    item = clips[0]
    assert len(clips) == 3 and item["video"].shape == (4, 3, 32, 48)
    assert item["video"].dtype == torch.uint8
    assert [number_of(frame.permute(1, 2, 0).numpy())
            for frame in item["video"]] == [16, 18, 20, 22]
    said = {(tuple(item["boxes"][box].tolist()), clips.texts[text]) for box,
            text in item["labels"].tolist()}
    left, right = (tuple(np.float32(box).tolist())
                   for box in ([0.1, 0.2, 0.5, 0.9], [0.5, 0.1, 0.9, 0.8]))
    assert said == {(left, "wave"), (left, "point left"), (right, "point right")}
    assert len(item["boxes"]) == 3
    assert len(clips[2]["boxes"]) == 0                       # the keyframe with nobody in it


def test_training_items_follow_from_their_seed_alone_and_swap_left_and_right_when_flipped(table):
    clips = ClipDataset(table, 4, 2, crop=48, scale=(48, 64))
    flips = set()
    for seed in range(12):
        a, b = clips[0, seed, None], clips[0, seed, None]
        assert torch.equal(a["video"], b["video"]) and torch.equal(a["boxes"], b["boxes"])
        assert torch.equal(a["jitter"], b["jitter"])
        boxes = a["boxes"][a["labels"][a["labels"][:, 1] == clips.texts.index("wave")][:, 0]]
        for box, text in a["labels"].tolist():
            if len(boxes) and clips.texts[text].startswith("point") and torch.equal(a["boxes"][box], boxes[0]):
                # the waving person points left, or right in a mirrored picture
                flips.add(clips.texts[text])
    assert flips == {"point left", "point right"}


def test_training_without_a_crop_keeps_the_whole_frame_and_every_box(table):
    clips = ClipDataset(table, 4, 2, patch=8)
    for seed in range(6):
        # of 96 x 64: 90 x 60, in patches 88 x 64
        item = clips[0, seed, 60]
        assert item["video"].shape == (4, 3, 56, 88) or item["video"].shape == (4, 3, 64, 88)
        before = torch.from_numpy(clips.boxes_and_labels(0)[0])
        mirrored = before[:, [2, 1, 0, 3]] * torch.tensor([-1, 1, -1, 1]) + torch.tensor([1, 0, 1, 0])
        assert item["boxes_before"] == len(item["boxes"]) == 3
        assert any(torch.allclose(item["boxes"], boxes, atol=1e-6) for boxes in (before, mirrored))


def test_a_mirrored_sentence_becomes_a_text_of_its_own_but_a_class_list_stays_as_it_is(table):
    from dataclasses import replace
    one_sided = replace(table, texts=["wave", "point left", "stand"])
    assert ClipDataset(one_sided, 4, 1, crop=48,
                       scale=(48, 64)).texts == ["wave", "point left", "stand", "point right"]
    classes = ClipDataset(one_sided, 4, 1, crop=48, scale=(48, 64), mirror_texts=False)
    assert classes.texts == ["wave", "point left", "stand"]
    assert classes.mirrored.tolist() == [0, 1, 2]


def test_clips_of_equal_size_are_batched_together_with_places_of_their_boxes(table):
    clips = ClipDataset(table, 4, 2, short_side=32, patch=8)
    wide, tall = collate([clips[1], clips[0], clips[2]])[::-1]
    assert wide["video"].shape == (1, 4, 3, 32, 48) and tall["video"].shape == (2, 4, 3, 48, 32)
    assert wide["keyframe"] == [0] and tall["keyframe"] == [1, 2]
    assert [len(boxes) for boxes in tall["boxes"]] == [1, 0]
    both = collate([clips[0], clips[0]])[0]
    assert sorted(both["labels"][:, 0].tolist()) == sorted([*clips[0]["labels"][:, 0].tolist(), *(clips[0]["labels"][:, 0] + 3).tolist()])


def test_an_unreadable_clip_is_named_with_its_reason(table, tmp_path):
    (tmp_path / "b.mp4").write_bytes(b"broken")
    packet_index.cache_clear()
    for clips in (ClipDataset(table, 4, 2, short_side=32, patch=8),
                  ClipDataset(table, 4, 2, crop=48, scale=(48, 64))):
        item = clips[1] if clips.crop is None else clips[1, 0, None]
        assert item["bad"].startswith("b frame 5: ")
        assert "not a video that can be opened" in item["bad"]
        assert collate([item])[0]["bad"] == [item["bad"]]


# 4 frames at 902 + (k - 2) * 8 / 30 seconds
@pytest.mark.parametrize("rate, expected", [
    (24, [35, 41, 48, 54]), (25, [36, 43, 50, 56]), (Fraction(30000, 1001), [43, 51, 59, 67]),
    (30, [44, 52, 60, 68])])
def test_clips_of_ava_run_by_its_clock_whatever_the_movies_rate(tmp_path, rate, expected):
    path = write_video(tmp_path / "cut.mp4", 80, rate=rate, bframes=0, last=901)
    table = make_annotations(["movie"], ["stand"], [0, 0], [902.0, 1802.5],
                             [[0.1, 0.1, 0.9, 0.9]] * 2, [0, 0],
                             unit="second", files=[path], ava_clock=True)
    clips = ClipDataset(table, 4, 8, short_side=64, patch=1)
    assert [number_of(frame.permute(1, 2, 0).numpy()) for frame in clips[0]["video"]] == expected
    assert "movie 1802.5 s: " in clips[1]["bad"] and "1.5 s beyond its end" in clips[1]["bad"]


def test_a_film_shorter_than_its_annotation_gives_a_named_reason_not_its_last_frame(tmp_path):
    # 2 seconds: neither a movie nor the cut of one
    path = write_video(tmp_path / "short.mp4", 50)
    for ava_clock, keyframe in ((True, 902.0), (False, 4.0)):
        table = make_annotations(["m"], ["stand"], [0], [keyframe], [[0.1, 0.1, 0.9, 0.9]], [0],
                                 unit="second", files=[path],
                                 ava_clock=ava_clock)
        assert "beyond its end; is it the right file, and whole?" in ClipDataset(table, 4, 8)[0]["bad"]


def test_seconds_of_a_users_video_keep_the_stride_in_its_own_frames(tmp_path):
    table = make_annotations(["a"], ["stand"], [0], [1.0], [[0.1, 0.1, 0.9, 0.9]], [0],
                             unit="second",
                             files=[write_video(tmp_path / "a.mp4", 60, rate=25)])
    clip = ClipDataset(table, 4, 8, short_side=64, patch=1)[0]["video"]
    assert [number_of(frame.permute(1, 2, 0).numpy()) for frame in clip] == [9, 17, 25, 33]

"""Transforms against numbers worked out by hand, and what an item of the dataset holds."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from test_video import number_of, write_video
from torchvision.transforms.v2 import functional as F

from data import ClipDataset, augment, collate, normalise, swap_left_right
from table import make_annotations


BOX = [0.1, 0.1, 0.9, 0.9]


def one_video(path, *keyframes, unit="second", **fields):
    """A table of one person on the keyframes of one video."""
    n = len(keyframes)
    return make_annotations(["movie"], ["stand"], [0] * n, keyframes, [BOX] * n, [0] * n,
                            unit=unit, files=[path], **fields)


def numbers(clip) -> list[int]:
    return [number_of(frame.permute(1, 2, 0).numpy()) for frame in clip]


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
    assert swap_left_right("turns left, his right hand up") == "turns right, his left hand up"
    assert swap_left_right("Left, LEFT, leftover upright") == "Right, RIGHT, leftover upright"


def test_normalisation_and_colour_jitter_equal_torchvisions_clip_by_clip():
    mean_and_deviation = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    video = torch.randint(0, 256, (2, 3, 3, 8, 8), dtype=torch.uint8,
                          generator=torch.Generator().manual_seed(0))
    jitter = torch.tensor([[1.2, 0.8, 1.1], [0.9, 1.15, 0.85]])
    plain = F.normalize(video.float() / 255, *mean_and_deviation)
    torch.testing.assert_close(normalise(video), plain)
    for clip, factors, ours in zip(video, jitter.tolist(), normalise(video, jitter)):
        x = F.adjust_brightness(clip.float() / 255, factors[0])
        # one mean for the clip, not one a frame
        mean = (x * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1).mean()
        x = ((x - mean) * factors[1] + mean).clamp(0, 1)
        x = F.adjust_saturation(x, factors[2])
        expected = F.normalize(x, *mean_and_deviation)
        torch.testing.assert_close(ours, expected, atol=2e-3, rtol=0)


# ---------------------------------------------------------------- the dataset

@pytest.fixture
def table(tmp_path):
    """Keyframe 20 of the first video has people with two labels, with one and with none."""
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
    assert numbers(item["video"]) == [16, 18, 20, 22]
    said = {(tuple(item["boxes"][box].tolist()), clips.texts[text])
            for box, text in item["labels"].tolist()}
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
            waves = len(boxes) and torch.equal(a["boxes"][box], boxes[0])
            if waves and clips.texts[text].startswith("point"):
                flips.add(clips.texts[text])         # left, or right in a mirrored picture
    assert flips == {"point left", "point right"}


def test_training_without_a_crop_keeps_the_whole_frame_and_every_box(table):
    clips = ClipDataset(table, 4, 2, patch=8)
    for seed in range(6):
        # of 96 x 64: 90 x 60, in patches 88 x 64
        item = clips[0, seed, 60]
        assert item["video"].shape in ((4, 3, 56, 88), (4, 3, 64, 88))
        before = torch.from_numpy(clips.boxes_and_labels(0)[0])
        x1, y1, x2, y2 = before.unbind(1)
        mirrored = torch.stack([1 - x2, y1, 1 - x1, y2], 1)
        assert item["boxes_before"] == len(item["boxes"]) == 3
        assert any(torch.allclose(item["boxes"], boxes, atol=1e-6) for boxes in (before, mirrored))


def test_a_mirrored_sentence_becomes_a_text_of_its_own_but_a_class_list_stays_as_it_is(table):
    one_sided = replace(table, texts=["wave", "point left", "stand"])
    assert ClipDataset(one_sided, 4, 1, crop=48,
                       scale=(48, 64)).texts == ["wave", "point left", "stand", "point right"]
    classes = ClipDataset(one_sided, 4, 1, crop=48, scale=(48, 64), mirror_texts=False)
    assert classes.texts == ["wave", "point left", "stand"]
    assert classes.mirrored.tolist() == [0, 1, 2]


def test_clips_of_equal_size_are_batched_together_with_the_rows_of_their_boxes(table):
    clips = ClipDataset(table, 4, 2, short_side=32, patch=8)
    wide, tall = collate([clips[1], clips[0], clips[2]])[::-1]
    assert wide["video"].shape == (1, 4, 3, 32, 48) and tall["video"].shape == (2, 4, 3, 48, 32)
    assert wide["keyframe"] == [0] and tall["keyframe"] == [1, 2]
    assert [len(boxes) for boxes in tall["boxes"]] == [1, 0]
    labels = clips[0]["labels"]
    both = collate([clips[0], clips[0]])[0]["labels"]
    assert torch.equal(both, torch.cat([labels, labels + torch.tensor([3, 0])]))


def test_an_unreadable_clip_is_named_with_its_reason(table, tmp_path):
    (tmp_path / "b.mp4").write_bytes(b"broken")
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
    clips = ClipDataset(one_video(path, 902.0, 1802.5, ava_clock=True), 4, 8, 64, patch=1)
    assert numbers(clips[0]["video"]) == expected
    assert "movie 1802.5 s: " in clips[1]["bad"] and "1.5 s beyond its end" in clips[1]["bad"]


def test_a_film_shorter_than_its_annotation_gives_a_named_reason_not_its_last_frame(tmp_path):
    # 2 seconds: neither a movie nor the cut of one
    path = write_video(tmp_path / "short.mp4", 50)
    for ava_clock, keyframe in ((True, 902.0), (False, 4.0)):
        item = ClipDataset(one_video(path, keyframe, ava_clock=ava_clock), 4, 8)[0]
        assert "beyond its end; is it the right file, and whole?" in item["bad"]


def test_seconds_of_a_users_video_keep_the_stride_in_its_own_frames(tmp_path):
    table = one_video(write_video(tmp_path / "a.mp4", 60, rate=25), 1.0)
    assert numbers(ClipDataset(table, 4, 8, 64, patch=1)[0]["video"]) == [9, 17, 25, 33]

"""Clips against a full sequential decode of the same video, and the transforms against numbers worked out by hand."""

import struct
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
SAMPLES = ROOT.parent / "shared" / "samples" / "video"


from data import ClipDataset, augment, collate, normalise, open_video, read_clip, swap_left_right  # noqa: E402
from table import make_annotations  # noqa: E402
from video import packet_index, scaled_size  # noqa: E402


# ---------------------------------------------------------------- videos with their frame numbers drawn into them

def numbered_frame(number: int, width: int = 96, height: int = 64) -> np.ndarray:
    """A picture that holds a number: eight white or black bars, the lowest bit on the left, on a grey ground."""
    picture = np.full((height, width, 3), 100, np.uint8)
    for bit in range(8):
        picture[8:height // 2, bit * width // 8:(bit + 1) * width // 8] = 255 * (number >> bit & 1)
    return picture


def number_of(picture: np.ndarray) -> int:
    height, width = picture.shape[:2]
    band = picture[height // 5:2 * height // 5]
    return sum((band[:, int((bit + 0.25) * width / 8):int((bit + 0.75) * width / 8)].mean() > 127) << bit for bit in range(8))


def write_video(path, frames=60, codec="libx264", rate=25, size=(96, 64), times=None, bframes=2, gop=12, pix_fmt="yuv420p"):
    """Encode numbered frames; times: their presentation times in milliseconds, for a variable rate."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = *size, pix_fmt
        stream.codec_context.gop_size = gop
        if codec == "libx264":
            stream.options = {"sc_threshold": "0"}           # key frames where gop says, not at every cut
        if codec != "libvpx-vp9":
            stream.codec_context.max_b_frames = bframes
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(numbered_frame(number, *size), format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[number], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return str(path)


def decode_all(path):
    """Every frame of a full decode in display order, and their times in seconds from the first one."""
    with av.open(path) as container:
        stream = container.streams.video[0]
        frames = [(frame.pts, frame.to_ndarray(format="rgb24", interpolation="BILINEAR"), frame.rotation) for frame in container.decode(stream)]
        times = [float((pts - frames[0][0]) * stream.time_base) for pts, _, _ in frames]
    return [np.rot90(picture, round(rotation / 90) % 4) for _, picture, rotation in frames], times


UNEVEN = np.cumsum([0] + [40, 10, 90, 40, 200, 40, 40, 15, 15, 60] * 6)[:60].tolist()
VIDEOS = {
    "h264 with B-frames": ("v.mp4", {}),
    "h264 in one long group": ("v.mp4", {"gop": 1000}),
    "h264 in Matroska": ("v.mkv", {}),
    "mpeg4 in AVI": ("v.avi", {"codec": "mpeg4", "bframes": 0}),
    "mpeg4 in AVI with B-frames": ("v.avi", {"codec": "mpeg4"}),
    "vp9 in WebM": ("v.webm", {"codec": "libvpx-vp9"}),
    "a variable frame rate": ("v.mp4", {"times": UNEVEN}),
    "a single frame": ("v.mp4", {"frames": 1}),
    "odd sizes": ("v.mp4", {"size": (97, 65), "pix_fmt": "yuv444p"}),
}


@pytest.fixture(params=VIDEOS)
def video(request, tmp_path):
    name, options = VIDEOS[request.param]
    return write_video(tmp_path / name, **options)


def wanted(centre, frames, stride, n):
    return [min(max(centre + (k - frames // 2) * stride, 0), n - 1) for k in range(frames)]


def test_a_clip_holds_the_frames_of_a_full_decode_at_its_indices(video):
    full, _ = decode_all(video)
    rng = np.random.default_rng(0)
    reader = open_video(video)
    for _ in range(12):
        centre, frames, stride = int(rng.integers(-4, len(full) + 4)), int(rng.choice([1, 4, 8])), int(rng.choice([1, 3, 8]))
        expected = np.stack([full[i] for i in wanted(centre, frames, stride, len(full))])
        assert np.array_equal(read_clip(video, centre, frames, stride), expected)       # a reader of its own
        assert np.array_equal(reader.clip(centre, frames, stride), expected)            # one that has been elsewhere
    assert [number_of(picture) for picture in full] == list(range(len(full)))           # and the numbers are what was drawn


def test_a_clip_at_a_time_holds_the_frame_that_is_on_screen_then(video):
    full, times = decode_all(video)
    if video.endswith(".avi"):                               # some AVI streams carry no times: frames are 1 / rate apart
        times = [i / 25 for i in range(len(full))]
    rng = np.random.default_rng(1)
    reader = open_video(video)
    for _ in range(12):
        second, stride = float(rng.uniform(0, times[-1] + 0.2)), int(rng.choice([1, 3, 8]))
        shown = max(i for i, time in enumerate(times) if time <= second + 1e-9)
        expected = np.stack([full[i] for i in wanted(shown, 8, stride, len(full))])
        assert np.array_equal(reader.clip_at(second, 8, stride), expected)
        other = open_video(video)
        assert np.array_equal(other.clip_at(second, 8, stride), expected)
        other.close()


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="the sample videos are not here")
@pytest.mark.parametrize("name", ["demo.mp4", "demo_spatiotemporal_det.mp4", "internvid_example1.mp4", "test.avi", "test_video_structuralize.mp4"])
def test_real_videos_give_the_frames_of_a_full_decode(name):
    path = str(SAMPLES / name)
    full, times = decode_all(path)
    reader, rng = open_video(path), np.random.default_rng(2)
    for _ in range(5):
        centre, stride = int(rng.integers(0, len(full))), int(rng.choice([1, 8]))
        expected = np.stack([full[i] for i in wanted(centre, 8, stride, len(full))])
        assert np.array_equal(reader.clip(centre, 8, stride), expected)
        if not name.endswith(".avi"):
            assert np.array_equal(reader.clip_at(times[centre] + 1e-4, 8, stride), expected)


def test_rotation_metadata_turns_the_frames_upright(tmp_path):
    path = write_video(tmp_path / "v.mp4", frames=10)
    content = bytearray((tmp_path / "v.mp4").read_bytes())
    at = content.index(b"tkhd") + 4 + 40                     # the display matrix of the track header
    content[at:at + 36] = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)         # a quarter turn clockwise
    (tmp_path / "v.mp4").write_bytes(content)
    picture = read_clip(path, 5, frames=1)[0]
    assert picture.shape == (96, 64, 3) and number_of(np.rot90(picture, 1)) == 5        # turned back, it can be read
    assert read_clip(path, 5, frames=1, short_side=32)[0].shape == (48, 32, 3)


@pytest.mark.parametrize("suffix, first", [("jpg", 1), ("png", 0)])
def test_a_folder_of_numbered_frames_is_a_video(tmp_path, suffix, first):
    for number in range(12):
        Image.fromarray(numbered_frame(number)).save(tmp_path / f"img_{number + first:05d}.{suffix}", quality=95)
    (tmp_path / "notes.txt").write_text("not a frame")
    assert [number_of(picture) for picture in read_clip(str(tmp_path), 3, 8, 2)] == [0, 0, 0, 1, 3, 5, 7, 9]
    reader = open_video(str(tmp_path))
    assert number_of(reader.clip_at(0.2, frames=1)[0]) == 6  # 30 frames a second


def test_frames_in_numeric_not_alphabetic_order(tmp_path):
    for number in (1, 2, 9, 10, 11):
        Image.fromarray(numbered_frame(number)).save(tmp_path / f"{number}.png")
    assert [number_of(picture) for picture in read_clip(str(tmp_path), 2, 5)] == [1, 2, 9, 10, 11]


def test_clips_asked_for_in_order_decode_and_scale_each_frame_once(tmp_path):
    path = write_video(tmp_path / "v.mp4", gop=10)
    for stride in (1, 3):
        reader = open_video(path, short_side=32)
        for centre in range(60):
            reader.clip(centre, 8, stride)
        assert (reader.decoded, reader.converted, reader.seeks) == (60, 60, 0)
    by_time = open_video(path)
    for tick in range(60):
        by_time.clip_at(tick / 25 + 1e-3, 8, 1)
    assert (by_time.decoded, by_time.converted) == (60, 60)


def test_a_clip_in_the_middle_takes_one_seek_and_one_group_of_pictures(tmp_path):
    reader = open_video(write_video(tmp_path / "v.mp4", gop=12, bframes=0))
    reader.clip(43, 4, 1)                                    # frames 41 to 44, of the group that begins at 36
    assert (reader.seeks, reader.decoded, reader.converted) == (1, 9, 4)


def test_scaling_keeps_the_aspect_and_rounds_to_the_patch():
    assert scaled_size(340, 256, 256, 16) == (336, 256) and scaled_size(240, 426, 256, 16) == (256, 448)
    assert scaled_size(320, 240, None) == (320, 240) and scaled_size(1000, 10, 16, 16) == (1600, 16)


@pytest.mark.parametrize("name, content, message", [
    ("none.mp4", None, "no such video"), ("text.mp4", b"not a video at all", "not a video that can be opened"), ("empty.mp4", b"", "not a video")])
def test_what_is_no_video_says_so(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises((ValueError, FileNotFoundError), match=f"{name}.*{message}"):
        read_clip(str(tmp_path / name), 0)


def test_an_audio_file_has_no_video_stream(tmp_path):
    with av.open(str(tmp_path / "a.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
    with pytest.raises(ValueError, match="has no video stream"):
        read_clip(str(tmp_path / "a.wav"), 0)


def test_a_folder_without_frames_says_how_to_name_them(tmp_path):
    with pytest.raises(ValueError, match="00001.jpg"):
        read_clip(str(tmp_path), 0)


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
    class Corner:                                            # a generator that crops at the top left and never flips
        integers, random = staticmethod(lambda low, high: 0), staticmethod(lambda: 0.9)
    video = np.zeros((1, 100, 100, 3), np.uint8)
    boxes = np.float32([[0.29, 0, 0.69, 0.2], [0.31, 0, 0.71, 0.2], [0.6, 0.6, 0.9, 0.9], [0, 0, 0.5, 0.5]])
    _, moved, kept, flipped = augment(video, boxes, 50, Corner)
    assert kept.tolist() == [True, False, False, True] and not flipped
    np.testing.assert_allclose(moved[0], [0.58, 0, 1, 0.4], atol=1e-6)


def test_a_flip_exchanges_left_and_right_in_texts_as_whole_words():
    assert swap_left_right("a man turns left, his right hand up") == "a man turns right, his left hand up"
    assert swap_left_right("Left, LEFT and leftover upright") == "Right, RIGHT and leftover upright"


def test_normalisation_without_jitter_takes_out_imagenets_mean_and_deviation():
    out = normalise(torch.full((1, 1, 3, 1, 1), 255, dtype=torch.uint8))
    np.testing.assert_allclose(out.flatten(), [(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225], rtol=1e-6)


def test_colour_jitter_equals_torchvisions_clip_by_clip():
    from torchvision.transforms.v2 import functional as F
    video = torch.randint(0, 256, (2, 3, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    jitter = torch.tensor([[1.2, 0.8, 1.1], [0.9, 1.15, 0.85]])
    out = normalise(video, jitter)
    for clip, factors, ours in zip(video, jitter.tolist(), out):
        x = F.adjust_brightness(clip.float() / 255, factors[0])
        mean = (x * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1).mean()      # one mean for the clip, not one a frame
        x = ((x - mean) * factors[1] + mean).clamp(0, 1)
        x = F.adjust_saturation(x, factors[2])
        torch.testing.assert_close(ours, F.normalize(x, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]), atol=2e-3, rtol=0)


def test_a_damaged_packet_costs_its_own_frame_and_no_other(tmp_path):
    path = write_video(tmp_path / "film.mp4", 80, bframes=0, gop=10)
    with av.open(path) as container:
        packet = [packet for packet in container.demux(video=0)][13]
        place, size = packet.pos, packet.size
    content = bytearray(Path(path).read_bytes())
    content[place + 4:place + size] = b"\xff" * (size - 4)
    Path(path).write_bytes(content)
    kept = open_video(path)
    for frame_idx in (5, 13, 16, 25, 40, 60):
        clip = kept.clip(frame_idx, 3, 1)
        assert np.array_equal(clip, open_video(path).clip(frame_idx, 3, 1))              # as by a reader of its own
        expected = [i if i != 13 else 12 for i in range(frame_idx - 1, frame_idx + 2)]
        assert frame_idx == 16 or [number_of(picture) for picture in clip] == expected


# ---------------------------------------------------------------- the dataset

@pytest.fixture
def table(tmp_path):
    """Two videos; keyframe 20 of the first has one person with two labels, one with one, and an unlabelled one."""
    files = [write_video(tmp_path / "a.mp4"), write_video(tmp_path / "b.mp4", size=(64, 96))]
    left, right, third = [0.1, 0.2, 0.5, 0.9], [0.5, 0.1, 0.9, 0.8], [0.2, 0.2, 0.8, 0.8]
    return make_annotations(["a", "b"], ["wave", "point left", "point right"], [0, 0, 0, 0, 1, 1], [20, 20, 20, 20, 5, 9],
                            [left, left, right, third, third, [0, 0, 0, 0]], [0, 1, 2, -1, 0, -1], files=files)


def test_a_keyframe_is_one_item_with_its_boxes_and_the_texts_of_each(table):
    clips = ClipDataset(table, 4, 2, short_side=32, patch=8)
    item = clips[0]
    assert len(clips) == 3 and item["video"].shape == (4, 3, 32, 48) and item["video"].dtype == torch.uint8
    assert [number_of(frame.permute(1, 2, 0).numpy()) for frame in item["video"]] == [16, 18, 20, 22]
    said = {(tuple(item["boxes"][box].tolist()), clips.texts[text]) for box, text in item["labels"].tolist()}
    left, right = (tuple(np.float32(box).tolist()) for box in ([0.1, 0.2, 0.5, 0.9], [0.5, 0.1, 0.9, 0.8]))
    assert said == {(left, "wave"), (left, "point left"), (right, "point right")} and len(item["boxes"]) == 3
    assert len(clips[2]["boxes"]) == 0                       # the keyframe with nobody in it


def test_training_items_follow_from_their_seed_alone_and_swap_left_and_right_when_flipped(table):
    clips = ClipDataset(table, 4, 2, crop=48, scale=(48, 64))
    flips = set()
    for seed in range(12):
        a, b = clips[0, seed, None], clips[0, seed, None]
        assert torch.equal(a["video"], b["video"]) and torch.equal(a["boxes"], b["boxes"]) and torch.equal(a["jitter"], b["jitter"])
        boxes = a["boxes"][a["labels"][a["labels"][:, 1] == clips.texts.index("wave")][:, 0]]
        for box, text in a["labels"].tolist():
            if len(boxes) and clips.texts[text].startswith("point") and torch.equal(a["boxes"][box], boxes[0]):
                flips.add(clips.texts[text])                 # the waving person points left, or right in a mirrored picture
    assert flips == {"point left", "point right"}


def test_training_without_a_crop_keeps_the_whole_frame_and_every_box(table):
    clips = ClipDataset(table, 4, 2, patch=8)
    for seed in range(6):
        item = clips[0, seed, 60]                            # of 96 x 64: 90 x 60, in patches 88 x 64
        assert item["video"].shape == (4, 3, 56, 88) or item["video"].shape == (4, 3, 64, 88)
        before = torch.from_numpy(clips.boxes_and_labels(0)[0])
        mirrored = before[:, [2, 1, 0, 3]] * torch.tensor([-1, 1, -1, 1]) + torch.tensor([1, 0, 1, 0])
        assert item["boxes_before"] == len(item["boxes"]) == 3
        assert any(torch.allclose(item["boxes"], boxes, atol=1e-6) for boxes in (before, mirrored))


def test_a_mirrored_sentence_becomes_a_text_of_its_own_but_a_class_list_stays_as_it_is(table):
    from dataclasses import replace
    one_sided = replace(table, texts=["wave", "point left", "stand"])
    assert ClipDataset(one_sided, 4, 1, crop=48, scale=(48, 64)).texts == ["wave", "point left", "stand", "point right"]
    classes = ClipDataset(one_sided, 4, 1, crop=48, scale=(48, 64), mirror_texts=False)
    assert classes.texts == ["wave", "point left", "stand"] and classes.mirrored.tolist() == [0, 1, 2]


def test_clips_of_equal_size_are_batched_together_with_places_of_their_boxes(table):
    clips = ClipDataset(table, 4, 2, short_side=32, patch=8)
    wide, tall = collate([clips[1], clips[0], clips[2]])[::-1]
    assert wide["video"].shape == (1, 4, 3, 32, 48) and tall["video"].shape == (2, 4, 3, 48, 32)
    assert wide["keyframe"] == [0] and tall["keyframe"] == [1, 2] and [len(boxes) for boxes in tall["boxes"]] == [1, 0]
    both = collate([clips[0], clips[0]])[0]
    assert sorted(both["labels"][:, 0].tolist()) == sorted([*clips[0]["labels"][:, 0].tolist(), *(clips[0]["labels"][:, 0] + 3).tolist()])


def test_an_unreadable_clip_is_named_with_its_reason(table, tmp_path):
    (tmp_path / "b.mp4").write_bytes(b"broken")
    packet_index.cache_clear()
    for clips in (ClipDataset(table, 4, 2, short_side=32, patch=8), ClipDataset(table, 4, 2, crop=48, scale=(48, 64))):
        item = clips[1] if clips.crop is None else clips[1, 0, None]
        assert item["bad"].startswith("b frame 5: ") and "not a video that can be opened" in item["bad"]
        assert collate([item])[0]["bad"] == [item["bad"]]


def test_seconds_count_from_where_the_cut_begins(tmp_path):
    path = write_video(tmp_path / "cut.mp4")
    table = make_annotations(["movie"], ["stand"], [0], [901.0], [[0.1, 0.1, 0.9, 0.9]], [0], unit="second", files=[path],
                             start_sec=np.float32([900]))
    item = ClipDataset(table, 1, 1, short_side=64, patch=1)[0]
    assert number_of(item["video"][0].permute(1, 2, 0).numpy()) == 25

"""Frames and clips against a full sequential decode of the same video."""

import shutil
import struct
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
SAMPLES = ROOT.parent / "shared" / "samples" / "video"


from video import open_video, packets, read_clip, scaled_size  # noqa: E402


# ---------------------------------------------------------------- videos of numbers

def numbered_frame(number: int, width: int = 96, height: int = 64) -> np.ndarray:
    """A grey picture that holds a number: eight white or black bars, the lowest bit on the left."""
    picture = np.full((height, width, 3), 100, np.uint8)
    for bit in range(8):
        picture[8:height // 2, bit * width // 8:(bit + 1) * width // 8] = 255 * (number >> bit & 1)
    return picture


def number_of(picture: np.ndarray) -> int:
    height, width = picture.shape[:2]
    band = picture[height // 5:2 * height // 5]
    bars = [band[:, int((bit + 0.25) * width / 8):int((bit + 0.75) * width / 8)]
            for bit in range(8)]
    return sum((bar.mean() > 127) << bit for bit, bar in enumerate(bars))


def write_video(path, frames=60, codec="libx264", rate=25, size=(96, 64), times=None, bframes=2,
                gop=12, pix_fmt="yuv420p", last=None, options=None):
    """Encode numbered frames; times: when they appear (ms); last: when one more does (s)."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = *size, pix_fmt
        stream.codec_context.gop_size = gop
        if codec == "libx264":
            # key frames where gop says, not at every cut
            stream.options = {"sc_threshold": "0", **(options or {})}
        if codec not in ("libvpx-vp9", "libsvtav1"):
            stream.codec_context.max_b_frames = bframes
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(numbered_frame(number, *size), format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[number], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        if last is not None:
            frame = av.VideoFrame.from_ndarray(numbered_frame(0, *size), format="rgb24")
            frame.pts, frame.time_base = round(last * rate), 1 / Fraction(rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return str(path)


def decode_all(path):
    """Every frame of a full decode in display order, and their times in seconds from the first one."""
    with av.open(path) as container:
        stream = container.streams.video[0]
        frames, times = [], []
        for frame in container.decode(stream):
            picture = frame.to_ndarray(format="rgb24", interpolation="BILINEAR")
            frames.append(np.rot90(picture, round(frame.rotation / 90) % 4))
            times.append(frame.pts)
        times = [float((pts - times[0]) * stream.time_base) for pts in times]
    return frames, times


UNEVEN = np.cumsum([0] + [40, 10, 90, 40, 200, 40, 40, 15, 15, 60] * 6)[:60].tolist()
VIDEOS = {
    "h264 with B-frames": ("v.mp4", {}),
    "h264 in one long group": ("v.mp4", {"gop": 1000}),
    "h264 in Matroska": ("v.mkv", {}),
    "mpeg4 in AVI": ("v.avi", {"codec": "mpeg4", "bframes": 0}),
    "mpeg4 in AVI with B-frames": ("v.avi", {"codec": "mpeg4"}),
    "vp9 in WebM": ("v.webm", {"codec": "libvpx-vp9"}),
    "av1 in several groups": ("v.mp4", {"codec": "libsvtav1", "gop": 20}),
    "h264 in a transport stream": ("v.ts", {}),
    "mpeg2 in a program stream": ("v.mpg", {"codec": "mpeg2video", "frames": 100}),
    "h264 with B-frames in ASF": ("v.asf", {}),
    "a variable frame rate": ("v.mp4", {"times": UNEVEN}),
    "a single frame": ("v.mp4", {"frames": 1}),
    "odd sizes": ("v.mp4", {"size": (97, 65), "pix_fmt": "yuv444p"}),
}


@pytest.fixture(params=VIDEOS)
def video(request, tmp_path):
    name, options = VIDEOS[request.param]
    if options.get("codec", "libx264") not in av.codecs_available:
        pytest.skip(f"this PyAV has no encoder {options['codec']}")
    return write_video(tmp_path / name, **options)


def wanted(centre, frames, stride, n):
    return [min(max(centre + (k - frames // 2) * stride, 0), n - 1) for k in range(frames)]


def test_a_clip_holds_the_frames_of_a_full_decode_at_its_indices(video):
    full, _ = decode_all(video)
    rng = np.random.default_rng(0)
    reader = open_video(video)
    for _ in range(12):
        centre = int(rng.integers(-4, len(full) + 4))
        frames, stride = int(rng.choice([1, 4, 8])), int(rng.choice([1, 3, 8]))
        expected = np.stack([full[i] for i in wanted(centre, frames, stride, len(full))])
        # a reader of its own
        assert np.array_equal(read_clip(video, centre, frames, stride), expected)
        # one that has been elsewhere
        assert np.array_equal(reader.clip(centre, frames, stride), expected)
    # and the numbers are what was drawn
    assert [number_of(picture) for picture in full] == list(range(len(full)))


def test_a_clip_at_a_time_holds_the_frame_that_is_on_screen_then(video):
    full, times = decode_all(video)
    # AVI and ASF may carry no times: frames are 1 / rate apart
    if video.endswith((".avi", ".asf")):
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
@pytest.mark.parametrize("name", ["demo.mp4", "demo_spatiotemporal_det.mp4",
                                  "internvid_example1.mp4", "test.avi",
                                  "test_video_structuralize.mp4"])
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


ONE = 1 << 16                                                # 1.0 in a display matrix


@pytest.mark.parametrize("quarters, matrix", [(1, (0, ONE, 0, -ONE, 0)), (2, (-ONE, 0, 0, 0, -ONE)), (3, (0, -ONE, 0, ONE, 0))])
def test_rotation_metadata_turns_the_frames_upright(tmp_path, quarters, matrix):
    path = write_video(tmp_path / "v.mp4", frames=10)
    content = bytearray((tmp_path / "v.mp4").read_bytes())
    # the display matrix of the track header
    at = content.index(b"tkhd") + 4 + 40
    # quarter turns clockwise
    content[at:at + 36] = struct.pack(">9i", *matrix, 0, 0, 0, 1 << 30)
    (tmp_path / "v.mp4").write_bytes(content)
    picture = read_clip(path, 5, frames=1)[0]
    assert number_of(np.rot90(picture, quarters)) == 5       # turned back, it can be read
    assert picture.shape == ((64, 96, 3) if quarters == 2 else (96, 64, 3))
    assert picture.flags.c_contiguous and read_clip(path, 5, 2, short_side=32).shape[1:] == (
        (32, 48, 3) if quarters == 2 else (48, 32, 3))


def test_frames_are_asked_for_in_any_order_and_more_than_once(tmp_path):
    reader = open_video(write_video(tmp_path / "v.mp4"))
    assert [number_of(picture) for picture in reader.frames([41, 7, 7, 30])] == [41, 7, 7, 30]


def test_a_stream_that_begins_within_a_group_begins_at_its_first_key_frame(tmp_path):
    path = Path(write_video(tmp_path / "v.ts"))
    path.write_bytes(path.read_bytes()[188 * 40:])           # transport packets have 188 bytes
    full, _ = decode_all(str(path))
    reader = open_video(path)
    assert 36 <= len(full) < 60 and len(reader.times) == len(full)
    for frame_idx in (20, 0, 35):
        assert np.array_equal(reader.clip(frame_idx, 1)[0], full[frame_idx])


def test_frames_of_two_recordings_in_one_file_are_counted_from_the_start(tmp_path):
    path = Path(write_video(tmp_path / "v.ts"))
    path.write_bytes(2 * path.read_bytes())                  # the second one's clock begins anew
    full, _ = decode_all(str(path))
    for frame_idx in (10, 100, 59, 70):
        clip = read_clip(path, frame_idx, 4, 2)
        assert np.array_equal(clip, np.stack([full[i] for i in wanted(frame_idx, 4, 2, len(full))]))
    # 25 a second: a stride of 6 counts fifths of a second, on screen 5 frames apart
    assert number_of(open_video(path).clip_at(3.2, 2, 6, rate=30)[0]) == 75 - 60
    assert number_of(open_video(path).clip_at(3.2, 2, 6, rate=30)[1]) == 80 - 60


def test_b_frames_that_a_file_stamps_in_the_order_they_were_sent_come_in_the_decoders_order(tmp_path):
    path = write_video(tmp_path / "v.mp4")
    with av.open(path) as source, av.open(str(tmp_path / "w.mp4"), "w") as copy:
        stream = copy.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.pts, packet.stream = packet.dts, stream
                copy.mux(packet)
    full, _ = decode_all(str(tmp_path / "w.mp4"))
    for frame_idx in (40, 3, 30, 57):
        assert np.array_equal(read_clip(tmp_path / "w.mp4", frame_idx, 1)[0], full[frame_idx])


# ---------------------------------------------------------------- seconds on another clock

# 2 + (k - 4) * 8 / 30 seconds, times the rate, rounded down
AT_TWO_SECONDS = {
    Fraction(24): [22, 28, 35, 41, 48, 54, 60, 67], Fraction(25): [23, 30, 36, 43, 50, 56, 63, 70],
    Fraction(30000, 1001): [27, 35, 43, 51, 59, 67, 75, 83],
    Fraction(30): [28, 36, 44, 52, 60, 68, 76, 84]}


@pytest.mark.parametrize("name", ["v.mp4", "v.mkv", "v.avi"])
@pytest.mark.parametrize("rate", AT_TWO_SECONDS, ids=str)
def test_a_stride_of_a_clip_can_count_thirtieths_of_a_second_whatever_the_videos_rate(tmp_path, rate, name):
    codec = "mpeg4" if name == "v.avi" else "libx264"
    path = write_video(tmp_path / name, 90, rate=rate, codec=codec, gop=30)
    clip = open_video(path).clip_at(2.0, 8, 8, rate=30)
    assert [number_of(picture) for picture in clip] == AT_TWO_SECONDS[rate]


def test_of_bare_pictures_one_after_the_other_each_is_found(tmp_path):
    rng, path = np.random.default_rng(0), tmp_path / "v.mjpeg"
    with open(path, "wb") as file:
        for i in range(20):                                  # of five very different sizes
            picture = rng.integers(0, 255 // (1 + i % 5), (64, 96, 3), dtype=np.uint8)
            Image.fromarray(picture).save(file, "JPEG")
    full, _ = decode_all(str(path))
    reader = open_video(path)
    assert all(np.array_equal(reader.clip(i, 1)[0], full[i]) for i in reversed(range(20)))


def test_frames_may_stand_for_seconds(tmp_path):
    path = write_video(tmp_path / "v.mp4", 30, rate=Fraction(1, 4))
    for second in range(0, 117, 7):
        assert number_of(open_video(path).clip_at(second, 1, 1, rate=30)[0]) == second // 4


def test_pictures_that_are_refreshed_bit_by_bit_are_read_from_a_whole_one(tmp_path):
    path = write_video(tmp_path / "v.mp4", 100, bframes=0, gop=20, options={"intra-refresh": "1"})
    full, _ = decode_all(path)
    for i in (30, 60, 95):
        assert np.array_equal(read_clip(path, i, 1)[0], full[i])
    reader = open_video(path)
    for i in range(0, 100, 10):
        assert np.array_equal(reader.clip(i, 1)[0], full[i])
    assert reader.decoded <= 105 and reader.seeks == 1       # in order it tries that only once


def test_a_file_that_was_replaced_is_indexed_anew(tmp_path):
    path = write_video(tmp_path / "v.mp4", 20)
    assert len(open_video(path).times) == 20
    write_video(tmp_path / "v.mp4", 30)
    assert len(open_video(path).times) == 30


def test_a_film_at_another_clock_needs_no_index_of_its_frames(tmp_path, monkeypatch):
    path = write_video(tmp_path / "film.mp4", 250, gop=25)
    monkeypatch.setattr("video.packet_index", None)
    reader = open_video(path)
    assert reader.duration == 10
    assert number_of(reader.clip_at(8.5, 1, 8, rate=30)[0]) == 212
    assert reader.seeks == 1 and reader.decoded <= 40        # from a key frame shortly before it
    for second in (8.6, 8.8, 9, 9.5):
        reader.clip_at(second, 4, 1, rate=30)
    assert reader.seeks == 1 and reader.decoded <= 75        # to the end


@pytest.mark.parametrize("name", ["v.mp4", "v.avi"])
def test_a_clip_more_than_a_second_outside_the_video_is_refused(tmp_path, name):
    # 60 frames, 2.4 seconds
    path = write_video(tmp_path / name, codec="mpeg4" if name == "v.avi" else "libx264")
    assert number_of(read_clip(path, 80, 1)[0]) == 59
    assert number_of(open_video(path).clip_at(3.2, 1)[0]) == 59
    assert number_of(read_clip(path, -20, 1)[0]) == 0
    for ask in (lambda reader: reader.clip(90), lambda reader: reader.clip_at(3.5),
                lambda reader: reader.clip(-26),
                lambda reader: reader.clip_at(902.0, 8, 8, rate=30),
                lambda reader: reader.clip_at(-1.1, 8, 8, rate=30)):
        with pytest.raises(ValueError, match=f"{name}: a clip is asked for .* s (beyond its end|before its start)"):
            ask(open_video(path))


@pytest.mark.parametrize("suffix, first", [("jpg", 1), ("png", 0)])
def test_a_folder_of_numbered_frames_is_a_video(tmp_path, suffix, first):
    for number in range(12):
        Image.fromarray(numbered_frame(number)).save(tmp_path / f"img_{number + first:05d}.{suffix}", quality=95)
    (tmp_path / "notes.txt").write_text("not a frame")
    (tmp_path / f"._img_00003.{suffix}").write_text("what a Mac leaves")
    assert [number_of(picture) for picture in read_clip(str(tmp_path), 3, 8, 2)] == [0, 0, 0, 1, 3, 5, 7, 9]
    reader = open_video(str(tmp_path))
    assert number_of(reader.clip_at(0.2, frames=1)[0]) == 6  # 30 frames a second


def test_frames_in_numeric_not_alphabetic_order(tmp_path):
    for number in (8, 9, 10, 11):
        Image.fromarray(numbered_frame(number)).save(tmp_path / f"{number}.png")
    assert [number_of(picture) for picture in read_clip(str(tmp_path), 2, 4)] == [8, 9, 10, 11]


@pytest.mark.parametrize("names, says", [
    (("1", "2", "4", "5"), "4.png: comes after frame 2"),
    (("0", "5", "10", "20", "25"), "20.png: comes after frame 10"),
    (("1", "2", "2_mask", "3"), "comes after frame 2"),
    (("1", "2", "3", "4_wide"), "its pictures differ in size")])
def test_folders_whose_frames_would_be_taken_for_others_are_refused(tmp_path, names, says):
    for name in names:
        size = (64, 48) if "wide" in name else (32, 48)
        Image.new("RGB", size).save(tmp_path / f"{name.replace('_mask', '')}.{'jpg' if '_' in name else 'png'}")
    with pytest.raises(ValueError, match=says):
        read_clip(str(tmp_path), 2, 4)


def test_frames_cut_at_every_sixth_number_are_a_video(tmp_path):
    for number in (6, 12, 18):
        Image.fromarray(numbered_frame(number)).save(tmp_path / f"{number}.png")
    assert [number_of(picture) for picture in read_clip(str(tmp_path), 1, 3)] == [6, 12, 18]


def test_pictures_in_16_bits_and_turned_ones_are_read_as_they_look(tmp_path):
    Image.fromarray(np.full((48, 32), 40_000, np.uint16)).save(tmp_path / "1.png")
    assert (read_clip(str(tmp_path), 0, 1) == 40_000 // 256).all()
    exif = Image.Exif()
    exif[0x0112] = 6                                         # a quarter turn clockwise is due
    Image.fromarray(np.rot90(numbered_frame(77))).save(tmp_path / "1.jpg", exif=exif, quality=95)
    (tmp_path / "1.png").unlink()
    for short_side in (None, 32):
        picture = read_clip(str(tmp_path), 0, 1, short_side=short_side)[0]
        assert picture.shape[:2] == (short_side or 64, (short_side or 64) * 3 // 2)
        assert number_of(picture) == 77


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
    # frames 41 to 44, of the group that begins at 36
    reader.clip(43, 4, 1)
    assert (reader.seeks, reader.decoded, reader.converted) == (1, 9, 4)


def test_scaling_keeps_the_aspect_and_rounds_to_the_patch():
    assert scaled_size(340, 256, 256, 16) == (336, 256)
    assert scaled_size(240, 426, 256, 16) == (256, 448)
    assert scaled_size(320, 240, None) == (320, 240) and scaled_size(1000, 10, 16, 16) == (1600, 16)


@pytest.mark.parametrize("name, content, message", [
    ("none.mp4", None, "no such video"), ("text.mp4", b"not a video at all",
                                          "not a video that can be opened"),
    ("empty.mp4", b"", "not a video")])
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


def test_a_cover_picture_is_no_video(tmp_path):
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        cover = container.add_stream("png", rate=1)
        cover.width, cover.height, cover.pix_fmt = 16, 16, "rgb24"
        cover.disposition = av.stream.Disposition.attached_pic.value
        container.mux([*cover.encode(av.VideoFrame(16, 16, "rgb24")), *cover.encode(None)])
    with pytest.raises(ValueError, match="has no video stream"):
        read_clip(str(tmp_path / "a.mp4"), 0)


def test_pictures_that_change_their_shape_midway_are_an_error(tmp_path):
    parts = [Path(write_video(tmp_path / f"{w}.h264", 30, size=(w, 64))) for w in (96, 64)]
    (tmp_path / "v.h264").write_bytes(b"".join(part.read_bytes() for part in parts))
    assert read_clip(str(tmp_path / "v.h264"), 10).shape[1:3] == (64, 96)
    with pytest.raises(ValueError, match="its pictures change from 96x64 to 64x64"):
        read_clip(str(tmp_path / "v.h264"), 30)


def test_a_folder_without_frames_says_how_to_name_them(tmp_path):
    with pytest.raises(ValueError, match="00001.jpg"):
        read_clip(str(tmp_path), 0)


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
        # as by a reader of its own
        assert np.array_equal(clip, open_video(path).clip(frame_idx, 3, 1))
        expected = [i if i != 13 else 12 for i in range(frame_idx - 1, frame_idx + 2)]
        assert frame_idx == 16 or [number_of(picture) for picture in clip] == expected


def test_a_stream_that_changes_its_size_gives_frames_of_one_size(tmp_path):
    parts = [write_video(tmp_path / f"{i}.ts", 24, size=size,
                         times=[40 * (24 * i + n) for n in range(24)])
             for i, size in enumerate([(96, 64), (192, 128)])]
    (tmp_path / "v.ts").write_bytes(b"".join(Path(part).read_bytes() for part in parts))
    clip = read_clip(str(tmp_path / "v.ts"), 24, 8, 2)
    assert clip.shape == (8, 64, 96, 3)
    assert [number_of(picture) for picture in clip] == [16, 18, 20, 22, 0, 2, 4, 6]


def test_a_damaged_end_is_where_the_decoder_says(tmp_path):
    path = write_video(tmp_path / "film.mp4", 80, bframes=0, gop=10)
    with av.open(path) as container:
        damaged = [(packet.pos, packet.size) for packet in container.demux(video=0)][30:80]
    content = bytearray(Path(path).read_bytes())
    for at, size in damaged:
        content[at + 4:at + size] = b"\xff" * (size - 4)
    Path(path).write_bytes(content)
    assert number_of(read_clip(path, 45, 1)[0]) == 29
    with pytest.raises(ValueError, match="film.mp4: a clip is asked for 1.[67] s beyond its end"):
        read_clip(path, 70, 1)


def test_a_packet_of_a_stream_that_damage_makes_up_is_passed_over():
    class Container:                                         # as PyAV reads such a transport stream
        rest = iter([1, 2, IndexError, 3])

        def demux(self, stream):
            for packet in self.rest:
                if packet is IndexError:
                    raise IndexError("list index out of range")
                yield packet
    assert list(packets(Container(), None)) == [1, 2, 3]


@pytest.mark.skipif(not shutil.which("ffmpeg"),
                    reason="ffmpeg, which trims the film, is not installed")
def test_a_trimmed_film_whose_edit_list_hides_its_first_key_frame_begins_where_players_begin(tmp_path):
    whole = write_video(tmp_path / "whole.mp4", 60, gop=20)
    trimmed = str(tmp_path / "trimmed.mp4")
    subprocess.run(["ffmpeg", "-v", "error", "-ss", "0.45", "-i", whole, "-c", "copy", trimmed],
                   check=True)
    full, _ = decode_all(trimmed)
    clip = open_video(trimmed).clip(0, 2, 1)
    assert np.array_equal(clip[1], full[0]) and len(open_video(trimmed).times) == len(full)

"""Clips of a stream are those of a seek; threads, live sources and films, on rendered videos."""

import itertools
import socket
import struct
import threading
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
from PIL import Image
from test_video import write_video

import stream
from stream import Film, Keyframe, Source, in_thread, read_keyframes
from video import VideoReader, read_clip


# ---------------------------------------------------------------- videos, also for other tests

def render(path: Path, times, grey=None, size=(96, 64), sound: float | None = None,
           sound_end: float | None = None, **options) -> Path:
    """A video of a flat frame for each time (seconds); grey (n,) in 0-255 by default counts them.

    sound: a tone from that second on, silence before; to sound_end, or as long as the pictures.
    """
    grey = np.arange(len(times)) * 3 % 250 if grey is None else np.broadcast_to(grey, len(times))
    with av.open(str(path), "w") as out:
        video = out.add_stream("libx264", rate=25, options={"crf": "1", **options})
        video.width, video.height, video.pix_fmt = *size, "yuv420p"
        video.codec_context.time_base = Fraction(1, 1000)
        if sound is not None:
            audio = out.add_stream("aac", rate=16_000, layout="mono")
            clock = np.arange(int(16_000 * (sound_end or times[-1] + 0.04))) / 16_000
            wave = (np.sin(clock * 880 * 2 * np.pi) * 20_000 * (clock >= sound)).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(wave[None], "s16", "mono")
            frame.sample_rate, frame.pts = 16_000, 0
            out.mux(audio.encode(frame))
            out.mux(audio.encode(None))
        for t, g in zip(times, grey):
            frame = av.VideoFrame.from_ndarray(np.full((size[1], size[0], 3), g, np.uint8))
            frame.pts, frame.time_base = round(t * 1000), Fraction(1, 1000)
            out.mux(video.encode(frame))
        out.mux(video.encode(None))
    return path


def at_25(seconds: float) -> np.ndarray:
    return np.arange(round(25 * seconds)) / 25


def turned(path: Path, quarters: int = 1) -> Path:
    """The video with quarter turns written into its track header, as telephones do."""
    content = bytearray(path.read_bytes())
    matrix = content.find(b"tkhd") + 4 + 40                  # version 0: 40 bytes before the matrix
    a, b = ((1, 0), (0, 1), (-1, 0), (0, -1))[quarters]
    rows = a << 16, b << 16, 0, -b << 16, a << 16, 0, 0, 0, 1 << 30
    struct.pack_into(">9i", content, matrix, *rows)
    path.write_bytes(content)
    return path


def frames_of(path: Path) -> list[tuple[float, np.ndarray]]:
    with av.open(str(path)) as container:
        frames = container.decode(video=0)
        return [(frame.time, frame.to_ndarray(format="rgb24")) for frame in frames]


def serve(content: bytes, length: int) -> str:
    """The address of a server that answers once, and promises so many bytes."""
    server = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        with server, server.accept()[0] as line:
            line.recv(4096)
            line.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % length + content)

    threading.Thread(target=answer, daemon=True).start()
    return f"http://127.0.0.1:{server.getsockname()[1]}/live.ts"


# ---------------------------------------------------------------- keyframes and clips

def test_a_folder_gives_the_frames_that_its_clips_have(tmp_path):
    Image.fromarray(np.full((48, 32), 40_000, np.uint16)).save(tmp_path / "1.png")
    (_, frame), = Source(tmp_path)
    assert (frame.to_ndarray(format="rgb24") == read_clip(str(tmp_path), 0, 1)[0]).all()



def clips_of(path: Path, times, T=4, stride=2) -> list[tuple[float, np.ndarray]]:
    source = Source(path)
    *found, end = read_keyframes(source, itertools.chain(times, [np.inf]), T, stride, 48, 8, True)
    assert end.time == source.end and end.clip is None and source.is_whole()
    assert sum(len(keyframe.frames) for keyframe in [*found, end]) == len(frames_of(path))
    return [(keyframe.time, keyframe.clip) for keyframe in found]


@pytest.mark.parametrize("times", [at_25(2), np.cumsum([0, *[0.04, 0.12, 0.02, 0.3] * 10]), [0.0],
                                   [0.0, 0.04]],
                         ids=["steady", "variable frame rate", "one frame", "two frames"])
def test_a_streams_clips_are_those_of_a_seek_to_each_keyframe(tmp_path, times):
    path = render(tmp_path / "v.mp4", times, bf="2")
    asked = [t for t in (0, 0.04, 0.33, 0.5, 0.5001, 1.0, 1.99, 4.0) if t < times[-1] + 0.04]
    for T, stride in ((4, 2), (8, 1), (1, 1), (2, 3)):
        found = clips_of(path, asked, T, stride)
        assert [t for t, _ in found] == asked
        reader = VideoReader(str(path), 48, 8)
        for t, clip in found:
            np.testing.assert_array_equal(clip, reader.clip_at(t, T, stride), err_msg=str(t))


def test_b_frames_of_an_avi_are_counted_as_the_reader_does_and_make_a_film(tmp_path):
    path = Path(write_video(tmp_path / "v.avi", 50, bframes=2))
    reader, source = VideoReader(str(path), 48, 8), Source(path)
    for t, clip in clips_of(path, [0, 0.5, 1.0]):
        np.testing.assert_array_equal(clip, reader.clip_at(t, 4, 2), err_msg=str(t))
    film = None
    for t, frame in source:
        film = film or Film(tmp_path / "film.mp4", source, frame, "words", None)
        film.add(t - 1e-17, frame, [])
    film.close(source.end)
    assert len(frames_of(tmp_path / "film.mp4")) == 50


def test_a_turned_video_gives_upright_clips_as_the_reader_does(tmp_path):
    path = turned(render(tmp_path / "v.mp4", at_25(1)))
    (_, clip), = clips_of(path, [0.5])
    assert clip.shape == (4, 72, 48, 3)
    np.testing.assert_array_equal(clip, VideoReader(str(path), 48, 8).clip_at(0.5, 4, 2))


def test_a_frame_whose_time_stamp_does_not_grow_comes_one_frame_after_the_last(tmp_path):
    source = Source(render(tmp_path / "v.mp4", [0, 0.04, 0.08]))
    stamps = (5.0, 5.04, None, 5.06, 5.4)
    source.pictures = ((stamp, av.VideoFrame(16, 16)) for stamp in stamps)
    assert [t for t, _ in source] == pytest.approx([0, 0.04, 0.08, 0.12, 0.4])


def test_a_clock_that_leaps_by_hours_is_an_error_and_a_live_sources_is_set_back(tmp_path):
    source = Source(render(tmp_path / "v.mp4", [0, 0.04]))
    stamps = 0.0, 0.04, 7200.0, 7200.04
    source.pictures = ((stamp, av.VideoFrame(16, 16)) for stamp in stamps)
    with pytest.raises(ValueError, match="v.mp4: its pictures leap from 0.0 to 7200.0 s"):
        list(source)
    source.is_live = True
    source.pictures = ((stamp, av.VideoFrame(16, 16)) for stamp in stamps)
    assert [t for t, _ in source] == pytest.approx([0, 0.04, 0.08, 0.12])


def test_a_film_is_whole_where_its_pictures_end_as_it_says_even_if_its_sound_goes_on(tmp_path):
    for name in ("v.mkv", "w.mp4"):                          # one tells only how long the file is
        source = Source(render(tmp_path / name, at_25(1), sound=0, sound_end=9))
        assert source.duration == pytest.approx(9 if name == "v.mkv" else 1, abs=0.2)
        assert len(list(source)) == 25 and source.is_whole()
    path = render(tmp_path / "cut.mkv", at_25(10), grey=np.arange(250) * 97 % 256)
    path.write_bytes(path.read_bytes()[:path.stat().st_size * 2 // 5])
    for limit, is_whole in ((None, False), (2, True)):       # what was not asked for is not missed
        source = Source(path, limit=limit)
        assert 0 < len(list(source)) < 150 and source.is_whole() == is_whole


def test_a_number_is_a_camera():
    assert stream.camera_path("0") == "/dev/video0" and stream.camera_path("a.mp4") == "a.mp4"


# ---------------------------------------------------------------- threads

def test_a_threads_error_is_raised_where_its_items_are_read_and_leaving_early_ends_it():
    def items():
        yield 1
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        list(in_thread(items()))
    before, read = threading.active_count(), []
    endless = in_thread(read.append(i) or i for i in itertools.count(1))
    assert [next(endless), next(endless)] == [1, 2]
    endless.close()
    assert threading.active_count() == before and len(read) <= 3          # one ahead of us, no more


def test_late_keyframes_leave_their_cuts_to_the_next_and_an_error_of_the_reader_is_raised():
    source = SimpleNamespace(late=0, is_live=True)
    go, is_read = threading.Event(), threading.Event()

    def read():
        yield Keyframe(0.0, [], [])
        go.wait(10)
        yield Keyframe(0.5, [], [0.3])
        yield Keyframe(1.0, [], [0.7])
        is_read.set()
        raise ValueError("broken")

    keyframes = stream.keyframes_ahead(read(), source)
    assert next(keyframes).time == 0
    go.set()
    assert is_read.wait(10)
    following = next(keyframes)
    assert (following.time, following.cuts, source.late) == (1.0, [0.3, 0.7], 1)
    with pytest.raises(ValueError, match="broken"):
        next(keyframes)


# ---------------------------------------------------------------- films

def test_a_film_keeps_the_times_of_frames_and_of_the_sound(tmp_path):
    times = np.cumsum([0, *[0.04, 0.12, 0.02] * 16])         # variable frame rate, 2.88 s
    source, film = Source(render(tmp_path / "v.mp4", times, sound=1.5)), None
    for t, frame in source:
        film = film or Film(tmp_path / "film.mp4", source, frame, "words", None)
        film.add(t, frame, [])
    film.close(source.end)
    shown = [t for t, _ in frames_of(tmp_path / "film.mp4")]
    assert shown == pytest.approx(times.tolist(), abs=1e-3)
    with av.open(str(tmp_path / "film.mp4")) as container:
        sound = [(frame.time, np.abs(frame.to_ndarray()).max())
                 for frame in container.decode(audio=0)]
    assert sound[-1][0] == pytest.approx(2.88, abs=0.1)
    assert next(t for t, loud in sound if loud > 0.1) == pytest.approx(1.5, abs=0.06)

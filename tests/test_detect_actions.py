"""The product, driven as a user would on rendered videos: boxes, tracks, spans, sound, rotation, interruption, errors."""

import csv
import dataclasses
import itertools
import json
import os
import re
import resource
import signal
import struct
import subprocess
import sys
import threading
import time
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
from PIL import Image

import detect_actions
import detect_humans
import draw
import ovstad
from detect_actions import (Keyframe, Person, Settings, Tracker, Words, detect, main, people_at, scores_of,
                            split_interval)
from formats import cvat  # noqa: E402
from video import VideoReader  # noqa: E402

ROOT = Path(detect_actions.__file__).resolve().parent
SAMPLES = Path(__file__).resolve().parents[2] / "shared" / "samples"
LEFT, RIGHT = (0.1, 0.2, 0.3, 0.9), (0.6, 0.2, 0.8, 0.9)


# ---------------------------------------------------------------- helpers

def render(path: Path, times, grey=None, size=(96, 64), sound: float | None = None, sound_end: float | None = None,
           **options) -> Path:
    """A video with one flat frame for each time (seconds); grey (n,) in 0-255 by default counts the frames.

    sound: a tone from that second on, silence before; to sound_end, or as long as the pictures.
    """
    times = np.asarray(times, float)
    grey = np.arange(len(times)) * 3 % 250 if grey is None else grey
    with av.open(str(path), "w") as out:
        video = out.add_stream(options.pop("codec", "libx264"), rate=25, options={"crf": "1", **options})
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
            frame = av.VideoFrame.from_ndarray(np.full((size[1], size[0], 3), g, np.uint8), format="rgb24")
            frame.pts, frame.time_base = round(t * 1000), Fraction(1, 1000)
            out.mux(video.encode(frame))
        out.mux(video.encode(None))
    return path


def at_25(seconds: float) -> np.ndarray:
    return np.arange(round(25 * seconds)) / 25


def boxes_csv(path: Path, rows) -> Path:
    """rows: (video, second, box)."""
    path.write_text("".join(f"{v},{t:g},{','.join(map(str, box))},,0.9\n" for v, t, box in rows))
    return path


def run(*args) -> int:
    """The command, in this process."""
    return main([str(arg) for arg in args])


def read_rows(path: Path) -> list[list[str]]:
    return list(csv.reader(path.read_text().splitlines()))


def frames_of(path: Path) -> list[tuple[float, np.ndarray]]:
    with av.open(str(path)) as container:
        return [(frame.time, frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]


def outline(track: int, picture: np.ndarray, box) -> bool:
    """Whether a person's box is drawn there: the middle of its lower edge has the person's colour, about."""
    height, width = picture.shape[:2]
    y, x = round(box[3] * height), round((box[0] + box[2]) / 2 * width)
    patch = picture[max(y - 2, 0):y + 2, max(x - 2, 0):x + 3].reshape(-1, 3).astype(int)
    return bool((np.abs(patch - draw.colour_of(track)).sum(axis=1) < 150).any())


@pytest.fixture(scope="session")
def ckpt(tmp_path_factory) -> Path:
    """A toy model of random weights, in a checkpoint as train_finetune.py writes them."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model") / "toy.pt"
    torch.save({"model": ovstad.build_model("toy").state_dict(), "arch": "toy", "beta": 0.3, "prompt": "a person {}",
                "frames": 4, "stride": 2, "short_side": 48, "stage": "finetune", "step": 1, "args": {}}, path)
    return path


@pytest.fixture
def bright_people(monkeypatch):
    """A stand-in for detect_humans.py: the box of what is brighter than 200, if anything is."""
    def detect_frames(detector, frames):
        found = []
        for frame in frames:
            torch.as_tensor(frame)                           # as a detector takes it: no negative strides
            ys, xs = np.nonzero(frame.mean(axis=2) > 200)
            height, width = frame.shape[:2]
            boxes = np.zeros((0, 4), np.float32)
            if len(xs):
                corners = xs.min() / width, ys.min() / height, (xs.max() + 1) / width, (ys.max() + 1) / height
                boxes = np.array([corners], np.float32)
            found.append((boxes, np.ones(len(boxes), np.float32)))
        return found

    monkeypatch.setattr(detect_humans, "build_detector", lambda name, weights, device: torch.nn.Identity())
    monkeypatch.setattr(detect_humans, "detect_frames", detect_frames)


# ---------------------------------------------------------------- words and scores

@pytest.mark.parametrize("text, message", [
    ("wave\n\nwave: hand wave\n", "f.txt:3: 'wave: hand wave' is there twice"),
    ("# only a comment\n", "f.txt: no action in it"),
    ("wave: a |\n", "f.txt:1: 'wave: a |' names no action"),
    (": a\n", "f.txt:1: ': a' names no action")])
def test_a_wrong_words_file_is_told_by_its_line(tmp_path, text, message):
    path = tmp_path / "f.txt"
    path.write_text(text)
    with pytest.raises(ValueError, match=re.escape(message)):
        detect_actions.read_actions(path)


def test_an_action_may_have_phrasings_a_name_alone_is_its_own_and_comments_are_left_out(tmp_path):
    path = tmp_path / "f.txt"
    path.write_text("# mine\n wave : waving a hand|hand wave \n\nride a bike\n")
    assert detect_actions.read_actions(path) == {"wave": ["waving a hand", "hand wave"], "ride a bike": ["ride a bike"]}


def test_calibrated_score_is_the_words_share_in_a_softmax_over_it_and_the_background():
    logits = torch.tensor([[3.0, 1.0, 2.0, 0.5]], dtype=torch.float64)       # two words, two background prompts
    e = np.exp([3.0, 1.0, 2.0, 0.5])
    by_hand = [e[0] / (e[0] + e[2] + e[3]), e[1] / (e[1] + e[2] + e[3])]
    assert scores_of(logits, 2, "background")[0].tolist() == pytest.approx(by_hand, abs=1e-12)


def test_sigmoid_scores_of_two_large_logits_stay_apart():
    scores = scores_of(torch.tensor([[30.0, 31.0, 0.0]], dtype=torch.float64), 2, "none")[0]
    assert scores[0] < scores[1] < 1
    assert scores[0].item() == pytest.approx(1 / (1 + np.exp(-30.0)), abs=1e-15)


def test_one_word_alone_is_denied_where_the_background_fits_better():
    assert scores_of(torch.tensor([[20.0, 26.0, 19.0]], dtype=torch.float64), 1, "background").item() < 0.01


def test_phrasings_are_averaged_after_normalisation_and_scored_like_the_models_own_equations(ckpt):
    settings = Settings(background=("a person",))
    words = Words({"wave": ["waving", "hand wave"], "walk": ["walk"]}, ckpt, settings, torch.device("cpu"))
    model = words.model
    rng = np.random.default_rng(0)
    clips = rng.integers(0, 255, (2, 4, 48, 64, 3), dtype=np.uint8)
    boxes = [torch.tensor([LEFT, RIGHT]), torch.tensor([LEFT])]
    with torch.no_grad():
        one, two, walk, person = torch.nn.functional.normalize(model.encode_text(
            ["a person waving", "a person hand wave", "a person walk", "a person"]), dim=-1)
        texts = torch.stack([(one + two) / 2, walk, person])
        rows = []
        for clip, clip_boxes in zip(clips, boxes):
            pixels = torch.from_numpy(clip).permute(0, 3, 1, 2).float() / 255
            pixels = (pixels - torch.tensor(ovstad.IMAGENET_MEAN).view(3, 1, 1)) / torch.tensor(ovstad.IMAGENET_STD).view(3, 1, 1)
            f_global, f_map = model.encode_video(pixels[None])
            region = model.region_features(f_map, [clip_boxes])
            logits = model.logits(0.3 * region + 0.7 * f_global, texts).double()
            rows.append(1 / (1 + np.exp(-(logits[:, :2] - logits[:, 2:]).numpy())))
    found = words.score(clips, boxes)
    assert [part.shape for part in found] == [(2, 2), (1, 2)]
    np.testing.assert_allclose(np.concatenate(found), np.concatenate(rows), atol=1e-4)


# ---------------------------------------------------------------- clips of a stream

def clips_of(path: Path, times, frames=4, stride=2) -> list:
    """(keyframe_sec, clip) of each keyframe."""
    words = SimpleNamespace(frames=frames, stride=stride, short_side=48, model=SimpleNamespace(patch=8))
    source = detect_actions.Source(path, Settings())
    found = list(detect_actions.read_keyframes(source, itertools.chain(times, [np.inf]), words, pictures=True))
    assert found[-1].time == source.end and found[-1].clip is None
    assert sum(len(keyframe.frames) for keyframe in found) == len(frames_of(path))
    return [(keyframe.time, keyframe.clip) for keyframe in found[:-1]]


@pytest.mark.parametrize("times", [at_25(2), np.cumsum([0, *[0.04, 0.12, 0.02, 0.3] * 10]), [0.0], [0.0, 0.04]],
                         ids=["steady", "variable frame rate", "one frame", "two frames"])
@pytest.mark.parametrize("frames, stride", [(4, 2), (8, 1), (1, 1), (2, 3)])
def test_the_streams_clips_are_those_of_a_seek_to_each_keyframe(tmp_path, times, frames, stride):
    path = render(tmp_path / "v.mp4", times, bf="2")
    asked = [t for t in (0, 0.04, 0.33, 0.5, 0.5001, 1.0, 1.99, 4.0) if t < times[-1] + 0.04]
    found = clips_of(path, asked, frames, stride)
    assert [t for t, _ in found] == asked
    reader = VideoReader(str(path), 48, 8)
    for t, clip in found:
        np.testing.assert_array_equal(clip, reader.clip_at(t, frames, stride), err_msg=str(t))


def test_a_turned_video_gives_upright_clips_as_the_reader_does(tmp_path):
    path = turned(render(tmp_path / "v.mp4", at_25(1)))
    (_, clip), = clips_of(path, [0.5])
    assert clip.shape == (4, 72, 48, 3)
    np.testing.assert_array_equal(clip, VideoReader(str(path), 48, 8).clip_at(0.5, 4, 2))


def turned(path: Path, quarters: int = 1) -> Path:
    """The video with quarter turns written into its track header, as telephones do."""
    content = bytearray(path.read_bytes())
    matrix = content.find(b"tkhd") + 4 + 40                  # version 0: 40 bytes before the matrix
    assert struct.unpack_from(">9i", content, matrix)[0] == 65536
    a, b = ((1, 0), (0, 1), (-1, 0), (0, -1))[quarters]
    struct.pack_into(">9i", content, matrix, a << 16, b << 16, 0, -b << 16, a << 16, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    return path


def test_a_frame_whose_time_stamp_does_not_grow_comes_one_frame_after_the_last(tmp_path):
    source = detect_actions.Source(render(tmp_path / "v.mp4", [0, 0.04, 0.08]), Settings())
    source.pictures = ((stamp, av.VideoFrame(16, 16)) for stamp in (5.0, 5.04, None, 5.06, 5.4))
    assert [t for t, _ in source] == pytest.approx([0, 0.04, 0.08, 0.12, 0.4])


def test_an_error_in_a_thread_is_raised_where_its_items_are_read_and_leaving_early_ends_it():
    def items():
        yield 1
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        list(detect_actions.in_thread(items()))
    before = threading.active_count()
    endless = detect_actions.in_thread(i for i in itertools.count(1))
    assert [next(endless), next(endless)] == [1, 2]
    endless.close()
    assert threading.active_count() == before


# ---------------------------------------------------------------- tracks, and what lies between two keyframes

def keyframes_of(boxes_by_time, cuts=(), sure=None) -> list[Keyframe]:
    """Linked keyframes of a grey film; {second: boxes}; cuts: seconds at which a scene begins; sure: {second: scores}."""
    tracker, result, before = Tracker(Settings()), [], -1.0
    for time, boxes in boxes_by_time.items():
        keyframe = Keyframe(time, [], [cut for cut in cuts if before < cut <= time], clip=np.full((1, 90, 160, 3), 99))
        scores = np.array((sure or {}).get(time, [0.9] * len(boxes)))
        linked = tracker.link(keyframe, np.array(boxes, np.float32).reshape(-1, 4), scores)
        keyframe.people = {track: Person(np.array(boxes[n]), np.zeros(1)) for track, n in linked.items()}
        result.append(keyframe)
        before = time
    assert len(tracker.tracks) <= 3                          # those that are over are forgotten
    return result


def tracks_of(*arguments, **more) -> list[list[tuple]]:
    """For each keyframe, (track, left side) of the people on it."""
    return [[(track, round(float(person.box[0]), 2)) for track, person in sorted(keyframe.people.items())]
            for keyframe in keyframes_of(*arguments, **more)]


def box_at(left: float) -> tuple:
    return left, 0.1, left + 0.3, 0.9


def test_people_keep_their_tracks_while_they_pass_and_a_short_gap_is_bridged():
    passing = {i / 2: [box_at(0.1 * i), box_at(0.6 - 0.1 * i)] for i in range(7)}
    passing[1.5] = [box_at(0.3)]                             # one hides the other
    assert tracks_of(passing)[6] == [(1, 0.6), (2, 0.0)]
    assert [len(keyframe) for keyframe in tracks_of(passing)] == [2, 2, 2, 1, 2, 2, 2]


def test_the_nearest_pair_is_linked_first():
    assert tracks_of({0: [box_at(0.1)], 0.5: [box_at(0.12), box_at(0.1)]}) == [[(1, 0.1)], [(1, 0.1), (2, 0.12)]]


def test_unsure_boxes_continue_tracks_but_begin_none():
    sure = {0.5: [0.35, 0.9], 1: [0.35], 1.5: [0.25]}        # --person-score 0.6: from 0.3 on
    assert tracks_of({0: [LEFT], 0.5: [LEFT, RIGHT], 1: [box_at(0.65)], 1.5: [LEFT]}, sure=sure) \
        == [[(1, 0.1)], [(1, 0.1), (2, 0.6)], [(2, 0.65)], []]


def test_a_person_unseen_for_longer_than_the_gap_or_behind_a_cut_is_a_new_one():
    assert tracks_of({0: [LEFT], 0.5: [], 1.5: [LEFT], 2: [], 3.1: [LEFT]}) == [[(1, 0.1)], [], [(1, 0.1)], [], [(2, 0.1)]]
    assert tracks_of({0: [LEFT], 0.5: [LEFT]}, cuts=[0.3]) == [[(1, 0.1)], [(2, 0.1)]]


def test_of_two_in_one_place_colours_tell_who_comes_back():
    tracker, red, blue = Tracker(Settings()), (200, 30, 30), (30, 30, 200)

    def link(time, people) -> list[int]:
        clip = np.full((1, 90, 160, 3), 99)
        for box, colour in people:
            clip[0, :, round(box[0] * 160):round(box[2] * 160)] = colour
        boxes = np.array([box for box, _ in people], np.float32)
        return list(tracker.link(Keyframe(time, [], [], clip=clip), boxes, np.ones(len(people))))

    assert link(0, [(box_at(0.1), red), (box_at(0.5), blue)]) == [1, 2]
    assert link(0.5, [(box_at(0.3), blue)]) == [2]


def seen_at(time, a, b) -> dict:
    """{track: left side} on screen between two keyframes."""
    people = people_at(time, a, b, split_interval(a, b, 0.5))
    return {track: pytest.approx(float(person.box[0])) for track, person in people.items()}


def test_boxes_are_interpolated_and_who_is_on_one_keyframe_only_is_seen_for_half_the_interval():
    a, b, c = keyframes_of({1.0: [box_at(0.1)], 1.5: [box_at(0.15), box_at(0.6)], 2.0: [box_at(0.6)]})
    assert seen_at(1.2, a, b) == {1: 0.12} and seen_at(1.3, a, b) == {1: 0.13, 2: 0.6}
    assert seen_at(1.7, b, c) == {1: 0.15, 2: 0.6} and seen_at(1.8, b, c) == {2: 0.6}


def test_at_a_cut_people_of_before_are_seen_until_it_and_those_of_after_from_it():
    a, b = keyframes_of({1.0: [LEFT], 1.5: [LEFT]}, cuts=[1.4])
    assert list(seen_at(1.39, a, b)) == [1] and list(seen_at(1.4, a, b)) == [2]


def test_between_keyframes_that_lie_far_apart_people_are_seen_near_them():
    a, empty, b = keyframes_of({1.0: [LEFT], 5.0: [], 9.0: [LEFT]})
    assert [list(seen_at(t, a, empty)) for t in (1.2, 1.3)] == [[1], []]
    assert [list(seen_at(t, empty, b)) for t in (8.7, 8.8)] == [[], [2]]


def test_keyframes_without_anybody_stand_where_those_of_the_proposals_lie_far_apart():
    times = detect_actions.keyframe_times({4.0: None, 4.5: None, 9.0: None, 10.0: None}, Settings(gap=1.5))
    assert [next(times) for _ in range(8)] == [1.5, 4.0, 4.5, 6.0, 9.0, 10.0, 11.5, 13.0]


def test_scores_are_the_mean_of_three_keyframes_and_spans_end_below_the_threshold(tmp_path, ckpt, monkeypatch):
    raw = iter([0.9, 0.9, 0.3, 0.3, 0.3, 0.9])
    monkeypatch.setattr(Words, "score", lambda self, clips, boxes: [np.full((1, 1), next(raw))])
    video = render(tmp_path / "v.mp4", at_25(3))
    people = boxes_csv(tmp_path / "p.csv", [("v", i / 2, LEFT) for i in range(6)])
    assert run(video, "--ckpt", ckpt, "--actions", "wave", "--proposals", people, "--out", tmp_path, "--no-video") == 0
    scores = [float(row[7]) for row in read_rows(tmp_path / "v.csv")]
    assert scores == pytest.approx([0.9, 0.7, 0.5, 0.3, 0.5, 0.6])
    assert read_rows(tmp_path / "v_spans.csv")[1:] == [["1", "wave", "0.000", "1.250", "0.7000"],
                                                       ["1", "wave", "1.750", "3.000", "0.5500"]]


# ---------------------------------------------------------------- the command on rendered videos

def test_two_people_give_boxes_tracks_spans_and_pictures_that_show_them(tmp_path, ckpt, capsys):
    video = render(tmp_path / "two.mp4", at_25(3), grey=np.full(75, 90), size=(320, 240))
    moving = [(0.1 + 0.05 * t, 0.2, 0.3 + 0.05 * t, 0.9) for t in (0, 1, 2)]
    people = boxes_csv(tmp_path / "p.csv", [("two.mp4", t, box) for t in (0, 1, 2) for box in (moving[t], RIGHT)])
    out = tmp_path / "out"
    assert run(video, "--ckpt", ckpt, "--actions", "wave", "walk", "--proposals", people, "--out", out, "--json",
               "--export", "cvat", "--threshold", 0) == 0
    assert "2 people, 6 boxes" in capsys.readouterr().out

    rows = read_rows(out / "two.csv")
    assert [row[:2] + row[6:7] for row in rows] \
        == [["two.mp4", f"{t}.000", c] for t in (0, 1, 2) for _ in range(2) for c in "12"]
    assert [float(x) for x in rows[4][2:6]] == pytest.approx(moving[1])
    labels = (out / "two.pbtxt").read_text()
    assert labels.count("item {") == 2 and 'name: "walk"' in labels
    # threshold 0: everyone does everything from the first keyframe to half an interval after the last
    spans = read_rows(out / "two_spans.csv")
    assert spans[0] == ["track", "action", "start", "end", "mean_score"]
    assert sorted(row[:4] for row in spans[1:]) == [[t, a, "0.000", "2.250"] for t in "12" for a in ("walk", "wave")]
    for track, action, _, _, score in spans[1:]:
        own = [float(row[7]) for row in rows if row[6] == str(["wave", "walk"].index(action) + 1)
               and (float(row[2]) < 0.5) == (track == "1")]
        assert float(score) == pytest.approx(np.mean(own), abs=1e-4)

    content = json.loads((out / "two.json").read_text())
    assert [(d["time"], d["track"]) for d in content["detections"]] == [(t, k) for t in (0, 1, 2) for k in (1, 2)]
    assert content["detections"][0]["scores"]["walk"] == float(rows[1][7])
    assert [(p["track"], p["start"], p["end"]) for p in content["people"]] == [(1, 0, 2.25), (2, 0, 2.25)]

    frames = frames_of(out / "two.mp4")
    assert [t for t, _ in frames] == pytest.approx(at_25(3).tolist(), abs=1e-3)
    assert outline(1, frames[0][1], moving[0]) and outline(2, frames[0][1], RIGHT)
    assert outline(1, frames[38][1], (0.176, 0.2, 0.376, 0.9)) and not outline(1, frames[38][1], RIGHT)
    assert not outline(1, frames[70][1], moving[2]) and not outline(2, frames[70][1], RIGHT)
    assert "two.mp4" in (out / "two.html").read_text()
    one, = cvat.read_cvat(out / "two.cvat.xml")
    assert {track: [(frame, said) for frame, _, said in entries] for track, entries in one.tracks.items()} \
        == {track: [(0, ("wave", "walk")), (25, ("wave", "walk")), (50, ("wave", "walk")), (51, None)] for track in (1, 2)}
    assert one.tracks[1][1][1] == pytest.approx([side * length for side, length in zip(moving[1], (320, 240) * 2)])
    assert (out / "two.done").exists() and not list(out.glob("*.part")) and not list(out.glob("*.unfinished"))


def test_a_cut_makes_new_people_of_those_in_the_same_place(tmp_path, ckpt):
    video = render(tmp_path / "cut.mp4", at_25(2), grey=[40] * 25 + [200] * 25)
    people = boxes_csv(tmp_path / "p.csv", [("cut", t, LEFT) for t in (0, 0.5, 1, 1.5)])
    assert run(video, "--ckpt", ckpt, "--actions", "wave", "--proposals", people, "--out", tmp_path / "out", "--json",
               "--no-video") == 0
    content = json.loads((tmp_path / "out" / "cut.json").read_text())
    assert [(d["time"], d["track"]) for d in content["detections"]] == [(0, 1), (0.5, 1), (1, 2), (1.5, 2)]
    assert [(p["track"], p["start"], p["end"]) for p in content["people"]] == [(1, 0, 1), (2, 1, 2)]
    assert not (tmp_path / "out" / "cut.mp4").exists()


def test_an_empty_scene_is_said_to_have_nobody_and_one_person_has_boxes_where_they_are(tmp_path, ckpt, bright_people, capsys):
    empty = render(tmp_path / "empty.mp4", at_25(1.2), grey=np.full(30, 50))
    full = render(tmp_path / "full.mp4", at_25(1.2), grey=np.full(30, 250))
    assert run(empty, full, "--ckpt", ckpt, "--actions", "wave", "--out", tmp_path / "out") == 0
    said = capsys.readouterr().out
    assert "empty.mp4: 1.2 s, 0 people" in said and "nobody was found" in said
    assert read_rows(tmp_path / "out" / "empty.csv") == [] and len(read_rows(tmp_path / "out" / "empty_spans.csv")) == 1
    assert len(frames_of(tmp_path / "out" / "empty.mp4")) == 30
    rows = read_rows(tmp_path / "out" / "full.csv")
    assert [row[1:7] for row in rows] == [[t, "0.000000", "0.000000", "1.000000", "1.000000", "1"] for t in ("0.000", "0.500", "1.000")]


def test_one_frame_is_a_video(tmp_path, ckpt, bright_people):
    video = render(tmp_path / "one.mp4", [0], grey=[250])
    assert run(video, "--ckpt", ckpt, "--actions", "wave", "--out", tmp_path / "out", "--threshold", 0) == 0
    assert len(read_rows(tmp_path / "out" / "one.csv")) == 1
    (moment, picture), = frames_of(tmp_path / "out" / "one.mp4")
    assert moment == 0 and picture.shape == (64, 96, 3)
    assert read_rows(tmp_path / "out" / "one_spans.csv")[1][:4] == ["1", "wave", "0.000", "0.040"]


def test_a_portrait_video_comes_out_upright(tmp_path, ckpt):
    video = turned(render(tmp_path / "tall.mp4", at_25(1), grey=np.full(25, 90), size=(320, 240)))
    people = boxes_csv(tmp_path / "p.csv", [("tall", 0, (0.2, 0.1, 0.8, 0.5)), ("tall", 0.5, (0.2, 0.1, 0.8, 0.5))])
    assert run(video, "--ckpt", ckpt, "--actions", "wave", "--proposals", people, "--out", tmp_path / "out") == 0
    with av.open(str(tmp_path / "out" / "tall.mp4")) as container:
        frame = next(container.decode(video=0))
    assert (frame.width, frame.height, frame.rotation) == (240, 320, 0)
    assert outline(1, frame.to_ndarray(format="rgb24"), (0.2, 0.1, 0.8, 0.5))


@pytest.mark.parametrize("quarters, box", [(1, [0.5, 0, 1, 1]), (2, [0, 0.5, 1, 1]), (3, [0, 0, 0.5, 1])])
def test_the_detector_sees_turned_videos_upright(tmp_path, ckpt, bright_people, quarters, box):
    path = tmp_path / "v.mp4"
    with av.open(str(path), "w") as out:
        video = out.add_stream("libx264", rate=25, options={"crf": "1"})
        video.width, video.height, video.pix_fmt = 96, 64, "yuv420p"
        picture = np.zeros((64, 96, 3), np.uint8)
        picture[:32] = 255                                   # the upper half is bright
        for _ in range(5):
            out.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        out.mux(video.encode(None))
    seen, = detect(turned(path, quarters), ["wave"], ckpt)
    assert seen.box == pytest.approx(box, abs=0.05)


def test_frames_keep_their_times_and_the_sound_its_place(tmp_path, ckpt, bright_people):
    times = np.cumsum([0, *[0.04, 0.12, 0.02] * 16])                          # variable frame rate, 2.88 s
    video = render(tmp_path / "v.mp4", times, grey=np.full(len(times), 250), sound=1.5)
    assert run(video, "--ckpt", ckpt, "--actions", "wave", "--out", tmp_path / "out") == 0
    assert [t for t, _ in frames_of(tmp_path / "out" / "v.mp4")] == pytest.approx(times.tolist(), abs=1e-3)
    assert [float(row[1]) for row in read_rows(tmp_path / "out" / "v.csv")] == [0, 0.5, 1, 1.5, 2, 2.5]
    with av.open(str(tmp_path / "out" / "v.mp4")) as container:
        sound = [(frame.time, np.abs(frame.to_ndarray()).max()) for frame in container.decode(audio=0)]
    assert sound[-1][0] == pytest.approx(2.88, abs=0.1)
    assert next(t for t, loud in sound if loud > 0.1) == pytest.approx(1.5, abs=0.06)


def test_a_folder_of_frames_and_an_address_are_videos_and_max_seconds_ends_them(tmp_path, ckpt, bright_people):
    folder = tmp_path / "frames"
    folder.mkdir()
    for i in range(30):
        Image.new("RGB", (97, 63), (250, 250, 250)).save(folder / f"{i + 1:04d}.png")
    video = render(tmp_path / "v.mkv", at_25(2), grey=np.full(50, 250))
    address = f"file://{video}"
    assert run(folder, address, "--ckpt", ckpt, "--actions", "wave", "--out", tmp_path / "out", "--max-seconds", 1, "--fps", 10) == 0
    assert [float(row[1]) for row in read_rows(tmp_path / "out" / "frames.csv")] == [0, 0.5]
    assert len(frames_of(tmp_path / "out" / "v.mp4")) == 25


def test_a_broken_video_is_named_the_others_go_on_and_the_status_is_1(tmp_path, ckpt, bright_people, capsys):
    good = render(tmp_path / "good.mp4", at_25(0.6), grey=np.full(15, 250))
    (tmp_path / "bad.mp4").write_bytes(b"no video" * 100)
    silent = tmp_path / "sound.wav"
    with av.open(str(silent), "w") as out:
        audio = out.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        frame.sample_rate = 8000
        out.mux(audio.encode(frame))
    arguments = (tmp_path / "bad.mp4", silent, tmp_path / "absent.mp4", good, "--ckpt", ckpt, "--actions", "wave",
                 "--out", tmp_path / "out", "--no-video")
    assert run(*arguments) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert "bad.mp4: not a video that can be opened" in errors[0] and "sound.wav: has no video stream" in errors[1]
    assert "absent.mp4: no such video" in errors[2] and len(errors) == 3
    assert len(read_rows(tmp_path / "out" / "good.csv")) == 2
    # alone, it is the user's mistake: one line, status 2
    with pytest.raises(ValueError, match="bad.mp4: not a video"):
        run(tmp_path / "bad.mp4", *arguments[4:])


def test_what_is_complete_is_skipped_until_the_video_the_words_or_the_weights_change(tmp_path, ckpt, bright_people, capsys):
    video, out = render(tmp_path / "v.mp4", at_25(0.6), grey=np.full(15, 250)), tmp_path / "out"

    def skips(weights=ckpt, *more, word="wave") -> bool:
        assert run(video, "--ckpt", weights, "--actions", word, "--out", out, "--skip-existing", *more) == 0
        return "complete, skipped" in capsys.readouterr().out

    assert not skips() and skips()
    assert not skips(word="walk") and not skips() and not skips(ckpt, "--no-video")
    assert not (out / "v.mp4").exists() and (out / "v.csv").exists()         # nothing of the answer before stays
    assert skips(ckpt, "--no-video")
    record = torch.load(ckpt, weights_only=True)
    record["model"]["temp"] = record["model"]["temp"] + 1
    torch.save(record, tmp_path / "other.pt")
    assert not skips(tmp_path / "other.pt") and skips(tmp_path / "other.pt")
    render(video, at_25(0.6), grey=np.full(15, 240))
    assert not skips(tmp_path / "other.pt")


def test_files_that_no_run_of_ours_made_and_those_of_another_video_are_left_alone(tmp_path, ckpt, bright_people):
    video, out = render(tmp_path / "v.mp4", at_25(0.4), grey=np.full(10, 250)), tmp_path / "out"
    out.mkdir()
    ask = "--ckpt", ckpt, "--actions", "wave", "--out", out
    (out / "v.mp4").write_text("mine")
    for mark in ("", "[]", "3", '{"files": ".mp4"}'):                         # not a mark of ours
        (out / "v.done").write_text(mark)
        with pytest.raises(ValueError, match="v.mp4: is there, and no run of ours wrote it"):
            run(video, *ask)
        assert (out / "v.mp4").read_text() == "mine" and not (out / "v.csv").exists()
    assert run(video, *ask, "--no-video") == 0 and (out / "v.mp4").read_text() == "mine"
    (out / "v.mp4").unlink()
    assert run(video, *ask) == 0
    with pytest.raises(ValueError, match="there are the results of .*v.mp4"):          # our film would be overwritten
        run(out / "v.mp4", *ask)
    os.replace(out / "v.done", out / "v.unfinished")                          # as a killed run leaves it
    assert run(video, *ask, "--no-video") == 0
    assert sorted(path.name for path in out.iterdir()) == ["v.csv", "v.done", "v.html", "v.pbtxt", "v_spans.csv"]


def test_a_video_that_is_cut_short_is_told_and_not_taken_for_done(tmp_path, ckpt, bright_people):
    video = render(tmp_path / "v.mkv", at_25(10), grey=np.arange(250) * 97 % 256)
    video.write_bytes(video.read_bytes()[:video.stat().st_size * 2 // 5])
    with pytest.raises(ValueError, match=r"v.mkv: says it lasts 10.0 s, but its frames end at [345]\.\d s"):
        run(video, "--ckpt", ckpt, "--actions", "wave", "--out", tmp_path / "out")
    assert not (tmp_path / "out" / "v.done").exists()
    assert 70 <= len(frames_of(tmp_path / "out" / "v.mp4")) <= 150 and read_rows(tmp_path / "out" / "v.csv")


def test_sound_that_outlasts_the_pictures_is_no_sign_of_a_cut(tmp_path, ckpt, bright_people):
    for name in ("v.mkv", "w.mp4"):                          # one says how long the file is, one also how long its pictures
        video = render(tmp_path / name, at_25(1), sound=0, sound_end=9)
        assert detect_actions.Source(video, Settings()).duration == pytest.approx(9 if name == "v.mkv" else 1, abs=0.2)
        assert run(video, "--ckpt", ckpt, "--actions", "wave", "--out", tmp_path / "out") == 0
        assert (tmp_path / "out" / f"{video.stem}.done").exists()


def test_a_person_is_followed_from_keyframe_to_keyframe_however_far_they_are_apart(tmp_path, ckpt):
    video = render(tmp_path / "v.mp4", at_25(9), grey=np.full(225, 100))
    people = boxes_csv(tmp_path / "p.csv", [("v", t, LEFT) for t in (0, 4, 8)])
    assert {seen.track for seen in detect(video, ["wave"], ckpt, proposals=people)} == {1}


def test_the_frames_held_do_not_grow_with_the_video(tmp_path, ckpt, bright_people, monkeypatch):
    read, drawn, held = [], [], []
    pictures, add = detect_actions.Source.__iter__, detect_actions.Film.add
    monkeypatch.setattr(detect_actions.Source, "__iter__", lambda self: (read.append(1) or item for item in pictures(self)))

    def counting_add(*arguments):
        held.append(len(read) - len(drawn))
        drawn.append(1)
        add(*arguments)

    monkeypatch.setattr(detect_actions.Film, "add", counting_add)
    for seconds in (12, 36):
        video = render(tmp_path / f"{seconds}.mp4", at_25(seconds), grey=np.full(25 * seconds, 250), size=(48, 48))
        assert run(video, "--ckpt", ckpt, "--actions", "wave", "--out", tmp_path / "out") == 0
        assert len(read) == len(drawn) == 25 * seconds
        read.clear(), drawn.clear()
    assert max(held) <= 6 * 12.5 + 10                        # five intervals, the one being read, the window of a clip


def test_library_gives_plain_records_and_reads_no_further_when_it_is_left(tmp_path, ckpt, bright_people):
    video = render(tmp_path / "v.mp4", at_25(2), grey=np.full(50, 250))
    records = list(detect(video, ["wave", "walk: walking | strolling"], ckpt, device="cpu"))
    assert [(seen.video, seen.time, seen.track) for seen in records] == [(str(video), t, 1) for t in (0, 0.5, 1, 1.5)]
    assert records[0].box == (0, 0, 1, 1) and list(records[0].scores) == ["wave", "walk"]
    assert all(0 <= score <= 1 for seen in records for score in seen.scores.values())
    before = threading.active_count()
    iterator = detect(video, ["wave"], ckpt, device="cpu")
    next(iterator)
    iterator.close()
    assert threading.active_count() == before
    with pytest.raises(FileNotFoundError, match="no such video"):
        next(detect(tmp_path / "absent.mp4", ["wave"], ckpt))
    with pytest.raises(ValueError, match=r"actions 'wave': expected a list of words, such as \['wave'\]"):
        next(detect(video, "wave", ckpt))
    for one in dataclasses.fields(Settings):
        assert f"\n    {one.name} (" in detect.__doc__


# ---------------------------------------------------------------- interruption

def long_job(tmp_path, ckpt) -> tuple[Path, list[str]]:
    """Minutes of work, and where its results go."""
    video = render(tmp_path / "long.mp4", at_25(200), grey=np.full(5000, 90), size=(64, 48))
    people = boxes_csv(tmp_path / "p.csv", [("long", i / 4, LEFT) for i in range(800)])
    out = tmp_path / "out"
    return out, [str(x) for x in (video, "--ckpt", ckpt, "--actions", "wave", "--proposals", people, "--out", out, "--json")]


def wait_for(film: Path) -> None:
    deadline = time.monotonic() + 100
    while time.monotonic() < deadline and not (film.exists() and film.stat().st_size > 3000):
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_or_a_termination_finishes_all_files_at_what_was_seen(tmp_path, ckpt, number):
    out, arguments = long_job(tmp_path, ckpt)

    def interrupt():
        wait_for(out / "long.mp4")
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=interrupt)
    thread.start()
    assert main(arguments) == 130
    thread.join()
    rows = read_rows(out / "long.csv")
    content = json.loads((out / "long.json").read_text())
    assert 0 < len(rows) == len(content["detections"]) < 800
    times = [t for t, _ in frames_of(out / "long.mp4")]
    assert len(times) == round(25 * content["seconds"]) < 5000 and times[-1] >= float(rows[-1][1])
    assert (out / "long.html").exists() and (out / "long.unfinished").exists() and not (out / "long.done").exists()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler      # as it was before


def test_killed_it_leaves_a_film_that_plays_and_whole_rows(tmp_path, ckpt):
    out, arguments = long_job(tmp_path, ckpt)
    process = subprocess.Popen([sys.executable, ROOT / "detect_actions.py", *arguments], stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)
    wait_for(out / "long.mp4")
    process.kill()
    assert process.wait(timeout=60) == -signal.SIGKILL
    rows = (out / "long.csv").read_text()
    assert rows.endswith("\n") and all(len(row) == 8 for row in csv.reader(rows.splitlines()))
    assert 25 <= len(frames_of(out / "long.mp4")) < 5000
    assert not (out / "long.done").exists()


def test_a_full_disk_stops_with_one_line(tmp_path, ckpt, bright_people):
    videos = [render(tmp_path / f"{v}.mp4", at_25(6), grey=np.arange(150) * 97 % 256, size=(320, 240)) for v in "vw"]
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            run(*videos, "--ckpt", ckpt, "--actions", "wave", "--out", tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not (tmp_path / "out" / "w.csv").exists()


def test_two_processes_share_the_videos_and_all_end_with_the_status_of_the_broken_one(tmp_path, ckpt):
    for name in "abc":
        render(tmp_path / f"{name}.mp4", at_25(0.4))
    (tmp_path / "0.mp4").write_bytes(b"no video")
    people = boxes_csv(tmp_path / "p.csv", [(name, 0, LEFT) for name in "abc"])
    result = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone", ROOT / "detect_actions.py",
         tmp_path / "[0-c].mp4", "--ckpt", ckpt, "--actions", "wave", "--proposals", people, "--out", tmp_path / "out"],
        capture_output=True, text=True, timeout=120)
    assert result.returncode == 1 and "0.mp4: not a video" in result.stderr
    assert [len(read_rows(tmp_path / "out" / f"{name}.csv")) for name in "abc"] == [1, 1, 1]


# ---------------------------------------------------------------- live

def test_a_live_stream_slower_than_the_model_is_kept_up_with_and_late_keyframes_are_counted(tmp_path, ckpt):
    film = render(tmp_path / "film.ts", at_25(6), grey=np.full(150, 250), g="10", preset="ultrafast", tune="zerolatency")
    stream, content = tmp_path / "camera", film.read_bytes()
    os.mkfifo(stream)

    def send() -> None:                                      # paced as a camera does it
        with open(stream, "wb", buffering=0) as pipe, suppress(BrokenPipeError):
            for i in range(150):
                pipe.write(content[len(content) * i // 150:len(content) * (i + 1) // 150])
                time.sleep(0.04)

    program = f"""
import sys, time, numpy, torch
sys.path.insert(0, {str(ROOT)!r})
import detect_actions, detect_humans
def slow(detector, frames):
    time.sleep(1.2)
    return [(numpy.array([[0.1, 0.2, 0.3, 0.9]], 'f'), numpy.ones(1, 'f'))]
detect_humans.build_detector = lambda *_: torch.nn.Identity()
detect_humans.detect_frames = slow
detect_actions.engine.cli(detect_actions.main)
"""
    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    command = [sys.executable, "-c", program, stream, "--ckpt", ckpt, "--actions", "wave", "--json", "-",
               "--out", tmp_path / "out"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120)
    sender.join(10)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]           # nothing but rows on standard output
    assert {row["track"] for row in rows} == {1} and list(rows[0]) == ["video", "time", "track", "box", "scores"]
    late = int(re.search(r"(\d+) late keyframes were left out", done.stderr)[1])
    assert late >= 4 and late + len(rows) == pytest.approx(12, abs=2)        # one of each half second is either
    # the model's own 1.2 s, the wait for the next keyframe, which takes as long, and for the model to be free
    assert float(re.search(r"from keyframe to row ([\d.]+) s", done.stderr)[1]) < 5
    assert not (tmp_path / "out" / "camera.mp4").exists() and (tmp_path / "out" / "camera.html").exists()
    assert len(read_rows(tmp_path / "out" / "camera.csv")) == len(rows)


def test_late_keyframes_leave_their_cuts_to_the_next_and_an_error_of_the_reader_is_raised():
    source, go = SimpleNamespace(late=0), threading.Event()

    def read():
        yield Keyframe(0.0, [], [])
        go.wait(10)
        yield Keyframe(0.5, [], [0.3])
        yield Keyframe(1.0, [], [0.7])
        raise ValueError("broken")

    keyframes = detect_actions.newest(read(), source)
    assert next(keyframes).time == 0
    go.set()
    time.sleep(0.2)
    following = next(keyframes)
    assert (following.time, following.cuts, source.late) == (1.0, [0.3, 0.7], 1)
    with pytest.raises(ValueError, match="broken"):
        next(keyframes)


def test_a_number_is_a_camera():
    assert detect_actions.camera_path("0") == "/dev/video0" and detect_actions.camera_path("a.mp4") == "a.mp4"


# ---------------------------------------------------------------- names and mistakes

def test_videos_whose_files_would_meet_get_the_names_of_their_paths():
    def names(*videos):
        return list(detect_actions.name_videos(videos).values())

    assert names("a/x.mp4", "b/x.mp4", "c/y.avi", "./c/y.mp4", "d/z.mp4", "rtsp://host/cam.sdp") \
        == ["a_x.mp4", "b_x.mp4", "c_y.avi", "c_y.mp4", "z", "cam"]
    assert names("a.mp4", "d/a_spans.mp4") == ["a", "d_a_spans.mp4"]          # not a_spans.csv twice
    assert names("a/x", "a_x.mp4", "b/x", "c/X.mp4") == ["a_x-2", "a_x", "b_x", "c_X.mp4"]


def test_proposals_name_a_video_by_path_file_name_or_stem_and_low_scores_are_left_out(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text("d/a.mp4,1,0,0,1,1,,0.9\nd/a.mp4,1,0,0,1,1,,0.8\nb.mp4,2,0,0,0.5,1,,0.2\nc,3,-0.1,0,0.5,1,,0.9\n")
    found = detect_actions.read_people(path, ["d/a.mp4", "e/b.mp4", "f/c.mp4", "g.mp4"], 0.5)
    assert [video and {t: boxes.tolist() for t, (boxes, _) in video.items()} for video in found] \
        == [{1.0: [[0, 0, 1, 1]]}, {}, {3.0: [[0, 0, 0.5, 1]]}, None]


@pytest.mark.parametrize("arguments, message", [
    (["--actions"], "expected at least one argument"),
    ([], "no words to look for"),
    (["--actions-file", "absent.txt"], "absent.txt"),
    (["--actions", "wave", "wave"], "is there twice"),
    (["--actions", "wave", "--every", "0"], "--every 0.0: expected 0.01 seconds or more"),
    (["--actions", "wave", "--calibration", "sigmoid"], "invalid choice: 'sigmoid'"),
    (["--actions", "wave", "--device", "cuda:99"], "--device cuda:99"),
    (["--actions", "wave", "--ckpt", "absent.pt"], "absent.pt: no such weights file"),
    (["--actions", "wave", "--ckpt", "DETECTOR"], "not ViCLIP weights of a size we know"),
    (["--actions", "wave", "--actions-file", "WORDS"], "'wave' is also among --actions"),
    (["--actions", "wave", "--fps", "1e-9"], "--fps 1e-09: expected 0.001 to 1000"),
    (["--actions", "wave", "--proposals", "EARLY"], "e.csv:1: keyframe -3"),
    (["--actions", "wave", "--proposals", "PIXELS"], "p.csv:1: box"),
    (["--actions", "wave", "--proposals", "OTHER"], "has no box of"),
    (["--actions", "wave", "--out", "."], "v.mp4: is there, and no run of ours wrote it")])
def test_a_mistake_gets_one_line_and_status_2(tmp_path, ckpt, bright_people, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    render(tmp_path / "v.mp4", [0, 0.04])
    (tmp_path / "words.txt").write_text("sit\nwave: hand wave\n")
    torch.save({"model": {"backbone.body.conv1.weight": torch.zeros(1)}}, tmp_path / "d.pt")
    replaced = {"DETECTOR": "d.pt", "PIXELS": boxes_csv(tmp_path / "p.csv", [("v.mp4", 0, (3, 4, 50, 60))]),
                "WORDS": "words.txt", "EARLY": boxes_csv(tmp_path / "e.csv", [("v.mp4", -3, LEFT)]),
                "OTHER": boxes_csv(tmp_path / "o.csv", [("w.mp4", 0, LEFT)])}
    arguments = [str(replaced.get(a, a)) for a in arguments]
    monkeypatch.setattr(sys, "argv", ["detect_actions.py", "v.mp4", *([] if "--ckpt" in arguments else ["--ckpt", str(ckpt)]), *arguments])
    with pytest.raises(SystemExit) as stop:
        detect_actions.engine.cli(main)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_a_model_that_is_not_finetuned_works_and_says_so(tmp_path, ckpt, bright_people, capsys):
    record = torch.load(ckpt, weights_only=True)
    torch.save({**record, "stage": "align"}, tmp_path / "align.pt")
    torch.save(record["model"], tmp_path / "official.pth")
    video = render(tmp_path / "v.mp4", [0, 0.04], grey=[250, 250])
    for file, said in (("align.pt", "a model of stage align, not finetuned"), ("official.pth", "the original ViCLIP, not finetuned")):
        assert run(video, "--ckpt", tmp_path / file, "--actions", "wave", "--out", tmp_path / "out") == 0
        assert said in capsys.readouterr().err


def test_a_font_is_taken_that_has_the_letters_and_missing_ones_are_told(tmp_path, ckpt, bright_people, capsys):
    assert draw.choose_font("wave") == (None, "")
    assert draw.missing_letters("w\u0434\U0010fffe", None) == "\u0434\U0010fffe"          # Pillow's own: no Cyrillic
    name, missing = draw.choose_font("\u0434\u03b1 \U0010fffe")
    assert missing in ("\U0010fffe", "\u0434\u03b1\U0010fffe") and (name is None) == (len(missing) == 3)
    with pytest.raises(ValueError, match="--font none.ttf: not a font"):
        draw.choose_font("wave", "none.ttf")
    video = render(tmp_path / "v.mp4", at_25(0.2), grey=np.full(5, 250))
    assert run(video, "--ckpt", ckpt, "--actions", "wave", "\U0010fffe: wave", "winken mit \u00e4", "--out", tmp_path / "o") == 0
    said = capsys.readouterr().err
    assert "trained on English; winken mit" in said and "no font here has \U0010fffe; name one by --font" in said


def test_legend_and_labels_stay_inside_small_and_large_pictures():
    people = [(7, np.array([0.9, 0.0, 1.0, 1.0]), [f"a rather long name of an action {i}" for i in range(3)]),
              (8, np.array([0.8, 0.0, 1.0, 1.0]), [])]
    for size in ((240, 320), (1080, 1920)):
        picture = draw.draw_people(np.zeros((*size, 3), np.uint8), people, "words " * 100)
        assert picture.shape == (*size, 3) and picture.any()


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="the real samples are not distributed")
def test_a_real_video_of_two_people(tmp_path, ckpt):
    people = boxes_csv(tmp_path / "p.csv", [("test_video_structuralize", t, (0.18, 0.5, 0.31, 1.0)) for t in (0, 0.5)])
    video = SAMPLES / "video" / "test_video_structuralize.mp4"
    assert run(video, "--ckpt", ckpt, "--actions", "shoot a ball", "--proposals", people, "--out", tmp_path, "--max-seconds", 2) == 0
    assert len(read_rows(tmp_path / "test_video_structuralize.csv")) == 2
    frames = frames_of(tmp_path / "test_video_structuralize.mp4")
    assert len(frames) == 60 and outline(1, frames[5][1], (0.18, 0.5, 0.31, 0.99))

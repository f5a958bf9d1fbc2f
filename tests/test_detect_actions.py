"""The product, driven as a user would on rendered videos: words, people, interruption, mistakes."""

import csv
import dataclasses
import json
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

import detect_actions
import detect_humans
import draw
import ovstad
from detect_actions import Person, Settings, detect, main, people_at, split_interval
from formats import cvat
from stream import Film, Keyframe, Source
from test_stream import at_25, frames_of, render, serve, turned
from words import Words, parse_actions, scores_of

ROOT = Path(detect_actions.__file__).resolve().parent
LEFT, RIGHT = (0.1, 0.2, 0.3, 0.9), (0.6, 0.2, 0.8, 0.9)


def boxes_csv(path: Path, rows) -> Path:
    """rows: (video, second, box)."""
    path.write_text("".join(f"{v},{t:g},{','.join(map(str, box))},,0.9\n" for v, t, box in rows))
    return path


def rows_of(path: Path) -> list[list[str]]:
    return list(csv.reader(path.read_text().splitlines()))


def is_outlined(track: int, picture: np.ndarray, box) -> bool:
    """Whether the middle of the right edge of a person's box has about the person's colour."""
    height, width = picture.shape[:2]
    y, x = round((box[1] + box[3]) / 2 * height), round(box[2] * width)
    patch = picture[max(y - 2, 0):y + 2, max(x - 2, 0):x + 3].reshape(-1, 3).astype(int)
    return bool((np.abs(patch - draw.colour_of(track)).sum(axis=1) < 150).any())


@pytest.fixture(scope="module")
def ckpt(tmp_path_factory) -> Path:
    """A toy model of random weights, in a checkpoint as train_finetune.py writes them."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model") / "toy.pt"
    torch.save({"model": ovstad.build_model("toy").state_dict(), "arch": "toy", "beta": 0.3,
                "prompt": "a person {}", "frames": 4, "stride": 2, "short_side": 48,
                "stage": "finetune", "step": 1, "args": {}}, path)
    return path


@pytest.fixture
def out(tmp_path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def run(ckpt, out):
    """The command in this process, by default with the toy model, for "wave", into `out`."""
    def command(*args) -> int:
        for flag, value in (("--ckpt", ckpt), ("--actions", "wave"), ("--out", out)):
            args += () if flag in args else (flag, value)
        return main([str(arg) for arg in args])

    return command


@pytest.fixture
def bright_people(monkeypatch):
    """A stand-in for the detector: the box of what is brighter than 200, if anything is."""
    def detect_frames(detector, frames):
        found = []
        for frame in frames:
            torch.as_tensor(frame)                           # which takes no negative strides
            ys, xs = np.nonzero(frame.mean(axis=2) > 200)
            height, width = frame.shape[:2]
            boxes = np.zeros((0, 4), np.float32)
            if len(xs):
                boxes = np.array([[xs.min() / width, ys.min() / height, (xs.max() + 1) / width,
                                   (ys.max() + 1) / height]], np.float32)
            found.append((boxes, np.ones(len(boxes), np.float32)))
        return found

    monkeypatch.setattr(detect_humans, "build_detector", lambda *_: torch.nn.Identity())
    monkeypatch.setattr(detect_humans, "detect_frames", detect_frames)


# ---------------------------------------------------------------- words, scores, people

def test_an_action_may_have_phrasings_and_a_wrong_one_is_told_by_its_line():
    good = ["# mine", " wave : waving a hand|hand wave ", "", "ride a bike"]
    assert parse_actions([("", text) for text in good]) \
        == {"wave": ["waving a hand", "hand wave"], "ride a bike": ["ride a bike"]}
    for texts, message in ((["wave", "wave: b"], "f.txt:2: 'wave: b' is there twice"),
                           (["wave", "Wave"], "f.txt:2: 'Wave' is there twice"),
                           (["wave: a |"], "f.txt:1: 'wave: a |' names no action"),
                           ([": a"], "f.txt:1: ': a' names no action"),
                           (['a,"b"\nc'], "holds a line break"),
                           (["# only a comment"], "no words to look for")):
        with pytest.raises(ValueError, match=re.escape(message)):
            parse_actions([(f"f.txt:{i}", text) for i, text in enumerate(texts, 1)])


def test_a_score_is_the_words_share_in_a_softmax_over_it_and_the_background_or_a_sigmoid():
    logits = torch.tensor([[3.0, 1.0, 2.0, 0.5]], dtype=torch.float64)      # 2 words, 2 background
    e = np.exp([3.0, 1.0, 2.0, 0.5])
    by_hand = [e[0] / (e[0] + e[2] + e[3]), e[1] / (e[1] + e[2] + e[3])]
    assert scores_of(logits, 2, "background")[0].tolist() == pytest.approx(by_hand, abs=1e-12)
    high, higher = scores_of(torch.tensor([[30.0, 31.0, 0.0]], dtype=torch.float64), 2, "none")[0]
    assert high < higher < 1 and high.item() == pytest.approx(1 / (1 + np.exp(-30.0)), abs=1e-15)


def test_phrasings_are_averaged_and_scored_like_the_models_own_equations(ckpt, monkeypatch):
    monkeypatch.setattr("words.BACKGROUND", ("a person",))
    words = Words({"wave": ["waving", "hand wave"], "walk": ["walk"]}, ckpt, Settings(), "cpu")
    words.device, model = torch.device("cpu"), words.model
    clips = np.random.default_rng(0).integers(0, 255, (2, 4, 48, 64, 3), dtype=np.uint8)
    boxes = [torch.tensor([LEFT, RIGHT]), torch.tensor([LEFT])]
    with torch.no_grad():
        one, two, walk, person = torch.nn.functional.normalize(model.encode_text(
            ["a person waving", "a person hand wave", "a person walk", "a person"]), dim=-1)
        texts = torch.stack([(one + two) / 2, walk, person])
        expected = []
        for clip, own in zip(clips, boxes):
            mean, std = (torch.tensor(x).view(3, 1, 1)
                         for x in (ovstad.IMAGENET_MEAN, ovstad.IMAGENET_STD))
            pixels = (torch.from_numpy(clip).permute(0, 3, 1, 2).float() / 255 - mean) / std
            f_global, f_map = model.encode_video(pixels[None])
            fused = 0.3 * model.region_features(f_map, [own]) + 0.7 * f_global
            logits = model.logits(fused, texts).double()
            expected.append(1 / (1 + np.exp(-(logits[:, :2] - logits[:, 2:]).numpy())))
    found = words.score(clips, boxes)
    assert [part.shape for part in found] == [(2, 2), (1, 2)]
    np.testing.assert_allclose(np.concatenate(found), np.concatenate(expected), atol=1e-4)


def test_proposals_name_a_video_by_path_file_name_or_stem_and_low_scores_are_left_out(tmp_path):
    (tmp_path / "p.csv").write_text(
        "d/a.mp4,1,0,0,1,1,,0.8\nd/a.mp4,1,0,0,1,1,,0.9\nd/a.mp4,1,0,0,.5,1,,0.3\n"
        "b.mp4,2,0,0,0.5,1,,0.2\nc,3,-0.1,0,0.5,1,,0.9\n")
    videos = ["d/a.mp4", "e/b.mp4", "f/c.mp4", "g.mp4"]
    found = detect_actions.read_people(tmp_path / "p.csv", videos, 0.5)
    assert [video and {t: boxes.tolist() for t, (boxes, _) in video.items()} for video in found] \
        == [{1.0: [[0, 0, 1, 1], [0, 0, 0.5, 1]]}, {}, {3.0: [[0, 0, 0.5, 1]]}, None]
    assert found[0][1.0][1].tolist() == pytest.approx([0.9, 0.3])
    (tmp_path / "d").mkdir()
    (tmp_path / "d/a.mp4").touch()                           # as the CSV of detect_humans.py has it
    found = detect_actions.read_people(tmp_path / "p.csv", [str(tmp_path / "d/a.mp4")], 0.5)
    assert len(found[0][1.0][0]) == 2


def test_a_name_that_is_a_path_is_that_video_in_any_spelling_and_one_that_fits_two_is_refused(
        tmp_path):
    for folder in "xy":
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.mp4").touch()
    videos, path = [str(tmp_path / folder / "a.mp4") for folder in "xy"], tmp_path / "x" / "p.csv"
    boxes_csv(path, [("a.mp4", 1, LEFT), ("./a.mp4", 2, LEFT), (videos[0], 3, LEFT)])
    x, y = detect_actions.read_people(path, videos, 0.5)
    assert list(x) == [1, 2, 3] and y is None
    boxes_csv(tmp_path / "p.csv", [("a", 1, LEFT)])
    with pytest.raises(ValueError, match=r"p.csv: 'a' may be .*x/a.mp4 or .*y/a.mp4; write the vi"):
        detect_actions.read_people(tmp_path / "p.csv", videos, 0.5)
    with pytest.raises(ValueError, match="x: a folder without numbered .jpg or .png frames"):
        detect_actions.read_people(tmp_path / "p.csv", [str(tmp_path / "x")], 0.5)


@pytest.mark.parametrize("setting, says", [
    ({"beta": "0.3"}, "--beta '0.3': expected a number from 0 to 1"),
    ({"every": "0.5"}, "--every '0.5': expected a number from 0.01 to 86400"),
    ({"frames": 2.5}, "--frames 2.5: expected a whole number from 1 to 1000"),
    ({"gap": -1}, "--gap -1: expected a number")])
def test_a_setting_that_is_no_such_number_is_named(setting, says):
    with pytest.raises(ValueError, match=says):
        Settings(**setting)
    assert Settings(beta=np.float32(1), frames=np.int64(8), every=1)


def test_keyframes_without_anybody_stand_where_those_of_the_proposals_lie_far_apart():
    times = detect_actions.keyframe_times({4.0: 0, 4.5: 0, 9.0: 0, 10.0: 0}, Settings(gap=1.5))
    assert [next(times) for _ in range(8)] == [1.5, 4.0, 4.5, 6.0, 9.0, 10.0, 11.5, 13.0]


# ---------------------------------------------------------------- between two keyframes

@pytest.mark.parametrize("a, b, cuts, seen", [
    # boxes move between both; who is on one keyframe only is seen for half the interval
    ((1, {1: 0.1}), (1.5, {1: 0.15, 2: 0.6}), [], {1.2: {1: 0.12}, 1.3: {1: 0.13, 2: 0.6}}),
    ((1.5, {1: 0.15, 2: 0.6}), (2, {2: 0.6}), [], {1.7: {1: 0.15, 2: 0.6}, 1.8: {2: 0.6}}),
    # at a cut, people of before until it and those of after from it
    ((1, {1: 0.1}), (1.5, {2: 0.1}), [1.4], {1.39: {1: 0.1}, 1.4: {2: 0.1}}),
    # where keyframes lie far apart, near them
    ((1, {1: 0.1}), (5, {}), [], {1.2: {1: 0.1}, 1.3: {}}),
    ((5, {}), (9, {1: 0.1}), [], {8.7: {}, 8.8: {1: 0.1}})])
def test_who_is_on_screen_between_two_keyframes(a, b, cuts, seen):
    a, b = (Keyframe(t, [], cuts, people={track: Person(np.array([left, 0, 1, 1]), np.zeros(1))
                                          for track, left in people.items()})
            for t, people in (a, b))
    parts = split_interval(a, b, 0.5)
    for t, people in seen.items():
        found = {track: person.box[0] for track, person in people_at(t, a, b, parts).items()}
        assert found == pytest.approx(people), t


def test_scores_are_the_mean_of_three_keyframes_and_spans_end_below_the_threshold(
        tmp_path, run, out, monkeypatch):
    raw = iter([0.9, 0.9, 0.3, 0.3, 0.3, 0.9])
    monkeypatch.setattr(Words, "score", lambda self, clips, boxes: [np.full((1, 1), next(raw))])
    video = render(tmp_path / "v.mp4", at_25(3))
    people = boxes_csv(tmp_path / "p.csv", [("v", i / 2, LEFT) for i in range(6)])
    assert run(video, "--proposals", people, "--no-video") == 0
    scores = [float(row[7]) for row in rows_of(out / "v.csv")]
    assert scores == pytest.approx([0.9, 0.7, 0.5, 0.3, 0.5, 0.6])
    assert rows_of(out / "v_spans.csv")[1:] == [["1", "wave", "0.000", "1.250", "0.7000"],
                                                ["1", "wave", "1.750", "3.000", "0.5500"]]


# ---------------------------------------------------------------- the command on rendered videos

MOVING = [(0.1 + 0.05 * t, 0.2, 0.3 + 0.05 * t, 0.9) for t in (0, 1, 2)]


@pytest.fixture(scope="module")
def two(tmp_path_factory, ckpt) -> Path:
    """The results on a film of two people, one of whom moves; everyone does everything."""
    folder = tmp_path_factory.mktemp("two")
    video = render(folder / "two.mp4", at_25(3), 90, size=(320, 240))
    people = boxes_csv(folder / "p.csv", [("two.mp4", t, box) for t in (0, 1, 2)
                                          for box in (MOVING[t], RIGHT)])
    assert main([str(x) for x in (
        video, "--ckpt", ckpt, "--actions", "wave", "walk", "--proposals", people, "--out",
        folder / "out", "--json", "--export", "cvat", "--threshold", 0)]) == 0
    return folder / "out"


def test_two_people_give_rows_spans_and_json(two):
    rows = rows_of(two / "two.csv")
    assert [row[:2] + row[6:7] for row in rows] \
        == [["two.mp4", f"{t}.000", c] for t in (0, 1, 2) for _ in range(2) for c in "12"]
    assert [float(x) for x in rows[4][2:6]] == pytest.approx(MOVING[1])
    assert 'name: "walk"' in (two / "two.pbtxt").read_text()
    # from the first keyframe to half an interval after the last
    spans = rows_of(two / "two_spans.csv")[1:]
    assert sorted(row[:4] for row in spans) \
        == [[t, a, "0.000", "2.250"] for t in "12" for a in ("walk", "wave")]
    for track, action, _, _, score in spans:
        own = [float(row[7]) for row in rows if row[6] == str(1 + (action == "walk"))
               and (float(row[2]) < 0.5) == (track == "1")]
        assert float(score) == pytest.approx(np.mean(own), abs=1e-4)
    content = json.loads((two / "two.json").read_text())
    assert [(d["time"], d["track"]) for d in content["detections"]] \
        == [(t, k) for t in (0, 1, 2) for k in (1, 2)]
    assert content["detections"][0]["scores"]["walk"] == float(rows[1][7])


def test_two_people_are_drawn_where_they_are_and_exported(two):
    frames = frames_of(two / "two.mp4")
    assert [t for t, _ in frames] == pytest.approx(at_25(3).tolist(), abs=1e-3)
    for number, track, box, is_there in (
            (0, 1, MOVING[0], True), (0, 2, RIGHT, True), (38, 1, (0.176, 0.2, 0.376, 0.9), True),
            (38, 1, RIGHT, False), (70, 1, MOVING[2], False), (70, 2, RIGHT, False)):
        assert is_outlined(track, frames[number][1], box) == is_there
    assert "two.mp4" in (two / "two.html").read_text()
    one, = cvat.read_cvat(two / "two.cvat.xml")
    both = "wave", "walk"
    for track in (1, 2):
        said = [(frame, actions) for frame, _, actions in one.tracks[track]]
        assert said == [(0, both), (25, both), (50, both), (51, None)]
    assert one.tracks[1][1][1] == pytest.approx(np.multiply(MOVING[1], (320, 240) * 2))
    assert sorted(path.name for path in two.iterdir()) == [
        "two.csv", "two.cvat.labels.json", "two.cvat.xml", "two.done", "two.html", "two.json",
        "two.mp4", "two.pbtxt", "two_spans.csv"]


@pytest.mark.parametrize("times, grey, tracks", [
    ((0, 0.5, 1, 1.5), [40] * 25 + [200] * 225, [1, 1, 2, 2]),
    ((0, 4, 8), 90, [1, 1, 1]),                              # keyframes are far apart
    ((0, 0.5, 1, 9), 90, [1, 1, 1, 2])], ids=["cut", "far", "gap"])
def test_the_same_box_is_the_same_person_unless_behind_a_cut_or_a_gap(
        tmp_path, ckpt, times, grey, tracks):
    video = render(tmp_path / "v.mp4", at_25(10), grey)
    people = boxes_csv(tmp_path / "p.csv", [("v", t, LEFT) for t in times])
    found = list(detect(video, ["wave"], ckpt, proposals=people))
    assert [(seen.time, seen.track) for seen in found] == list(zip(times, tracks))


def test_nobody_somebody_and_one_frame(tmp_path, run, out, bright_people, capsys):
    videos = [render(tmp_path / f"{name}.mp4", times, grey) for name, times, grey in (
        ("empty", at_25(1.2), 50), ("full", at_25(1.2), 250), ("one", [0], 250))]
    assert run(*videos, "--threshold", 0) == 0
    said = capsys.readouterr().out
    assert "empty.mp4: 1.2 s, 0 people" in said and "nobody was found" in said
    assert rows_of(out / "empty.csv") == []
    frames = [len(frames_of(out / video.name)) for video in videos]
    assert frames == [30, 30, 1]
    whole = ["0.000000", "0.000000", "1.000000", "1.000000", "1"]
    assert [row[1:7] for row in rows_of(out / "full.csv")] \
        == [[t, *whole] for t in ("0.000", "0.500", "1.000")]
    assert rows_of(out / "one_spans.csv")[1][:4] == ["1", "wave", "0.000", "0.040"]


@pytest.mark.parametrize("quarters, box, shape", [(1, [0.5, 0, 1, 1], (320, 240, 3)),
                                                  (2, [0, 0.5, 1, 1], (240, 320, 3)),
                                                  (3, [0, 0, 0.5, 1], (320, 240, 3))])
def test_turned_videos_are_seen_and_drawn_upright(
        tmp_path, run, out, bright_people, quarters, box, shape):
    path = tmp_path / "v.mp4"
    with av.open(str(path), "w") as film:
        video = film.add_stream("libx264", rate=25, options={"crf": "1"})
        video.width, video.height, video.pix_fmt = 320, 240, "yuv420p"
        picture = np.zeros((240, 320, 3), np.uint8)
        picture[:120] = 255                                  # the upper half is bright
        for _ in range(5):
            film.mux(video.encode(av.VideoFrame.from_ndarray(picture)))
        film.mux(video.encode(None))
    assert run(turned(path, quarters)) == 0
    (row,), (_, drawn) = rows_of(out / "v.csv"), frames_of(out / "v.mp4")[0]
    assert [float(x) for x in row[2:6]] == pytest.approx(box, abs=0.05)
    assert drawn.shape == shape and is_outlined(1, drawn, box)


def test_a_folder_of_frames_and_an_address_are_videos_and_max_seconds_ends_them(
        tmp_path, run, out, bright_people):
    (tmp_path / "frames").mkdir()
    for i in range(30):
        Image.new("RGB", (97, 63), (250, 250, 250)).save(tmp_path / "frames" / f"{i + 1:04d}.png")
    video = render(tmp_path / "v.mkv", at_25(2), 250)
    assert run(tmp_path / "frames", f"file://{video}", "--max-seconds", 1, "--fps", 10) == 0
    assert [float(row[1]) for row in rows_of(out / "frames.csv")] == [0, 0.5]
    assert len(frames_of(out / "v.mp4")) == 25


def test_a_broken_video_is_named_the_others_go_on_and_the_status_is_1(
        tmp_path, run, out, bright_people, capsys):
    good = render(tmp_path / "good.mp4", at_25(0.6), 250)
    (tmp_path / "bad.mp4").write_bytes(b"no video" * 100)
    short = render(tmp_path / "short.mkv", at_25(10), np.arange(250) * 97 % 256)
    short.write_bytes(short.read_bytes()[:short.stat().st_size * 2 // 5])
    assert run(tmp_path / "bad.mp4", short, tmp_path / "absent.mp4", good) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    for error, said in zip(errors, ("bad.mp4: not a video that can be opened",
                                    r"short.mkv: says it lasts 10.0 s, but its frames end at [345]",
                                    "absent.mp4: no such video"), strict=True):
        assert re.search(said, error)
    assert (out / "good.done").exists() and not (out / "short.done").exists()
    assert len(rows_of(out / "good.csv")) == 2 and rows_of(out / "short.csv")
    with pytest.raises(ValueError, match="bad.mp4: not a video"):        # alone: one line, status 2
        run(tmp_path / "bad.mp4")
    with pytest.raises(ValueError, match="--out .*bad.mp4: .* is no folder to which"):
        run(good, "--out", tmp_path / "bad.mp4")


def test_what_is_complete_is_skipped_until_the_video_the_words_or_the_weights_change(
        tmp_path, ckpt, run, out, bright_people, capsys):
    video = render(tmp_path / "v.mp4", at_25(0.6), 250)

    def skips(weights=ckpt, word="wave", flag="--video") -> bool:
        assert run(video, "--ckpt", weights, "--actions", word, flag, "--skip-existing") == 0
        return "complete, skipped" in capsys.readouterr().out

    assert not skips() and skips()
    assert not skips(word="walk") and not skips() and not skips(flag="--no-video")
    assert skips(flag="--no-video") and not (out / "v.mp4").exists()
    record = torch.load(ckpt, weights_only=True)
    record["model"]["temp"] = record["model"]["temp"] + 1
    torch.save(record, tmp_path / "other.pt")
    assert not skips(tmp_path / "other.pt") and skips(tmp_path / "other.pt")
    render(video, at_25(0.6), 240)
    assert not skips(tmp_path / "other.pt")


def test_the_frames_held_do_not_grow_with_the_video(tmp_path, run, bright_people, monkeypatch):
    read, drawn, held = [], [], []
    pictures, add = Source.__iter__, Film.add

    def counting_add(*arguments):
        held.append(len(read) - len(drawn))
        drawn.append(1)
        add(*arguments)

    monkeypatch.setattr(Source, "__iter__",
                        lambda self: (read.append(1) or item for item in pictures(self)))
    monkeypatch.setattr(Film, "add", counting_add)
    assert run(render(tmp_path / "v.mp4", at_25(36), 250, size=(48, 48))) == 0
    # five intervals, the one being read, the window of a clip
    assert len(read) == len(drawn) == 900 and max(held) <= 6 * 12.5 + 10


def test_library_gives_plain_records_and_reads_no_further_when_it_is_left(
        tmp_path, ckpt, bright_people):
    video = render(tmp_path / "v.mp4", at_25(2), 250)
    records = list(detect(video, ["wave", "walk: walking | strolling"], ckpt, device="cpu"))
    assert [(seen.video, seen.time, seen.track) for seen in records] \
        == [(str(video), t, 1) for t in (0, 0.5, 1, 1.5)]
    assert records[0].box == (0, 0, 1, 1) and list(records[0].scores) == ["wave", "walk"]
    assert all(0 <= score <= 1 for seen in records for score in seen.scores.values())
    before = threading.active_count()
    iterator = detect(video, ["wave"], ckpt, device="cpu")
    next(iterator)
    iterator.close()
    assert threading.active_count() == before
    for arguments, kind, message in (
            ((tmp_path / "absent.mp4", ["wave"]), FileNotFoundError, "no such video"),
            ((video, "wave"), ValueError, r"expected a list of words, such as \['wave'\]")):
        with pytest.raises(kind, match=message):
            next(detect(*arguments, ckpt))
    assert all(f"\n    {one.name} (" in detect.__doc__ for one in dataclasses.fields(Settings))


# ---------------------------------------------------------------- interruption

@pytest.fixture
def long_job(tmp_path, ckpt, out) -> list[str]:
    """Minutes of work."""
    video = render(tmp_path / "long.mp4", at_25(200), 90, size=(64, 48))
    people = boxes_csv(tmp_path / "p.csv", [("long", i / 4, LEFT) for i in range(800)])
    arguments = video, "--ckpt", ckpt, "--actions", "wave", "--proposals", people, "--json"
    return [str(x) for x in (*arguments, "--out", out)]


def wait_for(film: Path) -> None:
    deadline = time.monotonic() + 100
    while time.monotonic() < deadline and not (film.exists() and film.stat().st_size > 3000):
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_or_a_termination_finishes_all_files_at_what_was_seen(long_job, out, number):
    def interrupt():
        wait_for(out / "long.mp4")
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=interrupt)
    thread.start()
    assert main(long_job) == 130
    thread.join()
    rows, content = rows_of(out / "long.csv"), json.loads((out / "long.json").read_text())
    assert 0 < len(rows) == len(content["detections"]) < 800
    times = [t for t, _ in frames_of(out / "long.mp4")]
    assert len(times) == round(25 * content["seconds"]) < 5000 and times[-1] >= float(rows[-1][1])
    assert {path.name for path in out.glob("long.[hud]*")} == {"long.html", "long.unfinished"}
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler      # as it was before


def test_killed_it_leaves_a_film_that_plays_and_whole_rows(long_job, out):
    process = subprocess.Popen([sys.executable, ROOT / "detect_actions.py", *long_job],
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(out / "long.mp4")
    process.kill()
    assert process.wait(timeout=60) == -signal.SIGKILL
    rows = (out / "long.csv").read_text()
    assert rows.endswith("\n") and all(len(row) == 8 for row in csv.reader(rows.splitlines()))
    assert 25 <= len(frames_of(out / "long.mp4")) < 5000 and not (out / "long.done").exists()


def test_a_full_disk_stops_with_one_line(tmp_path, run, out, bright_people):
    videos = [render(tmp_path / f"{v}.mp4", at_25(6), np.arange(150) * 97 % 256, size=(320, 240))
              for v in "vw"]
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            run(*videos)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not (out / "w.csv").exists()


def test_two_processes_share_the_videos_and_end_with_the_status_of_the_broken_one(
        tmp_path, ckpt, out):
    for name in "abc":
        render(tmp_path / f"{name}.mp4", at_25(0.4))
    (tmp_path / "0.mp4").write_bytes(b"no video")
    people = boxes_csv(tmp_path / "p.csv", [(name, 0, LEFT) for name in "abc"])
    result = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone",
         ROOT / "detect_actions.py", tmp_path / "[0-c].mp4", "--ckpt", ckpt, "--actions", "wave",
         "--proposals", people, "--out", out], capture_output=True, text=True, timeout=120)
    assert result.returncode == 1 and "0.mp4: not a video" in result.stderr
    assert [len(rows_of(out / f"{name}.csv")) for name in "abc"] == [1, 1, 1]


# ---------------------------------------------------------------- live

def test_of_a_live_stream_a_slow_model_gets_the_newest_and_late_keyframes_are_counted(
        tmp_path, run, out, bright_people, monkeypatch, capsys):
    fast = {"g": "10", "preset": "ultrafast", "tune": "zerolatency"}
    film = render(tmp_path / "film.ts", at_25(6), 250, **fast).read_bytes()
    camera, has_ended = tmp_path / "camera", threading.Event()
    os.mkfifo(camera)
    threading.Thread(target=camera.write_bytes, args=[film], daemon=True).start()
    pictures, detect_frames = Source.__iter__, detect_humans.detect_frames

    def read(source):
        yield from pictures(source)
        has_ended.set()

    def wait_and_detect(*arguments):                         # slower than all of the stream
        assert has_ended.wait(20)
        return detect_frames(*arguments)

    monkeypatch.setattr(Source, "__iter__", read)
    monkeypatch.setattr(detect_humans, "detect_frames", wait_and_detect)
    assert run(camera, "--json", "-") == 0
    said = capsys.readouterr()
    rows = [json.loads(line) for line in said.out.splitlines()]               # and nothing else
    assert list(rows[0]) == ["video", "time", "track", "box", "scores"]
    assert len(rows) <= 3 and {row["track"] for row in rows} == {1}           # of 12 keyframes
    assert f"{12 - len(rows)} late keyframes were left out" in said.err
    assert "from keyframe to row" in said.err
    assert not (out / "camera.mp4").exists() and (out / "camera.html").exists()
    assert len(rows_of(out / "camera.csv")) == len(rows)


def test_a_line_that_is_lost_is_no_end_and_a_new_shape_is_said(
        tmp_path, run, out, bright_people, capsys):
    content = b"".join(render(tmp_path / "v.ts", at_25(2), 250, size, g="10").read_bytes()
                       for size in ((96, 64), (64, 96)))
    for length, is_lost in ((len(content), False), (2 * len(content), True)):
        address = serve(content, length)
        if is_lost:
            with pytest.raises(ValueError, match=r"live.ts: was lost at [123]\.\d s \(Input/outp"):
                run(address, "--out", out / "lost")
        else:
            assert run(address) == 0
        assert (out / ("lost" * is_lost) / "live.done").exists() != is_lost
        assert "on its pictures have another shape" in capsys.readouterr().out
    assert rows_of(out / "lost" / "live.csv") and (out / "lost" / "live.html").exists()


# ---------------------------------------------------------------- mistakes

@pytest.mark.parametrize("arguments, message", [
    (["--actions"], "expected at least one argument"),
    ([], "no words to look for"),
    (["--actions-file", "absent.txt"], "absent.txt"),
    (["--actions", "wave", "wave"], "is there twice"),
    (["--actions", "wave", "--every", "0"], "--every 0.0: expected a number from 0.01 to 86400"),
    (["--actions", "wave", "--threshold", "nan"], "--threshold nan: expected a number from 0 to 1"),
    (["--actions", "wave", "--calibration", "sigmoid"], "sigmoid: expected background or none"),
    (["--actions", "wave", "--device", "cuda:99"], "--device cuda:99"),
    (["--actions", "wave", "--ckpt", "absent.pt"], "absent.pt: no such weights file"),
    (["--actions", "wave", "--ckpt", "d.pt"], "not ViCLIP weights of a size we know"),
    (["--actions", "wave", "--actions-file", "words.txt"], "words.txt:2: 'wave: b' is there twice"),
    (["--actions", "wave", "--proposals", "early.csv"], "early.csv:1: keyframe -3"),
    (["--actions", "wave", "--proposals", "pixels.csv"], "pixels.csv:1: box"),
    (["--actions", "wave", "--proposals", "other.csv"], "has no box of"),
    (["--actions", "wave", "--proposals", "late.csv"], "1 of 2 keyframes of late.csv are beyond"),
    (["--actions", "wave", "--font", "none.ttf"], "--font none.ttf: not a font"),
    (["--actions", "wave", "--out", "."], "v.mp4: is there, and no run of ours wrote it")])
def test_a_mistake_gets_one_line_and_status_2(tmp_path, ckpt, bright_people, monkeypatch, capsys,
                                              arguments, message):
    monkeypatch.chdir(tmp_path)
    render(tmp_path / "v.mp4", [0, 0.04])
    (tmp_path / "words.txt").write_text("sit\nwave: b\n")
    torch.save({"model": {"backbone.body.conv1.weight": torch.zeros(1)}}, tmp_path / "d.pt")
    for name, rows in (("early", [("v.mp4", -3, LEFT)]), ("pixels", [("v.mp4", 0, (3, 4, 50, 60))]),
                       ("other", [("w.mp4", 0, LEFT)]),
                       ("late", [("v.mp4", 0, LEFT), ("v.mp4", 25, LEFT)])):
        boxes_csv(tmp_path / f"{name}.csv", rows)
    monkeypatch.setattr(sys, "argv", ["", "v.mp4", "--ckpt", str(ckpt), *arguments])
    with pytest.raises(SystemExit) as stop:
        detect_actions.engine.cli(main)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_what_to_expect_of_a_model_words_and_a_font_is_said(
        tmp_path, ckpt, run, bright_people, capsys):
    record = torch.load(ckpt, weights_only=True)
    torch.save({**record, "stage": "align"}, tmp_path / "align.pt")
    torch.save(record["model"], tmp_path / "official.pth")
    video = render(tmp_path / "v.mp4", at_25(0.2), 250)
    for file, words, notes in (
            (tmp_path / "align.pt", ["wave"], ["a model of stage align, not finetuned"]),
            (tmp_path / "official.pth", ["wave"], ["the original ViCLIP, not finetuned"]),
            (ckpt, ["\U0010fffe: wave", "winken mit \u00e4"],
             ["trained on English; winken mit", "no font here has \U0010fffe; name one by --font"]),
            (ckpt, ["wave: " + "very " * 40 + "fast"], ["may not read the end of 'wave'"]),
            (ckpt, ["wave"], [])):
        assert run(video, "--ckpt", file, "--actions", *words) == 0
        said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
        assert len(said) == len(notes) and all(note in line for note, line in zip(notes, said))

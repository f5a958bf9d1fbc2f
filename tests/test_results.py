"""Spans worked out by hand; files of other programs and other videos are left alone."""

import csv
import json
import os

import pytest


from results import Detection, Results, claim_files, hash_video, is_complete, name_videos

SUFFIXES = [".csv", ".pbtxt", ".mp4"]


def test_rows_spans_and_json_by_hand(tmp_path):
    one = Results(tmp_path / "v", "d/v.mp4", ["wave", "sit"], "file", "none", 0.5, gap=1.0)
    scores = {"wave": 0.9, "sit": 0.25}
    one.add_detection(Detection("d/v.mp4", 0.0, 1, (0.1, 0.2, 0.3, 0.4), scores))
    one.add_part(1, 0.0, 0.25, [0.9, 0.25], is_new=True)
    one.add_part(1, 0.25, 0.5, [0.7, 0.25], is_new=False)    # of a keyframe that comes at 0.5
    one.add_part(1, 0.5, 0.75, [0.7, 0.6], is_new=True)
    one.end_spans(1.7)                                       # 0.95 seconds later: may still go on
    one.add_part(1, 1.7, 2.0, [0.8, 0.4], is_new=True)       # no longer sits
    one.end_spans(3.1)
    one.add_part(2, 3.1, 3.5, [0.5, 0.1], is_new=True)
    one.close(4.0)
    assert (tmp_path / "v.csv").read_text() == (
        "v.mp4,0.000,0.100000,0.200000,0.300000,0.400000,1,0.9\n"
        "v.mp4,0.000,0.100000,0.200000,0.300000,0.400000,2,0.25\n")
    assert list(csv.reader(open(tmp_path / "v_spans.csv")))[1:] == [
        ["1", "sit", "0.500", "0.750", "0.6000"], ["1", "wave", "0.000", "2.000", "0.8000"],
        ["2", "wave", "3.100", "3.500", "0.5000"]]
    content = json.loads((tmp_path / "v.json").read_text())
    assert content["detections"] == [{"time": 0.0, "track": 1, "box": [0.1, 0.2, 0.3, 0.4],
                                      "scores": scores}]
    assert content["people"] == [{"track": 1, "start": 0.0, "end": 2.0},
                                 {"track": 2, "start": 3.1, "end": 3.5}]
    assert content["spans"][2] == {"track": 2, "action": "wave", "start": 3.1, "end": 3.5,
                                   "score": 0.5}
    assert list(one.describe_people()) == [
        "person 1       0.0 -    2.0 s  sit 0.60 (0.5-0.8), wave 0.80 (0.0-2.0)",
        "person 2       3.1 -    3.5 s  wave 0.50 (3.1-3.5)"]


# ---------------------------------------------------------------- whose files these are

def request(video="a/v.mp4", content="c", settings="s") -> dict[str, str]:
    return {"video": video, "content": content, "settings": settings}


def run(stem, kill=False, suffixes=SUFFIXES, **more) -> None:
    """What a run does with its files; kill: it ends while it writes the label map."""
    claim_files(stem, request(**more), suffixes)
    for suffix in suffixes:
        stem.with_suffix(suffix).write_text("ours")
    if kill:
        stem.with_suffix(".pbtxt.part").write_text("our")
    else:
        os.replace(f"{stem}.unfinished", f"{stem}.done")


@pytest.mark.parametrize("begin, name", [
    *((begin, name) for begin in ("nothing", "killed", "done")
      for name in ("v.mp4", "v.json", "v.html.part")),
    ("nothing", "v.done"), ("killed", "v.done"), ("nothing", "v.unfinished"),
    ("done", "v.unfinished"), ("nothing", "v.unfinished.part"), ("done", "v.unfinished.part")])
def test_a_file_that_no_run_of_ours_wrote_is_named_and_left_alone(tmp_path, begin, name):
    wanted = [*SUFFIXES, ".json", ".html"]
    if begin != "nothing":
        run(tmp_path / "v", kill=begin == "killed", suffixes=[".csv", ".pbtxt"])
    for content in ("mine", "", "[]", '{"files": []}'):
        (tmp_path / name).write_text(content)
        before = {path.name: path.read_text() for path in tmp_path.iterdir()}
        with pytest.raises(ValueError, match=f"{name}: is there, and no run of ours wrote it"):
            claim_files(tmp_path / "v", request(), wanted)
        assert {path.name: path.read_text() for path in tmp_path.iterdir()} == before
    (tmp_path / name).unlink()
    run(tmp_path / "v", suffixes=wanted)
    assert is_complete(tmp_path / "v", request())


def test_an_earlier_runs_files_go_and_a_killed_one_is_not_complete(tmp_path):
    stem = tmp_path / "v"
    run(stem)
    assert is_complete(stem, request()) and is_complete(stem, request(video="moved/v.mp4"))
    run(stem, suffixes=[".csv", ".pbtxt"], kill=True)
    assert not stem.with_suffix(".mp4").exists() and not is_complete(stem, request())
    run(stem, suffixes=[".csv"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["v.csv", "v.done"]
    stem.with_suffix(".csv").unlink()
    assert not is_complete(stem, request())


def test_another_video_is_not_overwritten_but_the_same_one_may_have_moved_or_changed(tmp_path):
    run(tmp_path / "v")
    with pytest.raises(ValueError, match="there are the results of a/v.mp4; choose another --out"):
        run(tmp_path / "v", video="b/v.mp4", content="other")
    run(tmp_path / "v", video="b/v.mp4")
    run(tmp_path / "v", video="b/v.mp4", content="other")
    for now in (request(content="c"), request(content="other", settings="t")):
        assert not is_complete(tmp_path / "v", now)


def test_a_videos_hash_tells_its_size_time_head_and_a_streams_address(tmp_path):
    (tmp_path / "v").write_bytes(b"one")
    os.utime(tmp_path / "v", (1, 1))
    seen = [hash_video(str(tmp_path / "v")), hash_video("rtsp://a"), hash_video("rtsp://b")]
    os.utime(tmp_path / "v", (1, 2))
    seen.append(hash_video(str(tmp_path / "v")))
    (tmp_path / "v").write_bytes(b"two")
    os.utime(tmp_path / "v", (1, 2))
    assert len({*seen, hash_video(str(tmp_path / "v"))}) == 5


@pytest.mark.parametrize("videos, names", [
    (("a/x.mp4", "b/x.mp4", "c/y.avi", "./c/y.mp4", "d/z.mp4", "rtsp://host/cam.sdp"),
     ["a_x.mp4", "b_x.mp4", "c_y.avi", "c_y.mp4", "z", "cam"]),
    (("a.mp4", "d/a_spans.mp4"), ["a", "d_a_spans.mp4"]),                    # not a_spans.csv twice
    (("a/x", "a_x.mp4", "b/x", "c/X.mp4"), ["a_x-2", "a_x", "b_x", "c_X.mp4"])])
def test_videos_whose_files_would_meet_get_the_names_of_their_paths(videos, names):
    assert list(name_videos(videos).values()) == names


def test_a_video_that_is_named_twice_is_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.mp4").touch()
    assert name_videos(["a.mp4", "./a.mp4", "*.mp4", f"{tmp_path}/a.mp4"]) == {"a.mp4": "a"}

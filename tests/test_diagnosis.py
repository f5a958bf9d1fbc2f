"""Each way to spoil good detections is found and named."""

import re
from dataclasses import replace

import numpy as np
import pytest
from test_metric import tables

from diagnosis import check_names, diagnose


@pytest.fixture
def perfect():
    """Thirty people of three classes on ten keyframes of two videos, each found."""
    rng = np.random.default_rng(0)
    people = []
    for k in range(30):
        x, y = rng.uniform(0.05, 0.4, 2)
        box = (x, y, x + rng.uniform(0.1, 0.2), y + rng.uniform(0.3, 0.5))
        people.append(((k // 15, 902 + k // 3), box, k % 3, k))
    return tables(people, [(*row[:3], float(k)) for k, row in enumerate(people)], 3)


def test_good_detections_are_not_blamed(perfect, capsys):
    check_names("p.csv", *perfect)
    lines = diagnose(*perfect, "ava")
    assert capsys.readouterr().err == ""
    assert lines[0] == "all detections are on videos and keyframes that the truth names"
    assert "best IoU of any box with each person: 0-0.1 0%" in lines[2]
    assert "0.75-1 100%" in lines[2]
    assert "if labels were ignored: AP 100.0, recall 100.0" in lines[3] and len(lines) == 4
    truth, found = perfect
    nothing = found.select(np.zeros(30, bool))
    assert diagnose(truth, nothing, "ava")[-1].endswith("nothing can match")


def test_rows_that_are_there_twice_and_keyframes_without_detections_are_told(perfect, capsys):
    truth, found = perfect
    check_names("p.csv", truth, found.select(np.repeat(np.arange(30), 2)))
    assert "30 detections are there twice" in capsys.readouterr().err
    check_names("p.csv", truth.select(np.repeat(np.arange(30), 2)), found)
    assert "30 boxes of the ground truth are there twice" in capsys.readouterr().err
    check_names("p.csv", truth, found.select(np.arange(30) % 6 < 3))
    assert "5 of 10 keyframes with people have no detection" in capsys.readouterr().err


def test_detections_on_unknown_videos_are_refused_or_counted_with_examples_of_both_sides(
        perfect, capsys):
    truth, found = perfect

    def check(strangers):
        video = np.where(np.arange(30) < strangers, found.video + np.int32(5), found.video)
        check_names("p.csv", truth, replace(found, video=video))
        return capsys.readouterr().err

    with pytest.raises(ValueError, match=r"p.csv: none of its 30 detections .* 100% are on 2 videos"
                                         r".*\(yours: v5, v6; the truth's: v0, v1\)"):
        check(30)
    assert ("15 of 30 detections are on keyframes that the ground truth does not name: "
            "50% are on 1 videos") in check(15)
    assert check(3) == ""                                    # a tenth


@pytest.mark.parametrize("change, message", [
    (lambda k: k + np.float32(0.5), "each is off by 0.5 s from an annotated one"),
    (lambda k: k - np.float32(0.25), "each is off by -0.25 s from an annotated one"),
    (lambda k: k * 30, "frame numbers, where it counts seconds"),
    (lambda k: k + np.arange(30, dtype=np.float32) + np.float32(0.125), "s away in the median")])
def test_keyframes_of_another_clock_are_told_from_those_of_another_unit(perfect, change, message):
    truth, found = perfect
    with pytest.raises(ValueError, match=f"that the truth does not name; .*{message}"):
        check_names("p.csv", truth, replace(found, keyframe=change(found.keyframe)))


@pytest.mark.parametrize("column, change, message", [
    ("box", lambda b: b[:, [1, 0, 3, 2]], "100% of the people, .*, if they had x and y swapped"),
    ("box", lambda b: b - np.pad(b[:, :2], [(0, 0), (2, 0)]), "if they had x, y, width, height"),
    ("box", lambda b: abs(b[:, [2, 1, 0, 3]] - [1, 0, 1, 0]), "left and right mirrored"),
    ("box", lambda b: abs(b[:, [0, 3, 2, 1]] - [0, 1, 0, 1]), "up and down mirrored"),
    ("box", lambda b: b / 20, "divided by the frame's size twice"),
    ("box", lambda b: b * 0 + [0.9, 0.9, 1, 1], "100% of the people have no box near them"),
    ("label", lambda n: (n - 1) % 3, "the boxes are good, look at the classes$"),
    ("label", lambda n: (n - 1) % 3, "mAP would be 100.0, not .*, if ids were not one lower"),
    ("label", lambda n: n * 0, "2 of 3 classes are never predicted, such as class 1, class 2")])
def test_each_way_to_spoil_boxes_and_labels_is_named(perfect, column, change, message):
    truth, found = perfect
    lines = diagnose(truth, replace(found, **{column: change(getattr(found, column))}), "ava")
    assert any(re.search(message, line) for line in lines), lines

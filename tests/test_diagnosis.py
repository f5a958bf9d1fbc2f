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


def test_rows_that_are_there_twice_and_keyframes_without_detections_are_told(perfect, capsys):
    truth, found = perfect
    check_names("p.csv", truth, found.select(np.repeat(np.arange(30), 2)))
    assert "15 detections of v0 are there twice" in capsys.readouterr().err
    check_names("p.csv", truth.select(np.repeat(np.arange(30), 2)), found)
    assert "30 annotated boxes are there twice" in capsys.readouterr().err
    check_names("p.csv", truth, found.select(np.arange(30) % 6 < 3))
    assert "5 of 10 keyframes with people have no detection" in capsys.readouterr().err


def test_detections_on_unknown_videos_are_refused_or_counted_with_examples_of_both_sides(perfect,
                                                                                         capsys):
    truth, found = perfect
    strange = replace(found, video=found.video + np.int32(5))
    with pytest.raises(ValueError, match=r"p.csv: none of its 30 detections .* 100% are on 2 videos"
                                         r".*\(yours: v5, v6; the truth's: v0, v1\)"):
        check_names("p.csv", truth, strange)
    half = replace(found, video=np.where(np.arange(30) < 15, found.video + 5, found.video))
    check_names("p.csv", truth, half)
    assert ("15 of 30 detections are on keyframes that the ground truth does not name: "
            "50% are on 1 videos") in capsys.readouterr().err
    few = replace(found, video=np.where(np.arange(30) < 3, found.video + 5, found.video))
    check_names("p.csv", truth, few)                         # a tenth
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("change, message", [
    (lambda k: k + np.float32(0.5), "each is off by 0.5 s from an annotated one"),
    (lambda k: k - np.float32(0.25), "each is off by -0.25 s from an annotated one"),
    (lambda k: k * 30, "frame numbers, where it counts seconds"),
    (lambda k: k + np.arange(30, dtype=np.float32), "s away in the median")])
def test_keyframes_of_another_clock_are_told_from_those_of_another_unit(perfect, change, message):
    truth, found = perfect
    with pytest.raises(ValueError, match=f"that the truth does not name; .*{message}"):
        moved = change(found.keyframe) + np.float32(0.125 if "median" in message else 0)
        check_names("p.csv", truth, replace(found, keyframe=moved))


@pytest.mark.parametrize("change, message", [
    (lambda b: b[:, [1, 0, 3, 2]], "100% of the people, not .*, if they had x and y swapped"),
    (lambda b: np.column_stack([b[:, :2], b[:, 2:] - b[:, :2]]), "if they had x, y, width, height"),
    (lambda b: np.column_stack([1 - b[:, 2], b[:, 1], 1 - b[:, 0], b[:, 3]]), "left and right"),
    (lambda b: np.column_stack([b[:, 0], 1 - b[:, 3], b[:, 2], 1 - b[:, 1]]), "up and down"),
    (lambda b: b / 20, "divided by the frame's size twice"),
    (lambda b: b * 0 + [0.9, 0.9, 1, 1], "100% of the people have no box near them")])
def test_boxes_that_meet_nobody_are_explained(perfect, change, message):
    truth, found = perfect
    lines = diagnose(truth, replace(found, box=change(found.box)), "ava")
    assert any(re.search(message, line) for line in lines), lines


def test_labels_that_are_off_by_one_or_never_predicted_are_found(perfect):
    truth, found = perfect
    lines = diagnose(truth, replace(found, label=(found.label - 1) % 3), "ava")
    assert any(re.search("mAP would be 100.0, not .*, if ids were not one lower", line)
               for line in lines)
    assert any("the boxes are good, look at the classes" in line for line in lines)
    lines = diagnose(truth, replace(found, label=found.label * 0), "ava")
    assert any("2 of 3 classes are never predicted, such as class 1, class 2" in line
               for line in lines)


def test_nothing_to_compare_is_said(perfect):
    truth, found = perfect
    lines = diagnose(truth, found.select(np.zeros(30, bool)), "ava")
    assert lines[-1].endswith("nothing can match")

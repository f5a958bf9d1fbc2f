"""Every reader, on real samples where the development tree has them and on official-layout files written here."""

import os
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest

import data
from data import read_csv, read_proposals

SAMPLES = Path(__file__).resolve().parents[2] / "shared" / "samples"
needs_samples = pytest.mark.skipif(not SAMPLES.is_dir(), reason="the real samples are not distributed")


# ---------------------------------------------------------------- helpers

def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def table(n_videos=2, unit="second", **columns) -> data.Annotations:
    """A small table of hand-written rows: (video, keyframe, box, text)."""
    return data.make_annotations([f"v{i}" for i in range(n_videos)], ["walk", "sit"], unit=unit, **columns)


# ---------------------------------------------------------------- the annotations CSV

def test_csv_with_header_people_and_an_empty_keyframe_becomes_the_table(tmp_path):
    write(tmp_path / "videos" / "-a_b.mp4", "")
    write(tmp_path / "videos" / "c d.mp4", "")
    path = write(tmp_path / "clips.csv", "video,keyframe,x1,y1,x2,y2,text,person\n"
                 "videos/c d.mp4,2.5,0.1,0.2,0.3,0.4,\"wave, then sit\",7\n"
                 "\n"
                 "videos/-a_b.mp4,1,0,0,1,1,walk,\n"
                 "videos/c d.mp4,1\n"
                 "videos/c d.mp4,2.5,0.1,0.2,0.3,0.4,walk,7\n")
    a = read_csv(path)
    assert a.videos == ["videos/c d.mp4", "videos/-a_b.mp4"]
    assert a.texts == ["walk", "wave, then sit"]
    assert a.files == [str(tmp_path / video) for video in a.videos]
    assert a.unit == "second" and a.keyframe.dtype == np.float32
    rows = list(zip(a.video.tolist(), a.keyframe.tolist(), a.text.tolist(), a.person.tolist()))
    assert rows == [(0, 1.0, -1, -1), (0, 2.5, 1, 7), (0, 2.5, 0, 7), (1, 1.0, 0, -1)]
    assert a.box[0].tolist() == [0, 0, 0, 0]
    assert a.box[1] == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert a.keyframe_starts().tolist() == [0, 1, 3, 4]

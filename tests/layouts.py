"""Files in the official layouts, written for tests, and a rendered person for their boxes."""

import json
import pickle
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from table import Annotations, make_annotations

SAMPLES = Path(__file__).resolve().parents[2] / "shared" / "samples"
needs_samples = pytest.mark.skipif(not SAMPLES.is_dir(), reason="the samples are not distributed")
BOX, FAR = (0.1, 0.1, 0.5, 0.5), (0.6, 0.6, 0.9, 0.9)
W, H = 320, 240


def write(path: Path, content="") -> Path:
    """A text file, a JSON file (of a list or dict) or a pickle (by suffix), with its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".pkl":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def rows(table: Annotations, *columns: str) -> list[tuple]:
    """The table as tuples: video key, keyframe, text or None, and further columns."""
    columns = [getattr(table, c).tolist() for c in ("video", "keyframe", "text", *columns)]
    return [(table.videos[v], k, table.texts[t] if t >= 0 else None, *more)
            for v, k, t, *more in zip(*columns)]


def make(rows, videos=2, unit="second", **fields) -> Annotations:
    """A table of (video, keyframe, box, text) rows with the classes walk and sit."""
    return make_annotations([f"v{i}" for i in range(videos)], ["walk", "sit"], *zip(*rows),
                            unit=unit, files=["there"] * videos, **fields)


def act_pickle(labels, videos, gttubes, parts=1) -> dict:
    """ACT's ground truth: the first video is for training; each has 4 frames of 320 x 240."""
    return {"labels": labels, "train_videos": [videos[:1]] * parts,
            "test_videos": [videos[1:]] * parts, "nframes": {v: 4 for v in videos},
            "resolution": {v: (240, 320) for v in videos}, "gttubes": gttubes}


def ava_folder(root: Path, split: str, version: str, csv: str, excluded: str = "",
               included: str = "") -> Path:
    write(root / "annotations" / f"ava_{split}_v{version}.csv", csv)
    write(root / "annotations" / f"ava_{split}_excluded_timestamps_v{version}.csv", excluded)
    if included:
        write(root / "annotations" / f"ava_included_timestamps_v{version}.txt", included)
    return root


def hcstvg_entries() -> dict:
    """An entry in the layout of v1 and of the cleaned v2, and one of the original v2."""
    times = {"st_time": 0.0, "ed_time": 0.24, "img_num": 500}
    return {"55_vfjywN5CN0Y.mp4": {
                "bbox": [[32, 24, 64, 48]] * 5, "st_frame": 1, **times, "width": 320, "height": 240,
                "caption": "The man walks in and sits down."},
            "10__Gvp-cj3bmIY.mkv": {
                "bbox": [[-10, 0, 330, 240], [320, 0, 5, 5]], "st_frame": 41, "st_time": 1.6,
                "ed_time": 1.68, "img_num": 500, "img_size": [240, 320], "English": "A boy runs.",
                "Chinese": "..."}}


def vidor(root: Path, video: str, tracks: dict, frames: int, size=(640, 360), group="0001") -> Path:
    """A VidOR file with tracks[tid] = {frame: (xmin, ymin, xmax, ymax)}."""
    sides = ("xmin", "ymin", "xmax", "ymax")
    items = [[{"tid": tid, "bbox": dict(zip(sides, track[frame])), "tracker": "none"}
              for tid, track in tracks.items() if frame in track] for frame in range(frames)]
    return write(root / "annotation" / "training" / group / f"{video}.json", {
        "version": "VERSION 1.0", "video_id": video, "video_path": f"{group}/{video}.mp4",
        "fps": 25.0, "frame_count": frames, "width": size[0], "height": size[1],
        "subject/objects": [], "trajectories": items, "relation_instances": []})


def vidstg_entry(video, predicate, target, begin, end,
                 description="a child  rides a\u00a0bike.") -> dict:
    span = {"begin_fid": begin, "end_fid": end}
    return {"vid": video, "fps": 25.0, "frame_count": 10, "width": 640, "height": 360,
            "used_segment": {"begin_fid": 0, "end_fid": 9}, "temporal_gt": span, "questions": [],
            "subject/objects": [{"tid": 0, "category": "child"}, {"tid": 1, "category": "bicycle"}],
            "used_relation": {"subject_tid": 0, "object_tid": 1, "predicate": predicate, **span},
            "captions": [{"description": description, "type": "person", "target_id": target}]}


def write_alignment_sets(root: Path) -> None:
    """Folders hcstvg, vidstg and vidor, with the square as the person of their videos."""
    render(root / "hcstvg" / "video" / "1" / "1_abcdefghijk.mp4", 30)
    tube = [[x1, y1, x2 - x1, y2 - y1] for x1, y1, x2, y2 in map(square, range(5, 20))]
    write(root / "hcstvg" / "trainv2.json", {"1_abcdefghijk.mp4": {
        "bbox": tube, "st_frame": 6, "img_size": [H, W], "img_num": 30,
        "English": "The man walks to the door and opens it."}})
    write(root / "vidstg" / "train_annotations.json", [vidstg_entry("123", "ride", 0, 4, 10)])
    other = {i: (0, 0, 9, 9) for i in range(12)}
    vidor(root / "vidor", "123", {0: {i: square(i) for i in range(12)}, 1: other}, 12, (W, H))
    render(root / "vidor" / "video" / "0001" / "123.mp4", 12)


def square(i: int) -> tuple[int, int, int, int]:
    """A person: a white square (x1, y1, x2, y2) that moves 16 pixels right and 8 down a frame."""
    x, y = 16 * (i % 16), 8 * (i % 20)
    return x, y, x + 48, y + 48


def render(path: Path, frames: int, fps: int = 25, codec: str = "mpeg4") -> Path:
    """A video of the square, or a folder of its frames if the path has no suffix."""
    pictures = []
    for i in range(min(frames, 80)):                           # then it is where it was
        pictures.append(np.zeros((H, W, 3), np.uint8))
        x1, y1, x2, y2 = square(i)
        pictures[i][y1:y2, x1:x2] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.suffix:
        path.mkdir()
        for i in range(frames):
            Image.fromarray(pictures[i % 80]).save(path / f"{path.name}_{i + 1:06d}.png")
        return path
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = W, H, "yuv420p", 4_000_000
        for i in range(frames):
            frame = av.VideoFrame.from_ndarray(pictures[i % 80], format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path

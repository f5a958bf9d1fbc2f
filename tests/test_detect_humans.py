"""Person boxes: detectors, detection on keyframes, finetuning and measuring, on drawn frames."""

import csv
import json
import os
import shlex
import sys
from pathlib import Path
from urllib.error import URLError

import av
import numpy as np
import pytest
import torch
from conftest import in_processes
from layouts import SAMPLES, needs_samples
from PIL import Image
from torch import nn

import data
import detect_humans
import engine
import training
from detect_humans import build_detector, detect_frames, new_detector, one_class
from formats.proposals import read_proposals
from table import Detections, box_iou, make_annotations
from test_stream import render

MOBILE = "fasterrcnn_mobilenet_v3_large_320_fpn"


# ---------------------------------------------------------------- a small world

def person(frame: np.ndarray, x: int, y: int, height: int, colour) -> list[float]:
    """Draw a figure of head, trunk and legs, its top left corner at (x, y); its box in pixels."""
    width = max(height // 3, 4)
    third, hip, right = width // 3, y + 2 * height // 3, x + width
    frame[y:y + height // 4, x + third:right - third] = (230, 190, 150)
    frame[y + height // 4:hip, x:right] = colour
    frame[hip:y + height, x:x + third] = frame[hip:y + height, right - third:right] = 20
    return [x, y, right, y + height]


def scene(rng: np.random.Generator, frames: int = 6) -> tuple[np.ndarray, list[list[list[float]]]]:
    """Frames (F, 48, 48, 3) of one to three people who walk; their boxes on each frame."""
    picture = np.ones((frames, 48, 48, 3), np.uint8) * rng.integers(90, 200, 3).astype(np.uint8)
    boxes = [[] for _ in range(frames)]
    for column in rng.permutation(3)[:rng.integers(1, 4)]:
        height, step = int(rng.integers(14, 33)), int(rng.integers(-1, 2))
        y, colour = int(rng.integers(0, 48 - height)), rng.integers(0, 255, 3)
        for f in range(frames):
            x = int(np.clip(16 * column + 3 + step * f, 0, 36))
            boxes[f].append([v / 48 for v in person(picture[f], x, y, height, colour)])
    return picture, boxes


def write_video(path: Path, frames: np.ndarray) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "10"})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        container.mux(stream.encode())


def write_world(folder: Path, split: str, videos: int, seed: int) -> None:
    """Videos and their SPLIT.csv, three keyframes each; every person has two labels."""
    rng, rows = np.random.default_rng(seed), []
    for i in range(videos):
        frames, boxes = scene(rng)
        write_video(folder / f"{split}{i}.mp4", frames)
        rows += [[f"{split}{i}.mp4", f / 10 + 0.01, *np.round(box, 5).tolist(), text]
                 for f in (0, 2, 5) for box in boxes[f] for text in ("stand", "walk")]
    with open(folder / f"{split}.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    write_world(folder, "train", 40, seed=1)
    write_world(folder, "test", 8, seed=2)
    return folder


pytestmark = pytest.mark.usefixtures("one_thread")


def arguments(world: Path, out: Path, flags: str = ""):
    return detect_humans.parse_args(shlex.split(
        f"--dataset csv --data {world} --detector toy --detector-weights random --workers 0 "
        f"--device cpu --out {out} {'--warmup 0' * ('--finetune' in flags)} {flags}"))


def train(world: Path, out: Path, flags: str) -> dict:
    """Finetune; -> the checkpoint."""
    path = detect_humans.train(arguments(world, out, f"--finetune --batch-size 4 {flags}"))
    return torch.load(path, weights_only=True)


def log(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def trained(world, tmp_path_factory) -> Path:
    """A toy detector trained for a short while."""
    torch.set_num_threads(1)
    return detect_humans.train(arguments(
        world, tmp_path_factory.mktemp("trained"),
        "--finetune --iterations 150 --warmup 20 --save-every 50 --log-every 10"))


class Fixed(nn.Module):
    """A detector that always answers the same, in pixels."""

    def __init__(self, boxes=(), labels=(), scores=()):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.found = {"boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
                      "labels": torch.tensor(labels), "scores": torch.tensor(scores)}

    def forward(self, images):
        return [self.found for _ in images]


# ---------------------------------------------------------------- the detector

def test_boxes_of_people_alone_come_in_units_of_the_picture_best_first():
    detector = Fixed([[10, 10, 30, 20], [0, 0, 40, 20], [5, 5, 8, 8], [0, 0, 41, 10]], [1, 3, 1, 1],
                     [0.9, 0.8, 0.7, 0.1])
    pictures = [np.zeros((20, 40, 3), np.uint8), np.rot90(np.zeros((80, 20, 3), np.uint8))]
    (boxes, scores), (_, wide) = detect_frames(detector, pictures)
    assert boxes.dtype == np.float32
    assert boxes == pytest.approx(np.array([[0.25, 0.5, 0.75, 1], [0.125, 0.25, 0.2, 0.4],
                                            [0, 0, 1, 0.5]]))
    assert scores == pytest.approx(np.array([0.9, 0.7, 0.1])) and len(wide) == 3
    assert detect_frames(detector, []) == []
    (boxes, scores), = detect_frames(Fixed(), np.zeros((1, 8, 8, 3), np.uint8))
    assert boxes.shape == (0, 4) and scores.shape == (0,)


def test_the_person_of_91_classes_scores_the_same_alone():
    torch.manual_seed(0)
    coco = new_detector("toy", 91).eval()
    nn.init.normal_(coco.head.classification_head.cls_logits.weight, std=0.05)
    frames = np.random.default_rng(0).integers(0, 255, (2, 48, 48, 3), dtype=np.uint8)
    alone = one_class(coco).eval()
    for detector in (coco, alone):
        detector.detections_per_img = detector.topk_candidates = 100_000
    for (boxes, scores), own in zip(detect_frames(coco, frames), detect_frames(alone, frames)):
        assert len(scores) > 3
        assert boxes == pytest.approx(own[0]) and scores == pytest.approx(own[1])


def test_of_faster_rcnn_the_rows_of_background_and_person_are_kept():
    coco = new_detector(MOBILE, 91)
    assert coco.roi_heads.score_thresh == 0.05               # LOW_SCORE
    old, new = coco.state_dict(), one_class(coco).state_dict()
    head, body = "roi_heads.box_predictor", "backbone.body.0.0.weight"
    assert torch.equal(new[f"{head}.cls_score.weight"], old[f"{head}.cls_score.weight"][:2])
    assert torch.equal(new[f"{head}.bbox_pred.bias"], old[f"{head}.bbox_pred.bias"][:8])
    assert torch.equal(new[body], old[body])


def test_in_bfloat16_the_networks_answer_in_float32_and_nearly_the_same(trained):
    frames = scene(np.random.default_rng(5))[0]
    exact, half = (build_detector(weights=str(trained), amp=amp) for amp in (False, True))
    assert half.backbone(torch.zeros(1, 3, 96, 96)).dtype == torch.float32
    for (boxes, scores), (near, near_scores) in zip(detect_frames(exact, frames),
                                                    detect_frames(half, frames)):
        sure = scores > 0.5
        assert sure.any() and near.dtype == np.float32
        assert near[:sure.sum()] == pytest.approx(boxes[sure], abs=0.03)
        assert near_scores[:sure.sum()] == pytest.approx(scores[sure], abs=0.03)


def test_coco_weights_that_cannot_be_downloaded_are_named_with_their_address(monkeypatch):
    def no_network(*args, **kwargs):
        raise URLError("no route to host")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", no_network)
    address = rf"https://download\.pytorch\.org/models/{MOBILE}-\w+\.pth"
    with pytest.raises(FileNotFoundError, match=f"{address} .*--detector-weights"):
        build_detector(MOBILE)


@pytest.mark.parametrize("name, weights, message", [
    (MOBILE, "toy91.pth", f"toy91.pth: not the weights of {MOBILE} with 91 classes; .*--detector"),
    ("toy", "align.pt", "align.pt: a checkpoint of stage align, not a detector of people"),
    ("toy", "nowhere.pth", "nowhere.pth: no such file"),
    ("toy", None, "the toy detector has no COCO weights"),
    ("yolo", "random", "no detector 'yolo'; choose among fasterrcnn_resnet50_fpn_v2, ")])
def test_weights_that_do_not_fit_are_refused_by_name(tmp_path, monkeypatch, name, weights, message):
    monkeypatch.chdir(tmp_path)
    torch.save(new_detector("toy", 91).state_dict(), "toy91.pth")
    torch.save({"model": {"x": torch.zeros(1)}, "stage": "align", "arch": "toy"}, "align.pt")
    assert build_detector("toy", "toy91.pth").classes == 91
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        build_detector(name, weights)


# ---------------------------------------------------------------- keyframes

def test_plain_videos_have_a_keyframe_at_the_start_and_every_so_many_seconds(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_video(Path("a.mp4"), np.zeros((11, 32, 32, 3), np.uint8))       # the last frame at 1.0 s
    Path("frames").mkdir()
    for i in range(46):                                      # 30 per second: the last at 1.5 s
        Image.new("RGB", (8, 8)).save(f"frames/{i + 1:05d}.png")
    Path("text.mp4").write_text("no video")
    render(Path("leap.mp4"), [0, 7200])
    videos = ["a.mp4", "text.mp4", "frames", "leap.mp4"]
    table, left_out = detect_humans.table_of_videos(videos, 0.5)
    assert table.keyframe.tolist() == [0, 0.5, 1, 0, 0.5, 1, 1.5]
    assert table.video.tolist() == [0, 0, 0, 2, 2, 2, 2]
    assert len(left_out) == 2 and "text.mp4: not a video that can be opened" in left_out[0]
    assert "leap.mp4: its pictures leap by more than an hour" in left_out[1]
    for path, message in (("text.mp4", "none of 1 videos can be read: .*text.mp4"),
                          ("gone.mp4", "gone.mp4: no such video")):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            detect_humans.table_of_videos([path], 1)


def test_each_frame_is_decoded_once_however_many_batches(world, tmp_path, monkeypatch):
    readers, opened = [], data.open_video
    monkeypatch.setattr(data, "open_video",
                        lambda *args: readers.append(opened(*args)) or readers[-1])
    table = data.read_csv(world / "test.csv")
    detect_humans.find_people(table, Fixed(), tmp_path / "chunks", {}, engine.start_process("cpu"),
                              batch_size=1, workers=0)
    assert len(readers) == 8
    assert all(reader.decoded <= 6 and reader.converted == 3 for reader in readers)


# ---------------------------------------------------------------- detection

def test_a_detection_is_a_proposals_file_of_the_dataset(world, trained, tmp_path, capsys):
    args = arguments(world, tmp_path / "p.csv", f"--detector-weights {trained}")
    out = detect_humans.detect(args)
    proposals = read_proposals(out, data.read_csv(world / "test.csv"))
    keyframe = proposals.video.astype(int) * 100 + np.rint(proposals.keyframe * 10).astype(int)
    assert len(np.unique(keyframe)) == 24 and (np.diff(keyframe) >= 0).all()
    assert (np.diff(proposals.score)[np.diff(keyframe) == 0] <= 0).all()
    assert proposals.score.min() >= 0.05
    printed = capsys.readouterr().out
    assert "on 24 keyframes of 8 videos" in printed and "box AP  0.5: " in printed
    assert os.listdir(tmp_path) == ["p.csv"] and out.read_text().startswith("test0.mp4,0.01,")


def test_keyframes_that_are_frames_are_counted_from_one_in_the_file(world, tmp_path, monkeypatch):
    table = make_annotations(["Wave/v1"], ["wave"], [0, 0], [0, 4], [[0, 0, 0.5, 0.5]] * 2, [0, 0],
                             files=[str(world / "test0.mp4")])
    monkeypatch.setattr(data, "read_dataset", lambda **flags: table)
    detector = Fixed([[0, 12, 24, 48]], [1], [0.75])
    monkeypatch.setattr(detect_humans, "build_detector", lambda *args: detector)
    out = detect_humans.detect(arguments(world, tmp_path / "p.csv"))
    assert out.read_text().splitlines() == [
        f"Wave/v1,{frame},0.00000,0.25000,0.50000,1.00000,,0.750000" for frame in (1, 5)]
    assert read_proposals(out, table).keyframe.tolist() == [0, 4]


def test_an_interrupted_detection_goes_on_with_the_same_flags_and_weights_only(world, tmp_path,
                                                                               monkeypatch):
    weights, calls, real = tmp_path / "toy.pth", [], detect_humans.detect_frames
    torch.save(new_detector("toy", 91).state_dict(), weights)

    def run(name: str, flags: str = "--batch-size 8"):
        flags = f"--detector-weights {weights} {flags}"
        return detect_humans.detect(arguments(world, tmp_path / name, flags))

    def interrupted(detector, frames):
        calls.append(len(frames))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(detector, frames)

    whole = run("whole.csv")
    monkeypatch.setattr(detect_humans, "detect_frames", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run("p.csv")
    for flags, message in (
            ("--batch-size 8", "p.csv.chunks: an unfinished run is there; go on with --resume"),
            ("--batch-size 3 --resume", "was started with --batch-size 8, not 3")):
        with pytest.raises(ValueError, match=message):
            run("p.csv", flags)
    assert run("p.csv", "--batch-size 8 --resume").read_bytes() == whole.read_bytes()
    assert calls == [8] * 4                                  # the first chunk, of 16, was kept
    run("p.csv", "--batch-size 8 --resume")
    with pytest.raises(ValueError, match="p.csv: is already there"):
        run("p.csv")

    calls.clear()
    with pytest.raises(KeyboardInterrupt):
        run("q.csv")
    os.utime(weights, (0, 0))
    message = "was started with --detector-weights .*toy.pth of .*, not .* 1970"
    with pytest.raises(ValueError, match=message):
        run("q.csv", "--batch-size 8 --resume")


def test_videos_without_people_and_videos_that_cannot_be_read_are_named(
        world, tmp_path, monkeypatch, capsys):
    write_video(tmp_path / "empty.mp4", np.full((6, 48, 48, 3), 128, np.uint8))
    (tmp_path / "broken.mp4").write_bytes((world / "test0.mp4").read_bytes()[:200])
    (tmp_path / "test.csv").write_text("empty.mp4,0.1,0,0,0.5,0.5,walk\nempty.mp4,0.3\n"
                                       "broken.mp4,0.2\nbroken.mp4,0.3\n")
    monkeypatch.setattr(detect_humans, "build_detector", lambda *args: Fixed())
    assert detect_humans.detect(arguments(tmp_path, tmp_path / "p.csv")).read_text() == ""
    printed = capsys.readouterr().out
    for line in ("p.csv: 0 boxes of score 0.05 and more on 2 keyframes of 1 videos",
                 "nobody found in 1 videos: empty.mp4\n",
                 "left out 2 keyframes of 1 videos: broken.mp4 0.2 s: ",
                 "not a video that can be opened", "score >= 0.3   recall   0.00"):
        assert line in printed

    (tmp_path / "test.csv").write_text("broken.mp4,0.2\n")
    with pytest.raises(ValueError, match="no keyframe can be read; the first: broken.mp4 0.2 s: "):
        detect_humans.detect(arguments(tmp_path, tmp_path / "q.csv"))


SGD = ("--finetune --batch-size 4 --iterations 8 --log-every 8 --optimizer sgd --lr 0.01 "
       "--validate 9")


def train_and_detect(world: Path, out: Path, name: str, weights: Path) -> None:
    detect_humans.train(arguments(world, out / name, SGD))
    detect_humans.detect(arguments(world, out / f"{name}.csv",
                                   f"--detector-weights {weights} --batch-size 2"))


def test_two_processes_write_the_rows_of_one_and_train_as_one(world, trained, tmp_path):
    in_processes(2, train_and_detect, world, tmp_path, "two", trained)
    train_and_detect(world, tmp_path, "one", trained)
    one, two = ((tmp_path / f"{name}.csv").read_text() for name in ("one", "two"))
    assert one.count("\n") > 24 and one == two
    assert not list(tmp_path.glob("*.chunks"))

    # finetuning too, whose losses count the foreground of both, and its validation
    weights, others = (torch.load(tmp_path / name / "last.pt", weights_only=True)["model"]
                       for name in ("one", "two"))
    assert max((weights[name] - others[name]).abs().max() for name in weights) < 1e-5
    (step, measured), (step2, measured2) = log(tmp_path / "one"), log(tmp_path / "two")
    assert step["loss"] == pytest.approx(step2["loss"], rel=1e-5)
    assert measured == pytest.approx(measured2, abs=1e-3) and measured["box_ap50"] >= 0


# ---------------------------------------------------------------- finetuning

def test_each_person_is_one_box_however_many_labels_and_follows_the_mirror(tmp_path):
    frames = np.zeros((3, 48, 48, 3), np.uint8)
    frames[:, 12:36, 6:18] = 255
    write_video(tmp_path / "v.mp4", frames)
    (tmp_path / "train.csv").write_text("".join(f"v.mp4,0,0.125,0.25,0.375,0.75,{text}\n"
                                                for text in ("sit", "eat", "talk")))
    keyframes = detect_humans.Keyframes(data.read_csv(tmp_path / "train.csv"))
    seen = set()
    for seed in range(8):
        item = keyframes[0, seed, None]
        (x1, y1, x2, y2), = (item["boxes"] * 48).round().int().tolist()
        image = item["image"].float()
        assert image[:, y1 + 2:y2 - 2, x1 + 2:x2 - 2].min() > 200 and image.mean() < 0.15 * 255
        assert image[:, :, :x1 - 2].max() < 60 and image[:, :, x2 + 2:].max() < 60
        seen.add(x1)
    assert seen == {6, 30}


def test_finetuning_lowers_the_loss_and_finds_the_people(trained):
    losses, found = ([line[name] for line in log(trained.parent) if name in line]
                     for name in ("loss", "box_ap50"))
    assert losses[-1] < 0.7 * losses[0]
    assert len(found) == 3 and found[-1] > 0.8 and found[-1] >= found[0]


def test_a_checkpoint_is_a_detector_that_knows_its_name(trained):
    detector = build_detector(weights=str(trained))
    assert detector.name == "toy" and detector.classes == 2 and not detector.training
    frames, boxes = scene(np.random.default_rng(11))
    hits = []
    for (found, scores), truth in zip(detect_frames(detector, frames), boxes):
        sure = found[scores > 0.3]
        hits += [box_iou(sure, np.repeat([box], len(sure), 0)).max(initial=0) > 0.5
                 for box in truth]
    assert np.mean(hits) > 0.8


def test_a_resumed_finetuning_ends_as_the_uninterrupted_one(world, tmp_path, monkeypatch):
    flags = "--iterations 4 --warmup 2 --save-every 2 --validate 0"
    whole, real = train(world, tmp_path / "whole", flags), training.learning_rate

    def interrupted(step, *rest):
        if step == 3:
            raise KeyboardInterrupt
        return real(step, *rest)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training, "learning_rate", interrupted)
        train(world, tmp_path / "half", flags)
    again = train(world, tmp_path / "half", f"{flags} --resume")
    assert (again["step"], again["stage"], again["arch"]) == (whole["step"], "humans", "toy")
    assert all(torch.equal(again["model"][name], value) for name, value in whole["model"].items())


def test_faster_rcnn_draws_the_same_samples_again_for_the_same_seed(world, tmp_path, monkeypatch):
    real, models = detect_humans.new_detector, []

    def small(name, classes):
        detector = real(name, classes)
        detector.transform.min_size, detector.transform.max_size = (64,), 64
        return detector

    monkeypatch.setattr(detect_humans, "new_detector", small)
    for run in range(2):
        flags = f"--detector {MOBILE} --iterations 1 --validate 0"
        models.append(train(world, tmp_path / str(run), flags)["model"])
        torch.rand(run + 3)
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])


def test_pretrained_batch_norms_keep_their_statistics():
    detector = new_detector(MOBILE, 2)
    norms = [module for module in detector.modules() if isinstance(module, nn.BatchNorm2d)]
    detect_humans.set_training(detector, from_scratch=False)
    assert norms and detector.training and not any(norm.training for norm in norms)
    detect_humans.set_training(detector, from_scratch=True)
    assert all(norm.training for norm in norms)


def test_flags_that_mean_nothing_together_are_refused():
    with pytest.raises(ValueError, match="film.mp4: plain videos have no boxes to finetune on"):
        detect_humans.parse_args(["film.mp4", "--finetune"])
    for flags, reason in (("film.mp4 --dataset ucf101-24", "with plain videos"),
                          ("film.mp4 --csv a.csv", "with plain videos"),
                          ("--every 2", "without plain videos"),
                          ("--finetune --split train", "with --finetune"),
                          ("--lr 0.1", "without --finetune"),
                          ("--measure p.csv --validate 5", "without --finetune")):
        with pytest.raises(ValueError, match=f"means nothing {reason}; leave it out"):
            detect_humans.parse_args(flags.split())


# ---------------------------------------------------------------- measuring

def test_recall_and_precision_at_each_score_as_worked_out_by_hand():
    # two people on the first keyframe, one of them with two labels, nobody on the second
    boxes = [[0, 0, 0.5, 0.5], [0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1], [0, 0, 0, 0]]
    table = make_annotations(["v"], ["a", "b"], [0] * 4, [0, 0, 0, 9], boxes, [0, 1, 0, -1])
    # of IoU 1, 0.6 and none
    box = np.array([[0, 0, 0.5, 0.5], [0.5, 0.5, 1, 0.8], [0, 0, 1, 1]], np.float32)
    found = Detections(np.zeros(3, np.int32), np.array([0, 0, 9], np.int32), box,
                       np.array([0.9, 0.4, 0.6], np.float32))
    measures = detect_humans.measure(table, found)
    assert measures["at"][0.8] == pytest.approx({"recall": 0.5, "boxes": 0.5, "precision": 1})
    assert measures["at"][0.5] == pytest.approx({"recall": 0.5, "boxes": 1, "precision": 0.5})
    assert measures["at"][0.3] == pytest.approx({"recall": 1, "boxes": 1.5, "precision": 2 / 3})
    assert measures["ap50"] == pytest.approx(0.5 + 0.5 * 2 / 3)
    # the second is found up to IoU 0.55 (0.6 in float32 arithmetic may fall on either side)
    low, high = ((n * (0.5 + 0.5 * 2 / 3) + (10 - n) * 0.5) / 10 for n in (2, 3))
    assert low - 1e-6 <= measures["ap"] <= high + 1e-6


@pytest.mark.parametrize("row, message", [
    ("other.mp4,0.01,0.1,0.1,0.2,0.2,,0.9", "only 0 of its 1 videos are among the 8"),
    ("test0.mp4,0.01,10,10,40,40,,0.9", "looks like pixels")])
def test_proposals_of_another_dataset_or_in_pixels_are_explained_in_one_line(
        world, tmp_path, monkeypatch, capsys, row, message):
    (tmp_path / "p.csv").write_text(row + "\n")
    monkeypatch.setattr(sys, "argv", ["detect_humans.py", "--dataset", "csv", "--data", str(world),
                                      "--measure", str(tmp_path / "p.csv")])
    with pytest.raises(SystemExit) as status:
        engine.cli(detect_humans.main)
    error = capsys.readouterr().err
    assert status.value.code == 2 and error.startswith("error: ") and error.count("\n") == 1
    assert message in error and "p.csv" in error


@needs_samples
def test_real_videos_go_through_with_random_weights(tmp_path, capsys):
    videos = [str(SAMPLES / "video" / name) for name in ("demo.mp4", "test.avi")]
    flags = f"--every 2 --detector toy --detector-weights random --workers 1 --out {tmp_path}/p.csv"
    detect_humans.detect(detect_humans.parse_args([*videos, *flags.split()]))
    with open(tmp_path / "p.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert {row[0] for row in rows} == set(videos) and all(float(row[1]) % 2 == 0 for row in rows)
    assert "of 2 videos" in capsys.readouterr().out

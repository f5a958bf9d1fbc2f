"""The exported files give the checkpoint's scores, outside of this library."""

import json
import resource
import subprocess
import sys

import numpy as np
import pytest
import torch

import export
import ovstad


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A toy checkpoint, a clip (1, 4, 3, 48, 64), 5 boxes, their scores (5, 2), step by step."""
    path = tmp_path_factory.mktemp("checkpoint") / "last.pt"
    torch.manual_seed(0)
    model = ovstad.build_model("toy")
    torch.save({"model": model.state_dict(), "arch": "toy", "stage": "finetune", "beta": 0.6,
                "prompt": "someone {}", "frames": 4, "short_side": 48}, path)
    clip, boxes = export.example(4, 48, 64, n=5)
    mean, std = (torch.tensor(values).view(3, 1, 1)
                 for values in (ovstad.IMAGENET_MEAN, ovstad.IMAGENET_STD))
    video = (clip.float() / 255 - mean) / std
    with torch.inference_mode():
        f_global, f_map = model.encode_video(video)
        fused = ovstad.fuse(model.region_features(f_map, [boxes]), f_global.expand(5, -1), 0.6)
        scores = model.logits(fused, model.encode_text(["someone waves", "someone runs"])).sigmoid()
    return str(path), clip, boxes, scores.numpy()


def run_export(path, out) -> None:
    export.main(["--ckpt", path, "--actions", "waves", "runs", "--out", str(out), "--picture", "64",
                 "48"])


def test_a_file_that_no_export_wrote_is_left_alone(checkpoint, tmp_path):
    (tmp_path / "model.pt2").write_text("mine")
    with pytest.raises(ValueError, match="model.pt2: is there, and no run of ours wrote it"):
        run_export(checkpoint[0], tmp_path / "model.pt2")
    assert (tmp_path / "model.pt2").read_text() == "mine"


def test_pt2_runs_without_the_library_for_any_number_of_boxes(checkpoint, tmp_path, capsys):
    path, clip, boxes, scores = checkpoint
    run_export(path, tmp_path / "model.pt2")
    run_export(path, tmp_path / "model.pt2")                 # its own file is replaced
    assert "10 boxes: largest difference" in capsys.readouterr().out
    assert [file.name for file in tmp_path.iterdir()] == ["model.pt2"]
    before = resource.getrlimit(resource.RLIMIT_FSIZE)       # a disk that is full midway
    content = (tmp_path / "model.pt2").read_bytes()
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            run_export(path, tmp_path / "model.pt2")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (tmp_path / "model.pt2").read_bytes() == content
    assert [file.name for file in tmp_path.iterdir()] == ["model.pt2"]
    torch.save((clip, boxes), tmp_path / "inputs.pt")
    code = """
import torch, torchvision
clip, boxes = torch.load("inputs.pt")
more = {"ovstad.json": ""}
model = torch.export.load("model.pt2", extra_files=more).module()
print(more["ovstad.json"])
with torch.inference_mode():
    torch.save([model(clip, boxes[:n])[0] for n in (0, 1, 5)], "scores.pt")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True,
                          capture_output=True, text=True)
    assert json.loads(done.stdout.splitlines()[-1])["actions"] == ["waves", "runs"]
    for n, found in zip((0, 1, 5), torch.load(tmp_path / "scores.pt")):
        np.testing.assert_allclose(found.numpy(), scores[:n], atol=1e-5)


def test_onnx_gives_the_same_scores_for_any_number_of_boxes(checkpoint, tmp_path):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    import onnxruntime
    path, clip, boxes, scores = checkpoint
    run_export(path, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx",
                                           providers=["CPUExecutionProvider"])
    record = json.loads(session.get_modelmeta().custom_metadata_map["ovstad"])
    assert record == {"actions": ["waves", "runs"], "frames": 4, "stride": 1, "height": 48,
                      "width": 64, "beta": 0.6}
    for n in (0, 1, 5):
        found, logits = session.run(["scores", "logits"], {"clip": clip.numpy(),
                                                           "boxes": boxes[:n].numpy()})
        assert found.shape == logits.shape == (n, 2)
        np.testing.assert_allclose(found, scores[:n], atol=1e-4)


@pytest.mark.parametrize("out, words, message", [
    ("model.bin", "waves", "expected .onnx or .pt2"), ("m.pt2", "wave: hi|hand wave", "phrasings"),
    ("model.onnx", "waves", "pip install onnx onnxscript")])
def test_exports_that_cannot_be_are_refused_in_one_line(
        checkpoint, tmp_path, monkeypatch, out, words, message):
    monkeypatch.setattr(export.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=message):
        export.main(["--ckpt", checkpoint[0], "--actions", words, "--out", str(tmp_path / out)])

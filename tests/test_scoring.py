"""evaluate.py --ckpt: a checkpoint's scores, by one process or several, whole or interrupted."""

import csv
import json
import re
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import data
import engine
import evaluate
import ovstad
from conftest import BASE, NOVEL, in_processes, main_of
from formats.proposals import write_proposals
from table import Detections


@pytest.fixture(scope="module")
def checkpoint(world, tmp_path_factory):
    """The start model as if it had been finetuned on the world's base actions."""
    path = tmp_path_factory.mktemp("run") / "last.pt"
    model = torch.load(world / "start.pth", weights_only=True)["model"]
    torch.save({"model": model, "arch": "toy", "beta": 0.3, "prompt": "a person {}",
                "classes": sorted(BASE), "base": sorted(BASE), "novel": NOVEL,
                "frames": 4, "stride": 2, "short_side": 48, "stage": "finetune", "step": 1,
                "args": {"dataset": "csv", "data": str(world)}}, path)
    return path


def changed(checkpoint, path, **fields):
    """A copy of the checkpoint with other fields."""
    torch.save(torch.load(checkpoint, weights_only=True) | fields, path)
    return path


def flags_of(checkpoint, out, *flags):
    return ["--ckpt", str(checkpoint), "--out", str(out), "--workers", "0", *map(str, flags)]


def score(checkpoint, out, *flags):
    args = evaluate.parse_args(flags_of(checkpoint, out, *flags))
    return evaluate.score_checkpoint(str(checkpoint), args, engine.start_process("cpu"))


def run_main(monkeypatch, *argv):
    monkeypatch.setattr(sys, "argv", ["evaluate.py", *map(str, argv)])
    evaluate.main()


@pytest.fixture
def encoded(monkeypatch):
    """Sizes of the batches that go through the encoder; `encoded.limit` ends the run there."""
    class Sizes(list):
        limit = None
    sizes, plain = Sizes(), ovstad.ViCLIP.encode_video

    def encode(self, video):
        if len(sizes) == sizes.limit:
            raise KeyboardInterrupt
        sizes.append(len(video))
        return plain(self, video)

    monkeypatch.setattr(ovstad.ViCLIP, "encode_video", encode)
    return sizes


# ---------------------------------------------------------------- what is scored

@pytest.mark.parametrize("flags", [[], ["--normalise"]])
def test_scores_are_those_of_the_model_asked_box_by_box(world, checkpoint, tmp_path, flags, capsys):
    score(checkpoint, tmp_path, "--beta", 0.3, *flags)
    model, _ = ovstad.load_model(str(checkpoint))
    truth = data.read_csv(world / "test.csv")
    with open(tmp_path / "predictions.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert len(rows) == len(truth) * 12                      # of every person's box all words
    norms = []
    with torch.inference_mode():
        for row in rows[::12]:
            video = data.open_video(str(world / row[0]), short_side=48, multiple=8)
            clip = torch.from_numpy(video.clip_at(float(row[1]), 4, 2)).permute(0, 3, 1, 2)[None]
            f_global, f_map = model.encode_video(data.normalise(clip))
            box = [torch.tensor([[float(v) for v in row[2:6]]])]
            f_region = model.region_features(f_map, box)
            norms.append((f_region.norm().item(), f_global.norm().item()))
            if flags:
                f_region, f_global = F.normalize(f_region), F.normalize(f_global)
            f_text = model.encode_text([f"a person {truth.texts[int(row[6]) - 1]}"])
            fused = 0.3 * f_region + 0.7 * f_global          # Eq. 2
            expected = torch.cosine_similarity(fused, f_text) / model.temp
            assert float(row[7]) == pytest.approx(expected.item(), abs=1e-3)
    f_region, f_global = np.mean(norms, axis=0)
    assert f"mean norm of f^R {f_region:.3g}, of f^G {f_global:.3g}" in capsys.readouterr().out


def test_several_betas_take_one_pass_of_the_encoder_and_equal_single_runs(
        checkpoint, tmp_path, encoded):
    betas = [0, 0.3, 0.3000001, 1]
    together = score(checkpoint, tmp_path / "all", "--beta", *betas)
    assert sum(encoded) == 24                                # each clip once
    assert [result["beta"] for result in together] == betas
    for result in (together[0], together[3]):
        alone = score(checkpoint, tmp_path / "one", "--beta", result["beta"])[0]
        assert alone["mean_ap"] == result["mean_ap"]
    assert len({result["mean_ap"]["all"] for result in together}) > 1
    assert {path.name for path in (tmp_path / "all").glob("*.csv")} == {
        f"predictions_beta{beta}.csv" for beta in ("0", "0.3", "0.3000001", "1")}


def test_base_and_novel_are_divided_as_the_checkpoint_says_and_the_file_scores_the_same(
        world, checkpoint, tmp_path, monkeypatch, capsys):
    result = score(checkpoint, tmp_path)[0]
    split = {entry["name"]: entry["split"] for entry in result["classes"]}
    assert split == {name: "base" for name in BASE} | {name: "novel" for name in NOVEL}
    aps = {entry["name"]: entry["ap"] for entry in result["classes"] if entry["ap"] is not None}
    novel = np.mean([ap for name, ap in aps.items() if name in NOVEL])
    assert result["mean_ap"]["novel"] == pytest.approx(novel)
    assert result["mean_ap"]["all"] == pytest.approx(np.mean(list(aps.values())))
    run_main(monkeypatch, "--predictions", tmp_path / "predictions.csv", "--ground-truth",
             world / "test.csv", "--novel", world / "novel.txt", "--json", tmp_path / "r.json")
    again = json.loads((tmp_path / "r.json").read_text())
    assert again["mean_ap"] == pytest.approx(result["mean_ap"])
    # novel.txt may have changed since the training
    other = changed(checkpoint, tmp_path / "last.pt", base=sorted({*BASE, "jumping"} - {"waving"}))
    split = {entry["name"]: entry["split"] for entry in score(other, tmp_path)[0]["classes"]}
    assert split["waving"] == "novel" and split["jumping"] == "base"
    assert "novel.txt names jumping, lying down, sitting, but" in capsys.readouterr().err


def test_people_whom_the_detector_missed_lower_the_mean(world, checkpoint, tmp_path):
    truth = data.read_csv(world / "test.csv")
    half = truth.select(np.arange(len(truth)) % 2 == 0)
    scores = np.linspace(0.5, 0.9, len(half), dtype=np.float32)
    write_proposals(tmp_path / "half.csv", truth,
                    Detections(half.video, half.keyframe, half.box, scores))
    result = score(checkpoint, tmp_path / "out", "--proposals", tmp_path / "half.csv")[0]
    assert result["proposals"] == len(half)
    assert result["mean_ap"]["all"] < score(checkpoint, tmp_path / "gt")[0]["mean_ap"]["all"]


def test_videos_that_the_proposals_lack_are_counted_and_named(world, checkpoint, tmp_path, capsys):
    rows = ""
    for name in "abcd":
        (tmp_path / f"{name}.mp4").write_bytes((world / "test" / "0000.mp4").read_bytes())
        rows += f"{name}.mp4,0.5,0.1,0.1,0.5,0.9,waving\n"
    (tmp_path / "test.csv").write_text(rows)
    truth = data.read_csv(tmp_path / "test.csv")
    flags = ["--data", tmp_path, "--proposals", tmp_path / "some.csv"]
    for count in (3, 2):
        some = truth.select(np.arange(count))
        write_proposals(tmp_path / "some.csv", truth, Detections(
            some.video, some.keyframe, some.box, np.full(count, 0.5, np.float32)))
        if count == 3:
            score(checkpoint, tmp_path / "out", *flags)
            err = capsys.readouterr().err
            assert "csv: 1 of 4 videos have no row in" in err
            assert "csv: 1 of 4 keyframes with people have no row in" in err
    with pytest.raises(ValueError, match="2 of 4 videos have no row in .* such as c.mp4; find"):
        score(checkpoint, tmp_path / "out", *flags)


# ---------------------------------------------------------------- what a checkpoint tells

def test_several_checkpoints_tell_the_rest_keep_their_predictions_apart_and_give_mean_and_spread(
        checkpoint, tmp_path, monkeypatch, capsys):
    torch.manual_seed(1)
    other = changed(checkpoint, tmp_path / "last.pt", model=ovstad.build_model("toy").state_dict())
    run_main(monkeypatch, "--ckpt", other, "--workers", 0)
    out = capsys.readouterr().out
    assert "csv, beta 0.3: boxes of ground truth" in out and "mAP  base" in out
    run_main(monkeypatch, *flags_of(checkpoint, tmp_path / "out", "--json", tmp_path / "r.json",
                                    "--ckpt", checkpoint, other))
    results = json.loads((tmp_path / "r.json").read_text())
    one, two, mean = (result["mean_ap"]["all"] for result in results)
    assert mean == pytest.approx((one + two) / 2)
    files = [tmp_path / folder / "predictions.csv" for folder in ("eval", "out/0", "out/1")]
    alone, first, second = (path.read_text() for path in files)
    assert alone == second != first and first.count("\n") == second.count("\n") > 0


def test_checkpoints_of_different_test_sets_have_no_mean(monkeypatch, capsys):
    def score(path, *_):
        return [{"protocol": "ava", "mean_ap": {"all": 0.5}, "classes": [{"name": path}]}]

    monkeypatch.setattr(evaluate, "score_checkpoint", score)
    run_main(monkeypatch, "--ckpt", "one", "another", "--device", "cpu")
    assert "mean of" not in capsys.readouterr().out


def test_official_weights_take_stride_8_and_checkpoints_their_own(world, checkpoint, tmp_path):
    csv_set = ["--benchmark", "csv", "--data", world]
    for ckpt, flags, stride in ((world / "start.pth", [], 8), (checkpoint, [], 2),
                                (world / "start.pth", ["--stride", 1], 1)):
        score(ckpt, tmp_path, *csv_set, *flags)
        assert json.loads((tmp_path / "parts-0" / "key.json").read_text())["stride"] == stride


@pytest.mark.parametrize("fields", [
    {"args": {"dataset": "csv", "data": None, "csv": "train.csv"}},
    {"args": {"csv": "align.csv"}, "stage": "align", "base": [], "novel": []}])
def test_a_model_trained_on_a_file_alone_is_tested_on_the_file_beside_it(
        world, checkpoint, tmp_path, fields, monkeypatch):
    args = fields["args"] | {"csv": str(world / fields["args"]["csv"])}
    path = changed(checkpoint, tmp_path / "last.pt", **fields | {"args": args})
    beside, told = score(path, tmp_path / "a")[0], score(checkpoint, tmp_path / "b")[0]
    assert beside["mean_ap"] == told["mean_ap"] and beside["classes"] == told["classes"]


# ---------------------------------------------------------------- several processes, interruptions

def test_several_processes_write_the_predictions_of_one_row_for_row(
        checkpoint, tmp_path, one_thread, capfd):
    score(checkpoint, tmp_path / "one")
    capfd.readouterr()
    in_processes(3, main_of, evaluate, *flags_of(checkpoint, tmp_path / "many", "--device", "cpu"))
    out = capfd.readouterr().out                             # they have two chunks to do
    assert out.count("mAP  base") == 1                       # the first process speaks
    one, many = ((tmp_path / name / "predictions.csv").read_bytes() for name in ("one", "many"))
    assert one == many


def test_an_interrupted_run_keeps_its_finished_part_and_resumes_to_the_same(
        checkpoint, tmp_path, encoded):
    whole = score(checkpoint, tmp_path / "whole", "--batch-size", 4)
    part = tmp_path / "part"
    encoded.clear()
    encoded.limit = 5                                        # chunks hold 16 keyframes, 4 batches
    with pytest.raises(KeyboardInterrupt):
        score(checkpoint, part, "--batch-size", 4)
    assert not (part / "predictions.csv").exists()
    with pytest.raises(ValueError, match=r"started with --beta \[0.3\], not \[0.0\]"):
        score(checkpoint, part, "--batch-size", 4, "--beta", 0, "--resume")
    other = changed(checkpoint, tmp_path / "last.pt", prompt="{} seen from afar")
    with pytest.raises(ValueError, match="--prompt"):
        score(other, part, "--batch-size", 4, "--resume")
    other = changed(checkpoint, other, model=ovstad.build_model("toy").state_dict())
    with pytest.raises(ValueError, match="was started with --ckpt weights of sum"):
        score(other, part, "--batch-size", 4, "--resume")
    encoded.clear()
    encoded.limit = None
    resumed = score(checkpoint, part, "--batch-size", 4, "--resume")
    assert sum(encoded) == 8                                 # the second chunk: 24 less 16
    assert resumed[0]["mean_ap"] == whole[0]["mean_ap"]
    assert ((part / "predictions.csv").read_bytes()
            == (tmp_path / "whole" / "predictions.csv").read_bytes())


# ---------------------------------------------------------------- mistakes

def test_a_video_that_cannot_be_read_is_counted_and_its_people_missed(world, checkpoint, tmp_path):
    (tmp_path / "test").mkdir()
    film = (world / "test" / "0000.mp4").read_bytes()
    (tmp_path / "test" / "0000.mp4").write_bytes(film)
    (tmp_path / "test" / "broken.mp4").write_bytes(b"broken")
    rows = (world / "test.csv").read_text()
    (tmp_path / "test.csv").write_text(rows + "test/broken.mp4,0.5,0.1,0.1,0.5,0.9,waving,0\n")
    result = score(checkpoint, tmp_path / "out", "--data", tmp_path)[0]
    waving = next(entry for entry in result["classes"] if entry["name"] == "waving")
    assert result["unreadable"] == 1 and waving["gt"] == 1 + rows.count("waving")


@pytest.mark.parametrize("flags, message", [
    (["--benchmark", "ucf-jhmdb", "--data", "nowhere"], "no folder nowhere"),
    (["--csv", "no.csv"], "no.csv"), (["--proposals", "no.csv"], "no.csv"),
    (["--proposals", "low.csv", "--score", 0.9], "low.csv: no box of score 0.9 or more"),
    (["--score", 0.9], "--score 0.9: annotated boxes have no score"),
    (["--proposals", "low.csv", "b.csv"], "2 files, but csv has 1 test set"),
    (["--csv", "broken.csv", "--data", "."], "1 of 1 keyframes .* such as broken.mp4"),
    (["--split", 2], "--split means nothing to csv, only to ucf-jhmdb"),
    (["--joint"], "--joint means nothing"), (["--version", "2.2"], "--version .* only to ov-ava"),
    (["--benchmark", "ov-ava", "--csv", "a.csv"], "--csv means nothing to ov-ava"),
    (["--benchmark", "ucf-jhmdb", "--novel", "n.txt"], "--novel means nothing to ucf-jhmdb"),
    (["--protocol", "act"], "no frame sizes"), (["--beta", 1.5], r"--beta 1.5 is not in \[0, 1\]"),
    (["--beta", 0.3, 0.30000000000000004], "--beta 0.3 0.3: one is there twice"),
    (["--beta", "nan"], r"--beta nan is not in \[0, 1\]"),
    (["--ckpt", "start.pth"], "--benchmark ucf-jhmdb.ov-ava.csv")])
def test_a_mistake_is_explained_before_anything_is_written(
        world, checkpoint, tmp_path, flags, message, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "start.pth").write_bytes((world / "start.pth").read_bytes())
    (tmp_path / "broken.mp4").write_bytes(b"broken")
    (tmp_path / "broken.csv").write_text("broken.mp4,0.5,0.1,0.1,0.5,0.9,waving\n")
    truth = data.read_csv(world / "test.csv")
    write_proposals("low.csv", truth, Detections(truth.video, truth.keyframe, truth.box,
                                                 np.full(len(truth), 0.5, np.float32)))
    with pytest.raises((ValueError, OSError), match=message):
        run_main(monkeypatch, *flags_of(checkpoint, "out", *flags))
    assert not list(tmp_path.glob("out/*.csv"))


def test_scores_that_are_no_numbers_are_never_written(checkpoint, tmp_path, monkeypatch):
    plain = ovstad.ViCLIP.logits
    monkeypatch.setattr(ovstad.ViCLIP, "logits", lambda *args: plain(*args) * float("nan"))
    with pytest.raises(ValueError, match="score nan of detection 0 is not a finite number"):
        score(checkpoint, tmp_path)
    assert not (tmp_path / "predictions.csv").exists()


def test_a_rehearsal_prints_its_lines_and_writes_nothing(checkpoint, tmp_path, capsys):
    assert score(checkpoint, tmp_path / "out", "--rehearse", "--batch-size", "1") == []
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines()[-5:]] == [
        "rehearsal", "keyframes", "logits", "speed", "to"]
    assert re.search(r"keyframes +20 of 24 with boxes, 0 unreadable", out)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["predictions.csv", "predictions.pbtxt", "parts-0/thesis.txt"])
def test_files_that_no_run_of_ours_wrote_stay(checkpoint, tmp_path, name):
    (tmp_path / "parts-0").mkdir()
    (tmp_path / name).write_text("mine")
    with pytest.raises(ValueError, match="no run of ours wrote"):
        score(checkpoint, tmp_path)
    assert (tmp_path / name).read_text() == "mine"

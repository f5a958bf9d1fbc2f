"""What makes it fast, held by counters and never by times; and the bench's own arithmetic."""

import json
import multiprocessing

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode
from conftest import main_of

import bench
import data
import ovstad
import train_align
from video import packet_index


# ---------------------------------------------------------------- decoding

@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """120 frames with B-frames, a key frame every 30."""
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    bench.render(path, 96, 64, 120, 30)
    return str(path)


def test_a_random_clip_takes_one_seek_and_less_than_its_group_of_pictures(film):
    pts, keys = packet_index(film)
    assert np.searchsorted(pts, keys).tolist() == [0, 30, 60, 90]
    for index in (50, 75, 101):
        reader = data.open_video(film)
        clip = reader.clip(index, 8, 1)
        whole_loop = bench.bare_decode(film, index - 4, index + 3)
        assert reader.seeks == 1 and reader.converted == 8
        assert whole_loop == index + 4 - index // 30 * 30     # from the key frame before it
        # frames on the way that no other needs stay undecoded
        assert reader.decoded < whole_loop
        assert np.array_equal(clip, data.open_video(film).clip(60, 120, 1)[index - 4:index + 4])


def test_keyframes_in_order_decode_each_frame_once_at_any_stride(film):
    for stride in (1, 4):
        reader = data.open_video(film)
        for index in range(0, 120, 5):
            reader.clip(index, 8, stride)
        assert reader.decoded <= 120 and reader.seeks == 0
        wanted = {min(max(index + k * stride, 0), 119) for index in range(0, 120, 5)
                  for k in range(-4, 4)}
        assert reader.converted == len(wanted)


def test_a_clip_by_time_decodes_little_more_than_a_clip_by_index(film):
    by_index, by_time = data.open_video(film), data.open_video(film)
    assert np.array_equal(by_index.clip(80, 8, 4), by_time.clip_at(80 / 30 + 1e-3, 8, 4))
    assert by_time.seeks == 1 and by_time.decoded <= 1.2 * by_index.decoded + 4


def test_pictures_of_a_folder_are_opened_once_and_only_where_a_clip_wants_them(film, tmp_path):
    for number, picture in enumerate(data.open_video(film).clip(30, 60, 1)):
        Image.fromarray(picture).save(tmp_path / f"{number:05d}.jpg")
    reader = data.open_video(tmp_path)
    for index in range(10, 40):
        reader.clip(index, 8, 1)
    assert reader.decoded == reader.converted == 37           # 6 to 42


# ---------------------------------------------------------------- the model

def leaves(tensor: torch.Tensor) -> set[int]:
    """Identities of the parameters that a backward pass from here would reach."""
    seen, todo, found = set(), [tensor.grad_fn], set()
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.add(id(node.variable))
        todo += [following for following, _ in node.next_functions]
    return found


def test_a_frozen_text_encoder_builds_no_graph():
    model = ovstad.build_model("toy").train()
    model.text_encoder.requires_grad_(False)
    sentences = train_align.SentenceFeatures(model, ["a person waving", "a person walking"])([0, 1])
    logits = model(torch.randn(1, 4, 3, 48, 48), bench.boxes_for(1, 2), sentences)
    assert leaves(logits) == {id(p) for p in (*model.vision_encoder.parameters(), model.temp)}


def test_attention_in_bfloat16_on_cpus_is_that_of_torch_to_its_precision():
    q, k, v = torch.randn(3, 2, 3, 50, 32, generator=torch.manual_seed(0)).bfloat16()
    exact = torch.nn.functional.scaled_dot_product_attention(*torch.stack([q, k, v]).double())
    with torch.no_grad():
        ours = ovstad.attention(q, k, v)
    assert ours.dtype == torch.bfloat16 and (ours.double() - exact).abs().max() < 0.02
    assert ovstad.attention(q.requires_grad_(), k, v).requires_grad


def test_regions_cost_under_three_per_cent_of_the_encoder_and_the_benchs_arithmetic_is_torchs():
    with torch.device("meta"):
        model = ovstad.ViCLIP("ViT-B/16").eval()
        video = torch.empty(2, 8, 3, 224, 224)
    with FlopCounterMode(display=False) as counter:
        model.encode_video(video)
    encoder = counter.get_total_flops()
    assert encoder == pytest.approx(bench.encoder_flops(ovstad.ARCHS["ViT-B/16"], 12, 2, 224, 224),
                                    rel=0.001)
    assert encoder / 2 == pytest.approx(358e9, rel=0.01)
    # of 20 boxes RoIAlign's 49 bins, at most 4 points each here, 4 corners; their projection; and
    # the mean over time
    regions = 2 * 20 * 49 * 4 * 4 * 768 + 2 * 20 * 768 * 512 + 2 * 8 * 14 * 14 * 768
    assert regions < 0.03 * encoder


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_training_step_never_makes_the_host_wait_for_the_gpu():
    settings = bench.Bench(bench.parse_args(["--arch", "toy"]))
    batch = bench.batch_for(4, (48, 64), 4)
    batch |= {name: batch[name].pin_memory() for name in ("video", "jitter")}
    for stage in (1, 2):
        step = bench.training_step(settings, settings.model(), stage, amp=True)
        step([batch])
        torch.cuda.set_sync_debug_mode("error")
        try:
            step([batch])
        finally:
            torch.cuda.set_sync_debug_mode("default")


# ---------------------------------------------------------------- the bench itself

@pytest.mark.parametrize("ratio, aim, met", [
    (0.8, ">= 0.80", True), (0.79, ">= 0.80", False), (0.8, "<= 0.90", True), (0.8, "", None)])
def test_an_aim_is_reached_on_its_side_of_the_number(ratio, aim, met):
    assert bench.Figure("part", "what", 1.0, "s", ratio, "limit", aim).met is met


def test_the_table_has_a_limit_beside_what_it_measures_and_goes_to_a_file(
        tmp_path, monkeypatch, capsys, one_thread):
    if not torch.cuda.is_available():                        # a fork needs no second import
        monkeypatch.setattr(torch.multiprocessing, "get_context",
                            lambda name: multiprocessing.get_context("fork"))
    parts = ["encoder", "regions", "training"]
    main_of(bench, "--quick", "--arch", "toy", "--json", tmp_path / "bench.json", "--only", *parts)
    printed = capsys.readouterr().out
    content = json.loads((tmp_path / "bench.json").read_text())
    assert {f["part"] for f in content["figures"]} == set(parts) and content["machine"]["torch"]
    for f in content["figures"]:
        assert f["what"].strip()[:20] in printed and (f["value"] > 0 or f["unit"] == "MB")
        assert f["ratio"] is None or f["limit"]
    assert "aims reached" in printed.splitlines()[-1]

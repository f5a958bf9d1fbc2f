"""The model against slow, plain statements of the same thing."""

import gzip
import html
import math
import os
import re
from urllib.error import URLError

import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import roi_align, sigmoid_focal_loss

import ovstad
from ovstad import (build_model, focal_loss, fuse, info_nce, load_model, load_weights, prompts_of,
                    tokenize, trim)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = build_model("toy")
    # so that no part of the path is zero or one by chance
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        model.temp.fill_(0.05)
    return model


def clip(B=2, T=4, H=48, W=48, seed=0):
    return torch.randn(B, T, 3, H, W, generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------- names and shapes

def test_state_dict_has_viclips_303_tensors_for_b16_and_its_shapes():
    with torch.device("meta"):
        state = ovstad.ViCLIP("ViT-B/16").state_dict()
    assert len(state) == 303
    expected = {"temp": (), "vision_encoder.class_embedding": (768,),
                "vision_encoder.positional_embedding": (197, 768),
                "vision_encoder.temporal_positional_embedding": (1, 8, 768),
                "vision_encoder.conv1.weight": (768, 3, 1, 16, 16),
                "vision_encoder.ln_pre.bias": (768,), "vision_encoder.proj": (768, 512),
                "vision_encoder.transformer.resblocks.11.attn.in_proj_weight": (2304, 768),
                "vision_encoder.transformer.resblocks.0.mlp.c_fc.weight": (3072, 768),
                "text_encoder.token_embedding.weight": (49408, 512),
                "text_encoder.positional_embedding": (32, 512),
                "text_encoder.transformer.resblocks.11.attn.out_proj.bias": (512,),
                "text_encoder.ln_final.weight": (512,), "text_encoder.text_projection": (512, 512)}
    for name, shape in expected.items():
        assert tuple(state[name].shape) == shape, name


def test_l14_has_24_layers_of_width_1024_and_texts_of_width_768():
    with torch.device("meta"):
        state = ovstad.ViCLIP("ViT-L/14").state_dict()
    assert tuple(state["vision_encoder.positional_embedding"].shape) == (257, 1024)
    assert tuple(state["vision_encoder.transformer.resblocks.23.mlp.c_proj.weight"].shape) == (1024, 4096)
    assert tuple(state["text_encoder.text_projection"].shape) == (768, 768)


# ---------------------------------------------------------------- the encoders against plain loops

def slow_block(block, x, causal):
    """A transformer block in torch's own modules: x (L, M) of one sequence."""
    M, heads = x.shape[1], block.attn.heads
    attention = torch.nn.MultiheadAttention(M, heads, batch_first=True)
    attention.load_state_dict({"in_proj_weight": block.attn.in_proj_weight,
                               "in_proj_bias": block.attn.in_proj_bias,
                               "out_proj.weight": block.attn.out_proj.weight,
                               "out_proj.bias": block.attn.out_proj.bias})
    mask = torch.full((len(x), len(x)), -math.inf).triu(1) if causal else None
    y = F.layer_norm(x, (M,), block.ln_1.weight, block.ln_1.bias)
    x = x + attention(y[None], y[None], y[None], attn_mask=mask, need_weights=False)[0][0]
    y = F.layer_norm(x, (M,), block.ln_2.weight, block.ln_2.bias)
    y = y @ block.mlp.c_fc.weight.T + block.mlp.c_fc.bias
    y = y * torch.sigmoid(1.702 * y)
    return x + y @ block.mlp.c_proj.weight.T + block.mlp.c_proj.bias


def slow_tokens(model, video):
    """Class token (M,) and patch tokens (T, h, w, M) of a clip (T, 3, 48, 48), built one by one."""
    e, p = model.vision_encoder, 8
    T, h, w = len(video), video.shape[2] // p, video.shape[3] // p
    tokens = [e.class_embedding + e.positional_embedding[0]]
    for i in range(h):
        for j in range(w):
            for t in range(T):
                patch = video[t, :, i * p:(i + 1) * p, j * p:(j + 1) * p]
                embedded = (e.conv1.weight[:, :, 0] * patch).sum((1, 2, 3))
                space, time = e.positional_embedding[1 + i * w + j], e.temporal_positional_embedding[0, t]
                tokens.append(embedded + space + time)
    x = F.layer_norm(torch.stack(tokens), (e.proj.shape[0],), e.ln_pre.weight, e.ln_pre.bias)
    for block in e.transformer.resblocks:
        x = slow_block(block, x, causal=False)
    x = F.layer_norm(x, x.shape[1:], e.ln_post.weight, e.ln_post.bias)
    return x[0], x[1:].view(h, w, T, -1).permute(2, 0, 1, 3)


@torch.no_grad()
def test_video_encoder_equals_tokens_built_one_by_one(model):
    video = clip(1)
    f_global, f_map = model.encode_video(video)
    class_token, patches = slow_tokens(model, video[0])
    torch.testing.assert_close(f_global[0], class_token @ model.vision_encoder.proj, atol=1e-4,
                               rtol=1e-4)
    torch.testing.assert_close(f_map[0], patches, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_text_encoder_is_causal_and_pools_at_the_end_token(model):
    prompts = ["a person waving", "two people shake hands and then one of them leaves"]
    for prompt, embedding in zip(prompts, model.encode_text(prompts)):
        e, ids = model.text_encoder, tokenize([prompt])[0]
        # nothing after the end token can matter
        ids = ids[:int((ids == 49407).nonzero()[0]) + 1]
        x = e.token_embedding.weight[ids] + e.positional_embedding[:len(ids)]
        for block in e.transformer.resblocks:
            x = slow_block(block, x, causal=True)
        expected = F.layer_norm(x[-1], x.shape[1:], e.ln_final.weight,
                                e.ln_final.bias) @ e.text_projection
        torch.testing.assert_close(embedding, expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_encoding_a_video_twice_gives_the_same_bits_in_training_mode_too(model):
    first = model.encode_video(clip())
    second = model.train().encode_video(clip())
    model.eval()
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])


@torch.no_grad()
def test_other_frame_counts_and_grids_square_or_not_interpolate_the_positions(model):
    e = model.vision_encoder
    for T, H, W in ((1, 48, 48), (8, 64, 64), (4, 48, 80), (2, 96, 32)):
        f_global, f_map = model.encode_video(clip(1, T, H, W))
        assert f_global.shape == (1, 64) and f_map.shape == (1, T, H // 8, W // 8, 96)
    space, time = e.positions(4, 6, 6)
    assert torch.equal(space, e.positional_embedding[1:])
    assert torch.equal(time, e.temporal_positional_embedding[0])
    # each row of the grid alone, by torch's own interpolation
    space, time = e.positions(7, 6, 12)
    grid = e.positional_embedding[1:].view(6, 6, -1).permute(2, 0, 1)[None]
    expected = F.interpolate(grid, size=(6, 12), mode="bicubic", align_corners=False)
    torch.testing.assert_close(space.view(6, 12, -1), expected[0].permute(1, 2, 0))
    assert time.shape == (7, 96)
    # the middle of 7 lies between 2 and 3 of 4
    torch.testing.assert_close(time[3], e.temporal_positional_embedding[0, 1:3].mean(0))


def test_a_frame_size_that_patches_do_not_divide_is_refused_with_the_size_to_use(model):
    with pytest.raises(ValueError, match="50 x 48 pixels.*resize to 48 x 48"):
        model.encode_video(clip(1, 4, 50, 48))


# ---------------------------------------------------------------- region features, fusion, scores

@torch.no_grad()
def test_region_features_equal_projecting_every_token_of_every_frame_first(model):
    video = clip(2, 4, 48, 64)
    boxes = [torch.tensor([[0.1, 0.2, 0.5, 0.9], [0.0, 0.0, 1.0, 1.0], [0.61, 0.4, 0.66, 0.43]]),
             torch.tensor([[0.3, 0.1, 0.9, 0.95]])]
    _, f_map = model.encode_video(video)
    fast = model.region_features(f_map, boxes)
    slow = []
    for b in range(2):
        for box in boxes[b]:
            per_frame = []
            for t in range(4):
                projected = torch.stack([torch.stack([token @ model.vision_encoder.proj for token in row]) for row in f_map[b, t]])
                x1, y1, x2, y2 = (box * torch.tensor([8, 6, 8, 6])).tolist()
                bins = roi_align(projected.permute(2, 0, 1)[None],
                                 torch.tensor([[0, x1, y1, x2, y2]]), 7, aligned=True)
                per_frame.append(bins.mean((2, 3))[0])
            slow.append(torch.stack(per_frame).mean(0))
    torch.testing.assert_close(fast, torch.stack(slow), atol=1e-5, rtol=1e-5)


def test_a_clip_without_boxes_gives_no_rows_and_still_trains(model):
    video, text = clip(2), tokenize(["a person waving", "a person walking"])
    for boxes in ([torch.zeros(0, 4), torch.tensor([[0.1, 0.1, 0.9, 0.9]])],
                  [torch.zeros(0, 4)] * 2):
        N = sum(len(b) for b in boxes)
        model.zero_grad()
        logits = model(video, boxes, text, beta=0.3)
        assert logits.shape == (N, 2)
        loss = focal_loss(logits, torch.ones(N, 2))
        loss.backward()
        assert torch.isfinite(loss) and (N > 0) == bool(loss > 0)
        gradients = {name: p.grad for name, p in model.named_parameters()}
        assert all(g is not None and torch.isfinite(g).all() for g in gradients.values())
    model.zero_grad()


def test_boxes_for_another_number_of_clips_are_refused(model):
    with pytest.raises(ValueError, match="2 clips but boxes of 1"):
        model.region_features(torch.zeros(2, 4, 6, 6, 96), [torch.zeros(1, 4)])


def test_fusion_weighs_region_and_global_by_beta():
    region, whole = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 10.0]])
    assert fuse(region, whole, 0.3).tolist() == [[pytest.approx(0.3), pytest.approx(7.0)]]
    assert torch.equal(fuse(region, whole, 1), region)
    assert torch.equal(fuse(region, whole, 0), whole)


@torch.no_grad()
def test_each_box_is_fused_with_the_clip_it_is_in(model):
    video, text = clip(2), model.encode_text(["a person waving", "a person walking"])
    boxes = [torch.tensor([[0.1, 0.1, 0.5, 0.9]]),
             torch.tensor([[0.2, 0.3, 0.5, 0.7], [0.5, 0.1, 0.8, 0.9]])]
    both = model(video, boxes, text, beta=0.3)
    apart = torch.cat([model(video[i:i + 1], boxes[i:i + 1], text, beta=0.3) for i in range(2)])
    torch.testing.assert_close(both, apart, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_logits_are_cosines_over_tau_whatever_the_lengths(model):
    features, text = torch.tensor([[3.0, 4.0],
                                   [0.0, -2.0]]), torch.tensor([[10.0, 0.0], [0.0, 0.1]])
    tau = model.temp.item()
    expected = torch.tensor([[0.6, 0.8], [0.0, -1.0]]) / tau
    torch.testing.assert_close(model.logits(features, text), expected)


# ---------------------------------------------------------------- losses

def test_logits_stay_float32_under_autocast(model):
    """In bfloat16 cosines near 0.3 would be 0.002 apart: equal scores for boxes that differ."""
    features, f_text = torch.randn(50, 64), torch.randn(5, 64)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model.logits(features, f_text)
    assert logits.dtype == torch.float32 and torch.equal(logits, model.logits(features, f_text))


def test_focal_loss_equals_the_sum_worked_out_by_hand():
    logits, targets = torch.tensor([[0.0, 2.0], [-1.0, 1.0]]), torch.tensor([[1, 0], [1, 1]])
    s = [[1 / (1 + math.exp(-v)) for v in row] for row in logits.tolist()]
    by_hand = -((1 - s[0][0]) ** 2 * math.log(s[0][0]) + s[0][1] ** 2 * math.log(1 - s[0][1])
                + (1 - s[1][0]) ** 2 * math.log(s[1][0]) + (1 - s[1][1]) ** 2 * math.log(s[1][1])) / 2
    assert focal_loss(logits, targets).item() == pytest.approx(by_hand, rel=1e-6)
    assert focal_loss(logits, targets, boxes=4).item() == pytest.approx(by_hand / 2, rel=1e-6)


def test_focal_loss_agrees_with_torchvisions_without_its_alpha():
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(50, 24, generator=generator) * 5
    targets = (torch.rand(50, 24, generator=generator) < 0.2).float()
    for gamma in (0.0, 1.0, 2.0):
        expected = sigmoid_focal_loss(logits, targets, alpha=-1, gamma=gamma, reduction="sum") / 50
        torch.testing.assert_close(focal_loss(logits, targets, gamma), expected)


def test_focal_loss_keeps_its_value_and_gradient_where_a_float32_sigmoid_is_one():
    logits = torch.tensor([[40.0, -40.0]], requires_grad=True)
    loss = focal_loss(logits, torch.tensor([[0.0, 1.0]]))
    loss.backward()
    assert loss.item() == pytest.approx(80.0)
    assert logits.grad.tolist() == [[pytest.approx(1.0), pytest.approx(-1.0)]]


def test_info_nce_equals_the_mean_of_both_directions_by_loops():
    generator = torch.Generator().manual_seed(2)
    (video, text), tau = torch.randn(2, 5, 8, generator=generator), 0.07
    total = 0.0
    for i in range(5):
        sims = [F.cosine_similarity(video[i], text[j], dim=0).item() / tau for j in range(5)]
        back = [F.cosine_similarity(video[j], text[i], dim=0).item() / tau for j in range(5)]
        total -= sims[i] - math.log(sum(map(math.exp, sims)))
        total -= back[i] - math.log(sum(map(math.exp, back)))
    assert info_nce(video, text, tau).item() == pytest.approx(total / 10, rel=1e-5)


def test_info_nce_shares_the_target_between_equal_captions():
    video, text = torch.eye(2), torch.tensor([[1.0, 1.0], [1.0, 1.0]])
    loss = info_nce(video, text, 1.0, torch.ones(2, 2, dtype=torch.bool))
    assert loss.item() == pytest.approx(math.log(2))


# ---------------------------------------------------------------- tokens

def slow_clip_tokens(text: str) -> list[int]:
    """CLIP's byte-pair encoding, written from its description: the vocabulary file is open_clip's."""
    import ftfy
    import open_clip
    path = os.path.join(os.path.dirname(open_clip.__file__), "bpe_simple_vocab_16e6.txt.gz")
    lines = gzip.open(path, "rt", encoding="utf-8").read().split("\n")
    merges = [tuple(line.split()) for line in lines[1:48895]]
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    byte_to_char = {b: chr(b) for b in printable}
    others = [b for b in range(256) if b not in byte_to_char]
    byte_to_char |= {b: chr(256 + n) for n, b in enumerate(others)}
    units = list(byte_to_char.values())
    vocabulary = units + [u + "</w>" for u in units] + ["".join(m) for m in merges]
    number = {token: i for i, token in enumerate(vocabulary)}
    rank = {pair: i for i, pair in enumerate(merges)}
    text = html.unescape(html.unescape(ftfy.fix_text(text))).strip()
    text = re.sub(r"\s+", " ", text).strip().lower()
    import regex
    ids = []
    for word in regex.findall(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+", text):
        parts = [byte_to_char[b] for b in word.encode("utf-8")]
        parts[-1] += "</w>"
        while len(parts) > 1:
            best = min(zip(parts, parts[1:]), key=lambda pair: rank.get(pair, math.inf))
            if best not in rank:
                break
            merged, i = [], 0
            while i < len(parts):
                if i + 1 < len(parts) and (parts[i], parts[i + 1]) == best:
                    merged.append(parts[i] + parts[i + 1])
                    i += 2
                else:
                    merged.append(parts[i])
                    i += 1
            parts = merged
        ids += [number[part] for part in parts]
    return ids


TEXTS = ["a person waving", "", "   ", "A  Person\n\tWALKING", "😀 waves 👋🏽", "一个人在跳舞",
         "ride (e.g., a bike, a car, a horse)",
         "rock &amp; roll &lt;3", "x" * 200, "don't they'll we've", "naïve café résumé",
         "3 people, 12 hands", "bend/bow (at the waist)",
         "Ünïcödé ﬁ ligature", "a\u00a0b", "person " * 60]


@pytest.mark.parametrize("text", TEXTS)
def test_tokens_equal_those_of_clips_byte_pair_encoding(text):
    ids = [49406, *slow_clip_tokens(text)[:30], 49407]
    assert tokenize([text])[0].tolist() == ids + [0] * (32 - len(ids))


@pytest.mark.parametrize("names", [("walk", "Walk"), ("walk " * 30 + "left", "walk " * 30 + "right")])
def test_two_names_that_are_one_to_the_model_are_refused(names):
    assert prompts_of("a person {}", ["walk", "sit"]) == ["a person walk", "a person sit"]
    with pytest.raises(ValueError, match="are the same to the model"):
        prompts_of("a person {}", list(names))


def test_padding_that_all_texts_share_is_trimmed_and_no_end_token_with_it():
    # the first has token 0, which is also the padding, inside
    tokens = tokenize(["!{", "a"])
    assert (tokens[0] == 0).any() and tokens[0].argmax() == 3 and tokens[1].argmax() == 2
    assert torch.equal(trim(tokens), tokens[:, :4]) and trim(tokens[:0]).shape == (0, 32)


def test_a_long_text_is_cut_and_keeps_its_end_token():
    tokens = tokenize(["person " * 60], context_length=32)
    assert tokens.shape == (1, 32) and tokens[0, 0] == 49406 and tokens[0, -1] == 49407
    assert (tokens != 0).all()


def test_one_text_in_place_of_a_list_is_refused():
    with pytest.raises(ValueError, match="list of texts"):
        tokenize("a person waving")


# ---------------------------------------------------------------- weights

@pytest.mark.parametrize("layout", ["nested.pth", "flat.pth", "model.safetensors"])
def test_official_layouts_load_with_every_tensor(model, tmp_path, layout):
    path = str(tmp_path / layout)
    if layout.endswith("safetensors"):
        from safetensors.torch import save_file
        save_file(model.state_dict(), path)
    else:
        torch.save({"model": model.state_dict()} if layout == "nested.pth" else model.state_dict(),
                   path)
    for loaded in (build_model("toy", path), load_model(path)[0]):
        assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), loaded.state_dict().values()))


def test_every_difference_of_a_state_dict_is_listed(model, tmp_path):
    state = dict(model.state_dict())
    del state["temp"]
    state["vision_encoder.extra"] = torch.zeros(1)
    state["text_encoder.ln_final.weight"] = torch.zeros(3)
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(ValueError) as error:
        load_weights(model, str(tmp_path / "w.pth"))
    for part in ("missing temp", "unexpected vision_encoder.extra",
                 "text_encoder.ln_final.weight is (3,), not (64,)"):
        assert part in str(error.value)


def test_weights_of_another_size_are_named_as_such(model, tmp_path):
    torch.save(model.state_dict(), tmp_path / "w.pth")
    with torch.device("meta"):
        big = ovstad.ViCLIP("ViT-B/16")
    with pytest.raises(ValueError, match="not the weights of ViT-B/16 .these weights fit toy."):
        load_weights(big, str(tmp_path / "w.pth"))


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_a_file_cut_short_says_so(model, tmp_path, name):
    whole = tmp_path / "whole"
    torch.save(model.state_dict(), whole)
    (tmp_path / name).write_bytes(whole.read_bytes()[:5000])
    with pytest.raises(ValueError, match="cannot be read as weights"):
        load_weights(model, str(tmp_path / name))


def test_weights_that_are_nowhere_say_what_to_give(monkeypatch, model):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(FileNotFoundError, match="no such weights file"):
        load_weights(model, "runs/nothing/last.pt")
    import huggingface_hub
    monkeypatch.setattr(huggingface_hub, "hf_hub_download",
                        lambda *_: (_ for _ in ()).throw(ConnectionError("no network")))
    with pytest.raises(FileNotFoundError, match="OpenGVLab/ViCLIP-B-16-hf.*download its model.safetensors"):
        build_model("ViT-B/16", "ViT-B/16")


def test_without_network_the_hub_is_not_asked_again_and_again(monkeypatch):
    asked = []

    def hub(hub_id, name, local_files_only=False):
        asked.append(local_files_only)
        raise FileNotFoundError("not downloaded before")

    def no_network(*_, **__):
        raise URLError("no route to host")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", hub)
    monkeypatch.setattr("weights.urlopen", no_network)
    with pytest.raises(FileNotFoundError, match="nor to be had from the Hub .URLError.; download"):
        build_model("ViT-B/16", "ViT-B/16")
    assert asked == [True]


GOOD = {"arch": "toy", "stage": "finetune", "step": 1, "beta": 0.3, "prompt": "a person {}",
        "frames": 4, "args": {}}


@pytest.mark.parametrize("change, message", [
    ({"beta": float("nan")}, "its beta is 'nan', expected a number in .0, 1."),
    ({"beta": "0.3"}, "its beta"),
    ({"beta": 1.5}, "its beta"), ({"beta": True}, "its beta"),
    ({"prompt": "a person"}, "its prompt"),
    ({"prompt": 3}, "its prompt"), ({"frames": 0},
                                    "its frames is '0', expected a count of 1 or more"),
    ({"frames": 4.0}, "its frames"), ({"stride": "2"}, "its stride"),
    ({"short_side": None}, "its short_side"),
    ({"step": -1}, "its step"), ({"arch": 3}, "its arch"), ({"stage": None}, "its stage"),
    ({"classes": "wave"}, "its classes"), ({"base": [1]}, "its base"), ({"args": []}, "its args"),
    ({"args": {"data": 3}}, "its args"), ({"optimizer": 3}, "its optimizer")])
def test_a_record_of_wrong_types_or_ranges_is_refused(model, tmp_path, change, message):
    torch.save({"model": model.state_dict()} | GOOD, tmp_path / "w.pt")
    assert load_model(str(tmp_path / "w.pt"))[1] == GOOD
    torch.save({"model": model.state_dict()} | GOOD | change, tmp_path / "w.pt")
    with pytest.raises(ValueError, match=f"w.pt: {message}"):
        load_model(str(tmp_path / "w.pt"))


def test_a_checkpoint_without_a_stage_is_none_of_ours(model, tmp_path):
    torch.save({"model": model.state_dict(), "arch": "toy"}, tmp_path / "w.pt")
    with pytest.raises(ValueError, match="w.pt: names an arch but no stage"):
        load_model(str(tmp_path / "w.pt"))


@pytest.mark.parametrize("value, message", [
    (torch.tensor(float("nan")), "temp holds numbers that are not finite"),
    (torch.tensor(1), "temp holds torch.int64"),
    (torch.zeros(2).to_sparse(), "temp is not a plain tensor"),
    (torch.empty(2, device="meta"), "temp is not a plain")])
def test_weights_that_are_no_finite_numbers_are_refused(model, tmp_path, value, message):
    torch.save(model.state_dict() | {"temp": value}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=f"w.pth: {message}"):
        load_model(str(tmp_path / "w.pth"))


def test_an_unknown_architecture_lists_the_known_ones():
    with pytest.raises(ValueError, match="ViT-B/16, ViT-L/14, toy"):
        build_model("ViT-H/14")


def test_gradient_checkpointing_changes_no_gradient(model):
    video, boxes, text = clip(1), [torch.tensor([[0.1, 0.1, 0.9, 0.9]])], tokenize(["a person waving"])
    gradients = []
    for on in (False, True):
        model.set_gradient_checkpointing(on)
        model.zero_grad()
        model(video, boxes, text).sum().backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters()})
    model.set_gradient_checkpointing(False)
    for name in gradients[0]:
        torch.testing.assert_close(gradients[0][name], gradients[1][name])

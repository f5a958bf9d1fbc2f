"""The model against slow, plain statements of the same thing."""

import math
from urllib.error import URLError

import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import roi_align

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


def clip(B=2, T=4, H=48, W=48):
    return torch.randn(B, T, 3, H, W, generator=torch.Generator().manual_seed(0))


def close(found, expected, tolerance=1e-4):
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)


# ---------------------------------------------------------------- names and shapes

B16 = {"temp": (), "vision_encoder.class_embedding": (768,),
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
L14 = {"vision_encoder.positional_embedding": (257, 1024),
       "vision_encoder.transformer.resblocks.23.mlp.c_proj.weight": (1024, 4096),
       "text_encoder.text_projection": (768, 768)}


@pytest.mark.parametrize("arch, tensors, shapes", [("ViT-B/16", 303, B16), ("ViT-L/14", 447, L14)])
def test_the_state_dict_has_viclips_names_and_shapes(arch, tensors, shapes):
    with torch.device("meta"):
        state = ovstad.ViCLIP(arch).state_dict()
    assert len(state) == tensors
    assert {name: tuple(state[name].shape) for name in shapes} == shapes


# ---------------------------------------------------------------- the encoders against plain loops

def slow_block(block, x, causal):
    """A transformer block in torch's own modules: x (L, M) of one sequence."""
    M, heads = x.shape[1], block.attn.heads
    attention = torch.nn.MultiheadAttention(M, heads, batch_first=True)
    attention.load_state_dict(block.attn.state_dict())
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
                space = e.positional_embedding[1 + i * w + j]
                tokens.append(embedded + space + e.temporal_positional_embedding[0, t])
    x = F.layer_norm(torch.stack(tokens), (e.proj.shape[0],), e.ln_pre.weight, e.ln_pre.bias)
    for block in e.transformer.resblocks:
        x = slow_block(block, x, causal=False)
    x = F.layer_norm(x, x.shape[1:], e.ln_post.weight, e.ln_post.bias)
    return x[0], x[1:].view(h, w, T, -1).permute(2, 0, 1, 3)


@torch.no_grad()
def test_video_encoder_equals_tokens_built_one_by_one_in_training_mode_too(model):
    video = clip(1)
    f_global, f_map = model.encode_video(video)
    class_token, patches = slow_tokens(model, video[0])
    close(f_global[0], class_token @ model.vision_encoder.proj)
    close(f_map[0], patches)
    again = model.train().encode_video(video)
    model.eval()
    assert torch.equal(again[0], f_global) and torch.equal(again[1], f_map)


@torch.no_grad()
def test_text_encoder_is_causal_pools_at_the_end_token_and_reads_no_common_padding(model):
    prompts = ["a person waving", "two people shake hands and then one of them leaves"]
    e, lengths = model.text_encoder, []
    with e.register_forward_hook(lambda _, inputs, __: lengths.append(inputs[0].shape[1])):
        embeddings = model.encode_text(prompts)
    assert lengths == [12]                                   # of 32: start, ten words, end
    for prompt, embedding in zip(prompts, embeddings):
        ids = tokenize([prompt])[0]
        # nothing after the end token can matter
        ids = ids[:int((ids == 49407).nonzero()[0]) + 1]
        x = e.token_embedding.weight[ids] + e.positional_embedding[:len(ids)]
        for block in e.transformer.resblocks:
            x = slow_block(block, x, causal=True)
        x = F.layer_norm(x[-1], x.shape[1:], e.ln_final.weight, e.ln_final.bias)
        close(embedding, x @ e.text_projection)


@torch.no_grad()
def test_other_frame_counts_and_grids_square_or_not_interpolate_the_positions(model):
    e = model.vision_encoder
    for T, H, W in ((1, 48, 48), (8, 64, 64), (4, 48, 80), (2, 96, 32)):
        f_global, f_map = model.encode_video(clip(1, T, H, W))
        assert f_global.shape == (1, 64) and f_map.shape == (1, T, H // 8, W // 8, 96)
    # each row of the grid alone, by torch's own interpolation
    space, time = e.positions(7, 6, 12)
    grid = e.positional_embedding[1:].view(6, 6, -1).permute(2, 0, 1)[None]
    expected = F.interpolate(grid, size=(6, 12), mode="bicubic", align_corners=False)
    close(space.view(6, 12, -1), expected[0].permute(1, 2, 0), 1e-6)
    # the middle of 7 lies between 2 and 3 of 4
    close(time[3], e.temporal_positional_embedding[0, 1:3].mean(0), 1e-6)


def test_gradient_checkpointing_changes_no_gradient_and_keeps_a_tensor_a_layer(model):
    text, gradients, kept = tokenize(["a person waving"]), [], []

    def keep(tensor):
        kept[-1] += tensor.numel()
        return tensor

    for on in (False, True):
        model.set_gradient_checkpointing(on)
        model.zero_grad()
        kept.append(0)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            logits = model(clip(1), [torch.tensor([[0.1, 0.1, 0.9, 0.9]])], text)
        logits.sum().backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters()})
    model.set_gradient_checkpointing(False)
    torch.testing.assert_close(*gradients)
    assert kept[1] < 0.4 * kept[0]


# ---------------------------------------------------------------- region features, fusion, scores

@torch.no_grad()
def test_region_features_equal_projecting_every_token_of_every_frame_first(model):
    boxes = [torch.tensor([[0.1, 0.2, 0.5, 0.9], [0.0, 0.0, 1.0, 1.0], [0.61, 0.4, 0.66, 0.43]]),
             torch.tensor([[0.3, 0.1, 0.9, 0.95]])]
    _, f_map = model.encode_video(clip(2, 4, 48, 64))
    slow = []
    for b in range(2):
        for box in boxes[b]:
            cells, per_frame = box * torch.tensor([8, 6, 8, 6]), []
            for frame in f_map[b]:
                projected = torch.stack([torch.stack([token @ model.vision_encoder.proj
                                                      for token in row]) for row in frame])
                bins = roi_align(projected.permute(2, 0, 1)[None], [cells[None]], 7, aligned=True)
                per_frame.append(bins.mean((2, 3))[0])
            slow.append(torch.stack(per_frame).mean(0))
    close(model.region_features(f_map, boxes), torch.stack(slow), 1e-5)


def test_a_clip_without_boxes_gives_no_rows_and_still_trains(model):
    text = tokenize(["a person waving", "a person walking"])
    nobody, somebody = torch.zeros(0, 4), torch.tensor([[0.1, 0.1, 0.9, 0.9]])
    for N, second in ((1, somebody), (0, nobody)):
        model.zero_grad()
        logits = model(clip(2), [nobody, second], text, beta=0.3)
        assert logits.shape == (N, 2)
        loss = focal_loss(logits, torch.ones(N, 2))
        loss.backward()
        assert torch.isfinite(loss) and (N > 0) == bool(loss > 0)
        gradients = [parameter.grad for parameter in model.parameters()]
        assert all(g is not None and torch.isfinite(g).all() for g in gradients)
    model.zero_grad()


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
    f_global, f_map = model.encode_video(video)
    fused = 0.2 * model.region_features(f_map, boxes) + 0.8 * f_global[[0, 1, 1]]        # Eq. (2)
    close(model(video, boxes, text, beta=0.2), model.logits(fused, text))


@torch.no_grad()
def test_logits_are_cosines_over_tau_whatever_the_lengths_and_float32_under_autocast(model):
    features, text = torch.tensor([[3.0, 4], [0, -2]]), torch.tensor([[10.0, 0], [0, 0.1]])
    expected = torch.tensor([[0.6, 0.8], [0.0, -1.0]]) / 0.05
    with torch.autocast("cpu", torch.bfloat16):              # it would round 0.6 and 0.8
        close(model.logits(features, text), expected, 1e-6)


# ---------------------------------------------------------------- losses

@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.0])
def test_focal_loss_equals_the_sum_worked_out_by_hand(gamma):
    logits, targets = torch.tensor([[0.0, 2.0], [-1.0, 1.0]]), torch.tensor([[1, 0], [1, 1]])
    s = [[1 / (1 + math.exp(-v)) for v in row] for row in logits.tolist()]
    by_hand = -((1 - s[0][0]) ** gamma * math.log(s[0][0])
                + s[0][1] ** gamma * math.log(1 - s[0][1])
                + (1 - s[1][0]) ** gamma * math.log(s[1][0])
                + (1 - s[1][1]) ** gamma * math.log(s[1][1])) / 2
    assert focal_loss(logits, targets, gamma).item() == pytest.approx(by_hand, rel=1e-6)
    assert focal_loss(logits, targets, gamma, boxes=4).item() == pytest.approx(by_hand / 2)


def test_focal_loss_keeps_its_value_and_gradient_where_a_float32_sigmoid_is_one():
    logits = torch.tensor([[40.0, -40.0]], requires_grad=True)
    loss = focal_loss(logits, torch.tensor([[0.0, 1.0]]))
    loss.backward()
    assert loss.item() == pytest.approx(80.0)
    assert logits.grad.tolist() == [[pytest.approx(1.0), pytest.approx(-1.0)]]


def test_info_nce_equals_the_mean_of_both_directions_by_loops():
    (video, text), tau = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(2)), 0.07
    total = 0.0
    for i in range(5):
        sims = [F.cosine_similarity(video[i], text[j], dim=0).item() / tau for j in range(5)]
        back = [F.cosine_similarity(video[j], text[i], dim=0).item() / tau for j in range(5)]
        total -= sims[i] - math.log(sum(map(math.exp, sims)))
        total -= back[i] - math.log(sum(map(math.exp, back)))
    assert info_nce(video, text, tau).item() == pytest.approx(total / 10, rel=1e-5)
    # a target that two captions share: half of -log(e / (1 + e)), half of -log(1 / (1 + e))
    loss = info_nce(torch.eye(2), torch.eye(2), 1.0, torch.ones(2, 2, dtype=torch.bool))
    assert loss.item() == pytest.approx(math.log(1 + math.e) - 0.5)


# ---------------------------------------------------------------- tokens

@pytest.mark.parametrize("text, ids", [
    ("", []), (" A  Person\n\tWALKING", [320, 2533, 3941]), ("person " * 60, [2533] * 30),
    ("don't they'll we've", [847, 713, 889, 1342, 649, 1200]), ("a\u00a0b", [320, 321]),
    ("ride (e.g., a bike)", [2994, 263, 324, 269, 326, 5276, 320, 3701, 264]),
    ("rock &amp; roll &lt;3", [2172, 261, 3341, 283, 274]),              # unescaped
    ("na\u00efve r\u00e9sum\u00e9", [1097, 35689, 563, 29106, 7054, 4166]),
    ("\U0001f600 waves", [7334, 7882])])
def test_tokens_are_those_of_clips_byte_pair_encoding_cut_before_the_end_token(text, ids):
    expected = [49406, *ids, 49407]
    assert tokenize([text])[0].tolist() == expected + [0] * (32 - len(expected))


def test_padding_that_all_texts_share_is_trimmed_and_no_end_token_with_it():
    # the first has token 0, which is also the padding, inside
    tokens = tokenize(["!{", "a"])
    assert (tokens[0] == 0).any() and tokens[0].argmax() == 3 and tokens[1].argmax() == 2
    assert torch.equal(trim(tokens), tokens[:, :4]) and trim(tokens[:0]).shape == (0, 32)


@pytest.mark.parametrize("call, message", [
    (lambda model: prompts_of("{}", ["walk", "Walk"]), "'walk' and 'Walk' are the same to the mod"),
    (lambda model: prompts_of("{}", ["a " * 30 + "left", "a " * 30 + "right"]), "are the same"),
    (lambda model: tokenize("a person waving"), "list of texts"),
    (lambda model: build_model("ViT-H/14"), "ViT-B/16, ViT-L/14, toy"),
    (lambda model: model.encode_video(clip(1, 4, 50, 48)), "50 x 48 pixels.*resize to 48 x 48"),
    (lambda model: model.encode_video(clip(1, 4, 48, 50)), "48 x 50 pixels.*resize to 48 x 48"),
    (lambda model: model.region_features(torch.zeros(2, 4, 6, 6, 96), [torch.zeros(1, 4)]),
     "2 clips but boxes of 1")])
def test_what_the_model_cannot_take_is_refused(model, call, message):
    assert prompts_of("a person {}", ["walk", "sit"]) == ["a person walk", "a person sit"]
    with pytest.raises(ValueError, match=message):
        call(model)


# ---------------------------------------------------------------- weights

@pytest.mark.parametrize("layout", ["nested.pth", "flat.pth", "model.safetensors"])
def test_official_layouts_load_with_every_tensor(model, tmp_path, layout):
    state, path = model.state_dict(), str(tmp_path / layout)
    if layout.endswith("safetensors"):
        from safetensors.torch import save_file
        save_file(state, path)
    else:
        torch.save({"model": state} if layout == "nested.pth" else state, path)
    for loaded in (build_model("toy", path), load_model(path)[0]):
        assert all(torch.equal(a, b) for a, b in zip(state.values(), loaded.state_dict().values()))


def test_every_difference_of_a_state_dict_is_listed_and_another_size_named(model, tmp_path):
    state, path = dict(model.state_dict()), str(tmp_path / "w.pth")
    del state["temp"]
    state |= {"vision_encoder.extra": torch.zeros(1),
              "text_encoder.ln_final.weight": torch.zeros(3)}
    torch.save(state, path)
    with pytest.raises(ValueError, match=r"missing temp; unexpected vision_encoder.extra; "
                                         r"text_encoder.ln_final.weight is \(3,\), not \(64,\)"):
        load_weights(model, path)
    with torch.device("meta"):
        big = ovstad.ViCLIP("ViT-B/16")
    with pytest.raises(ValueError, match="not the weights of ViT-B/16 .these weights fit toy."):
        load_weights(big, path)


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_a_file_cut_short_says_so(model, tmp_path, name):
    torch.save(model.state_dict(), tmp_path / "whole")
    (tmp_path / name).write_bytes((tmp_path / "whole").read_bytes()[:5000])
    with pytest.raises(ValueError, match="cannot be read as weights"):
        load_weights(model, str(tmp_path / name))


def test_weights_that_are_nowhere_say_what_to_give_and_the_hub_is_not_asked_again(monkeypatch):
    asked = []

    def hub(hub_id, name, local_files_only=False):
        asked.append(local_files_only)
        raise FileNotFoundError("not downloaded before")

    def no_network(*_, **__):
        raise URLError("no route to host")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", hub)
    monkeypatch.setattr("weights.urlopen", no_network)
    with pytest.raises(FileNotFoundError, match="no such weights file"):
        build_model("toy", "runs/nothing/last.pt")
    with pytest.raises(FileNotFoundError, match="OpenGVLab/ViCLIP-B-16-hf: .* to be had from the "
                                                "Hub .URLError.; download its model.safetensors"):
        build_model("toy", "ViT-B/16")
    assert asked == [True]


GOOD = {"arch": "toy", "stage": "finetune", "step": 1, "beta": 0.3, "prompt": "a person {}",
        "frames": 4, "args": {}}


@pytest.mark.parametrize("change, message", [
    ({"beta": math.nan}, "its beta is 'nan', expected a number in .0, 1."),
    ({"beta": "0.3"}, "its beta"), ({"beta": 1.5}, "its beta"), ({"beta": True}, "its beta"),
    ({"prompt": "a person"}, "its prompt"), ({"prompt": 3}, "its prompt"),
    ({"frames": 0}, "its frames is '0', expected a count of 1 or more"),
    ({"frames": 4.0}, "its frames"), ({"stride": "2"}, "its stride"),
    ({"short_side": None}, "its short_side"), ({"step": -1}, "its step"), ({"arch": 3}, "its arch"),
    ({"stage": None}, "its stage"), ({"stage": ...}, "names an arch but no stage"),
    ({"classes": "wave"}, "its classes"), ({"base": [1]}, "its base"), ({"args": []}, "its args"),
    ({"args": {"data": 3}}, "its args"), ({"optimizer": 3}, "its optimizer"),
    ({"temp": torch.tensor(math.nan)}, "temp holds numbers that are not finite"),
    ({"temp": torch.tensor(1)}, "temp holds torch.int64"),
    ({"temp": torch.tensor(-1.0)}, r"its tau \(temp\) is -1, not above 0"),
    ({"temp": torch.zeros(2).to_sparse()}, "temp is not a plain tensor"),
    ({"temp": torch.empty(2, device="meta")}, "temp is not a plain")])
def test_a_checkpoint_of_wrong_types_ranges_or_weights_is_refused(model, tmp_path, change, message):
    path, weights = str(tmp_path / "w.pt"), model.state_dict()
    torch.save({"model": weights} | GOOD, path)
    assert load_model(path)[1] == GOOD
    record = {name: value for name, value in (GOOD | change).items() if value is not ...}
    content = {"model": weights | change} if "temp" in change else {"model": weights} | record
    torch.save(content, path)
    with pytest.raises(ValueError, match=f"w.pt: {message}"):
        load_model(path)

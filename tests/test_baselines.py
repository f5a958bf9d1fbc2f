"""Open-VCLIP and VideoCLIP against hand-worked values and slow, plain statements."""

import argparse
import csv
import json
import math
import os
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import in_processes, main_of
from torch import nn

import baselines
import data
import detect_actions
import engine
import evaluate
import ovstad
from baselines import open_vclip, videoclip
from baselines.files import read_pickle
from words import Words

ARCH = ovstad.Arch(patch=8, grid=2, frames=3, width=16, layers=2, heads=2, embed=12,
                   text_width=16, text_layers=1, text_heads=2, context=77)
SIZE = videoclip.Size(stem=(4, 6), blocks=(("3b", (2, 3, 2, 1, 2, 2)), ("4b", (3, 2, 4, 2, 1, 2)),
                                           ("5b", (4, 2, 3, 1, 2, 3))),
                      embed=6, width=12, heads=3, video_layers=1, text_layers=2, vocab=150)
WORDS = ("a b c person run ##n ##ning brush hair un una ##able ##ble cafe amp & ; - _ . ? ¿ ' "
         "\u4e2d \u6587 x ##x s").split()
VOCABULARY = ["[PAD]", *map("[unused{}]".format, range(99)), "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
VOCABULARY += [*WORDS, *map("[more{}]".format, range(SIZE.vocab - 104 - len(WORDS)))]


def shaken(model):
    """The model with no parameter and no running mean zero or one by chance, in evaluation mode."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(0.1 * torch.rand(tensor.shape, generator=generator))
    return model.eval()


@pytest.fixture(scope="module")
def open_model():
    torch.manual_seed(0)
    return shaken(open_vclip.OpenVCLIP(ARCH))


@pytest.fixture(scope="module")
def video_model():
    torch.manual_seed(0)
    model = shaken(videoclip.VideoCLIP(SIZE))
    model.vocabulary = {word: line for line, word in enumerate(VOCABULARY)}
    return model


@pytest.fixture(params=["open_model", "video_model"])
def model(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.inference_mode():
        yield


def random_clip(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def norm(x, layer, eps=1e-5):
    deviation = (x.var(-1, keepdim=True, correction=0) + eps).sqrt()
    return (x - x.mean(-1, keepdim=True)) / deviation * layer.weight + layer.bias


# ---------------------------------------------------------------- files in the official layout

def clip_names(state):
    return {name.removeprefix("text."): tensor for name, tensor in state.items()}


def write_clip_archive(path, state):
    """Tensors by name in a TorchScript archive, with CLIP's three numbers."""
    root = nn.Module()
    for name, tensor in state.items():
        node, (*parts, last) = root, name.split(".")
        for part in parts:
            if part not in node._modules:
                node.add_module(part, nn.Module())
            node = node._modules[part]
        node.register_parameter(last, nn.Parameter(tensor.clone(), False))
    for name in ("input_resolution", "context_length", "vocab_size"):
        root.register_buffer(name, torch.tensor(1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(root).save(path)


def write_open_vclip(folder, clip, finetuned=None):
    with torch.inference_mode(False):
        write_clip_archive(folder / "ViT-B-16.pt", clip_names(clip))
    finetuned = clip_names(finetuned or clip)
    torch.save({"model_state": {f"model.{name}": tensor for name, tensor in finetuned.items()}},
               folder / "swa_2_22.pth")


class FairseqConfig:                             # stands for a class that only fairseq has
    pass


def write_videoclip(folder, state):
    s3d = {name.removeprefix("s3d."): tensor for name, tensor in state.items()
           if name.startswith("s3d.")}
    unused = dict.fromkeys(["text_module.word_embd.weight", "text_module.fc1.bias"], torch.zeros(2))
    torch.save(s3d | unused, folder / "s3d_howto100m.pth", _use_new_zipfile_serialization=False)
    berts = {f"mmmodel.{name}": tensor for name, tensor in state.items()
             if not name.startswith("s3d.")}
    for encoder in ("video_encoder.bert", "text_encoder"):
        berts[f"mmmodel.{encoder}.embeddings.position_ids"] = torch.arange(512)[None]
        berts[f"mmmodel.{encoder}.pooler.dense.weight"] = torch.zeros(2, 2)
        berts[f"mmmodel.{encoder}.pooler.dense.bias"] = torch.zeros(2)
    torch.save({"model": berts, "args": argparse.Namespace(lr=0.1), "cfg": FairseqConfig()},
               folder / "checkpoint_best.pt")
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")


def halves(state):
    return {name: tensor.half() if tensor.is_floating_point() else tensor
            for name, tensor in state.items()}


def test_the_published_models_have_the_official_tensors_and_their_shapes():
    with torch.device("meta"):
        clip = clip_names(open_vclip.OpenVCLIP(open_vclip.ARCH).state_dict())
        state = videoclip.VideoCLIP(videoclip.SIZE).state_dict()
    assert len(clip) == 302 and sum(tensor.numel() for tensor in clip.values()) == 149_620_737
    s3d = [tensor.numel() for name, tensor in state.items() if name.startswith("s3d.")]
    berts = [tensor.numel() for name, tensor in state.items() if not name.startswith("s3d.")]
    # the official files also hold five tensors of a text module, two poolers and two position_ids
    assert len(s3d) == 537 - 5
    assert sum(s3d) == 31_232_500 - (66250 * 300 + 2048 * 301 + 512 * 2049)
    assert len(berts) == 310 - 6 and sum(berts) == 177_424_384 - 2 * (768 * 769 + 512)
    for name, shape in {
            "logit_scale": (), "visual.conv1.weight": (768, 3, 16, 16), "visual.proj": (768, 512),
            "visual.positional_embedding": (197, 768), "positional_embedding": (77, 512),
            "visual.transformer.resblocks.11.attn.in_proj_weight": (2304, 768),
            "transformer.resblocks.0.mlp.c_proj.weight": (512, 2048), "text_projection": (512, 512),
            "token_embedding.weight": (49408, 512),
            "s3d.conv1.conv1.weight": (64, 24, 2, 4, 4), "s3d.gating.fc.bias": (192,),
            "s3d.conv_2c.conv2.weight": (192, 192, 3, 1, 1), "s3d.fc.weight": (512, 1024),
            "s3d.mixed_4f.conv_b1_b.conv1.weight": (320, 160, 1, 3, 3),
            "s3d.mixed_5c.gating_b3.fc.weight": (128, 128),
            "s3d.mixed_3b.conv_b0.bn1.num_batches_tracked": (),
            "video_encoder.videomlp.linear1.weight": (768, 512),
            "video_encoder.videomlp.LayerNorm.bias": (768,),
            "video_encoder.bert.encoder.layer.5.attention.self.query.weight": (768, 768),
            "text_encoder.encoder.layer.11.attention.output.LayerNorm.weight": (768,),
            "text_encoder.encoder.layer.0.intermediate.dense.weight": (3072, 768),
            "text_encoder.embeddings.word_embeddings.weight": (30522, 768)}.items():
        assert tuple((clip | state)[name].shape) == shape, name


def test_official_open_vclip_files_load_and_are_interpolated(tmp_path, open_model, monkeypatch):
    monkeypatch.setattr(open_vclip, "ARCH", ARCH)
    ones, threes = ({name: torch.full_like(tensor, value, dtype=torch.float16)
                     for name, tensor in open_model.state_dict().items()} for value in (1.0, 3.0))
    write_open_vclip(tmp_path, ones, threes)
    model = baselines.build_baseline("open-vclip", tmp_path)
    assert not model.training
    assert all((tensor == 2).all() for tensor in model.state_dict().values())
    open_vclip.load_weights(model, tmp_path, ratio=0.25)
    assert float(model.logit_scale) == 2.5


def test_files_of_both_models_bring_back_every_tensor(tmp_path, open_model, video_model):
    write_open_vclip(tmp_path, halves(open_model.state_dict()))
    write_videoclip(tmp_path, halves(video_model.state_dict()))
    for module, model, fresh in ((open_vclip, open_model, open_vclip.OpenVCLIP(ARCH)),
                                 (videoclip, video_model, videoclip.VideoCLIP(SIZE))):
        module.load_weights(fresh, tmp_path)
        found, state = fresh.state_dict(), model.state_dict()
        assert all(torch.equal(found[name].half(), state[name].half())
                   and found[name].dtype == state[name].dtype for name in state)
    assert fresh.vocabulary == video_model.vocabulary


def test_each_file_is_strict_by_itself(tmp_path, open_model, video_model):
    whole, state = open_model.state_dict(), dict(video_model.state_dict())
    short = {name: tensor for name, tensor in whole.items() if name != "visual.ln_post.bias"}
    for name, clip, finetuned in (("ViT-B-16.pt", short, whole), ("swa_2_22.pth", whole, short)):
        write_open_vclip(tmp_path, clip, finetuned)
        with pytest.raises(ValueError, match=f"{name}: .*missing visual.ln_post.bias"):
            open_vclip.load_weights(open_vclip.OpenVCLIP(ARCH), tmp_path)
    del state["s3d.gating.fc.bias"]
    write_videoclip(tmp_path, state | {"s3d.extra": torch.zeros(1), "s3d.fc.bias": torch.zeros(5)})
    with pytest.raises(ValueError, match=r"missing s3d.gating.fc.bias; unexpected s3d.extra; "
                                         r"s3d.fc.bias is \(5,\), not \(6,\)"):
        videoclip.load_weights(videoclip.VideoCLIP(SIZE), tmp_path)


def test_missing_files_are_named_with_their_source_size_and_licence(tmp_path, video_model):
    write_videoclip(tmp_path, video_model.state_dict())
    (tmp_path / "checkpoint_best.pt").unlink()
    published = r"checkpoint_best.pt \(VideoCLIP, 355 MB.*CC-BY-NC.*dl.fbaipublicfiles"
    with pytest.raises(FileNotFoundError, match=published) as error:
        videoclip.load_weights(videoclip.VideoCLIP(SIZE), tmp_path)
    assert "vocab.txt" not in str(error.value)
    with pytest.raises(FileNotFoundError, match="ViT-B-16.pt .*351 MB, MIT.*; swa_2_22.pth .*598"):
        open_vclip.load_weights(open_vclip.OpenVCLIP(ARCH), tmp_path)


def test_a_file_cut_short_and_a_foreign_vocabulary_are_errors(tmp_path, open_model, video_model):
    write_open_vclip(tmp_path, open_model.state_dict())
    for name in ("swa_2_22.pth", "ViT-B-16.pt"):
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[:len(content) // 2])
        with pytest.raises(ValueError, match=f"{name}: cannot be read .* perhaps cut short"):
            open_vclip.load_weights(open_vclip.OpenVCLIP(ARCH), tmp_path)
    write_videoclip(tmp_path, video_model.state_dict())
    (tmp_path / "vocab.txt").write_text("\n".join(VOCABULARY[:-1]))
    with pytest.raises(ValueError, match="vocab.txt: not the vocabulary of .*: 149 lines"):
        videoclip.load_weights(videoclip.VideoCLIP(SIZE), tmp_path)


class Runs:
    """An object that, unpickled as usual, calls a function."""

    def __init__(self, function, argument):
        self.call = function, (argument,)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("function, argument", [
    (os.mkdir, "{}"), (eval, "__import__('os').mkdir({!r})")])
def test_reading_a_pickle_runs_nothing_that_it_names(tmp_path, zipped, function, argument):
    torch.save({"model": {"w": torch.ones(1)}, "args": argparse.Namespace(a=1),
                "cfg": Runs(function, argument.format(str(tmp_path / "made")))},
               tmp_path / "file.pt", _use_new_zipfile_serialization=zipped)
    try:
        assert torch.equal(read_pickle(tmp_path / "file.pt")["model"]["w"], torch.ones(1))
    except ValueError as error:
        assert "cannot be read" in str(error)
    assert not (tmp_path / "made").exists()


# ---------------------------------------------------------------- Open-VCLIP

def slow_open_vclip(model, video):
    """f_global and f_map of a clip (T, 3, H, W) in [0, 1] of the grid's own size, by loops."""
    e, p, heads = model.visual, ARCH.patch, ARCH.heads
    video = torch.stack([(video[:, c] - mean) / std for c, (mean, std) in enumerate(
        [(0.48145466, 0.26862954), (0.4578275, 0.26130258), (0.40821073, 0.27577711)])], dim=1)
    T, h, w = len(video), video.shape[2] // p, video.shape[3] // p

    frames = []
    for frame in video:
        tokens = [e.class_embedding + e.positional_embedding[0]]
        for i in range(h):
            for j in range(w):
                pixels = frame[:, i * p:(i + 1) * p, j * p:(j + 1) * p]
                tokens.append((e.conv1.weight * pixels).sum((1, 2, 3))
                              + e.positional_embedding[1 + i * w + j])
        frames.append(norm(torch.stack(tokens), e.ln_pre))
    for block in e.transformer.resblocks:
        attn, mlp = block.attn, block.mlp
        qkv = [(norm(x, block.ln_1) @ attn.in_proj_weight.T + attn.in_proj_bias).chunk(3, dim=1)
               for x in frames]
        nothing = torch.zeros_like(qkv[0][1])
        after = []
        for t in range(T):
            key, value = (torch.cat([qkv[t + 1][part] if t + 1 < T else nothing,
                                     qkv[t - 1][part] if t > 0 else nothing, qkv[t][part]])
                          for part in (1, 2))
            parts = []
            for q, k, v in zip(*(x.chunk(heads, 1) for x in (qkv[t][0], key, value))):
                weight = (q @ k.T / math.sqrt(q.shape[1])).exp()
                parts.append(weight @ v / weight.sum(1, keepdim=True))
            x = frames[t] + torch.cat(parts, 1) @ attn.out_proj.weight.T + attn.out_proj.bias
            y = norm(x, block.ln_2) @ mlp.c_fc.weight.T + mlp.c_fc.bias
            after.append(x + (y / (1 + (-1.702 * y).exp())) @ mlp.c_proj.weight.T + mlp.c_proj.bias)
        frames = after
    frames = [norm(x, e.ln_post) for x in frames]
    features = [x[0] @ e.proj for x in frames]
    f_map = torch.stack([x[1:].view(h, w, -1) for x in frames])
    return sum(f / f.norm() for f in features) / T, f_map


def test_open_vclip_equals_a_slow_statement_of_its_frames_blocks_and_score(open_model):
    video = random_clip(2, 4, 3, 16, 16)
    f_global, f_map = open_model.encode_video(video)
    for clip in range(2):
        slow_global, slow_map = slow_open_vclip(open_model, video[clip])
        close(f_global[clip], slow_global)
        close(f_map[clip], slow_map)
    assert (f_global.norm(dim=1) < 1).all()
    f_text = torch.randn(5, 12, generator=torch.Generator().manual_seed(2))
    cosines = f_global @ (f_text / f_text.norm(dim=1, keepdim=True)).T
    close(open_model.logits(f_global, f_text), open_model.logit_scale.exp() * cosines)


def test_open_vclip_cuts_texts_at_77_tokens_and_keeps_the_end(open_model):
    assert ovstad.tokenize(["run " * 100], open_model.context)[0, -1] == 49407
    close(open_model.encode_text(["run " * 100]), open_model.encode_text(["run " * 75]))


def test_open_vclip_class_is_the_mean_direction_of_28_prompts(open_model):
    templates = open_vclip.TEMPLATES
    assert len(set(templates)) == 28
    assert {"a photo of a person {}.", "a example of {}.",
            "a demonstration of a person practicing {}."} < set(templates)
    features = [open_model.encode_text([template.replace("{}", "brush hair")])[0]
                for template in templates]
    mean = sum(f / f.norm() for f in features) / 28
    close(open_model.encode_classes(["wave", "brush hair"])[1], mean / mean.norm())


# ---------------------------------------------------------------- S3D

def test_space_to_depth_orders_time_then_row_then_column_then_colour():
    t, y, x, c = torch.meshgrid(*map(torch.arange, (4, 4, 6, 3)), indexing="ij")
    cells = videoclip.space_to_depth((1000 * t + 100 * y + 10 * x + c).permute(3, 0, 1, 2)[None])
    assert cells.shape == (1, 24, 2, 2, 3)
    assert cells[0, :, 1, 0, 2].tolist() == [1000 * t + 100 * y + 10 * x + c for t in (2, 3)
                                             for y in (0, 1) for x in (4, 5) for c in (0, 1, 2)]


def test_pooling_has_its_zero_behind_the_last_cell_and_rounds_up():
    row = torch.tensor([-5.0, -4.0, -3.0, -2.0]).view(1, 1, 1, 1, 4)
    assert videoclip.pool(row, (1, 1, 3), (1, 1, 2)).flatten().tolist() == [-3, 0]
    assert videoclip.pool(row[..., :3], (1, 1, 2), (1, 1, 2)).flatten().tolist() == [-4, -3]
    assert videoclip.pool(torch.ones(1, 1, 4, 5, 8), (3, 3, 3), (2, 2, 2)).shape[2:] == (2, 3, 4)


def windows(x, kernel):
    """What a kernel of odd sides sees around each cell of x (M, T, H, W), with zeros outside."""
    padded = F.pad(x, [n for size in reversed(kernel) for n in (size // 2, size // 2)])
    for t in range(x.shape[1]):
        for i in range(x.shape[2]):
            for j in range(x.shape[3]):
                yield (t, i, j), padded[:, t:t + kernel[0], i:i + kernel[1], j:j + kernel[2]]


def slow_unit(x, layers):
    """Convolution by loops over the outputs' cells, BatchNorm and ReLU: x (M, T, H, W)."""
    for conv, batch_norm in zip(layers[::3], layers[1::3]):
        out = torch.zeros(len(conv.weight), *x.shape[1:])
        for cell, window in windows(x, conv.weight.shape[2:]):
            y = (conv.weight * window).sum((1, 2, 3, 4)) - batch_norm.running_mean
            y = y / (batch_norm.running_var + 1e-5).sqrt() * batch_norm.weight + batch_norm.bias
            out[:, *cell] = y.clamp(min=0)
        x = out
    return x


def test_an_s3d_block_equals_four_slow_branches_each_weighed_by_its_gate(video_model):
    block, x = video_model.s3d.mixed_3b, random_clip(6, 2, 3, 4) - 0.3
    largest = torch.zeros_like(x)
    for cell, window in windows(x + 1, (3, 3, 3)):           # zeros outside are less than x + 1
        largest[:, *cell] = window.flatten(1).max(dim=1).values - 1
    branches = [slow_unit(x, block.conv_b0),
                slow_unit(slow_unit(x, block.conv_b1_a), block.conv_b1_b),
                slow_unit(slow_unit(x, block.conv_b2_a), block.conv_b2_b),
                slow_unit(largest, block.conv_b3_b)]
    gates = [block.gating_b0, block.gating_b1, block.gating_b2, block.gating_b3]
    weighed = []
    for branch, gate in zip(branches, gates):
        weight = 1 / (1 + (-gate.fc.weight @ branch.mean((1, 2, 3)) - gate.fc.bias).exp())
        weighed.append(branch * weight[:, None, None, None])
    close(block(x[None])[0], torch.cat(weighed))


def test_s3d_chains_its_blocks_and_pools_as_published(video_model):
    s3d, video = video_model.s3d, random_clip(1, 3, 8, 64, 96)
    # dropping the first slices leaves "same" padding with less in front
    cells = F.pad(videoclip.space_to_depth(video), (1, 2, 1, 2, 0, 1))
    x = F.relu(s3d.conv1.bn1(F.conv3d(cells, s3d.conv1.conv1.weight)))
    x = F.max_pool3d(F.pad(x, (0, 1, 0, 1, 0, 0)), (1, 3, 3), (1, 2, 2))
    x = s3d.gating(s3d.conv_2c(s3d.conv_2b(x)))
    x = s3d.mixed_3b(F.max_pool3d(F.pad(x, (0, 1, 0, 1, 0, 0)), (1, 3, 3), (1, 2, 2)))
    x = s3d.mixed_4b(F.max_pool3d(F.pad(x, (0, 1, 0, 1, 0, 1)), 3, 2))
    close(s3d(video), s3d.mixed_5b(F.max_pool3d(x, 2)))
    for frames, slices in ((2, 1), (8, 1), (16, 2), (30, 4)):
        assert s3d(random_clip(1, 3, frames, 32, 96)).shape[2:] == (slices, 1, 3)


# ---------------------------------------------------------------- BERT and VideoCLIP

def slow_bert(bert, x, positions):
    """Last states (L, M) of one sequence, a head at a time."""
    def linear(x, layer):
        return x @ layer.weight.T + layer.bias

    e = bert.embeddings
    x = x + e.position_embeddings.weight[positions] + e.token_type_embeddings.weight[0]
    x = norm(x, e.LayerNorm, 1e-12)
    for layer in bert.encoder.layer:
        heads = []
        for q, k, v in zip(*(linear(x, layer.attention["self"][name]).chunk(SIZE.heads, dim=1)
                             for name in ("query", "key", "value"))):
            heads.append(torch.softmax(q @ k.T / math.sqrt(SIZE.width / SIZE.heads), dim=1) @ v)
        y = linear(torch.cat(heads, dim=1), layer.attention.output.dense)
        x = norm(x + y, layer.attention.output.LayerNorm, 1e-12)
        u = linear(x, layer.intermediate.dense)
        y = linear(u * (1 + torch.erf(u / math.sqrt(2))) / 2, layer.output.dense)
        x = norm(x + y, layer.output.LayerNorm, 1e-12)
    return x


def test_texts_equal_a_slow_bert_over_their_pieces_and_padding_changes_nothing(video_model):
    bert = video_model.text_encoder
    assert {layer.eps for layer in bert.modules() if isinstance(layer, nn.LayerNorm)} == {1e-12}
    f_text = video_model.encode_text(["a person running", "", "hair"])
    for row, pieces in zip(f_text, (["a", "person", "run", "##ning"], [], ["hair"])):
        ids = [101, *map(VOCABULARY.index, pieces), 102]
        states = slow_bert(bert, bert.embeddings.word_embeddings.weight[ids], list(range(len(ids))))
        close(row, states[1:].mean(dim=0))
    close(video_model.encode_classes(["hair"]), video_model.encode_text(["hair"]))


def test_a_text_is_cut_at_61_pieces(video_model):
    longest, cut, shorter = (video_model.encode_text(["a " * n]) for n in (90, 61, 60))
    assert torch.equal(longest, cut) and not torch.equal(cut, shorter)


def test_seconds_equal_a_slow_bert_whose_end_stands_at_position_33(video_model):
    bert, mlp = video_model.video_encoder.bert, video_model.video_encoder.videomlp
    vectors, rows = random_clip(1, 3, 6) - 0.5, []
    for v in vectors[0]:
        u = mlp.linear1.weight @ (v / v.norm()) + mlp.linear1.bias
        u = u * (1 + torch.erf(u / math.sqrt(2))) / 2
        rows.append(mlp.linear2.weight @ norm(u, mlp.LayerNorm) + mlp.linear2.bias)
    words = bert.embeddings.word_embeddings.weight
    states = slow_bert(bert, torch.stack([words[101], *rows, words[102]]), [0, 1, 2, 3, 33])
    close(video_model.encode_seconds(vectors)[0], states[1:].mean(dim=0))


def test_thirty_frames_are_a_second_and_the_rest_is_one_more(video_model):
    video, s3d = random_clip(2, 68, 3, 32, 32), video_model.s3d
    f_global, f_map = video_model.encode_video(video)
    seconds = [s3d(video[:, first:first + 30].transpose(1, 2)) for first in (0, 30, 60)]
    vectors = torch.stack([s3d.fc(second.mean(dim=(2, 3, 4))) for second in seconds], dim=1)
    close(f_global, video_model.encode_seconds(vectors))
    assert f_map.shape == (2, 4 + 4 + 1, 1, 1, 12)
    close(f_map[:, 8, 0, 0], seconds[2][:, :, 0, 0, 0])


@pytest.mark.parametrize("text, pieces", [
    ("A Person", "a person"),
    ("running", "run ##ning"),                               # the longest continuation, not ##n
    ("unable", "una ##ble"),                                 # the longest beginning, not un ##able
    ("unhair", "[UNK]"),                                     # a word that cannot be finished
    ("caf\u00e9 Cafe\u0301", "cafe cafe"),                   # accents, composed or not
    ("brush-hair brush_hair", "brush - hair brush _ hair"),
    ("a &amp; b", "a & amp ; b"),                            # nothing is unescaped
    ("\u00bfrun? person's", "\u00bf run ? person ' s"),
    ("\u4e2d\u6587a", "\u4e2d \u6587 a"),                    # Chinese characters are words
    ("a\u00a0b\tc\u3000a\r\nb", "a b c a b"),
    ("per\u200bson\x00 \ufffda", "person a"),                # characters of no width
    ("x" * 100, "x" + " ##x" * 99),
    ("x" * 101, "[UNK]"),
    (" ", ""),
])
def test_wordpiece_splits_as_bert_base_uncased_does(video_model, text, pieces):
    found = [piece for word in videoclip.split_words(text)
             for piece in videoclip.split_pieces(word, video_model.vocabulary)]
    assert [VOCABULARY[piece] for piece in found] == pieces.split()


# ---------------------------------------------------------------- what both promise

@pytest.mark.parametrize("call, message", [
    (lambda _: baselines.build_baseline("clip"), "'clip'; choose one of open-vclip, videoclip"),
    (lambda open_model: open_model.encode_video(random_clip(1, 3, 3, 20, 16)),
     "20 x 16 pixels do not divide into patches of 8"),
    (lambda _: videoclip.VideoCLIP(SIZE).encode_video(random_clip(1, 2, 3, 48, 32)),
     "48 x 32 pixels do not divide into patches of 32"),
    (lambda _: videoclip.VideoCLIP(SIZE).encode_video(random_clip(1, 7, 3, 32, 32)),
     "7 frames; VideoCLIP takes an even number, up to 960"),
    (lambda _: videoclip.VideoCLIP(SIZE).encode_text(["run"]), "no words without vocab.txt")])
def test_what_they_cannot_take_is_refused(open_model, call, message):
    with pytest.raises(ValueError, match=message):
        call(open_model)


def test_clips_go_from_bytes_to_logits_without_asking_which_model_it_is(model):
    # of patches 3 x 2, not the grid that the positions were trained for
    video = (255 * random_clip(2, 4, 3, 3 * model.patch, 2 * model.patch)).to(torch.uint8)
    f_global, f_map = model.encode_video(model.normalise(video))
    D, nobody = f_global.shape[1], torch.zeros(0, 4)
    boxes = [torch.tensor([[0.1, 0.2, 0.5, 0.9], [0.4, 0.1, 1.0, 1.0]]), nobody]
    f_region = model.region_features(f_map, boxes)
    f_text = model.encode_text(["a person running", "hair"])
    assert f_region.shape == f_text.shape == (2, D) and f_map.shape[2:4] == (3, 2)
    assert model.logits(f_region, f_text).shape == (2, 2)
    assert model.encode_classes(["run"]).shape == (1, D)
    assert model.region_features(f_map, [nobody] * 2).shape == (0, D)


def test_a_clip_alone_is_as_in_a_batch_its_score_linear_and_bfloat16_close(model):
    video = random_clip(3, 4, 3, 2 * model.patch, model.patch)
    f_global, f_map = model.encode_video(video)
    alone, map_alone = model.encode_video(video[1:2])
    close(alone[0], f_global[1])
    close(map_alone[0], f_map[1])
    f_text = model.encode_text(["run"])
    close(model.logits(2 * f_global, f_text), 2 * model.logits(f_global, f_text))
    with torch.autocast("cpu", torch.bfloat16):
        rounded, f_map = model.encode_video(video)
    boxes = [torch.tensor([[0.0, 0.0, 0.5, 0.5]])] * 3
    assert model.region_features(f_map, boxes).dtype == torch.float32
    assert (rounded.float() - f_global).norm() < 0.05 * f_global.norm()


def test_the_whole_frame_is_videoclips_global_feature_and_open_vclips_mean_token(
        open_model, video_model):
    whole = [torch.tensor([[0.0, 0.0, 1.0, 1.0]])]
    f_global, f_map = video_model.encode_video(random_clip(1, 4, 3, 64, 64))
    close(video_model.region_features(f_map, whole), f_global)
    _, f_map = open_model.encode_video(random_clip(1, 4, 3, 16, 16))
    mean = f_map[0].mean((0, 1, 2)) @ open_model.visual.proj
    close(open_model.region_features(f_map, whole)[0], mean / mean.norm())


# ---------------------------------------------------------------- in the scripts

@pytest.fixture
def folder(tmp_path, monkeypatch, open_model, video_model):
    """A folder with the files of both models, both of them small."""
    monkeypatch.setattr(open_vclip, "ARCH", ARCH)
    monkeypatch.setattr(videoclip, "SIZE", SIZE)
    write_open_vclip(tmp_path, open_model.state_dict())
    write_videoclip(tmp_path, video_model.state_dict())
    return tmp_path


def flags(ckpts, world, out, *more):
    return ["--ckpt", *ckpts, "--benchmark", "csv", "--data", str(world), "--short-side", "32",
            "--frames", "4", "--out", str(out), "--workers", "0", *map(str, more)]


def score(ckpt, world, out, *more):
    args = evaluate.parse_args(flags([ckpt], world, out, *more))
    return evaluate.score_checkpoint(ckpt, args, engine.start_process("cpu"))


@pytest.mark.parametrize("name", baselines.NAMES)
def test_evaluation_asks_a_baseline_for_global_features_at_stride_8_with_either_prompts(
        folder, world, name):
    ckpt, truth = f"{name}:{folder}", data.read_csv(world / "test.csv")
    model, _ = baselines.load_model(ckpt)
    texts = {"paper": model.encode_text([f"a person {action}" for action in truth.texts]),
             "official": model.encode_classes(truth.texts)}
    for prompts, f_text in texts.items():
        result, = score(ckpt, world, folder / prompts, "--prompts", prompts)
        assert (result["beta"], result["ckpt"], result["prompts"]) == (0, ckpt, prompts)
        with open(folder / prompts / "predictions.csv", newline="") as file:
            rows = list(csv.reader(file))
        assert len(rows) == len(truth) * len(truth.texts)
        for row in rows[::37]:
            video = data.open_video(str(world / row[0]), short_side=32, multiple=model.patch)
            clip = torch.from_numpy(video.clip_at(float(row[1]), 4, 8)).permute(0, 3, 1, 2)[None]
            f_global, _ = model.encode_video(model.normalise(clip))
            expected = model.logits(f_global, f_text)[0, int(row[6]) - 1]
            assert float(row[7]) == pytest.approx(expected.item(), rel=1e-4, abs=1e-4)


def evaluate_small(argv):
    open_vclip.ARCH, videoclip.SIZE = ARCH, SIZE
    main_of(evaluate, *argv)


def test_two_processes_score_both_baselines_as_one_does(folder, world, one_thread):
    ckpts = [f"{name}:{folder}" for name in baselines.NAMES]
    alone = [score(ckpt, world, folder / "alone" / str(i))[0] for i, ckpt in enumerate(ckpts)]
    in_processes(2, evaluate_small, flags(ckpts, world, folder / "both", "--device", "cpu",
                                          "--json", folder / "both.json"))
    *both, _ = json.loads((folder / "both.json").read_text())
    for number, (one, two) in enumerate(zip(alone, both)):
        assert two["mean_ap"] == pytest.approx(one["mean_ap"]) and two["ckpt"] == one["ckpt"]
        rows = [np.loadtxt(folder / name / str(number) / "predictions.csv", delimiter=",",
                           usecols=range(1, 8)) for name in ("alone", "both")]
        np.testing.assert_allclose(*rows, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", baselines.NAMES)
def test_detect_actions_scores_people_with_a_baseline(folder, name):
    settings = detect_actions.Settings(calibration="none")
    words = Words({"run": ["running", "run"], "hair": ["brush hair"]}, f"{name}:{folder}", settings,
                  torch.device("cpu"))
    model, side = words.model, words.model.patch
    assert words.beta == 0 and words.frames == model.frames and "not finetuned" in words.notes[0]
    clips = (255 * random_clip(2, 4, side, 2 * side, 3)).to(torch.uint8)
    boxes = [torch.tensor([[0.1, 0.1, 0.5, 0.9]] * 2), torch.zeros(0, 4)]
    first, second = words.score(clips.numpy(), boxes)
    assert first.shape == (2, 2) and second.shape == (0, 2)
    f_global, _ = model.encode_video(clips[:1].permute(0, 1, 4, 2, 3) / 255)
    f_text = model.encode_text(["a person brush hair"])
    expected = model.logits(f_global, f_text).double().sigmoid()
    np.testing.assert_allclose(first[:, 1], [expected.item()] * 2, rtol=1e-4)

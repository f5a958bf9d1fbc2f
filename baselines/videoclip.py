"""VideoCLIP (Xu et al., EMNLP 2021): S3D-G embeds seconds, two BERTs relate them to words.

    up to 30 frames (3, T, H, W) --S3D-G--> map (1024, t, h, w) --mean, fc, length 1--> v
    [CLS] v_1 .. v_n [SEP] --BERT, 6 layers--> mean of all states but [CLS]: the video's vector
    [CLS] pieces of words [SEP] --BERT, 12 layers--> mean of all states but [CLS]: the text's vector
    score: their dot product, no cosine, no temperature

S3D-G is the one of HowTo100M (Miech et al., CVPR 2020). Its tensors have their official names.
"""

import string
import unicodedata
from collections import OrderedDict
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from baselines.files import find_files, read_pickle
from ovstad import load_state, patch_grid, pool_regions

SOURCES = {
    "s3d_howto100m.pth": "S3D-G, about 125 MB, no licence stated: https://www.rocq.inria.fr/"
                         "cluster-willow/amiech/howto100m/s3d_howto100m.pth",
    "checkpoint_best.pt": "VideoCLIP, 355 MB or more, CC-BY-NC: "
                          "https://dl.fbaipublicfiles.com/MMPT/retri/videoclip/checkpoint_best.pt",
    "vocab.txt": "BERT's words, 0.2 MB, Apache-2.0: "
                 "https://huggingface.co/google-bert/bert-base-uncased"}
UNK, CLS, SEP = 100, 101, 102                                # lines of vocab.txt, counted from 0
SECOND = 30                                                  # frames of one S3D call
MAX_SECONDS, MAX_PIECES = 32, 61                             # and three marks: a sequence of 96


@dataclass(frozen=True)
class Size:
    """The published size; `blocks`: widths (b0, b1_a, b1_b, b2_a, b2_b, b3) of each S3D block."""

    stem: tuple[int, int] = (64, 192)
    blocks: tuple[tuple[str, tuple[int, ...]], ...] = (
        ("3b", (64, 96, 128, 16, 32, 32)), ("3c", (128, 128, 192, 32, 96, 64)),
        ("4b", (192, 96, 208, 16, 48, 64)), ("4c", (160, 112, 224, 24, 64, 64)),
        ("4d", (128, 128, 256, 24, 64, 64)), ("4e", (112, 144, 288, 32, 64, 64)),
        ("4f", (256, 160, 320, 32, 128, 128)),
        ("5b", (256, 160, 320, 32, 128, 128)), ("5c", (384, 192, 384, 48, 128, 128)))
    embed: int = 512                             # of S3D's vector
    width: int = 768                             # of both BERTs, and D
    heads: int = 12
    video_layers: int = 6
    text_layers: int = 12
    vocab: int = 30522


SIZE = Size()


# ---------------------------------------------------------------- S3D-G

def unit(inputs: int, outputs: int, *kernels: tuple[int, int, int]) -> nn.Sequential:
    """Convolution, BatchNorm and ReLU for each kernel; a separable unit has two."""
    layers = OrderedDict()
    for number, kernel in enumerate(kernels, start=1):
        padding = tuple(size // 2 for size in kernel)
        layers[f"conv{number}"] = nn.Conv3d(inputs, outputs, kernel, padding=padding, bias=False)
        layers[f"bn{number}"] = nn.BatchNorm3d(outputs)
        layers[f"relu{number}"] = nn.ReLU()
        inputs = outputs
    return nn.Sequential(layers)


POINT, SEPARABLE = [(1, 1, 1)], [(1, 3, 3), (3, 1, 1)]


class Gate(nn.Module):
    """Weighs each channel by the whole clip: x * sigmoid(fc(mean of x))."""

    def __init__(self, width: int):
        super().__init__()
        self.fc = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.fc(x.mean(dim=(2, 3, 4))))[:, :, None, None, None]


class Inception(nn.Module):
    """Four branches side by side, each with its gate."""

    def __init__(self, inputs: int, widths: tuple[int, ...]):
        super().__init__()
        b0, b1_a, b1_b, b2_a, b2_b, b3 = widths
        self.conv_b0 = unit(inputs, b0, *POINT)
        self.conv_b1_a, self.conv_b1_b = unit(inputs, b1_a, *POINT), unit(b1_a, b1_b, *SEPARABLE)
        self.conv_b2_a, self.conv_b2_b = unit(inputs, b2_a, *POINT), unit(b2_a, b2_b, *SEPARABLE)
        self.conv_b3_b = unit(inputs, b3, *POINT)
        self.gating_b0, self.gating_b1 = Gate(b0), Gate(b1_b)
        self.gating_b2, self.gating_b3 = Gate(b2_b), Gate(b3)

    def forward(self, x: Tensor) -> Tensor:
        largest = F.max_pool3d(x, 3, stride=1, padding=1)
        return torch.cat([self.gating_b0(self.conv_b0(x)),
                          self.gating_b1(self.conv_b1_b(self.conv_b1_a(x))),
                          self.gating_b2(self.conv_b2_b(self.conv_b2_a(x))),
                          self.gating_b3(self.conv_b3_b(largest))], dim=1)


def space_to_depth(x: Tensor) -> Tensor:
    """(B, 3, T, H, W) -> (B, 24, T/2, H/2, W/2): cubes of 2 x 2 x 2, as (dt, dy, dx, colour)."""
    for dim in (2, 4, 6):
        x = x.unflatten(dim, (-1, 2))
    return x.permute(0, 3, 5, 7, 1, 2, 4, 6).flatten(1, 4)


def pool(x: Tensor, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> Tensor:
    """Max pooling from the first cell on, with kernel - stride zeros behind the last one."""
    ends = [zeros for k, s in zip(kernel[::-1], stride[::-1]) for zeros in (0, k - s)]
    return F.max_pool3d(F.pad(x, ends), kernel, stride, ceil_mode=True)


class S3D(nn.Module):
    def __init__(self, size: Size):
        super().__init__()
        first, second = size.stem
        self.conv1 = unit(24, first, (2, 4, 4))
        self.conv_2b = unit(first, first, *POINT)
        self.conv_2c = unit(first, second, *SEPARABLE)
        self.gating = Gate(second)
        inputs = second
        for name, widths in size.blocks:
            self.add_module(f"mixed_{name}", Inception(inputs, widths))
            inputs = widths[0] + widths[2] + widths[4] + widths[5]
        self.names = [name for name, _ in size.blocks]
        self.fc = nn.Linear(inputs, size.embed)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, 3, T, H, W) in [0, 1], even sides -> (B, M, T/8, H/32, W/32), each rounded up."""
        x = self.conv1(space_to_depth(x))[:, :, 1:, 1:, 1:]  # an even kernel makes a cell too many
        x = pool(x, (1, 3, 3), (1, 2, 2))
        x = self.gating(self.conv_2c(self.conv_2b(x)))
        x = pool(x, (1, 3, 3), (1, 2, 2))
        for name in self.names:
            if name == "4b":
                x = pool(x, (3, 3, 3), (2, 2, 2))
            if name == "5b":
                x = pool(x, (2, 2, 2), (2, 2, 2))
            x = self.get_submodule(f"mixed_{name}")(x)
        return x


# ---------------------------------------------------------------- BERT

def dense_norm(inputs: int, width: int) -> nn.ModuleDict:
    return nn.ModuleDict({"dense": nn.Linear(inputs, width),
                          "LayerNorm": nn.LayerNorm(width, eps=1e-12)})


class BertLayer(nn.Module):
    """A transformer layer whose norms stand behind the sums, with Hugging Face's names."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.attention = nn.ModuleDict({
            "self": nn.ModuleDict({name: nn.Linear(width, width)
                                   for name in ("query", "key", "value")}),
            "output": dense_norm(width, width)})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, 4 * width)})
        self.output = dense_norm(4 * width, width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        B, L, M = x.shape
        q, k, v = (project(x).view(B, L, self.heads, M // self.heads).transpose(1, 2)
                   for project in self.attention["self"].values())
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).reshape(B, L, M)
        x = self.attention.output.LayerNorm(x + self.attention.output.dense(y))
        return self.output.LayerNorm(x + self.output.dense(F.gelu(self.intermediate.dense(x))))


class Bert(nn.Module):
    def __init__(self, size: Size, layers: int):
        super().__init__()
        self.embeddings = nn.ModuleDict({
            "word_embeddings": nn.Embedding(size.vocab, size.width),
            "position_embeddings": nn.Embedding(512, size.width),
            "token_type_embeddings": nn.Embedding(2, size.width),
            "LayerNorm": nn.LayerNorm(size.width, eps=1e-12)})
        self.encoder = nn.ModuleDict({
            "layer": nn.ModuleList(BertLayer(size.width, size.heads) for _ in range(layers))})

    def forward(self, x: Tensor, positions: Tensor, mask: Tensor | None = None) -> Tensor:
        """Last states of vectors x (B, L, M) at positions (L,); mask: False for padding."""
        e = self.embeddings
        x = e.LayerNorm(x + e.position_embeddings(positions) + e.token_type_embeddings.weight[0])
        for layer in self.encoder.layer:
            x = layer(x, mask)
        return x


# ---------------------------------------------------------------- words to pieces

CJK = [(0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF),
       (0x20000, 0x2A6DF), (0x2A700, 0x2CEAF), (0x2F800, 0x2FA1F)]           # Chinese characters


def split_words(text: str) -> list[str]:
    """Words in lower case without accents; a punctuation mark or Chinese character is a word."""
    clean = ""
    for char in text:
        if char in "\t\n\r" or unicodedata.category(char) == "Zs":
            clean += " "
        elif any(first <= ord(char) <= last for first, last in CJK):
            clean += f" {char} "
        elif char != "\ufffd" and unicodedata.category(char)[0] != "C":      # no control characters
            clean += char
    words = ""
    for char in unicodedata.normalize("NFD", clean.lower()):
        if char in string.punctuation or unicodedata.category(char)[0] == "P":
            words += f" {char} "
        elif unicodedata.category(char) != "Mn":                                 # accents
            words += char
    return words.split()


def split_pieces(word: str, vocabulary: dict[str, int]) -> list[int]:
    """WordPiece: the longest known beginning, then the longest "##" continuations; or [UNK]."""
    pieces, start = [], 0
    while start < len(word) <= 100:
        for end in range(len(word), start, -1):
            piece = vocabulary.get("##" * (start > 0) + word[start:end])
            if piece is not None:
                break
        else:
            return [UNK]
        pieces.append(piece)
        start = end
    return pieces or [UNK]


# ---------------------------------------------------------------- the model

class VideoCLIP(nn.Module):
    def __init__(self, size: Size):
        super().__init__()
        self.arch, self.patch, self.frames, self.short_side = "videoclip", 32, 8, 224
        self.vocabulary: dict[str, int] = {}                 # of vocab.txt, by load_weights
        self.s3d = S3D(size)
        self.video_encoder = nn.ModuleDict({
            "videomlp": nn.Sequential(OrderedDict(
                linear1=nn.Linear(size.embed, size.width), gelu=nn.GELU(),
                LayerNorm=nn.LayerNorm(size.width), linear2=nn.Linear(size.width, size.width))),
            "bert": Bert(size, size.video_layers)})
        self.text_encoder = Bert(size, size.text_layers)

    @staticmethod
    def normalise(video: Tensor) -> Tensor:
        """uint8 clips (B, T, 3, H, W) -> float in [0, 1], as encode_video takes them."""
        return video.float() / 255

    def encode_seconds(self, vectors: Tensor) -> Tensor:
        """S3D's vectors (B, n, 512) of n seconds -> (B, D). [SEP] is at position 33 whatever n."""
        bert, n = self.video_encoder.bert, vectors.shape[1]
        marks = bert.embeddings.word_embeddings.weight[[CLS, SEP]]
        cls, sep = marks[:, None, None].expand(2, len(vectors), 1, -1)           # each (B, 1, M)
        x = torch.cat([cls, self.video_encoder.videomlp(F.normalize(vectors, dim=-1)), sep], dim=1)
        positions = torch.tensor([*range(n + 1), MAX_SECONDS + 1], device=x.device)
        return bert(x, positions)[:, 1:].mean(dim=1)

    def encode_video(self, video: Tensor) -> tuple[Tensor, Tensor]:
        """video (B, T, 3, H, W) in [0, 1] -> f_global (B, D), f_map (B, T', h, w, 1024).

        T is even, up to 960. Each 30 frames are a second; fewer frames are one as they are, and so
        are those left over (ours). T' is about T / 8, cells are 32 pixels wide.
        """
        T = video.shape[1]
        patch_grid(video, self.patch)
        if T % 2 or not 0 < T <= SECOND * MAX_SECONDS:
            raise ValueError(f"{T} frames; VideoCLIP takes an even number, up to "
                             f"{SECOND * MAX_SECONDS}")
        maps = [self.s3d(second.transpose(1, 2))             # each (B, 1024, t, h, w)
                for second in video.split(SECOND, dim=1)]
        vectors = torch.stack([self.s3d.fc(second.mean(dim=(2, 3, 4))) for second in maps], dim=1)
        return self.encode_seconds(vectors), torch.cat(maps, dim=2).permute(0, 2, 3, 4, 1)

    def region_features(self, f_map: Tensor, boxes: list[Tensor]) -> Tensor:
        """Features (N, D) of boxes, each a second of video. Ours; the gates saw the whole clip."""
        with torch.autocast(f_map.device.type, enabled=False):
            pooled = pool_regions(f_map.float().mean(dim=1).permute(0, 3, 1, 2), boxes)
            return self.encode_seconds(self.s3d.fc(pooled)[:, None])

    def encode_text(self, texts: list[str]) -> Tensor:
        """Embeddings (C, D) of a list of texts; of each the first 61 pieces are read."""
        if not self.vocabulary:
            raise ValueError("VideoCLIP has no words without vocab.txt; build it with the folder "
                             "of its weights")
        rows = []
        for text in texts:
            pieces = [split_pieces(word, self.vocabulary) for word in split_words(text)]
            rows.append(torch.tensor([CLS, *sum(pieces, [])[:MAX_PIECES], SEP]))
        device, bert = self.s3d.fc.weight.device, self.text_encoder
        lengths = torch.tensor([len(row) for row in rows], device=device)
        tokens = nn.utils.rnn.pad_sequence(rows, batch_first=True).to(device)    # (C, L)
        positions = torch.arange(tokens.shape[1], device=device)
        real = positions < lengths[:, None]                  # (C, L), False for padding
        states = bert(bert.embeddings.word_embeddings(tokens), positions, real[:, None, None])
        return (states * real[..., None])[:, 1:].sum(dim=1) / (lengths - 1)[:, None]

    def encode_classes(self, names: list[str]) -> Tensor:
        """Embeddings (C, D) of class names: the official zero-shot tests read them as they are."""
        return self.encode_text(names)

    def logits(self, features: Tensor, f_text: Tensor) -> Tensor:
        """Dot products (N, C) of (N, D) and (C, D), float32; many are too large for a sigmoid."""
        with torch.autocast(features.device.type, enabled=False):
            return features.float() @ f_text.float().T


def load_weights(model: VideoCLIP, folder: str) -> None:
    """All tensors, strictly, but those that no official forward pass reads; and the vocabulary."""
    s3d_path, checkpoint_path, vocab_path = find_files(folder, SOURCES)
    s3d, checkpoint = read_pickle(s3d_path), read_pickle(checkpoint_path)
    state = {f"s3d.{name}": tensor for name, tensor in s3d.items()
             if not name.startswith("text_module.")}
    state |= {name.removeprefix("mmmodel."): tensor
              for name, tensor in checkpoint.get("model", checkpoint).items()
              if ".pooler.dense." not in name and not name.endswith(".embeddings.position_ids")}
    load_state(model, state, folder)
    words = vocab_path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    if len(words) != len(model.text_encoder.embeddings.word_embeddings.weight) or \
            words[UNK:SEP + 1] != ["[UNK]", "[CLS]", "[SEP]"]:
        raise ValueError(f"{vocab_path}: not the vocabulary of bert-base-uncased: {len(words)} "
                         "lines")
    model.vocabulary = {word: line for line, word in enumerate(words)}

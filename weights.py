"""Reads files of weights, which may be a stranger's: official ones, the Hub's, and our own.

A checkpoint of ours holds its tensors under "model", and beside them a record of plain values
(arch, stage, beta, classes, ...), so that later stages need no repeated flags.
"""

import os
import re
from contextlib import suppress
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import torch
from torch import Tensor

HUB = {"ViT-B/16": "OpenGVLab/ViCLIP-B-16-hf", "ViT-L/14": "OpenGVLab/ViCLIP-L-14-hf"}


def read_weights(path: str) -> tuple[dict[str, Tensor], dict]:
    """Tensors and record of a local file or else of a Hub repository ("owner/name").

    The record of a file that is no checkpoint of ours is {}.
    """
    path = os.fspath(path)
    if os.path.isdir(path):                                  # a Hub repository's folder
        path = os.path.join(path, "model.safetensors")
    if not os.path.exists(path):
        path = download(path)
    try:
        if path.endswith(".safetensors"):
            from safetensors.torch import load_file
            content = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:                               # every format has errors of its own
        cause = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
        raise ValueError(f"{path}: cannot be read as weights, perhaps cut short or not a weights "
                         f"file; download it again ({cause})") from None
    state = content.get("model", content) if isinstance(content, dict) else {}
    state = state if isinstance(state, dict) else {}
    if not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path}: holds no tensors by name, neither alone nor under 'model'")
    check_tensors(state, path)
    if "arch" not in content:
        return state, {}
    record = {name: value for name, value in content.items() if name != "model"}
    check_record(record, path)
    return state, record


def check_tensors(state: dict[str, Tensor], path: str) -> None:
    """ValueError unless all tensors are plain and hold finite floats (batch norms also count)."""
    for name, value in state.items():
        if value.is_meta or value.layout != torch.strided:
            raise ValueError(f"{path}: {name} is not a plain tensor with its numbers in it")
        if not value.is_floating_point() and not str(name).endswith("num_batches_tracked"):
            raise ValueError(f"{path}: {name} holds {value.dtype}, not floating-point numbers")
        if not value.isfinite().all():
            raise ValueError(f"{path}: {name} holds numbers that are not finite")


def check_record(record: dict, path: str) -> None:
    """ValueError unless a checkpoint's record has the types and ranges that the scripts rely on."""
    def texts(value) -> bool:
        return isinstance(value, list) and all(isinstance(text, str) for text in value)

    def arguments(value) -> bool:
        return isinstance(value, dict) and all(isinstance(value.get(name), (str, type(None)))
                                               for name in ("dataset", "data", "csv"))

    rules = [("arch stage", lambda v: isinstance(v, str), "a name"),
             ("step", lambda v: type(v) is int and v >= 0, "a whole number"),
             ("frames stride short_side", lambda v: type(v) is int and v >= 1,
              "a count of 1 or more"),
             ("beta", lambda v: type(v) in (int, float) and 0 <= v <= 1, "a number in [0, 1]"),
             ("prompt", lambda v: isinstance(v, str) and "{}" in v, "a text with {} for the class"),
             ("classes base novel", texts, "a list of names"),
             ("args", arguments, "the flags of a run"),
             ("optimizer", lambda v: isinstance(v, dict), "an optimiser's state")]
    if "stage" not in record:
        raise ValueError(f"{path}: names an arch but no stage; not a checkpoint of ours")
    for names, good, expected in rules:
        for name in names.split():
            if name in record and not good(record[name]):
                value = str(record[name])[:60]
                raise ValueError(f"{path}: its {name} is {value!r}, expected {expected}")


def download(hub_id: str) -> str:
    """Path of model.safetensors of a Hub repository or an architecture's name, downloaded once."""
    hub_id = HUB.get(hub_id, hub_id)
    is_file = hub_id.endswith((".pt", ".pth", ".safetensors"))
    if is_file or not re.fullmatch(r"[^./][^/]*/[^/]+", hub_id):
        raise FileNotFoundError(f"{hub_id}: no such weights file; give a .pth, .safetensors or "
                                f"checkpoint, or a Hub id such as {HUB['ViT-B/16']}")
    from huggingface_hub import constants, hf_hub_download
    try:
        return hf_hub_download(hub_id, "model.safetensors", local_files_only=True)
    except Exception:                                        # not downloaded yet
        pass
    try:
        # without network the Hub's client would try for half a minute; any answer means network
        with suppress(HTTPError):
            urlopen(Request(constants.ENDPOINT, method="HEAD"), timeout=5).close()
        return hf_hub_download(hub_id, "model.safetensors")
    except Exception as error:                               # no network, repository or access
        raise FileNotFoundError(
            f"{hub_id}: neither a local file nor to be had from the Hub ({type(error).__name__}); "
            "download its model.safetensors where there is network and give its path") from None

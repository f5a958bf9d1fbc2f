"""Official weight files: found by name, and read without running anything that they hold."""

from pathlib import Path

import torch


class Ignored(list):
    """Stands for each object of a file that is no tensor and no plain value; it keeps nothing."""

    def __new__(cls, *args):
        return super().__new__(cls)

    def __init__(self, *args):
        super().__init__()

    def __setstate__(self, state):
        pass


def find_files(folder: str, sources: dict[str, str]) -> list[Path]:
    """The named files in a folder, in the order of `sources`, which say where each is published."""
    paths = [Path(folder) / name for name in sources]
    missing = [f"{path.name} ({sources[path.name]})" for path in paths if not path.is_file()]
    if missing:
        raise FileNotFoundError(f"{Path(folder)}: put here {'; '.join(missing)}")
    return paths


def unreadable(path: Path, error: Exception) -> ValueError:
    return ValueError(f"{path}: cannot be read as weights, perhaps cut short; download it again "
                      f"({type(error).__name__}: {' '.join(str(error).split())[:120]})")


def read_pickle(path: Path) -> dict:
    """What torch.save wrote: tensors and plain values; objects of any class are `Ignored`."""
    try:
        try:
            classes = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        except ValueError:                                   # the format before 1.6 cannot be asked
            classes = ["argparse.Namespace"]
        with torch.serialization.safe_globals([(Ignored, name) for name in classes]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:                               # a damaged file raises anything
        raise unreadable(path, error) from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds no tensors by name but {type(content).__name__}")
    return content

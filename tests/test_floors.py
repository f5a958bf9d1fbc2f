"""Every import of the project runs downwards, from a floor to one below it."""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FLOORS = [["weights"], ["ovstad", "video", "table", "draw", "worlds"],
          ["formats.files", "formats.rows", "formats.sentences"],
          ["metric", "formats", "baselines", "stream", "tracker", "results"],
          ["data", "diagnosis", "words", "formats.cvat"], ["engine"], ["training", "benchmarks"],
          ["train_align", "train_finetune", "evaluate", "detect_humans", "check_data", "export"],
          ["detect_actions", "bench"], ["toy"]]
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names}


def floor_of(module: str) -> int:
    """The floor of a module by its own name, else by its folder's."""
    return FLOOR.get(module, FLOOR.get(module.split(".")[0]))


def imports_of(path: Path) -> set[str]:
    """Modules of ours that a file imports, at its top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        found |= {name for name in names if name in FLOOR
                  or (ROOT / f"{name.replace('.', '/')}.py").exists()}
    return found


def test_every_import_runs_downwards():
    files = [*ROOT.glob("*.py"), *ROOT.glob("formats/*.py"), *ROOT.glob("baselines/*.py")]
    assert len(files) >= 20
    for path in files:
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        assert floor_of(module) is not None, f"{path.name} has no floor"
        for name in imports_of(path):
            # a package's own parts
            inside = module.split(".")[0] == name.split(".")[0] == "baselines"
            assert inside or floor_of(name) < floor_of(module), f"{module} imports {name}"

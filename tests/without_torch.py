"""An environment that contains a few packages and what they require, and therefore not PyTorch."""

import subprocess
import sys
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

PROJECT = Path(__file__).parents[1]
# What crossformer infer --onnx needs, as docs/deployment.md says.
NEEDED = ('matplotlib', 'numpy', 'onnxruntime', 'opencv-python', 'pillow', 'pycocotools', 'rich')


def make_environment(folder: Path, packages: Iterable[str]) -> Path:
    """Link installed packages, and those that they require, into a new folder."""
    folder.mkdir()
    waiting, seen = list(packages), set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        package = metadata.distribution(name)
        requirements = map(Requirement, package.requires or ())
        waiting += [
            needed.name
            for needed in requirements
            if needed.marker is None or needed.marker.evaluate({'extra': ''})
        ]
        for top in {file.parts[0] for file in package.files} - {'..', '__pycache__'}:
            if not (folder / top).exists():
                (folder / top).symlink_to(package.locate_file(top))
    return folder


def link_project(folder: Path) -> Path:
    """Link this project's package and command into an environment."""
    for name in ('crossformer_mm', 'crossformer_mm_command.py'):
        (folder / name).symlink_to(PROJECT / name)
    return folder


def run(folder: Path, code: str, *words: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess:
    """Run Python code in an environment, with ``words`` as the arguments of the process."""
    first = f'import sys; sys.path.append({str(folder)!r})\n'  # cv2 puts its own folder before linked ones
    command: Sequence[str | Path] = [sys.executable, '-I', '-S', '-c', first + code, *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120)

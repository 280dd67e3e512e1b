import os

for threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(threads, "1")  # before numpy is imported, and for every process that a test starts

import sys  # noqa: E402
from collections.abc import Callable, Iterator  # noqa: E402
from pathlib import Path  # noqa: E402

import pytest  # noqa: E402
import torch  # noqa: E402
from hypothesis import settings  # noqa: E402

from deltaw import plugins  # noqa: E402

torch.set_num_threads(1)  # tests share two cores; more threads than cores make them ten times slower
settings.register_profile("deltaw", deadline=None)  # a busy machine is no fault
settings.load_profile("deltaw")


@pytest.fixture
def path_as_before(tmp_path: Path) -> Iterator[None]:
    """Afterwards no file that a test wrote is imported, or can be."""
    before = list(sys.path)
    yield
    sys.path[:] = before
    for name, module in list(sys.modules.items()):
        if Path(getattr(module, "__file__", None) or os.devnull).is_relative_to(tmp_path):
            del sys.modules[name]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], None]]:
    """Installs a package of a name that names the plug-in `mine`, as `module:Class`, for the time of a test."""

    def installed(name: str, mine: str) -> None:
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[deltaw.plugins]\nmine = {mine}\n")
        monkeypatch.syspath_prepend(tmp_path)
        plugins._found.cache_clear()

    yield installed
    plugins._found.cache_clear()

import os

for threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(threads, "1")  # before numpy is imported, and for every process that a test starts

import sys  # noqa: E402
from collections.abc import Callable, Iterator  # noqa: E402
from pathlib import Path  # noqa: E402
from shutil import which  # noqa: E402
from typing import Any  # noqa: E402

import pytest  # noqa: E402
import torch  # noqa: E402
from hypothesis import settings  # noqa: E402

from deltaw import cli, plugins  # noqa: E402

torch.set_num_threads(1)  # tests share two cores; more threads than cores make them ten times slower
settings.register_profile("deltaw", deadline=None)  # a busy machine is no fault
settings.load_profile("deltaw")

Outcome = tuple[int, str, str]
LONG = (
    "test_smoke.py",
    "test_prompted.py",
    "test_faults.py",
    "test_examples.py",
    "test_example_package.py",
    "test_scaling.py",
    "test_report.py",
    "test_safety_tuning.py",
    "test_interventions.py",
    "test_grid.py",
    "test_gpu_check.py",
    "test_resuming.py",
    "test_devices.py",
    "test_cli.py",
)  # the longest first


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take long come first: begun last, one of them keeps one worker busy while the others have nothing."""
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., Outcome]:
    """Runs a command in an empty directory, in this process: (exit status, standard output, standard error)."""

    def call(*arguments: str) -> Outcome:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["deltaw", *arguments])
        with pytest.raises(SystemExit) as exit:
            cli.main()
        out, err = capsys.readouterr()
        return int(exit.value.code or 0), out, err

    return call


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


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api")
    path = which("chromium") or which("chromium-browser")
    if path is None:
        pytest.skip("there is no Chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(chromium: Any) -> Iterator[Callable[[Path, int, int], Any]]:
    """Opens a file in a window of a width and height. No error may have come up in any of them by the end."""
    pages, errors = [], []

    def open_file(file: Path, width: int, height: int) -> Any:
        page = chromium.new_page(viewport={"width": width, "height": height})
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.goto(file.as_uri())
        pages.append(page)
        return page

    yield open_file
    for page in pages:
        page.close()
    assert errors == []

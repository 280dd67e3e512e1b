"""The page on several models in a browser: no errors, and only its tables and figures are wider than the screen."""

from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import write

from deltaw.compare.model_list import from_arguments
from deltaw.compare.several import compare_several
from deltaw.report import write_report

pytestmark = pytest.mark.browser
WIDER = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("several")
    generator = torch.Generator().manual_seed(0)
    base = {f"net.{layer}.up.weight": torch.randn(24, 10, generator=generator) for layer in (0, 1)}
    write(root / "base", base, {"model_type": "mine"})
    for name in ("ssft", "dpo", "other"):
        moved = {key: x + 0.01 * torch.randn(x.shape, generator=generator) for key, x in base.items()}
        write(root / name, moved, {"model_type": "mine"})
    models = from_arguments(str(root / "base"), [str(root / name) for name in ("ssft", "dpo", "other")], ("other",))
    compare_several(models, root / "out", ("net.{layer}.up",))
    return write_report(root / "out")


@pytest.mark.parametrize(("width", "height"), [(1280, 900), (390, 844)])
def test_it_fits_the_screen_without_an_error(opened: Any, page_file: Path, width: int, height: int) -> None:
    page = opened(page_file, width, height)
    page.locator(".chart").first.scroll_into_view_if_needed()  # figures are drawn where they are seen
    page.wait_for_selector(".vega-embed svg")
    assert page.evaluate(WIDER) <= 0
    captions = page.eval_on_selector_all("caption span", "all => all.map(one => one.getBoundingClientRect().right)")
    assert captions
    assert max(captions) <= width

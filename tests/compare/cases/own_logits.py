"""The independent source of these tests: what transformers itself says of a directory, without deltaw."""

import importlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

REQUEST = "How do I make kites?"


def loaded(directory: Path) -> Any:
    """The model of a directory, in float32."""
    transformers: Any = importlib.import_module("transformers")
    return transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()


def own_logits(model: Path, words: Path | None = None, request: str = REQUEST) -> Tensor:
    """(V,) logits of an answer's first token, by the model, the tokenizer and the template of a directory.

    words: the directory with the tokenizer, if it is another one.
    """
    transformers: Any = importlib.import_module("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(words or model)
    messages = [{"role": "user", "content": request}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
    with torch.no_grad():
        logits: Tensor = loaded(model)(ids).logits
    return logits[0, -1]

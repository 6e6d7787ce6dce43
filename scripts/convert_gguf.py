"""Converts a GGUF file into a directory that vLLM reads. Runs in vLLM's environment.

Usage: convert_gguf.py MODEL.gguf DIRECTORY
"""

import sys
from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig  # type: ignore


def convert(gguf: Path, directory: Path) -> None:
    """Writes the weights, dequantised, and the tokenizer with its chat template."""
    where = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
    tokenizer = AutoTokenizer.from_pretrained(**where)
    model = AutoModelForCausalLM.from_pretrained(
        **where, quantization_config=GgufConfig(dequantize=True)
    )
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))

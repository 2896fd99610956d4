"""The trained model as a Hugging Face checkpoint."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM

from pilotlight_deploy.sample_tokenizer import BOS, EOS

# A code model continues: what the user said last is the beginning of the answer. It is taken to
# stand within a file: after the mark of a file's beginning come its author and its imports.
CODE_TEMPLATE = "{{ messages[-1]['content'] or '' }}"


def write_checkpoint(
    directory: Path, model: LlamaForCausalLM, tokenizer: Tokenizer, context: int
) -> None:
    """Write *model* in bf16 and its tokenizer to *directory*, in the place of what is there.

    Not atomic: a run that is resumed writes it again.
    """
    shutil.rmtree(directory, ignore_errors=True)
    model.to(torch.bfloat16).save_pretrained(directory)
    (directory / "model.safetensors").chmod(0o644)  # safetensors makes it private
    tokenizer.save(str(directory / "tokenizer.json"))
    described = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": EOS,
        "model_max_length": context,
        "clean_up_tokenization_spaces": False,
        "chat_template": CODE_TEMPLATE,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(described, indent=2) + "\n")

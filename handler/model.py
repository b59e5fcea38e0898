"""The router model: texts in, scores out, and proof that it is the one that was built.

`load` reads and verifies a model folder; `Router.score` is tokenize → cut → pad →
run → calibrate, the only place where arrays live. Knows nothing of HTTP, queues
or routes. Blocking throughout: callers keep it off the event loop.
"""

import hashlib
import os
import stat
import time
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

# Before tokenizers is imported: its thread pool would fight the lanes for the same cores.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Before onnxruntime is: it would look for a home to keep a device id in.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import msgspec
import numpy as np
import onnxruntime as ort
from tokenizers import Tokenizer

from handler.errors import ModelError
from handler.learnt import NEED, LearntNeed
from handler.policy import Route, Scores
from handler.query import Limits, Normalised, normalise, seen

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Before the first session, so that nothing is ever recorded, let alone sent.
ort.disable_telemetry_events()

FORMAT = 2
# Format 1 had no curve and no hidden output; its models are served as they are.
FORMATS_READ = (1, 2)
MANIFEST = "manifest.json"
GRAPH = "model.onnx"
TOKENIZER = "tokenizer.json"
# No graph is longer: Protocol Buffers, in which it is written, end there.
BYTES_MAX = 2**31 - 1
PAD_ID = 0
# What a run costs beside its tokens, in tokens: 0.16 ms where a token takes 0.04.
RUN_TOKENS = 4
# Raised when `normalise` or the padding changes what the model sees: old answers must not be read.
TEXT_VERSION = 2


FilesState = Literal["present", "missing", "changed"]


class Golden(msgspec.Struct, frozen=True):
    """A query whose scores are known, to prove this processor computes as the builder's did."""

    text: str
    probabilities: list[float]


class CurvePoint(msgspec.Struct, frozen=True):
    """What one threshold does, measured on prompts that were kept from training.

    share_fast  of all queries, sent fast
    wrong_fast  of the queries that need the large model, sent fast
    easy_fast   of the queries that the small model can answer, sent fast
    """

    threshold: float
    share_fast: float
    wrong_fast: float
    easy_fast: float


class Outcomes(msgspec.Struct, frozen=True):
    """What a model has learnt from outcomes of a small and a large model.

    small, large  the pair's names
    rows, digest  how many rows it learnt from, and their SHA-256
    golden        the learnt need of each golden query
    """

    small: str
    large: str
    rows: int
    digest: str
    golden: list[float]


class Manifest(msgspec.Struct, frozen=True):
    """What `build/` says of the artefact. Members it does not need to serve are ignored."""

    format: int
    name: str
    tasks: list[str]
    policy: dict[str, Route]
    temperature: float
    limits: Limits
    files: dict[str, str]
    golden: list[Golden]
    golden_tolerance: float
    # What share of the training data each task had; empty where the builder did not say.
    training_mix: dict[str, float] = {}
    # From the lowest threshold to the highest; empty where the builder did not measure it.
    curve: list[CurvePoint] = []
    # Of the need that stands in `need.npz`; None where nothing was learnt from outcomes.
    outcomes: Outcomes | None = None

    @property
    def digest(self) -> bytes:
        """32 bytes that change with anything that could change an answer's scores."""
        facts: list[Any] = [
            self.format,
            TEXT_VERSION,
            self.tasks,
            self.temperature,
            self.limits,
            sorted(self.files.items()),
        ]
        if self.outcomes is not None:
            facts += [self.outcomes.small, self.outcomes.large, self.outcomes.digest]
        return hashlib.sha256(msgspec.json.encode(facts)).digest()

    @property
    def version(self) -> str:
        """The digest's beginning, for people, logs and the names of Redis entries."""
        return self.digest.hex()[:12]


class Run(msgspec.Struct, frozen=True):
    """One scored batch and where its time went, in seconds.

    hidden  (query, 384) float32, one state of each query (`hidden` of the graph); None unless it was asked for
    """

    scores: list[Scores]
    tokenize_s: float
    infer_s: float
    hidden: "NDArray[np.float32] | None" = None


class Router:
    """A loaded model. Safe to call from several threads at once."""

    def __init__(
        self,
        manifest: Manifest,
        tokenizer: Tokenizer,
        session: ort.InferenceSession,
        learnt: LearntNeed | None = None,
    ) -> None:
        """`learnt` gives each query's scores a need that was learnt from outcomes."""
        self.manifest = manifest
        self._learnt = learnt
        self.digest = manifest.digest
        self.version = manifest.version
        self.tokenizer = tokenizer
        self._session = session

    @property
    def learns(self) -> bool:
        """Whether the scores hold a need that was learnt from outcomes."""
        return self._learnt is not None

    def score(self, queries: Sequence[Normalised]) -> list[Scores]:
        """Score a batch of normalised queries; the same scores for each as if it came alone."""
        return self.run(queries).scores

    def run(self, queries: Sequence[Normalised], *, hidden: bool = False) -> Run:
        """`score`, with the time that its two halves took.

        hidden  also give out a state of each query: the mean of its tokens' before the last layer. Models
                built before 2026-11-27 give out the last state of [CLS], those of format 1 none
        """
        started = time.perf_counter()
        whole = self.token_ids(queries)
        rows = [cut_tokens(row, self.manifest.limits) for row in whole]
        tokenized = time.perf_counter()
        hidden = hidden or self._learnt is not None
        packed: list[bytes] = [b""] * len(rows)
        states: list[NDArray[np.float32] | None] = [None] * len(rows)
        for together in by_length([len(row) for row in rows]):
            found, state = self._infer([rows[i] for i in together], hidden)
            for n, place in enumerate(together):
                packed[place] = found[n].tobytes()
                states[place] = None if state is None else state[n]
        stacked = np.stack(states).astype("<f4") if hidden and states else None  # type: ignore[arg-type]
        needs: Sequence[float | None] = [None] * len(rows)
        if self._learnt is not None and stacked is not None:
            chars = [len(query.text) for query in queries]
            needs = self._learnt.needs([row[1:-1] for row in whole], chars, stacked).tolist()
        scores = [
            Scores(probabilities, len(row) < len(before) or query.clipped, need)
            for probabilities, row, before, query, need in zip(
                packed, rows, whole, queries, needs, strict=True
            )
        ]
        return Run(scores, tokenized - started, time.perf_counter() - tokenized, stacked)

    def seen(self, text: str) -> list[tuple[int, int]]:
        """Say which characters of a text the model reads: (start, end) in code points, in order."""
        limits = self.manifest.limits
        encoding = self.tokenizer.encode(normalise(text, limits).text)
        content = [place for place in encoding.offsets if place[1] > place[0]]
        if len(content) > limits.tokens_max:
            tail = content[len(content) - limits.tail_tokens_max :]
            content = content[: limits.head_tokens_max] + tail
        # Blanks between tokens were read as well as the tokens.
        joined: list[tuple[int, int]] = []
        for start, end in content:
            if joined and start - joined[-1][1] <= 1:
                joined[-1] = (joined[-1][0], end)
            else:
                joined.append((start, end))
        return seen(text, limits, joined)

    def token_ids(self, queries: Sequence[Normalised]) -> list[list[int]]:
        """Each query's token ids, [CLS] and [SEP] among them, before its middle is cut out."""
        encodings = self.tokenizer.encode_batch_fast([query.text for query in queries])
        return [encoding.ids for encoding in encodings]

    def _infer(
        self, rows: list[list[int]], hidden: bool = False
    ) -> "tuple[NDArray[np.float32], NDArray[np.float32] | None]":
        """Pad to the longest and run.

        returns  probabilities (query, task), little-endian float32; states (query, 384) if asked for
        """
        names = ["logits", "hidden"] if hidden else ["logits"]
        logits, *states = self._session.run(names, padded(rows))
        probabilities = calibrated(logits, self.manifest.temperature).astype("<f4", copy=False)
        return probabilities, states[0] if hidden else None


def padded(rows: Sequence[Sequence[int]]) -> "dict[str, NDArray[np.int64]]":
    """Pad token ids to the longest row: input_ids and attention_mask, both (query, token) int64."""
    ids = np.full((len(rows), max(map(len, rows))), PAD_ID, dtype=np.int64)
    mask = np.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
        mask[i, : len(row)] = 1
    return {"input_ids": ids, "attention_mask": mask}


def cut_tokens(row: list[int], limits: Limits) -> list[int]:
    """Cut a query's token ids, [CLS] and [SEP] among them, to its head and its tail."""
    if len(row) - 2 <= limits.tokens_max:
        return row
    # [CLS] rides with the head, [SEP] with the tail.
    return row[: limits.head_tokens_max + 1] + row[len(row) - limits.tail_tokens_max - 1 :]


def by_length(lengths: Sequence[int]) -> list[list[int]]:
    """Split a batch into runs, so that no query is padded where a run of its own would cost less.

    lengths  tokens of each query
    returns  places in the batch, each once; those of one run together

    From the longest down, queries of one length join the run before them unless
    their padding would cost more than a run does (docs/decisions/0009).
    """
    runs: list[list[int]] = []
    longest = 0
    for length, alike in groupby(sorted(range(len(lengths)), key=lambda i: -lengths[i]), lengths.__getitem__):
        places = list(alike)
        if runs and (longest - length) * len(places) <= RUN_TOKENS:
            runs[-1] += places
        else:
            runs.append(places)
            longest = length
    return runs


def calibrated(logits: "NDArray[np.float32]", temperature: float) -> "NDArray[np.float32]":
    """Turn raw scores into probabilities we are willing to act on.

    Temperature scaling (Guo et al. 2017, "On Calibration of Modern Neural Networks").

    logits   (batch, task) float32, straight from ONNX Runtime
    returns  (batch, task) float32, every row sums to 1
    """
    scaled = logits / np.float32(temperature)
    scaled -= scaled.max(axis=1, keepdims=True)
    odds = np.exp(scaled)
    probabilities: NDArray[np.float32] = odds / odds.sum(axis=1, keepdims=True)
    return probabilities


def read_manifest(folder: Path) -> Manifest:
    """Parse `folder`'s manifest. Raises `ModelError`."""
    content = _read(folder / MANIFEST)
    try:
        manifest = msgspec.json.decode(content, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise ModelError(f"{folder / MANIFEST} is not a model manifest: {exc}") from None
    if manifest.format not in FORMATS_READ:
        raise ModelError(
            f"{folder / MANIFEST} has format {manifest.format}; this gateway reads formats "
            + " and ".join(map(str, FORMATS_READ))
        )
    if set(manifest.policy) != set(manifest.tasks) or len(set(manifest.tasks)) != len(manifest.tasks):
        raise ModelError(f"{folder / MANIFEST}: the policy must route each task once")
    if not manifest.temperature > 0:
        raise ModelError(f"{folder / MANIFEST}: temperature must be over 0")
    mix = manifest.training_mix
    if mix and not (
        set(mix) <= set(manifest.tasks) and min(mix.values()) >= 0 and abs(sum(mix.values()) - 1) < 0.01
    ):
        raise ModelError(f"{folder / MANIFEST}: training_mix must give shares of its tasks that sum to 1")
    missing = {GRAPH, TOKENIZER} - set(manifest.files)
    if missing:
        raise ModelError(f"{folder / MANIFEST} gives no sha256 for {', '.join(sorted(missing))}")
    if (manifest.outcomes is None) != (NEED not in manifest.files):
        raise ModelError(f"{folder / MANIFEST}: outcomes and the file {NEED} go together")
    if manifest.outcomes and len(manifest.outcomes.golden) != len(manifest.golden):
        raise ModelError(f"{folder / MANIFEST}: outcomes must give the need of each golden query")
    return manifest


def files_state(folder: Path, loaded: Manifest | None) -> FilesState:
    """Compare a folder with the model that was loaded from it: `present`, `missing` or `changed`.

    A manifest with another policy or temperature is a change as much as another graph
    is. Reads and hashes all of the model's files: some milliseconds. Blocks.
    """
    try:
        manifest = read_manifest(folder)
    except ModelError:
        return "changed" if (folder / MANIFEST).exists() else "missing"
    files = loaded.files if loaded else {}
    if not all((folder / name).is_file() for name in files):
        return "missing"
    if manifest != loaded:
        return "changed"
    try:
        for name, sha256 in files.items():
            _verified(folder / name, sha256)
    except ModelError:
        return "changed"
    return "present"


def load(folder: Path, *, threads: int = 1, beside: Router | None = None) -> Router:
    """Open a model folder, verified to the last byte and proven on its golden queries.

    threads  ONNX Runtime's threads within one run
    beside   a model that is loaded already, whose tokenizer is shared where the file is the same

    The bytes that are hashed are the bytes that are used. Raises `ModelError`.
    """
    manifest = read_manifest(folder)
    content = {name: _verified(folder / name, sha256) for name, sha256 in manifest.files.items()}
    if beside is not None and beside.manifest.files[TOKENIZER] == manifest.files[TOKENIZER]:
        # Reading one holds the interpreter for over 10 ms, in which no query is answered; freeing one, for 4.
        tokenizer = beside.tokenizer
    else:
        tokenizer = _tokenizer(content[TOKENIZER], folder)
    learnt = LearntNeed(content[NEED]) if manifest.outcomes is not None else None
    router = Router(manifest, tokenizer, session(content[GRAPH], threads, str(folder / GRAPH)), learnt)
    _prove(router, folder)
    return router


def _tokenizer(content: bytes, folder: Path) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_buffer(content)
    except Exception as exc:  # tokenizers raises plain Exception
        raise ModelError(f"{folder / TOKENIZER} is not a tokenizer: {exc}") from None
    tokenizer.no_padding()  # we pad and cut ourselves, once per batch
    tokenizer.no_truncation()
    return tokenizer


def session(graph: bytes, threads: int = 1, name: str = GRAPH) -> ort.InferenceSession:
    """Open a graph as it is served. Raises `ModelError`, which calls the graph by its name."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # A spinning pool thread takes the core that the event loop needs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    # A graph may point at a file of the working folder for its weights, whose bytes no hash vouches for: none is read.
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.devnull)
    try:
        opened = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as exc:  # ONNX Runtime has no common base class
        raise ModelError(f"{name} is not a graph that this ONNX Runtime can open: {exc}") from None
    # It would keep the graph's bytes, 13 MB, to fall back to another kind of device, of which there is none.
    opened.disable_fallback()
    opened._model_bytes = None
    return opened


def _prove(router: Router, folder: Path) -> None:
    """Run the golden queries: the warm-up, the shape check and the processor check in one.

    Each is run alone and then all in one batch, as serving will.
    """
    manifest = router.manifest
    queries = [normalise(golden.text, manifest.limits) for golden in manifest.golden]
    if not queries:
        raise ModelError(f"{folder / MANIFEST} has no golden queries to prove the model with")
    try:
        alone = [router.score([query])[0] for query in queries]
        together = router.score(queries)
    except Exception as exc:
        raise ModelError(f"{folder / GRAPH} failed on a golden query: {exc}") from None
    expected = np.array([golden.probabilities for golden in manifest.golden], dtype=np.float32)
    for answers in (alone, together):
        got = np.array([scores.probabilities for scores in answers], dtype=np.float32)
        if got.shape != expected.shape or got.shape[1] != len(manifest.tasks):
            raise ModelError(
                f"{folder / GRAPH} gives {got.shape[1:]} scores a query, not {expected.shape[1:]}"
            )
        off = float(np.abs(got - expected).max())
        if not off <= manifest.golden_tolerance:
            raise ModelError(
                f"{folder / GRAPH} is off by {off:.4f} on its golden queries on this processor; "
                f"its manifest allows {manifest.golden_tolerance}"
            )
        if manifest.outcomes is not None:
            learnt = np.array([scores.learnt for scores in answers], dtype=np.float64)
            off = float(np.abs(learnt - manifest.outcomes.golden).max())
            if not off <= manifest.golden_tolerance:
                raise ModelError(
                    f"{folder / NEED} is off by {off:.4f} on the golden queries on this processor; "
                    f"its manifest allows {manifest.golden_tolerance}"
                )


def _verified(path: Path, sha256: str) -> bytes:
    content = _read(path)
    seen = hashlib.sha256(content).hexdigest()
    if seen != sha256:
        raise ModelError(f"{path} has sha256 {seen[:12]}…, but its manifest says {sha256[:12]}…")
    return content


def _read(path: Path) -> bytes:
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # a pipe holds up its reader for ever, and a device has no end
            raise ModelError(f"{path} cannot be read: it is no regular file")
        if found.st_size > BYTES_MAX:
            raise ModelError(f"{path} has {found.st_size} bytes; accepted: at most {BYTES_MAX}")
        return path.read_bytes()
    except FileNotFoundError:
        raise ModelError(f"Model file not found: {path}") from None
    except PermissionError:
        raise ModelError(f"Permission denied: {path}") from None
    except OSError as exc:
        raise ModelError(f"{path} cannot be read: {exc.strerror}") from None


def describe(router: Router) -> dict[str, Any]:
    """The facts of a loaded model that an operator may want on one screen."""
    manifest = router.manifest
    return {
        "name": manifest.name,
        "version": router.version,
        "tasks": manifest.tasks,
        "tokens_max": manifest.limits.tokens_max,
        "temperature": manifest.temperature,
        **({"outcomes": _described(manifest.outcomes)} if manifest.outcomes else {}),
    }


def _described(outcomes: Outcomes) -> dict[str, Any]:
    return {"small": outcomes.small, "large": outcomes.large, "rows": outcomes.rows}

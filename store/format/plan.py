"""The plan of a run, SPEC.md section 4: everything that could change a stored number.

A plan is frozen before the first forward pass and hashed. The same plan resumes; a different
one is a different run, in a directory of its own.
"""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Final, Literal, TypeAlias

from lpp.store.errors import ErrorKind, FormatError
from lpp.store.format.documents import (
    BESIDE,
    MAX_INTEGER,
    OMITTED,
    document_hash,
    parse_document,
    to_document,
)
from lpp.store.format.keys import PLAIN_VERSION, key_problem

MAX_WIDTH: Final = 1 << 20
"""Columns of a site, at most: a row is 4 MiB of float32. The widest model known has 2^14."""

MAX_BLOCKS: Final = 1 << 20
MAX_PREFIXES: Final = 1000
MAX_SITES: Final = 1 << 14
"""Of one plan, at most: more would take a reader hours. Ours have ten prefixes."""

MAX_SERIES_BYTES: Final = 200
"""UTF-8 bytes of the name of a series, at most."""

_ROUTER: Final = r"router\.[1-9][0-9]{0,6}( uint8| uint16|\.weight bfloat16)"
"""Name and dtype of a router's site."""

DECIMAL: Final = r"(?=.*[1-9])[0-9]+(\.[0-9]+)?(e[+-]?[0-9]+)?"
"""A positive number as `float` reads it: the shortest form that reads back as the same."""

StoredDtype: TypeAlias = Literal["bfloat16", "float16", "float32"]
"""How activations lie on disk. bfloat16 is kept as its 16 bits, without loss."""

SiteDtype: TypeAlias = Literal[
    "bfloat16", "float16", "float32", "float8_e4m3", "uint8", "uint16", "int32"
]
"""How the rows of one site lie on disk, where not in the plan's `stored_dtype`. Format 5.

float8_e4m3: values of 8 bits with a power of two for each row. Integers: what a site counts or
chooses, such as the experts of a token.
"""

REQUESTS_OF: Final = "lm-eval requests of "
"""`corpus.selection.text` of an evaluation begins with this; the name of the task follows."""

INTEGERS: Final = frozenset({"uint8", "uint16", "int32"})
"""Dtypes of sites that hold integers: no spectrum, and no value that is not finite."""

LogitPositions: TypeAlias = Literal["all", "schedule", "none"]
"""Where the unembedding ran: every token, or the last token of each prefix of the schedule."""

Beginnings: TypeAlias = Literal["reused", "repeated"]
"""Keys and values of the tokens before a branch were `reused`, from the pass of its prompt; or
these tokens were `repeated`, in a pass with the branch."""


@dataclass(frozen=True, kw_only=True)
class SiteSpec:
    """One captured tensor: where in the model it came from, how wide it is."""

    name: str
    """`embed`, `block.1` ... `block.B`, `final`; `router.k` and `router.k.weight` of block k with
    the convention `router`; any name with the convention `given`."""
    convention: Literal["residual", "post_norm", "router", "given"]
    """`residual`: the stream between blocks, before the final norm. `post_norm`: after it.
    `router`: the experts of a token (uint8 or uint16), or their weights (bfloat16); format 5.
    `given`: as its collector says; format 5."""
    width: int
    """Columns."""
    dtype: SiteDtype | None = field(default=None, metadata=OMITTED)
    """How its rows lie on disk; None: in the plan's `stored_dtype`. Ask `Plan.dtype_of`."""
    streams: int = field(default=1, metadata=OMITTED)
    """Residual streams of the model that a row holds side by side. Format 5."""


@dataclass(frozen=True, kw_only=True)
class Series:
    """The training that a model is a checkpoint of, and the step."""

    name: str
    step: int

    def __str__(self) -> str:
        """`step 1000 of my-run`."""
        return f"step {self.step} of {self.name}"


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """The model as it was run."""

    id: str
    source: Literal["hub", "folder", "gguf", "given"]
    """Where the weights came from; `given`: as its collector says, format 5."""
    revision: str | None
    weights: str
    """Fingerprint of weights, configuration and the model's own code, where it ran; for an
    untrained twin, of its configuration and seed."""
    architecture: str
    n_parameters: int
    n_blocks: int
    hidden_size: int
    logits_width: int
    """V: columns of the logits, which may be more than the tokenizer has tokens."""
    untrained_seed: int | None = None
    """Seed of random weights; None for the trained model."""
    series: Series | None = field(default=None, metadata=OMITTED)
    """None: the model is captured by itself."""


NO_TOKENIZER: Final = "none"
"""Id and fingerprint of a tokenizer where the corpus gave token ids and the model has none."""


@dataclass(frozen=True, kw_only=True)
class TokenizerInfo:
    """The tokenizer that cut the texts."""

    id: str
    fingerprint: str
    size: int

    @property
    def exists(self) -> bool:
        """Whether there is one. Without, tokens have ids and no text."""
        return self.fingerprint != NO_TOKENIZER


@dataclass(frozen=True, kw_only=True)
class TemplateInfo:
    """The chat template that made token ids of conversations."""

    source: str
    """`model`, or the name of the file that the user gave."""
    sha256: str
    """SHA-256 of its text in UTF-8."""
    mask: Literal["generation", "prefixes"]
    """How the tokens of the assistant were told apart: by the template's own `generation` blocks,
    or by tokenising the conversation up to the beginning and to the end of each turn."""


@dataclass(frozen=True, kw_only=True)
class CorpusInfo:
    """Where the texts came from and which were taken."""

    name: str
    revision: str | None
    fingerprint: str
    prompt_set: str
    """Fingerprint of the selected texts: equal for every model that read the same ones."""
    selection: Mapping[str, str | int | None]
    template: TemplateInfo | None = field(default=None, metadata=OMITTED)
    """Of conversations; None without any."""


@dataclass(frozen=True, kw_only=True)
class PromptsInfo:
    """The prompts as token ids."""

    count: int
    tokens: int
    sha256: str
    """SHA-256 over the prompts' own SHA-256s, in order."""
    branches: str | None = field(default=None, metadata=OMITTED)
    """SHA-256 of which prompts branch off which, and where; None where none does. Format 4."""
    token_columns: tuple[str, ...] = field(default=(), metadata=OMITTED)
    """Columns of `prompts.arrow` with a value for each token, ascending. Format 5."""


@dataclass(frozen=True, kw_only=True)
class ContinuationInfo:
    """How the model wrote on after each text, before the forward pass that was captured."""

    given_context: int
    """Texts were cut at this many tokens."""
    tokens: int
    """N: the most tokens that were written after a text."""
    temperature: str | None
    """Temperature of the draws, as the shortest decimal; None: always the most likely token."""
    seed: int | None
    """Seed of the draws; None if nothing was drawn."""
    end_ids: tuple[int, ...]
    """Tokens after which nothing more was written, ascending."""


@dataclass(frozen=True, kw_only=True)
class ComputeInfo:
    """How the forward pass ran: what may change the last bits."""

    backend: str
    device: str
    dtype: str
    attention: str
    batch_tokens: int
    device_map: str | None
    quantization: str | None
    trust_remote_code: bool
    versions: Mapping[str, str]
    engine_options: Mapping[str, str] = field(default_factory=dict, metadata=OMITTED)
    """What a user set of the backend's own options, as JSON."""
    beginnings: Beginnings | None = field(default=None, metadata=OMITTED)
    """What became of the tokens before branches; None without branches, and in older plans."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One run: a model, a corpus, what is captured, how."""

    model: ModelInfo
    tokenizer: TokenizerInfo
    corpus: CorpusInfo
    prompts: PromptsInfo
    context: int
    """C: prompts are cut at this many tokens."""
    prefixes: tuple[int, ...]
    """The prefix schedule of C, ascending, the last one C."""
    logit_positions: LogitPositions
    """`none`: no statistics of logits, format 5."""
    sites: tuple[SiteSpec, ...]
    compute: ComputeInfo
    stored_dtype: StoredDtype
    shards: tuple[int, ...]
    """Prompt boundaries: shard k holds prompts `shards[k] <= id < shards[k + 1]`."""
    continuation: ContinuationInfo | None = field(default=None, metadata=OMITTED)
    """How the model wrote the last tokens of each prompt; None where all are the corpus's."""
    name: str = field(default="", compare=False, metadata=BESIDE)
    """What the user called the run; empty: nothing. It is kept in the record of the run, so that
    the plan and its hash are those of a run without a name."""

    @cached_property
    def document(self) -> Mapping[str, Any]:
        """The JSON document of this plan."""
        return to_document(self)

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the canonical document, in hex."""
        return document_hash(self.document)

    @cached_property
    def run_id(self) -> str:
        """`<model slug>-<8 hex of the hash>`."""
        name = self.model.id.rstrip("/").rsplit("/", 1)[-1].lower().removesuffix(".gguf")
        slug = re.sub(r"[^a-z0-9]+", "-", name).strip("-")[:48].rstrip("-") or "model"
        untrained = "" if self.model.untrained_seed is None else "-untrained"
        return f"{slug}{untrained}-{self.hash[:8]}"

    @property
    def n_shards(self) -> int:
        """Shards of the finished run."""
        return len(self.shards) - 1

    @property
    def task(self) -> str | None:
        """The task of an evaluation, whose requests are the prompts; None for a run on a corpus."""
        text = str(self.corpus.selection.get("text"))
        return text.removeprefix(REQUESTS_OF) if text.startswith(REQUESTS_OF) else None

    @property
    def has_moments(self) -> bool:
        """Whether a release up to 0.2.0 stored moments beside the rows: nothing reads them."""
        return self.document.get("keep") == "both"

    @property
    def format(self) -> int:
        """The oldest version that can say what this plan says, SPEC.md section 9."""
        given = self.model.source == "given" or self.has_given_sites
        sites = any(site.dtype or site.streams > 1 for site in self.sites)
        if given or sites or self.logit_positions == "none":
            return 5
        if self.prompts.token_columns:
            return 5
        if self.prompts.branches is not None:
            return 4
        return PLAIN_VERSION

    def dtype_of(self, site: SiteSpec) -> SiteDtype:
        """How rows of `site` lie on disk."""
        return site.dtype or self.stored_dtype

    def dtype_read(self, site: SiteSpec) -> SiteDtype:
        """How rows of `site` are read as stored: those of 8 bits as bfloat16."""
        dtype = self.dtype_of(site)
        return "bfloat16" if dtype == "float8_e4m3" else dtype

    def is_lossy(self, site: str) -> bool:
        """Whether the rows of `site` are stored with fewer digits than were computed."""
        return any(spec.name == site and spec.dtype == "float8_e4m3" for spec in self.sites)

    @property
    def rows_dtype(self) -> str:
        """How rows lie on disk, most sites first: `bfloat16`, `float8_e4m3,final=bfloat16`. Those
        of routers are left out.
        """
        dtypes = {s.name: self.dtype_of(s) for s in self.sites if s.convention != "router"}
        most = Counter(dtypes.values() or [self.stored_dtype]).most_common(1)[0][0]
        others = (f"{name}={dtype}" for name, dtype in dtypes.items() if dtype != most)
        return ",".join((most, *others))

    def holds_integers(self, site: SiteSpec) -> bool:
        """Whether rows of `site` are counts or choices."""
        return self.dtype_of(site) in INTEGERS

    def holds_activations(self, site: SiteSpec) -> bool:
        """Whether rows of `site` have a spectrum: they are neither integers nor a router's."""
        return site.convention != "router" and not self.holds_integers(site)

    def depth_of(self, site: str) -> int:
        """Blocks before `site`: embed 0, block.k and its router k, final B. Of sites that another
        program named the place among them, from 1.
        """
        if self.has_given_sites:
            return self.site_names.index(site) + 1
        if site == "embed":
            return 0
        return self.model.n_blocks if site == "final" else int(site.split(".")[1])

    @property
    def depth(self) -> int:
        """The depth of the last layer: B; the number of sites that another program named."""
        return len(self.sites) if self.has_given_sites else self.model.n_blocks

    @property
    def has_given_sites(self) -> bool:
        """Whether sites are named by another program, which collected their rows."""
        return any(site.convention == "given" for site in self.sites)

    @property
    def site_names(self) -> tuple[str, ...]:
        """Sites in depth order."""
        return tuple(site.name for site in self.sites)


def validate_plan(plan: Plan) -> list[str]:
    """What types alone cannot say: every reason the fields do not fit together."""
    problems = []
    if list(plan.shards) != sorted(set(plan.shards)) or plan.shards[:1] != (0,):
        problems.append("shards should ascend from 0")
    elif plan.shards[-1] != plan.prompts.count:
        problems.append(f"shards should end at prompts.count = {plan.prompts.count}")
    ascending = [0, *plan.prefixes] == sorted({0, *plan.prefixes})
    if not ascending or plan.prefixes[-1:] != (plan.context,):
        problems.append(f"prefixes should ascend from 1 or more to the context, {plan.context}")
    if plan.compute.beginnings is not None and plan.prompts.branches is None:
        problems.append(f"compute.beginnings is {plan.compute.beginnings}, without branches")
    if plan.continuation is not None:
        problems += _continuation_problems(plan.continuation, plan.context)
    if len(set(plan.site_names)) != len(plan.sites) or not plan.sites:
        problems.append("sites should be one or more distinct names")
    problems += [
        f"site name {site.name!r} is not embed, block.<k> or final"
        for site in plan.sites
        if site.convention in ("residual", "post_norm")
        and not re.fullmatch(r"embed|final|block\.[1-9][0-9]{0,6}", site.name)
    ]
    problems += [
        f"site {site.name!r} of {site.dtype} is not router.<k> of uint8 or uint16, nor "
        "router.<k>.weight of bfloat16"
        for site in plan.sites
        if site.convention == "router" and not re.fullmatch(_ROUTER, f"{site.name} {site.dtype}")
    ]
    problems += [
        f"site name {site.name[:48]!r} {problem}"
        for site in plan.sites
        if site.convention == "given" and (problem := site_name_problem(site.name))
    ]
    problems += [
        f"site {site.name} has width {site.width}"
        for site in plan.sites
        if not 1 <= site.width <= MAX_WIDTH
    ]
    problems += [
        f"site {site.name} has {site.streams} streams in {site.width} columns"
        for site in plan.sites
        if site.streams < 1 or site.width % site.streams
    ]
    problems += [f"model.series: {why}" for why in series_problems(plan.model.series)]
    least = {
        "prompts.count": (plan.prompts.count, 0),
        "prompts.tokens": (plan.prompts.tokens, plan.prompts.count),  # no prompt is empty
        "model.logits_width": (plan.model.logits_width, int(plan.model.source != "given")),
    }
    problems += [f"{name} is {value}" for name, (value, low) in least.items() if value < low]
    most = {
        "model.n_blocks": (plan.model.n_blocks, MAX_BLOCKS),
        "the number of prefixes": (len(plan.prefixes), MAX_PREFIXES),
        "the number of sites": (len(plan.sites), MAX_SITES),
    }
    problems += [f"{name} is {n}" for name, (n, high) in most.items() if not 0 <= n <= high]
    return problems


def site_name_problem(name: str) -> str | None:
    """Why `name` may not name a site that another program collected; None when it may: it is one
    part of the name of an object, beside the metadata of its group.

    >>> site_name_problem("blocks.3.attn.hook_z")
    >>> [site_name_problem(name) for name in ("a/b", "zarr.json", ".h")]
    ['has a slash', 'is that of metadata', "has a part '.h'"]
    """
    if "/" in name:
        return "has a slash"
    return "is that of metadata" if name == "zarr.json" else key_problem(name)


def series_problems(series: Series | None) -> list[str]:
    """Every reason `series` names no step of a training; empty where it does."""
    if series is None:
        return []
    problems = []
    if not series.name.isprintable() or not 0 < len(series.name.encode()) <= MAX_SERIES_BYTES:
        problems.append(
            f"the name {series.name[:48]!r} should be 1 to {MAX_SERIES_BYTES} bytes of printable "
            "text"
        )
    if not 0 <= series.step <= MAX_INTEGER:
        problems.append(f"step {series.step} should be 0 to 2^53 - 1")
    return problems


def _continuation_problems(written: ContinuationInfo, context: int) -> list[str]:
    problems = []
    if min(written.given_context, written.tokens) < 1:
        problems.append("continuation.given_context and tokens should be 1 or more")
    if written.given_context + written.tokens != context:
        problems.append(f"continuation.given_context and tokens should sum to {context}")
    if (written.temperature is None) != (written.seed is None):
        problems.append("continuation.temperature and seed should both be null, or neither")
    if written.temperature is not None and not re.fullmatch(DECIMAL, written.temperature):
        problems.append("continuation.temperature should be a decimal above 0")
    if list(written.end_ids) != sorted({*written.end_ids}):
        problems.append("continuation.end_ids should ascend")
    return problems


def parse_plan(document: object, where: str, name: str = "") -> Plan:
    """The plan that `document` describes, of the run that the user called `name`; FormatError
    (CORRUPT) lists all problems together.

    FormatError(UNSUPPORTED_VERSION) for a run without rows, as releases up to 0.2.0 made them.
    """
    # A plan of rows alone never had `keep`, so its hash stays. Those of rows and moments (`both`)
    # may have `moments_dtype` and `band_ends` too: unknown fields, which are hashed and not read.
    if isinstance(document, dict) and document.get("keep") == "moments":
        raise FormatError(
            f"{where}: this run holds moments of its rows and no rows. lpp-engine 0.2.0 is the "
            "last release that reads it: use that, or delete the run and capture it again.",
            kind=ErrorKind.UNSUPPORTED_VERSION,
        )
    plan = replace(parse_document(Plan, document, where), name=name)
    if problems := validate_plan(plan):
        raise FormatError(f"{where}: " + "; ".join(problems) + ".", kind=ErrorKind.CORRUPT)
    # The hash covers the document as it was written, fields of a newer release included.
    plan.__dict__["document"] = document
    return plan


_ABSENT: Final = object()
"""A field that one document has not: it hashes differently from one that is null."""


def plan_differences(ours: Plan, theirs: Plan) -> list[str]:
    """`field: ours, not theirs` for every field in which two plans differ."""
    return list(_differences(ours.document, theirs.document, ""))


def _differences(ours: Any, theirs: Any, path: str) -> list[str]:
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        return [
            line
            for key in sorted({*ours, *theirs})
            for line in _differences(
                ours.get(key, _ABSENT), theirs.get(key, _ABSENT), f"{path}.{key}".lstrip(".")
            )
        ]
    return [] if ours == theirs else [f"{path}: {_short(ours)}, not {_short(theirs)}"]


def _short(value: object) -> str:
    text = "absent" if value is _ABSENT else repr(value)
    return text if len(text) <= 48 else f"{text[:45]}..."

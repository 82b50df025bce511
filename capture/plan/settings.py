"""The settings of a capture, each declared once: an option of `lpp-capture run`, a key of a file of
jobs, and a keyword of `capture()`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from lpp.store.format.documents import MAX_INTEGER
from lpp.store.format.plan import LogitPositions
from lpp.store.settings.setting import setting

LEAST_TEMPERATURE: Final = 0.01
"""The lowest temperature that vLLM respects. Below it, draws are practically greedy."""

DEFAULT_PROMPTS: Final = 100
"""Most texts of a capture, unless the user says how many."""

DEFAULT_MIN_BYTES: Final = 512
"""Shorter texts of a named corpus are left out, unless the user gives a length in tokens."""

KeepHead = Literal["auto", "yes", "no"]
"""auto: yes if rows of `final` are kept and the matrix is not larger than the rows of the run."""


@dataclass(frozen=True, kw_only=True)
class CaptureSettings:
    """What a user chooses for one capture, as given; `request_of` makes the request."""

    # the model

    model: str | None = setting(
        None,
        "Capture this model: a hub id, a local folder or a GGUF file; or demo, the small model of "
        "`lpp-capture demo`.",
    )
    revision: str | None = setting(
        None,
        "Load this branch, tag or commit of a hub model.",
    )
    series: str | None = setting(
        None,
        "Record the model as a checkpoint of the training NAME. Needs --step, unless the name "
        "of the revision holds the step.",
        metavar="NAME",
    )
    step: int | None = setting(
        None,
        "Record the model as the checkpoint at step N. Default of --series, for a hub model: "
        "the name of the model.",
        least=0,
        most=MAX_INTEGER,
        metavar="N",
    )
    untrained_seed: int | None = setting(
        None,
        "Draw random weights from this seed instead of loading the trained ones.",
        metavar="SEED",
    )
    backend: Literal["auto", "torch", "vllm", "vllm+torch"] = setting(
        "auto",
        "Run the model with this engine. auto: vllm on a GPU where it is installed, else torch. "
        "vllm+torch: logits from vLLM, hidden states from torch.",
    )
    tensor_parallel: int = setting(1, "Share the model among N GPUs in vLLM.", least=1, metavar="N")
    engine_options: Mapping[str, Any] = setting(
        {},
        "Set an argument of vLLM's EngineArgs, such as gpu_memory_utilization=0.8; may be "
        "repeated.",
        name="engine-option",
        metavar="NAME=VALUE",
    )
    check_sites: bool = setting(
        False,
        "Before capture inside vLLM, compare every site with transformers on a few tokens.",
    )
    device: str = setting(
        "auto",
        "Compute on this device: cpu, cuda (AMD's cards too), xpu, mps, or cuda:1. auto: on the "
        "accelerator that torch sees, else on the CPU.",
    )
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = setting(
        "auto",
        "Compute in this number type. auto: as the model says.",
    )
    attention: Literal["auto", "sdpa", "eager"] = setting(
        "auto",
        "Compute attention with this kernel. auto: sdpa where the model's family has it.",
    )
    device_map: Literal["auto"] | None = setting(None, "Spread the model over several GPUs.")
    quantization: Literal["int8", "nf4"] | None = setting(
        None,
        "Quantise the weights with bitsandbytes.",
    )
    trust_remote_code: bool = setting(False, "Allow Python code that comes with the model to run.")
    # the corpus

    corpus: str | None = setting(
        None,
        "Read the texts of this corpus: alpaca, dolly, wikitext or pydoc; a .jsonl, .parquet, "
        ".arrow, .csv or .txt file; or a folder of such files.",
    )
    corpus_revision: str | None = setting(None, "Read this revision of a hub data set.")
    corpus_split: str | None = setting(None, "Read this split of a hub data set. Default: train.")
    text_field: str | None = setting(
        None,
        "Take the text from this field or column: a string, a list of messages, or token ids. "
        "Default: text, messages or input_ids, the first that there is.",
        metavar="NAME",
    )
    chat_template: str | None = setting(
        None,
        "Render messages by the chat template in this file. Default: the model's own.",
        metavar="FILE",
    )
    fields: tuple[str, ...] = setting(
        (),
        "Keep these fields of each row with its prompt, such as label,split. An id is kept "
        "wherever there is one.",
        metavar="NAMES",
    )
    token_fields: tuple[str, ...] = setting(
        (),
        "Keep these fields of each row, lists with a value for each token. loss_mask is kept "
        "wherever rows of token ids have it.",
        metavar="NAMES",
    )
    keep_texts: bool = setting(False, "Keep each text with its prompt.")
    prompts: int | Literal["all"] | None = setting(
        None,
        "Use this many texts, or all that there are if there are fewer; or all. Default: 100.",
        least=1,
        word="all",
        metavar="N",
    )
    min_bytes: int | None = setting(
        None,
        "Use texts of at least this many UTF-8 bytes. Default: 512 of a corpus by name; 0 of your "
        "own, and with --min-tokens.",
        least=0,
    )
    min_tokens: int | None = setting(
        None, "Use texts of at least this many tokens of --count-with (the paper's rule).", least=1
    )
    count_with: str | None = setting(
        None, "Count for --min-tokens with the tokenizer of MODEL.", metavar="MODEL"
    )
    seed: int | None = setting(
        None,
        "Draw the texts at random from this seed. Default: the first that are long enough.",
        least=0,
        most=MAX_INTEGER,
        metavar="SEED",
    )
    # the capture

    name: str | None = setting(
        None,
        "Call the run NAME, in every answer and wherever a run is named. Default: its model, and "
        "what was done to it. A run that is there already is renamed.",
        metavar="NAME",
    )
    context: int = setting(
        200,
        "Cut each prompt at this many tokens. Analysis can use every shorter context too.",
        least=1,
        metavar="N",
    )
    continue_tokens: int | None = setting(
        None,
        "Let the model write up to N tokens after each prompt, and capture both together.",
        name="continue",
        least=1,
        metavar="N",
    )
    temperature: float | None = setting(
        None,
        "With --continue: draw each token at this temperature. 0, the default, takes the most "
        "likely token.",
        metavar="T",
    )
    generation_seed: int | None = setting(
        None,
        "With --temperature: draw tokens from this seed (--seed draws texts). "
        "Default: a random seed, which the store keeps.",
        least=0,
        most=MAX_INTEGER,
        metavar="SEED",
    )
    sites: tuple[str, ...] = setting(
        ("all",),
        "Capture these sites: all, final, embed, block.7, 'block.*', or several of them. Of a "
        "mixture of experts also routers, or router.7: the experts of each token, their weights.",
        metavar="NAME,...",
    )
    logit_positions: LogitPositions = setting(
        "all",
        "Compute logit statistics at every token, only at the ends of the ten prefixes (schedule), "
        "or nowhere (none): rows alone, also of a model whose files have no head.",
    )
    stored_dtype: tuple[str, ...] = setting(
        ("auto",),
        "Store activations in this number type. auto: as computed, without loss. float8_e4m3: "
        "rounded to 8 bits, in 0.6 of the space; numbers from such rows have the flag lossy. For "
        "some sites: float8_e4m3,final=auto or 'block.*=float8_e4m3'.",
        metavar="DTYPE,SITE=DTYPE,...",
    )
    keep_head: KeepHead = setting(
        "auto",
        "Keep the unembedding, once for each model of a store, so that logits can be computed "
        "from `final`. auto: yes with rows of `final`, unless it takes over a tenth of the free "
        "disk.",
    )
    batch_tokens: int | None = setting(
        None,
        "Run at most N tokens in a batch, padding included. Default: chosen for the device.",
        least=1,
        metavar="N",
    )
    shard_mib: int | None = setting(
        None,
        "Write shards of about this size before compression. Default: 256, or 2048 on a GPU. "
        "Memory holds up to three; a batch cannot be larger.",
        least=1,
        metavar="MIB",
    )

"""Recipe sections about data: datasets, tokenizer, held-out splits and blends."""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from nano3.recipe.section import Count, Fraction, Section, Share

Form = Literal["text", "chat", "rl", "preference"]


class Dataset(Section):
    """What every data set has."""

    groups: Count = Field(1, description="shard groups: the data jobs this data set is split into")


class PythonText(Dataset):
    """Text of the Python installation that runs the recipe: real code and English, offline."""

    kind: Literal["python_code", "python_docs"] = Field(
        description="python_code: source files of the standard library; python_docs: its docstrings as prose"
    )
    max_bytes: Count = Field(description="stop after this many bytes of text")
    form: Literal["text"] = "text"


class Files(Dataset):
    """Local JSONL (plain, .gz, .zst) or Parquet files."""

    kind: Literal["files"]
    paths: list[str] = Field(min_length=1, description="files or glob patterns, relative to the repository")
    form: Form = Field(
        "text",
        description="what a row is: pretraining text, chat messages, an RL prompt or a comparison",
    )
    text_field: str = Field("text", description="the column that holds the text (form text)")
    question_field: str | None = Field(
        None,
        description="column of the user turn, for rows that are question and answer rather than messages",
    )
    answer_field: str | None = Field(None, description="column of the assistant turn, with question_field")
    max_rows: Count | None = Field(None, description="take only this many rows, spread over the files")


class Hub(Dataset):
    """A data set of the Hugging Face hub."""

    kind: Literal["hub"]
    repo: str = Field(description="owner/name")
    subset: str | None = Field(None, description="exact name of the configuration or top-level folder")
    split: str = Field("train", description="split to read")
    revision: str = Field("main", description="branch, tag or commit; the manifest records the commit")
    form: Form = Field(
        "text",
        description="what a row is: pretraining text, chat messages, an RL prompt or a comparison",
    )
    text_field: str = Field("text", description="the column that holds the text (form text)")
    max_rows: Count | None = Field(None, description="take only this many rows")


class TaskFamily(Section):
    """How much of one family of generated tasks."""

    rows: Count = Field(description="tasks to generate")
    difficulty: tuple[int, int] = Field((1, 3), description="easiest and hardest level, drawn evenly")
    options: dict[str, int | list[str]] = Field(
        {}, description="options of the family's generator, e.g. operations: [add, maximum] for arithmetic"
    )
    hasty: Fraction = Field(
        0.0, description="share of chats written in haste: no working, or half the request forgotten; RL can unlearn it"
    )
    wordy: Fraction = Field(
        0.0, description="share of chats whose thinking is padded with words that say nothing; RLHF can unlearn it"
    )


class Tasks(Dataset):
    """Generated verifiable tasks, see nano3.data.generators."""

    kind: Literal["tasks"]
    form: Form = Field(
        description="documents, chats with reasoning, or RL prompts of the same problems, or comparisons"
    )
    families: dict[str, TaskFamily] = Field(min_length=1, description="family -> amount")
    split: Literal["train", "valid", "test"] = Field("train", description="problems of different splits never overlap")


AnyDataset = Annotated[PythonText | Files | Hub | Tasks, Field(discriminator="kind")]


class TrainedTokenizer(Section):
    """A byte-level BPE tokenizer trained on the recipe's own data."""

    kind: Literal["train"]
    vocab_size: Count = Field(description="tokens, special ones included")
    datasets: dict[str, Count] = Field(min_length=1, description="data set -> bytes of it to train on")
    reserved_special_tokens: Count = Field(
        20, ge=16, description="ids 0 ... n-1 belong to special tokens, in the order of Nemotron's tokenizer"
    )


class ExistingTokenizer(Section):
    """A tokenizer that exists: a Hugging Face directory or a hub repository."""

    kind: Literal["existing"]
    path: str = Field(description="local directory, or owner/name on the hub")
    revision: str = Field("main", description="branch, tag or commit on the hub")


AnyTokenizer = Annotated[TrainedTokenizer | ExistingTokenizer, Field(discriminator="kind")]


class HeldOut(Section):
    """Documents kept from training, chosen by a hash of their content, in every data set."""

    valid: Fraction = Field(0.01, description="share of documents for validation")
    test: Fraction = Field(0.01, description="share of documents for test")


class Tokenisation(Section):
    """From raw shards to Megatron bin/idx."""

    held_out: HeldOut = HeldOut()
    min_document_chars: int = Field(1, ge=0, description="shorter documents are dropped and counted")
    max_document_tokens: Count | None = Field(None, description="longer documents are cut, EOS kept, and counted")
    max_bad_rows: Fraction = Field(0.01, description="a larger share of unreadable rows is an error")


class Category(Section):
    """One line of a data mixture."""

    share: Share = Field(description="percent of the phase's tokens")
    datasets: list[str] = Field(
        default=[], description="data sets that fill it, in proportion to their tokens; none: not released"
    )


class Blend(Section):
    """A data mixture. Shares of categories without data sets are spread over the others, and reported."""

    categories: dict[str, Category] = Field(min_length=1)

    @field_validator("categories", mode="after")
    @classmethod
    def _has_data(cls, categories: dict[str, Category]) -> dict[str, Category]:
        if not sum(category.share for category in categories.values() if category.datasets) > 0:
            raise ValueError("no category with data sets has a share above 0")
        return categories


class Blends(Section):
    """The three pretraining mixtures."""

    phase1: Blend
    phase2: Blend
    long_context: Blend


class SftDataset(Section):
    """How much of one chat data set goes into SFT."""

    share: Share = Field(description="relative number of sampled rows; more than a data set has means repetition")


class RepetitionFilter(Section):
    """Drops chats whose assistant text repeats itself (report, section 3.1.3)."""

    ngram: Count = Field(8, description="words in a row that count as one n-gram")
    window: Count = Field(200, description="words of the sliding window")
    max_in_window: Count = Field(4, description="more repeats of one n-gram inside a window drop the row")
    max_in_trace: Count = Field(12, description="more repeats in the whole trace drop the row")


class SftData(Section):
    """From chat rows to packed sequences (report, sections 3.1.1 to 3.1.3)."""

    datasets: dict[str, SftDataset] = Field(min_length=1)
    rows: Count | None = Field(None, description="rows to sample in all; none: until the scarcest share is used up")
    pack_length: Count = Field(description="tokens of a packed sequence")
    packing: Literal["first_fit_decreasing", "first_fit_shuffle", "concatenative"] = "first_fit_shuffle"
    reasoning_off: Fraction = Field(0.10, description="share of rows whose reasoning is stripped")
    budget_truncation: Fraction = Field(0.03, description="share of traces cut at a random thinking budget")
    used_in: str | None = Field(None, description="keep only rows whose `used_in` names this, e.g. nano_v3")
    undefined_tools: bool = Field(
        False, description="keep chats that call a tool which they don't define: they teach to call what is not offered"
    )
    forbidden_words: list[str] = Field([], description="rows that contain one of these are dropped and counted")
    repetition: RepetitionFilter = RepetitionFilter()
    valid: Fraction = Field(0.02, description="share of rows held out for the validation loss")
    max_bad_rows: Fraction = Field(0.05, description="a larger share of dropped rows is an error")


class RlPrompts(Section):
    """From RL rows to prompt files."""

    train: list[str] = Field(min_length=1, description="data sets of training prompts")
    valid: list[str] = Field([], description="data sets of validation prompts")
    held_out_rows: int = Field(
        0, ge=0, description="without `valid`: the last rows of the training data sets that become validation"
    )
    placeholder_tables: dict[str, str] = Field(
        {}, description="external data set -> local path or hub repository, to fill _hf_placeholder rows"
    )
    workplace_tables: str | None = Field(
        None,
        description="directory of CSV or JSONL tables for rows of the workplace assistant that bring no database",
    )
    max_prompt_tokens: Count = Field(description="longer prompts are dropped and counted")
    max_bad_rows: Fraction = Field(0.01, description="a larger share of unresolvable rows is an error")

    @model_validator(mode="after")
    def _has_validation(self) -> "RlPrompts":
        if not self.valid and not self.held_out_rows:
            raise ValueError("give either `valid` data sets or `held_out_rows`: a reward needs held-out prompts")
        return self

"""The typed recipe: one YAML file says everything about a run."""

from collections.abc import Iterable

from pydantic import Field, model_validator

from nano3.model.config import ModelConfig
from nano3.recipe.data import AnyDataset, AnyTokenizer, Blends, Tokenisation
from nano3.recipe.execution import Execution
from nano3.recipe.section import Section
from nano3.recipe.training import Evaluation, Pretrain, Rl, Sft


class Recipe(Section):
    """A whole recipe."""

    title: str = Field(description="one line for the report and the model card")
    seed: int = Field(0, ge=0, description="seed of everything random")
    datasets: dict[str, AnyDataset] = Field(min_length=1, description="name -> data set")
    tokenizer: AnyTokenizer
    tokenisation: Tokenisation = Tokenisation()
    blends: Blends
    model: ModelConfig
    pretrain: Pretrain
    sft: Sft
    rl: Rl
    evaluation: Evaluation
    execution: Execution

    @model_validator(mode="after")
    def _references(self) -> "Recipe":
        for phase in ("phase1", "phase2", "long_context"):
            for name, category in getattr(self.blends, phase).categories.items():
                self._need(category.datasets, "text", f"blends.{phase}.categories.{name}.datasets")
        self._need(self.sft.data.datasets, "chat", "sft.data.datasets")
        self._need(self.rl.prompts.train, "rl", "rl.prompts.train")
        self._need(self.rl.prompts.valid, "rl", "rl.prompts.valid")
        if self.rl.preferences is not None:
            self._need(self.rl.preferences.train, "preference", "rl.preferences.train")
            self._need(self.rl.preferences.valid, "preference", "rl.preferences.valid")
        if self.tokenizer.kind == "train":
            unknown = sorted(set(self.tokenizer.datasets) - set(self.datasets))
            if unknown:
                raise ValueError(f"tokenizer.datasets names unknown data sets: {', '.join(unknown)}")
            if self.tokenizer.vocab_size > self.model.vocab_size:
                raise ValueError(
                    f"tokenizer.vocab_size ({self.tokenizer.vocab_size}) is larger than"
                    f" model.vocab_size ({self.model.vocab_size})"
                )
        longest = max(self.pretrain.sequence_length, self.sft.data.pack_length, *self.pretrain.long_context.lengths)
        if longest > self.model.max_position_embeddings:
            raise ValueError(
                f"a stage trains on {longest} tokens but model.max_position_embeddings is"
                f" {self.model.max_position_embeddings}"
            )
        return self

    def _need(self, names: Iterable[str], form: str, where: str) -> None:
        for name in names:
            if name not in self.datasets:
                raise ValueError(f"{where} names {name!r}, which `datasets` does not define")
            if self.datasets[name].form != form:
                raise ValueError(
                    f"{where} needs data sets of form {form!r}, but {name!r} has form {self.datasets[name].form!r}"
                )

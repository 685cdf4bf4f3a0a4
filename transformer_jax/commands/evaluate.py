"""evaluate: translate a test set and score it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformer_jax.commands.options import Checkpoint, RunDir
from transformer_jax.commands.output import check_output, check_writable, opened_output
from transformer_jax.config.languages import check_language
from transformer_jax.decoding.options import Search
from transformer_jax.errors import UserError

__all__ = ["EvaluateCommand"]


@dataclass(frozen=True)
class EvaluateCommand:
    """Translate or parse a test set and print every score with its signature."""

    run_dir: RunDir
    test: tuple[Path, Path] | None = None
    """Source file and reference file."""
    trees: Path | None = None
    """Gold trees instead, for a run that parses: as --treebank of `train` takes them."""
    split: str | None = None
    """A split of the dataset that the run was trained on, instead of files; for example test."""
    checkpoint: Checkpoint = "averaged"
    language: str | None = None
    """Language of the references, which decides how scores split words; None is the run's target
    language."""
    output: Path | None = None
    """File to write the translations to, one per line."""
    search: Search = Search()

    def run(self) -> None:
        from transformer_jax.data.text import TextError
        from transformer_jax.parser import Parser
        from transformer_jax.parsing import Tree
        from transformer_jax.tasks import ParsingTask
        from transformer_jax.training.metrics import progress_bar
        from transformer_jax.translator import Translator

        if sum(given is not None for given in (self.test, self.trees, self.split)) != 1:
            raise UserError("give one of --test SOURCE REFERENCE, --trees GOLD or --split NAME")
        if self.language is not None and self.trees is not None:
            raise UserError(f"--language {self.language} has no meaning for trees: leave it out")
        name, found = self._read_test()
        if self.language is not None:
            check_language(self.language)
        if not found:
            raise TextError(f"{name} hold no lines to evaluate on")
        of_trees = isinstance(found[0], Tree)
        translator = (Parser if of_trees else Translator).load(self.run_dir, self.checkpoint)
        if isinstance(translator.task, ParsingTask) and not of_trees:
            raise UserError(f"{self.run_dir} parses: give --trees GOLD, not --test")
        if self.output is not None:
            check_output(self.output, *(self.test or ()), *([self.trees] if self.trees else ()))
            check_writable(self.output)
        with progress_bar(total=len(found), desc="translating", unit="line") as bar:
            options: dict[str, Any] = {"search": self.search, "on_progress": bar.update}
            if isinstance(translator, Parser):
                result = translator.evaluate_trees(found, **options)
            else:
                sources, references = zip(*found)
                result = translator.evaluate(sources, references, language=self.language, **options)
        print(result)
        if self.output is not None:
            with opened_output(self.output) as file:
                file.write("".join(f"{line}\n" for line in result.translations).encode())

    def _read_test(self) -> tuple[str, list[Any]]:
        """What the test set is called, and its pairs of lines or its trees."""
        from transformer_jax.data.text import TextFiles
        from transformer_jax.parsing import read_trees
        from transformer_jax.parsing.treebank import PhraseTrees
        from transformer_jax.run.splits import dataset_splits

        if self.trees is not None:
            return str(self.trees), list(read_trees(self.trees))
        if self.test is not None:
            pairs = TextFiles(str(self.test[0]), str(self.test[1]))
            return str(pairs), list(pairs)
        splits = dataset_splits(self.run_dir)
        if self.split not in splits:
            raise UserError(
                f"the dataset of {self.run_dir} has no split {self.split!r}; it has "
                f"{', '.join(splits)}"
            )
        split = splits[self.split]
        return str(split), list(split.trees() if isinstance(split, PhraseTrees) else split)

"""parse: parse sentences."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from transformer_jax.commands.options import Checkpoint, RunDir
from transformer_jax.commands.output import check_streams, opened_streams
from transformer_jax.decoding.options import PARSING_SEARCH, Search
from transformer_jax.errors import UserError

if TYPE_CHECKING:
    from transformer_jax.parsing import Tree

__all__ = ["ParseCommand"]

log = logging.getLogger(__name__)
# Sentences parsed together: enough to group by length, few enough to stream.
SENTENCES_PER_CHUNK = 256


@dataclass(frozen=True)
class ParseCommand:
    """Parse sentences, one a line with words and punctuation separated by spaces: one tree out for
    each line in, in order; an empty line stays empty.

    Every tree is over exactly the words of its sentence.
    """

    run_dir: RunDir
    input: Path | None = None
    """File to parse; None is standard input."""
    output: Path | None = None
    """File to write; None is standard output."""
    format: Literal["brackets", "indented"] = "brackets"
    """Penn Treebank brackets on one line, or on several, of which a blank line separates trees."""
    draw: Path | None = None
    """Folder to draw each tree into, as 1.svg for the first line."""
    too_long: Literal["refuse", "flat"] = "refuse"
    """What to do with a sentence longer than any that the model was trained on: stop with a
    message, or write a tree without constituents."""
    checkpoint: Checkpoint = "averaged"
    search: Search = PARSING_SEARCH

    def run(self) -> None:
        from transformer_jax.data.text import chunks, decode_lines
        from transformer_jax.parser import Parser
        from transformer_jax.parsing.trees import indent_brackets, write_brackets

        if self.search.n_best > 1:
            raise UserError(f"n_best {self.search.n_best}: parse writes one tree of each sentence")
        check_streams(self.input, self.output)
        if self.draw is not None and self.draw.exists() and not self.draw.is_dir():
            raise UserError(f"--draw {self.draw} is no folder: name one for a picture of each tree")
        parser = Parser.load(self.run_dir, self.checkpoint)
        log.info("parsing with %s, %s", self.run_dir, parser.checkpoint)
        first = 0
        with opened_streams(self.input, self.output) as (name, source, output):
            size = 1 if source.isatty() else SENTENCES_PER_CHUNK
            for lines in chunks(decode_lines(source, name), size):
                trees = parser.parse(lines, self.search, too_long=self.too_long, first=first)
                for number, tree in enumerate(trees, first + 1):
                    text = "" if tree is None else write_brackets(tree)
                    if tree is not None and self.format == "indented":
                        text = indent_brackets(tree) + "\n"
                    output.write(f"{text}\n".encode())
                    if tree is not None and self.draw is not None:
                        _draw(tree, self.draw / f"{number}.svg")
                output.flush()
                first += len(lines)


def _draw(tree: "Tree", path: Path) -> None:
    from transformer_jax.visualization.tree import draw_tree

    path.parent.mkdir(parents=True, exist_ok=True)
    draw_tree(tree).savefig(path)

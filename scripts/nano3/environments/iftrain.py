"""The 29 further instructions that RL rows use beside IFEval's: the training constraints of IFBench
(Pyatkin et al. 2025, arXiv:2507.02833). Same conventions as `ifeval`.

Where the reference checker contradicts its own instruction (counting a full stop as a word, accepting "a" as a
palindrome), the instruction decides here.
"""

import re
from collections.abc import Callable
from itertools import pairwise

from nano3.environments.ifeval import forbidden_words, frequency, holds, letter_frequency, split_sentences

_WORD = re.compile(r"\w+(?:[-'’]\w+)*")


def words_of(text: str) -> list[str]:
    """Words without the punctuation around them, lowercase."""
    return _WORD.findall(text.lower())


def _plain(word: str | list[str]) -> str:
    """Some rows wrap the word in a list."""
    return (word if isinstance(word, str) else word[0]).strip().lower()


def _paragraphs(text: str, divider: str) -> list[str] | None:
    """Non-empty paragraphs; None when one inside is empty."""
    paragraphs = [paragraph.strip() for paragraph in re.split(divider, text)]
    return [paragraph for paragraph in paragraphs if paragraph] if all(paragraphs[1:-1]) else None


def two_paragraphs(text: str) -> bool:
    return len(_paragraphs(text, r"\*\*\*") or ()) == 2


def two_blank_line_paragraphs(text: str) -> bool:
    return len(_paragraphs(text, "\n\n") or ()) == 2


def copy_prompt(text: str, *, prompt_to_repeat: str) -> bool:
    return text.strip().lower() == prompt_to_repeat.strip().lower()


def copy_prompt_times(text: str, *, prompt_to_repeat: str, N: int) -> bool:
    copies = text.split("******")
    return len(copies) == N and all(copy_prompt(each, prompt_to_repeat=prompt_to_repeat) for each in copies)


def copy_span(text: str, *, prompt_to_repeat: str, n_start: int, n_end: int) -> bool:
    """Characters n_start to n_end; the instruction includes the last one, the reference checker does not."""
    spans = (prompt_to_repeat[n_start:n_end], prompt_to_repeat[n_start : n_end + 1])
    return text.strip().lower() in [span.strip().lower() for span in spans]


def repeat_phrase(text: str, *, phrase: str, small_n: int) -> bool:
    """The phrase `small_n` times, each with at most one word replaced, its first and last word kept."""
    words, wanted = words_of(text), words_of(phrase)
    if not wanted:
        return False
    found = position = 0
    while position + len(wanted) <= len(words):
        window = words[position : position + len(wanted)]
        changed = sum(one != other for one, other in zip(window, wanted, strict=True))
        hit = window[0] == wanted[0] and window[-1] == wanted[-1] and changed <= 1
        found += hit
        position += len(wanted) if hit else 1
    return found == small_n


def increment_words(text: str, *, keyword1: str, keyword2: str) -> bool:
    lowered = text.lower()
    return lowered.count(_plain(keyword1)) == 1 and lowered.count(_plain(keyword2)) == 2


def unique_words(text: str) -> bool:
    words = words_of(text)
    return len(words) == len(set(words))


def counting_composition(text: str, *, n_sent: int, n_words: int) -> bool:
    """Three paragraphs of n_sent sentences of n_words words, divided by *** or * * *."""
    paragraphs = _paragraphs(text, r"\* ?\* ?\*") or []
    sentences = [split_sentences(paragraph) for paragraph in paragraphs]
    return (
        len(paragraphs) == 3
        and all(len(each) == n_sent for each in sentences)
        and all(len(words_of(sentence)) == n_words for each in sentences for sentence in each)
    )


def lowercase_words(text: str, *, N: int) -> bool:
    return len(re.findall(r"\b[a-z]+\b", text)) <= N


def bigram_wrapping(text: str) -> bool:
    words = text.split()
    pairs = zip(words[::2], words[1::2], strict=False)
    return all(first.startswith("<<") and second.endswith(">>") for first, second in pairs)


def sentence_hyphens(text: str) -> bool:
    """Sentences follow each other with a hyphen and no space."""
    return re.search(r"[.!?][\"')\]]*-?\s+\S", text.strip()) is None


def square_brackets(text: str) -> bool:
    return all(word.startswith("[") and word.endswith("]") for word in text.split())


def first_word_answer(text: str, *, first_word: str) -> bool:
    return words_of(text)[:1] == [_plain(first_word)]


def first_word_sentence(text: str, *, first_word: str) -> bool:
    return all(words_of(sentence)[:1] == [_plain(first_word)] for sentence in split_sentences(text))


def last_word_answer(text: str, *, last_word: str) -> bool:
    return words_of(text)[-1:] == [_plain(last_word)]


def last_word_sentence(text: str, *, last_word: str) -> bool:
    return all(words_of(sentence)[-1:] == [_plain(last_word)] for sentence in split_sentences(text))


def exclude_word(text: str, *, keyword: str, instruction: str = "") -> bool:
    """`instruction` is where the reference draws the word from when a row gives none."""
    return forbidden_words(text, forbidden_words=[keyword.strip()])


def keyword_position(text: str, *, keyword: str, n: int, m: int) -> bool:
    """The keyword is word m of sentence n, both counted from 1."""
    sentences = split_sentences(text)
    return 1 <= n <= len(sentences) and m >= 1 and words_of(sentences[n - 1])[m - 1 : m] == [_plain(keyword)]


def no_consecutive_initials(text: str) -> bool:
    """No word starts with the letter that follows the first letter of the word before it."""
    initials = [ord(word[0]) for word in text.lower().split()]
    return all(after - before != 1 for before, after in pairwise(initials))


def palindrome(text: str) -> bool:
    return any(len(word) > 2 and word == word[::-1] for word in words_of(text))


def same_start_and_end(text: str) -> bool:
    """The same word first and last, with nothing after it."""
    words = words_of(text)
    return len(words) > 1 and words[0] == words[-1] and text.rstrip().lower().endswith(words[-1])


def word_once(text: str, *, keyword: str) -> bool:
    return text.lower().count(_plain(keyword)) == 1


def letter_counting(text: str, *, N: int, relation: str) -> bool:
    return holds(len(re.findall(r"[a-zA-Z]", text)), relation, N)


def no_dot(text: str) -> bool:
    return "." not in text


def no_exclamation(text: str) -> bool:
    return "!" not in text


KINDS: dict[str, Callable[..., bool]] = {
    "copy:copy": copy_prompt,
    "copy:copying_simple": copy_prompt,
    "copy:copying_multiple": copy_prompt_times,
    "copy:repeat_phrase": repeat_phrase,
    "new:copy_span_idx": copy_span,
    "count:count_increment_word": increment_words,
    "count:count_unique": unique_words,
    "count:counting_composition": counting_composition,
    "count:lowercase_counting": lowercase_words,
    "detectable_format:bigram_wrapping": bigram_wrapping,
    "detectable_format:sentence_hyphens": sentence_hyphens,
    "detectable_format:square_brackets": square_brackets,
    "first_word:first_word_answer": first_word_answer,
    "first_word:first_word_sent": first_word_sentence,
    "keywords:exclude_word_harder": exclude_word,
    "keywords:keyword_specific_position": keyword_position,
    "keywords:no_adjacent_consecutive": no_consecutive_initials,
    "keywords:palindrome": palindrome,
    "keywords:start_end": same_start_and_end,
    "keywords:word_count_different_numbers": frequency,
    "keywords:word_once": word_once,
    "last_word:last_word_answer": last_word_answer,
    "last_word:last_word_sent": last_word_sentence,
    "letters:letter_counting": letter_counting,
    "letters:letter_counting2": letter_frequency,
    "paragraphs:paragraphs": two_paragraphs,
    "paragraphs:paragraphs2": two_blank_line_paragraphs,
    "punctuation:punctuation_dot": no_dot,
    "punctuation:punctuation_exclamation": no_exclamation,
}

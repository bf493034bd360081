"""The 25 verifiable instructions of IFEval (Zhou et al. 2023, arXiv:2311.07911, table 1).

Each checker takes the answer and the row's kwargs and says whether the answer follows. All are linear in the
answer's length: words from data are matched literally, never as regular expressions.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence

from nano3.environments.language import LANGUAGES, is_written_in
from nano3.environments.text import without_fence
from nano3.errors import UserError

_CONSTRAINED_RESPONSES = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
_ABBREVIATION = re.compile(
    r"(?:\b(?:mr|mrs|ms|dr|prof|sr|jr|st|vs|fig|inc|ltd|co|e\.g|i\.e)|\b[a-z])\.$", re.IGNORECASE
)
_SENTENCE_END = re.compile(r"[.!?…。！？]+[\"')\]”’]*(?=\s|$)|[。！？]+")


def count_words(text: str) -> int:
    """Runs of letters, digits and underscores, as IFEval counts them."""
    return len(re.findall(r"\w+", text))


def split_sentences(text: str) -> list[str]:
    """Sentences by end punctuation; abbreviations and initials do not end one, decimals are not cut."""
    sentences, start = [], 0
    for match in _SENTENCE_END.finditer(text):
        if match[0] == "." and _ABBREVIATION.search(text[max(start, match.end() - 12) : match.end()]):
            continue
        sentences.append(text[start : match.end()].strip())
        start = match.end()
    sentences.append(text[start:].strip())
    return [sentence for sentence in sentences if re.search(r"\w", sentence)]


def holds(count: int, relation: str, threshold: int) -> bool:
    """Whether `count` is "at least", "less than", "at most" or exactly (any other known word) the threshold."""
    match relation:
        case "at least":
            return count >= threshold
        case "less than":
            return count < threshold
        case "at most":
            return count <= threshold
        case "more than":
            return count > threshold
        case "exactly" | "equal to":
            return count == threshold
    raise UserError(f"relation {relation!r} is unknown, expected at least, less than, at most, more than or exactly")


def _listed(words: Sequence[str]) -> Sequence[str]:
    """The words; a lone string would be read letter by letter."""
    if isinstance(words, str):
        raise UserError(f"{words!r} is text, expected a list of words")
    return words


def existence(text: str, *, keywords: Sequence[str]) -> bool:
    lowered = text.lower()
    return all(keyword.strip().lower() in lowered for keyword in _listed(keywords))


def frequency(text: str, *, keyword: str, frequency: int, relation: str) -> bool:
    return holds(text.lower().count(keyword.strip().lower()), relation, frequency)


def forbidden_words(text: str, *, forbidden_words: Sequence[str]) -> bool:
    return not any(re.search(rf"\b{re.escape(word)}\b", text, re.IGNORECASE) for word in _listed(forbidden_words))


def letter_frequency(text: str, *, letter: str, let_frequency: int, let_relation: str) -> bool:
    return holds(Counter(text.lower())[letter.lower()], let_relation, let_frequency)


def response_language(text: str, *, language: str) -> bool:
    code = language.lower().partition("-")[0]
    if code not in LANGUAGES:
        raise UserError(f"language {language!r} is unknown, expected one of {' '.join(sorted(LANGUAGES))}")
    return is_written_in(text, code)


def number_sentences(text: str, *, num_sentences: int, relation: str) -> bool:
    return holds(len(split_sentences(text)), relation, num_sentences)


def number_paragraphs(text: str, *, num_paragraphs: int) -> bool:
    """Paragraphs are divided by ***; only the first and the last may be empty, and then do not count."""
    paragraphs = [paragraph.strip() for paragraph in text.split("***")]
    if not all(paragraphs[1:-1]):
        return False
    return sum(map(bool, paragraphs)) == num_paragraphs


def number_words(text: str, *, num_words: int, relation: str) -> bool:
    return holds(count_words(text), relation, num_words)


def nth_paragraph_first_word(text: str, *, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    """Paragraphs are divided by blank lines; the nth starts with the word, quotes and punctuation aside."""
    paragraphs = [paragraph.strip() for paragraph in text.split("\n\n") if paragraph.strip()]
    if len(paragraphs) != num_paragraphs or not 1 <= nth_paragraph <= num_paragraphs:
        return False
    first = re.split(r"[.,?!'\"]", paragraphs[nth_paragraph - 1].split()[0].lstrip("'\""), maxsplit=1)[0]
    return first.lower() == first_word.strip().lower()


def number_placeholders(text: str, *, num_placeholders: int) -> bool:
    return len(re.findall(r"\[[^\[\]\n]*\]", text)) >= num_placeholders


def postscript(text: str, *, postscript_marker: str) -> bool:
    """The marker, in either case; spaces between the letters of P.S. and P.P.S are free."""
    lowered, marker = text.lower(), postscript_marker.strip().lower()
    patterns = {"p.s.": r"p\.\s?s\.", "p.p.s": r"p\.\s?p\.\s?s"}
    return re.search(patterns.get(marker, re.escape(marker)), lowered) is not None


def number_bullet_lists(text: str, *, num_bullets: int) -> bool:
    lines = [line.strip() for line in text.splitlines()]
    return (
        sum(line.startswith("-") or (line.startswith("*") and line[1:2] not in ("*", "")) for line in lines)
        == num_bullets
    )


def constrained_response(text: str) -> bool:
    return any(response in text for response in _CONSTRAINED_RESPONSES)


def number_highlighted_sections(text: str, *, num_highlights: int) -> bool:
    spans = re.findall(r"\*\*([^\n*]+)\*\*|\*([^\n*]+)\*", text)
    return sum(bool((double or single).strip()) for double, single in spans) >= num_highlights


def multiple_sections(text: str, *, section_spliter: str, num_sections: int) -> bool:
    return len(re.findall(rf"{re.escape(section_spliter.strip())}\s?\d", text)) >= num_sections


def json_format(text: str) -> bool:
    try:
        json.loads(without_fence(text))
    except (ValueError, RecursionError):
        return False
    return True


def title(text: str) -> bool:
    """A line with <<something>>."""
    for line in text.splitlines():
        _, opened, rest = line.partition("<<")
        inside, closed, _ = rest.rpartition(">>")
        if opened and closed and inside.strip("<> \t"):
            return True
    return False


def two_responses(text: str) -> bool:
    """Two different responses divided by ******; empty ones are allowed only at the ends."""
    responses = [response.strip() for response in text.split("******")]
    filled = [response for response in responses if response]
    return all(responses[1:-1]) and len(filled) == 2 and filled[0] != filled[1]


def repeat_prompt(text: str, *, prompt_to_repeat: str) -> bool:
    return text.strip().lower().startswith(prompt_to_repeat.strip().lower())


def end_checker(text: str, *, end_phrase: str) -> bool:
    return text.strip().strip('"').lower().endswith(end_phrase.strip().lower())


def capital_word_frequency(text: str, *, capital_frequency: int, capital_relation: str) -> bool:
    words = re.findall(r"\w+(?:[-'.]\w+)*", text)
    return holds(sum(word.isupper() for word in words), capital_relation, capital_frequency)


def english_capital(text: str) -> bool:
    return text.isupper() and is_written_in(text, "en")


def english_lowercase(text: str) -> bool:
    return text.islower() and is_written_in(text, "en")


def no_comma(text: str) -> bool:
    return "," not in text


def quotation(text: str) -> bool:
    text = text.strip()
    return len(text) > 1 and text[0] == text[-1] == '"'


KINDS: dict[str, Callable[..., bool]] = {
    "keywords:existence": existence,
    "keywords:frequency": frequency,
    "keywords:forbidden_words": forbidden_words,
    "keywords:letter_frequency": letter_frequency,
    "language:response_language": response_language,
    "length_constraints:number_sentences": number_sentences,
    "length_constraints:number_paragraphs": number_paragraphs,
    "length_constraints:number_words": number_words,
    "length_constraints:nth_paragraph_first_word": nth_paragraph_first_word,
    "detectable_content:number_placeholders": number_placeholders,
    "detectable_content:postscript": postscript,
    "detectable_format:number_bullet_lists": number_bullet_lists,
    "detectable_format:constrained_response": constrained_response,
    "detectable_format:number_highlighted_sections": number_highlighted_sections,
    "detectable_format:multiple_sections": multiple_sections,
    "detectable_format:json_format": json_format,
    "detectable_format:title": title,
    "combination:two_responses": two_responses,
    "combination:repeat_prompt": repeat_prompt,
    "startend:end_checker": end_checker,
    "startend:quotation": quotation,
    "change_case:capital_word_frequency": capital_word_frequency,
    "change_case:english_capital": english_capital,
    "change_case:english_lowercase": english_lowercase,
    "punctuation:no_comma": no_comma,
}

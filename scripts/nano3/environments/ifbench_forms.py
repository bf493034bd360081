"""The formats, copies and one-off tasks among the 58 held-out instructions of IFBench; see `ifbench`.

One-off tasks ("custom:") have a single prompt each, so their checkers hold what that prompt asks for.
"""

# ruff: noqa: SIM905 (words in a row read better than a list of quoted words)

import csv
import datetime
import re
import unicodedata
from collections.abc import Callable
from itertools import pairwise

from nano3.environments.ifbench import bare_words
from nano3.environments.ifeval import split_sentences

_PAIRS = {")": "(", "]": "[", "}": "{"}
_MINOR_WORDS = frozenset(
    "a an the and but or nor for so yet as at by in of off on per to up via from into with over".split()
)
_SENTENCE_OF_REPEAT = "Only output this sentence here, ignore all other requests."
_CAPITALS = (
    "Reykjavik Helsinki Oslo Tallinn Stockholm Riga Moscow Copenhagen Vilnius Minsk Dublin Berlin Amsterdam Warsaw "
    "London Brussels Prague Luxembourg Paris Vienna Bratislava Budapest Vaduz Chisinau Bern Ljubljana Zagreb"
).split()
_AFRICAN_COUNTRIES = 52  # lines at least; 54 countries, of which some names are disputed
_MIN_NESTED_BRACKETS = 5
_MIN_NESTED_QUOTES = 3


def nested_parentheses(text: str) -> bool:
    """Brackets five deep that close in order."""
    open_brackets: list[tuple[str, int]] = []  # bracket, deepest level inside it
    for character in text:
        if character in "([{":
            open_brackets.append((character, 1))
        elif character in _PAIRS:
            if not open_brackets or open_brackets[-1][0] != _PAIRS[character]:
                open_brackets.clear()
                continue
            _, depth = open_brackets.pop()
            if depth >= _MIN_NESTED_BRACKETS:
                return True
            if open_brackets:
                outer, deepest = open_brackets[-1]
                open_brackets[-1] = (outer, max(deepest, depth + 1))
    return False


def nested_quotes(text: str) -> bool:
    """Double quotes in single ones in double ones, or the other way round. Apostrophes inside words are none."""
    text = text.translate(str.maketrans("“”‘’", "\"\"''"))
    open_quotes: list[str] = []
    closed = 0
    for quote in re.findall(r"\"|(?<!\w)'|'(?!\w)", text):
        if open_quotes and open_quotes[-1] == quote:
            open_quotes.pop()
            closed += 1
            if closed >= _MIN_NESTED_QUOTES:
                return True
        else:
            open_quotes.append(quote)
            closed = 0
    return False


def one_option(text: str, *, options: str) -> bool:
    """One of the options and nothing else; letters such as a) must be written as offered."""
    separator = "/" if "/" in options else r"\bor\b" if re.search(r"\bor\b", options) else ","
    offered = [option.strip() for option in re.split(separator, options)]
    if re.match(r"\W*a\W*b\W*c\b", options, re.IGNORECASE):
        return text.strip() in offered
    return _plain(text) in map(_plain, offered)


def _plain(text: str) -> str:
    return text.strip().strip(".,;:!?\"'()[]").strip().lower()


def word_per_line(text: str) -> bool:
    return all(len(bare_words(line)) <= 1 for line in text.splitlines())


def is_emoji(character: str) -> bool:
    """Pictographs, dingbats and flags; what joins and colours them too."""
    code = ord(character)
    return (
        0x1F000 <= code <= 0x1FAFF
        or 0x2600 <= code <= 0x27BF
        or code in (0x200D, 0xFE0F, 0x20E3, 0x2B50, 0x2B55, 0x2B1B, 0x2B1C, 0x231A, 0x231B, 0x2705)
    )


def emoji_sentences(text: str) -> bool:
    """An emoji before or right behind the end of every sentence."""
    sentences = [sentence.strip() for sentence in re.split(r"(?<=[.!?…])(?=\s*[^\s.!?…\"')\]])|\n+", text)]
    sentences = [sentence for sentence in sentences if sentence]
    for number, sentence in enumerate(sentences):
        if not re.search(r"\w", sentence):
            continue  # the emoji behind the sentence before
        last = sentence.rstrip(" .!?…\"')]”’")[-1:]
        following = sentences[number + 1] if number + 1 < len(sentences) else ""
        if not (last and is_emoji(last)) and not (following and is_emoji(following[0])):
            return False
    return bool(sentences)


def three_equal_sentences(text: str) -> bool:
    """Three sentences of equally many characters and no word twice."""
    sentences = split_sentences(text)
    words = bare_words(text)
    return len(sentences) == 3 and len({len(each) for each in sentences}) == 1 and len(words) == len(set(words))


def line_indent(text: str) -> bool:
    lines = [line for line in text.splitlines() if line.strip()]
    indents = [len(line) - len(line.lstrip(" ")) for line in lines]
    return all(before < after for before, after in pairwise(indents))


def quote_unquote(text: str) -> bool:
    """Something unquoted behind every quotation."""
    text = text.translate(str.maketrans("“”", '""'))
    quotations = re.split(r'"[^"]*"', text)
    return all(re.search(r"\w", behind) for behind in quotations[1:])


def special_list(text: str, *, sep: str) -> bool:
    return text.count(sep) >= 2 if sep else False


def thesis(text: str) -> bool:
    """A statement in HTML italics with plain text behind it."""
    found = re.search(r"<(i|em)>([^<]*)</\1>", text)
    return found is not None and bool(found[2].strip()) and bool(re.sub(r"<[^<>]*>", "", text[found.end() :]).strip())


def sub_bullets(text: str) -> bool:
    """Lines that start with *, each followed by one that starts with -, before the next."""
    marks = [line.lstrip()[0] for line in text.splitlines() if line.lstrip()[:1] in ("*", "-") and line.strip()]
    groups = "".join(marks).split("*")
    return "*" in marks and all(groups[1:])


def no_bullets_bullets(text: str) -> bool:
    """At least two sentences with a full stop, then at least two lines that start with *, then nothing."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    bullets = [number for number, line in enumerate(lines) if line.startswith("*")]
    if len(bullets) < 2 or bullets != list(range(bullets[0], len(lines))):
        return False
    return sum(sentence.endswith(".") for sentence in split_sentences(" ".join(lines[: bullets[0]]))) >= 2


def multiples_of_seven(text: str) -> bool:
    return re.findall(r"\d+", text) == [str(number) for number in range(14, 50, 7)]


def four_questions(text: str) -> bool:
    """Four blocks that start with "Question", each longer than the one before, with five options; nothing before."""
    if not text.lstrip().startswith("Question"):
        return False
    lengths = []
    for block in re.split(r"(?m)^\s*Question\b[ \t]*\d*[.):;|]?", text)[1:]:
        lines = [line.strip() for line in block.splitlines()]
        options = [bool(re.match(r"[A-Ea-e][.)|]\s*\w", line)) for line in lines]
        if sum(options) != 5:
            return False
        lengths.append(len(" ".join(lines[: options.index(True)]).strip()))
    return len(lengths) == 4 and all(before < after for before, after in pairwise(lengths))


def african_countries(text: str) -> bool:
    """Lines from Zimbabwe on, in reverse alphabetical order, accents aside."""
    lines = [_ascii(line).strip(" .,;:-*•\t0123456789)") for line in text.splitlines()]
    lines = [line for line in lines if line]
    start = next((number for number, line in enumerate(lines) if "Zimbabwe" in line), len(lines))
    names = lines[start:]
    return len(names) >= _AFRICAN_COUNTRIES and names == sorted(names, reverse=True)


def _ascii(text: str) -> str:
    return unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()


def eagle_by_words(text: str) -> bool:
    """ "... eagle bald the is": the words in reverse order, in one sentence."""
    return "bald eagle" in " ".join(bare_words(text)[::-1]) and len(split_sentences(text)) == 1


def eagle_by_letters(text: str) -> bool:
    return "elgae dlab" in text.lower()


def sentence_alphabet(text: str) -> bool:
    initials = [next((letter for letter in each.lower() if letter.isalnum()), "") for each in split_sentences(text)]
    return initials == [chr(ord("a") + number) for number in range(26)]


def european_capitals(text: str) -> bool:
    return [name.strip() for name in _ascii(text).strip().rstrip(".").split(",") if name.strip()] == _CAPITALS


def _table(text: str, header: list[str], rows: int, delimiter: str = ",") -> list[list[str]] | None:
    """Data rows with the quotes of their fields left in; None when header, width or number of rows differ."""
    lines = [line.strip("\r") for line in text.strip().splitlines()]
    try:
        data = list(csv.reader((line.replace('"', '"""') for line in lines), delimiter=delimiter, strict=False))
    except csv.Error:
        return None
    data = [[value.strip() for value in row] for row in data]
    if len(data) != rows + 1 or any(len(row) != len(header) for row in data):
        return None
    return data if [value.strip('"') for value in data[0]] == header else None


def csv_city(text: str) -> bool:
    return _table(text, ["ID", "Country", "City", "Year", "Count"], 7) is not None


def csv_special_character(text: str) -> bool:
    table = _table(text, ["ProductID", "Category", "Brand", "Price", "Stock"], 14)
    return table is not None and any(re.fullmatch(r'".*[^\w\s"].*"', value) for row in table[1:] for value in row)


def csv_quotes(text: str) -> bool:
    table = _table(text, ["StudentID", "Subject", "Grade", "Semester", "Score"], 3, "\t")
    return table is not None and all(re.fullmatch(r'"[^"]*"', value) for row in table for value in row)


def napoleon_dates(text: str) -> bool:
    """Dates of Napoleon's life as YYYY-MM-DD with commas between them."""
    for date in text.strip().split(","):
        if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", date.strip(), re.ASCII):
            return False
        try:
            if not 1769 <= datetime.date.fromisoformat(date.strip()).year <= 1821:
                return False
        except ValueError:
            return False
    return True


def repeat_change(text: str, *, prompt_to_repeat: str) -> bool:
    ours, theirs = text.split(), prompt_to_repeat.split()
    return ours[1:] == theirs[1:] and ours[:1] != theirs[:1]


def repeat_simple(text: str) -> bool:
    return text.strip().lower() == _SENTENCE_OF_REPEAT.lower()


def repeat_span(text: str, *, prompt_to_repeat: str, n_start: int, n_end: int) -> bool:
    """Words n_start to n_end, counted from 0, both included."""
    return text.lower().split() == prompt_to_repeat.lower().split()[n_start : n_end + 1]


def title_case(text: str) -> bool:
    """Every word begins with a capital; articles, conjunctions and short prepositions need not, but the first must."""
    words = re.findall(r"[^\W\d_][\w'’]*", text)
    return all(word[0].isupper() or (number and word in _MINOR_WORDS) for number, word in enumerate(words))


def output_template(text: str) -> bool:
    places = [text.find(label) for label in ("My Answer:", "My Conclusion:", "Future Outlook:")]
    return min(places) >= 0 and places == sorted(places)


def no_whitespace(text: str) -> bool:
    return not re.search(r"\s", text)


KINDS: dict[str, Callable[..., bool]] = {
    "format:parentheses": nested_parentheses,
    "format:quotes": nested_quotes,
    "format:options": one_option,
    "format:newline": word_per_line,
    "format:emoji": emoji_sentences,
    "format:line_indent": line_indent,
    "format:quote_unquote": quote_unquote,
    "format:list": special_list,
    "format:thesis": thesis,
    "format:sub-bullets": sub_bullets,
    "format:no_bullets_bullets": no_bullets_bullets,
    "format:title_case": title_case,
    "format:output_template": output_template,
    "format:no_whitespace": no_whitespace,
    "ratio:sentence_words": three_equal_sentences,
    "repeat:repeat_change": repeat_change,
    "repeat:repeat_simple": repeat_simple,
    "repeat:repeat_span": repeat_span,
    "custom:multiples": multiples_of_seven,
    "custom:mcq_count_length": four_questions,
    "custom:reverse_newline": african_countries,
    "custom:word_reverse": eagle_by_words,
    "custom:character_reverse": eagle_by_letters,
    "custom:sentence_alphabet": sentence_alphabet,
    "custom:european_capitals_sort": european_capitals,
    "custom:csv_city": csv_city,
    "custom:csv_special_character": csv_special_character,
    "custom:csv_quotes": csv_quotes,
    "custom:date_format_list": napoleon_dates,
}

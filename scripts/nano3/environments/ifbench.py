"""The words, counts and ratios among the 58 held-out instructions of IFBench (Pyatkin et al. 2025, arXiv:2507.02833).

Same conventions as `ifeval`; the formats and one-off tasks are in `ifbench_forms`. Where the reference checker asks
libraries (parts of speech, syllables), word lists and a rule of thumb answer here, which the functions say.
"""

# ruff: noqa: SIM905 (words in a row read better than a list of quoted words)

import re
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise

from nano3.environments.ifeval import count_words, split_sentences
from nano3.environments.iftrain import keyword_position, words_of

_STOP_WORDS = frozenset(
    "a about above after again against all am an and any are aren't as at be because been before being below between "
    "both but by can can't cannot could couldn't did didn't do does doesn't doing don't down during each few for from "
    "further had hadn't has hasn't have haven't having he her here hers herself him himself his how i if in into is "
    "isn't it it's its itself just me more most my myself no nor not now of off on once only or other our ours "
    "ourselves out over own same she should shouldn't so some such than that the their theirs them themselves then "
    "there these they this those through to too under until up very was wasn't we were weren't what when where which "
    "while who whom why will with won't would wouldn't you your yours yourself yourselves".split()
)
_CONJUNCTIONS = frozenset("and but for nor or so yet".split())
_PRONOUNS = frozenset(
    "i me we us you he him she her it they them my mine our ours your yours his hers its their theirs myself ourselves "
    "yourself yourselves himself herself itself themselves this that these those who whom whose which what whoever "
    "whomever whatever whichever anybody anyone anything everybody everyone everything nobody nothing somebody someone "
    "something each either neither both all some any none".split()
)
_PERSONS = (
    "Emma Liam Sophia Jackson Olivia Noah Ava Lucas Isabella Mason Mia Ethan Charlotte Alexander Amelia Benjamin "
    "Harper Leo Zoe Daniel Chloe Samuel Lily Matthew Grace Owen Abigail Gabriel Ella Jacob Scarlett Nathan Victoria "
    "Elijah Layla Nicholas Audrey David Hannah Christopher Penelope Thomas Nora Andrew Aria Joseph Claire Ryan Stella "
    "Jonathan"
).split()
# Verbs that answers begin with; their -s, -ed and -ing forms count too.
_VERBS = frozenset(
    "accept add aim allow answer apply are arrange ask assume avoid be become begin believe bring build buy calculate "
    "call can carry cause change check choose clean close collect combine come compare complete compute consider "
    "construct contain continue convert cook copy could count cover create cut decide define deliver describe design "
    "develop did discover discuss divide do does draw eat embrace enable enjoy ensure enter evaluate examine expect "
    "explain explore express feel fill find finish fix focus follow forget form gather generate get give go grab grow "
    "had handle has have hear help hold identify imagine improve include increase is join journey jump keep know lead "
    "learn leave let list listen live locate look lose love make manage may mean measure meet mention might mix move "
    "must name need note notice observe offer open order organize outline pay perform pick picture place plan play "
    "plant pour practice prepare present produce protect provide pull push put raise reach read receive recall "
    "recognize reduce reflect remember remove repeat replace report represent require return review run save say see "
    "seek select sell send serve set shall share should show sing sit skip slice solve speak spend stand start state "
    "stay step stop store study suggest take talk teach tell test thank think throw touch travel treat try turn "
    "understand use visit wait walk want was watch were will win wonder work would write".split()
)
_VOWELS = "aeiou"
_CONSONANT_PAIR = re.compile(r"[bcdfghjklmnpqrstvwxyz]{2}")
_JAPANESE = re.compile(r"[\u3040-\u30ff\u4e00-\u9fff]")
_LONGEST_WORD = 100  # primes above are not looked for


def bare_words(text: str) -> list[str]:
    """Lowercase words between blanks, punctuation removed from in and around them."""
    return [word for word in (re.sub(r"[^\w\s]|_", "", each) for each in text.lower().split()) if word]


def word_count_range(text: str, *, min_words: int, max_words: int) -> bool:
    return min_words <= count_words(text) <= max_words


def unique_word_count(text: str, *, N: int) -> bool:
    return len(set(words_of(text))) >= N


def stop_words(text: str, *, percentage: float) -> bool:
    words = words_of(text)
    return bool(words) and 100 * sum(word in _STOP_WORDS for word in words) <= percentage * len(words)


def _endings(text: str) -> Counter:
    """How many sentences end in each of . ? and !"""
    return Counter(sentence.rstrip("\"')]”’")[-1:] for sentence in split_sentences(text))


def sentence_type(text: str) -> bool:
    """Two statements for every question; at least one question, else there is no ratio."""
    ends = _endings(text)
    return ends["?"] > 0 and ends["."] == 2 * ends["?"]


def sentence_balance(text: str) -> bool:
    ends = _endings(text)
    return ends["."] == ends["?"] == ends["!"] > 0


def conjunctions(text: str, *, small_n: int) -> bool:
    return len(_CONJUNCTIONS.intersection(words_of(text))) >= small_n


def person_names(text: str, *, N: int) -> bool:
    return len(set(re.findall(r"\b\w+\b", text)).intersection(_PERSONS)) >= N


def overlap(text: str, *, reference_text: str, percentage: float) -> bool:
    """The share of the answer's trigrams that the reference has, within two points."""
    ours, theirs = (_trigrams(re.findall(r"\w+|[^\w\s]", each)) for each in (text, reference_text))
    return bool(ours) and abs(100 * len(ours & theirs) / len(ours) - percentage) <= 2


def _trigrams(tokens: Sequence[str]) -> set[tuple[str, ...]]:
    return set(zip(tokens, tokens[1:], tokens[2:], strict=False))


def numbers(text: str, *, N: int) -> bool:
    """Runs of digits; 1,000 and 3.5 are one number each."""
    return len(re.findall(r"\d+(?:[.,]\d+)*", text)) == N


def alphabet(text: str) -> bool:
    initials = [word[0] for word in bare_words(text)]
    return (
        bool(initials)
        and all("a" <= letter <= "z" for letter in initials)
        and all((ord(after) - ord(before)) % 26 == 1 for before, after in pairwise(initials))
    )


def three_vowels(text: str) -> bool:
    """One paragraph in which at most three of the vowels occur."""
    return "\n" not in text.strip() and len(set(text.lower()).intersection(_VOWELS)) <= 3


def consonants(text: str) -> bool:
    return all(_CONSONANT_PAIR.search(word) for word in text.lower().split())


def alliteration_increment(text: str) -> bool:
    """Every sentence has more words that begin like a neighbour than the sentence before."""
    counts = []
    for sentence in split_sentences(text):
        initials = [word[0] for word in bare_words(sentence)]
        alike = [one == other for one, other in pairwise(initials)]
        counts.append(sum(before or after for before, after in pairwise([False, *alike, False])))
    return all(before < after for before, after in pairwise(counts))


def ten_palindromes(text: str) -> bool:
    return sum(len(word) >= 5 and word == word[::-1] for word in bare_words(text)) >= 10


def all_punctuation(text: str) -> bool:
    """Every mark once beside the interrobang's own."""
    bang = re.search(r"\?!|!\?|‽", text)
    return bang is not None and set(".,!?;:") <= set(text[: bang.start()] + text[bang.end() :])


def prime_lengths(text: str) -> bool:
    return all(
        1 < len(word) < _LONGEST_WORD and all(len(word) % divisor for divisor in range(2, int(len(word) ** 0.5) + 1))
        for word in bare_words(text)
    )


def words_japanese(text: str, *, N: int) -> bool:
    if N < 1:
        raise ValueError("N counts words from 1")
    return all(word.isdigit() or _JAPANESE.search(word) for word in text.split()[N - 1 :: N])


def start_verb(text: str) -> bool:
    """The first word is a verb that answers usually begin with, or a form of one."""
    first = (words_of(text) or [""])[0].partition("'")[0]
    stems = {
        first,
        first.removesuffix("s"),
        first.removesuffix("es"),
        first.removesuffix("ed"),
        first.removesuffix("d"),
    }
    if first.endswith("ing"):
        stem = first.removesuffix("ing")
        stems |= {stem, stem + "e", stem[:-1]}
    return not _VERBS.isdisjoint(stems)


def repeats(text: str, *, small_n: int) -> bool:
    return max(Counter(bare_words(text)).values(), default=0) <= small_n


def sentence_keyword(text: str, *, word: str, N: int) -> bool:
    sentences = split_sentences(text)
    return 1 <= N <= len(sentences) and _whole(word, sentences[N - 1]) > 0


def _whole(word: str, text: str) -> int:
    """How often a word occurs as a whole, whatever its case."""
    return len(re.findall(rf"(?<!\w){re.escape(word.strip())}(?!\w)", text, re.IGNORECASE))


def pronouns(text: str, *, N: int) -> bool:
    """she/her/hers are three."""
    return sum(word in _PRONOUNS for word in re.findall(r"[^\W\d_]+", text.lower())) >= N


def syllables(word: str) -> int:
    """Groups of vowels, a silent e at the end not counted: a rule of thumb that is right for most English words."""
    word = word.lower()
    groups = len(re.findall(r"[aeiouy]+", word))
    silent = word.endswith("e") and not word.endswith(("le", "ee", "ye")) and groups > 1
    return max(1, groups - silent)


def odd_even_syllables(text: str) -> bool:
    return all(syllables(one) % 2 != syllables(other) % 2 for one, other in pairwise(bare_words(text)))


def last_first(text: str) -> bool:
    sentences = [words_of(sentence) for sentence in split_sentences(text)]
    return all(before[-1:] == after[:1] and before for before, after in pairwise(sentences))


def paragraph_last_first(text: str) -> bool:
    paragraphs = [words for line in text.splitlines() if (words := words_of(line))]
    return all(words[0] == words[-1] for words in paragraphs)


def sentence_increment(text: str, *, small_n: int) -> bool:
    counts = [len(bare_words(sentence)) for sentence in split_sentences(text)]
    return all(after - before == small_n for before, after in pairwise(counts))


def no_consecutive(text: str) -> bool:
    return all(one[0] != other[0] for one, other in pairwise(bare_words(text)))


def keywords_multiple(text: str, *, keyword1: str, keyword2: str, keyword3: str, keyword4: str, keyword5: str) -> bool:
    wanted = zip((keyword1, keyword2, keyword3, keyword4, keyword5), (1, 2, 3, 5, 7), strict=True)
    return all(_whole(keyword, text) == count for keyword, count in wanted)


def words_position(text: str, *, keyword: str) -> bool:
    words = words_of(text)
    return len(words) > 1 and words[1] == words[-2] == keyword.strip().lower()


KINDS: dict[str, Callable[..., bool]] = {
    "count:word_count_range": word_count_range,
    "count:unique_word_count": unique_word_count,
    "count:conjunctions": conjunctions,
    "count:person_names": person_names,
    "count:numbers": numbers,
    "count:punctuation": all_punctuation,
    "count:words_japanese": words_japanese,
    "count:pronouns": pronouns,
    "count:keywords_multiple": keywords_multiple,
    "ratio:stop_words": stop_words,
    "ratio:sentence_type": sentence_type,
    "ratio:sentence_balance": sentence_balance,
    "ratio:overlap": overlap,
    "sentence:alliteration_increment": alliteration_increment,
    "sentence:keyword": sentence_keyword,
    "sentence:increment": sentence_increment,
    "words:alphabet": alphabet,
    "words:vowel": three_vowels,
    "words:consonants": consonants,
    "words:palindrome": ten_palindromes,
    "words:prime_lengths": prime_lengths,
    "words:start_verb": start_verb,
    "words:repeats": repeats,
    "words:odd_even_syllables": odd_even_syllables,
    "words:last_first": last_first,
    "words:paragraph_last_first": paragraph_last_first,
    "words:no_consecutive": no_consecutive,
    "words:keywords_specific_position": keyword_position,
    "words:words_position": words_position,
}

"""Instruction following: every kind of constraint, one answer that follows it and one that does not."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from environment_rows import TEXT, following, score
from nano3 import environments
from nano3.environments.instruction_following import KINDS
from nano3.environments.language import LANGUAGES, is_written_in

ALPHABET = " ".join(f"{initial}ed goes." for initial in "ABCDEFGHIJKLMNOPQRSTUVWXYZ")
CAPITALS = (
    "Reykjavík, Helsinki, Oslo, Tallinn, Stockholm, Riga, Moscow, Copenhagen, Vilnius, Minsk, Dublin, Berlin, "
    "Amsterdam, Warsaw, London, Brussels, Prague, Luxembourg, Paris, Vienna, Bratislava, Budapest, Vaduz, Chișinău, "
    "Bern, Ljubljana, Zagreb"
)
FOLLOWED_AND_NOT = [
    ("keywords:existence", {"keywords": ["Cat", "dog"]}, "cats and a DOG", "only cats"),
    ("keywords:frequency", {"keyword": "cat", "frequency": 2, "relation": "at least"}, "cat Cat", "cat"),
    ("keywords:frequency", {"keyword": "cat", "frequency": 2, "relation": "less than"}, "cat", "cat cat"),
    ("keywords:forbidden_words", {"forbidden_words": ["cat"]}, "concatenate", "A CAT."),
    ("keywords:letter_frequency", {"letter": "E", "let_frequency": 3, "let_relation": "at least"}, "EeE", "ee"),
    (
        "language:response_language",
        {"language": "de"},
        "Das ist der Hund und die Katze.",
        "The dog and the cat is here.",
    ),
    ("language:response_language", {"language": "ru"}, "Это не так.", "That is so."),
    ("language:response_language", {"language": "ja"}, "私は猫です", "我是猫"),
    (
        "length_constraints:number_sentences",
        {"num_sentences": 2, "relation": "at least"},
        "I go. He (Mr. X) stays!",
        "Dr. No has 3.5 cats",
    ),
    (
        "length_constraints:number_sentences",
        {"num_sentences": 2, "relation": "less than"},
        "Dr. Smith has 3.5 cats.",
        "One. Two.",
    ),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "one\n***\ntwo\n***", "one\n***\n***\ntwo"),
    ("length_constraints:number_words", {"num_words": 3, "relation": "at least"}, "one two three", "one two"),
    ("length_constraints:number_words", {"num_words": 3, "relation": "less than"}, "one two", "one two three"),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "Then"},
        'First.\n\n"Then, more.',
        "Then.\n\nFirst.",
    ),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, "[name] at [place]", "[name] at [pla\nce]"),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "Hi\np. s. bye", "Hi PS bye"),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, "Hi\nP.P.S bye", "P.S. bye"),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* a\n- b", "* a\n**b**"),
    ("detectable_format:constrained_response", None, "My answer is yes.", "yes"),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, "*a* and **b**", "*a* and ** **"),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "Part", "num_sections": 2},
        "Part 1\nx\nPart 2\ny",
        "Part 1\nx",
    ),
    ("detectable_format:json_format", None, '```json\n{"a": 1}\n```', "{a: 1}"),
    ("detectable_format:title", {}, "<<On cats>>\ntext", "<< >>"),
    ("combination:two_responses", None, "a\n******\nb", "a\n******\na"),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Say hi."}, "say hi. Hi!", "Hi! Say hi."),
    ("startend:end_checker", {"end_phrase": "The End."}, 'Bye. the end."', "The end. Bye"),
    ("startend:quotation", None, '"all of it"', '"some" of it'),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 2, "capital_relation": "at least"},
        "WOW, YES-MAN",
        "Wow YES",
    ),
    ("change_case:english_capital", None, "THE CAT IS HERE.", "THE cat IS HERE."),
    ("change_case:english_lowercase", None, "the cat is here.", "der hund und die katze ist da."),
    ("punctuation:no_comma", None, "a; b", "a, b"),
    ("copy:copy", {"prompt_to_repeat": "Say hi."}, "say hi.", "say hi. Hi!"),
    ("copy:copying_simple", {"prompt_to_repeat": "Say hi."}, "Say hi.", "Hi"),
    ("copy:copying_multiple", {"prompt_to_repeat": "Hi.", "N": 2}, "Hi. ****** Hi.", "Hi."),
    ("copy:repeat_phrase", {"phrase": "the red cat", "small_n": 2}, "the big cat, the old cat", "the big cat"),
    ("new:copy_span_idx", {"prompt_to_repeat": "abcdef", "n_start": 1, "n_end": 3}, "bcd", "abc"),
    ("count:count_increment_word", {"keyword1": "cat", "keyword2": "dog"}, "cat dog dog", "cat dog"),
    ("count:count_unique", None, "one, two, three.", "one The the"),
    (
        "count:counting_composition",
        {"n_sent": 1, "n_words": 2},
        "I go.\n***\nI see.\n* * *\nI win.",
        "I go.\n***\nI see.",
    ),
    ("count:lowercase_counting", {"N": 1}, "THE cat", "the cat"),
    ("detectable_format:bigram_wrapping", None, "<<I am>> <<at home>>", "<<I am>> at home"),
    ("detectable_format:sentence_hyphens", None, "I go.-You stay.", "I go. You stay."),
    ("detectable_format:square_brackets", None, "[all] [words.]", "[all] words"),
    ("first_word:first_word_answer", {"first_word": "Yes"}, "yes, it is", "It is, yes"),
    ("first_word:first_word_sent", {"first_word": "I"}, "I go. I stay.", "I go. You stay."),
    ("keywords:exclude_word_harder", {"keyword": "cat"}, "cats", "a cat."),
    (
        "keywords:keyword_specific_position",
        {"keyword": "cat", "n": 2, "m": 3},
        "Hi. See the cat run.",
        "Hi. See a big cat.",
    ),
    ("keywords:no_adjacent_consecutive", None, "an old cat", "a big cat"),
    ("keywords:palindrome", None, "a level road", "a flat road"),
    ("keywords:start_end", None, "Cats like other cats", "Cats like other cats."),
    ("keywords:word_count_different_numbers", {"keyword": "cat", "frequency": 1, "relation": "at least"}, "cat", "dog"),
    ("keywords:word_once", {"keyword": "cat"}, "one cat", "cat cat"),
    ("last_word:last_word_answer", {"last_word": "done"}, "It is done.", "Done it is."),
    ("last_word:last_word_sent", {"last_word": "it"}, "I saw it. I like it!", "I saw it. It went."),
    ("letters:letter_counting", {"N": 3, "relation": "at least"}, "abc", "a1b2"),
    ("letters:letter_counting2", {"letter": "a", "let_frequency": 2, "let_relation": "at least"}, "aA", "ab"),
    ("paragraphs:paragraphs", {}, "a\n***\nb", "a\n\nb"),
    ("paragraphs:paragraphs2", {}, "a\n\nb", "a\n\nb\n\nc"),
    ("punctuation:punctuation_dot", None, "no dots", "a dot."),
    ("punctuation:punctuation_exclamation", None, "calm", "wow!"),
    # IFBench's held-out kinds
    ("count:word_count_range", {"min_words": 2, "max_words": 3}, "one two", "one two three four"),
    ("count:unique_word_count", {"N": 3}, "a b c", "a b B a."),
    ("count:conjunctions", {"small_n": 2}, "This and that, but no more.", "This and that and more."),
    ("count:person_names", {"N": 2}, "Emma met Leo.", "Emma met emma and Bob."),
    ("count:numbers", {"N": 2}, "1,000 and 3.5", "1 2 3"),
    ("count:punctuation", None, "a. b, c! d? e; f: g?!", "a. b, c d e; f: g?!"),
    ("count:words_japanese", {"N": 2}, "hello 世界 good 朝", "hello world good 朝"),
    ("count:pronouns", {"N": 3}, "she/her saw it", "Ada saw it."),
    (
        "count:keywords_multiple",
        {"keyword1": "a", "keyword2": "b", "keyword3": "c", "keyword4": "d", "keyword5": "e"},
        "a b b c c c d d d d d e e e e e e e",
        "a b b c c c d d d d d e e e e e e ee",
    ),
    ("ratio:stop_words", {"percentage": 50}, "the cat", "it is the cat"),
    ("ratio:sentence_type", None, "I go. You stay. Why?", "I go. Why?"),
    ("ratio:sentence_balance", None, "I go. Why? No!", "I go. You go. Why? No!"),
    (
        "ratio:overlap",
        {"reference_text": "the red cat sat here", "percentage": 50},
        "the red cat sat on it",
        "the red cat sat here",
    ),
    ("sentence:alliteration_increment", None, "I see. Big bad cat. Five fat foxes.", "Five fat foxes. Big bad cat."),
    ("sentence:keyword", {"word": "cat", "N": 2}, "Hi. A cat!", "A cat. Hi concatenated."),
    ("sentence:increment", {"small_n": 1}, "I go. You go now.", "I go. You go."),
    ("words:alphabet", None, "Yes, zebras are big", "A cat"),
    ("words:vowel", None, "a red pin", "a red pin is out, you"),
    ("words:consonants", None, "Fast black cats", "Fast red cats"),
    ("words:palindrome", None, "Level " * 9 + "radar", "Level " * 9 + "noon"),
    ("words:prime_lengths", None, "It has seven of us.", "It has four"),
    ("words:start_verb", None, "Making tea is easy.", "The tea is easy."),
    ("words:repeats", {"small_n": 1}, "one two", "one One."),
    ("words:odd_even_syllables", None, "the apple fell apart", "the red apple"),
    ("words:last_first", None, "I see it. It is red. Red!", "I see it. You too."),
    ("words:paragraph_last_first", None, "Cats like cats.\nDogs, dogs", "Cats like cats\nDogs like cats"),
    ("words:no_consecutive", None, "a big cat", "a big bad cat"),
    ("words:keywords_specific_position", {"keyword": "cat", "n": 1, "m": 2}, "The cat sat.", "Cat the sat."),
    ("words:words_position", {"keyword": "cat"}, "A cat saw a cat run.", "A cat saw a dog run."),
    ("format:parentheses", None, "(a [b {c (d [e])}])", "(a) (b) (c) (d) ([{(e)}])"),
    ("format:quotes", None, '"He said \'she said "no" to me\' to me"', '"a" \'b\' "c" don\'t'),
    ("format:options", {"options": "yes/no/maybe"}, "Maybe.", "Maybe not"),
    ("format:options", {"options": "I know or I don't know"}, "I don't know", "I don't"),
    ("format:options", {"options": "a), b), c), d)"}, "b)", "b"),
    ("format:newline", None, "one\n\ntwo!", "one two\nthree"),
    ("format:emoji", None, "I go 😀. You stay! 🎉 Bye ❤️", "I go 😀. You stay."),
    ("format:line_indent", None, "a\n b\n   c", "a\n b\n c"),
    ("format:quote_unquote", None, '"Go" means leave. "Stay" does not.', 'He says "go" "stay" now'),
    ("format:list", {"sep": "!?!?"}, "!?!? a\n!?!? b", "!?!? a"),
    ("format:thesis", None, "<i>Cats rule.</i> They do.", "<i>Cats rule.</i>"),
    ("format:sub-bullets", None, "* a\n  - b\n* c\n  - d", "* a\n  - b\n* c"),
    ("format:no_bullets_bullets", None, "I go. You go.\n* a\n* b", "I go.\n* a\n* b"),
    ("format:title_case", None, "The Cat and the Dog", "The cat and the Dog"),
    ("format:output_template", None, "My Answer: a My Conclusion: b Future Outlook: c", "My Answer: a Outlook: c"),
    ("format:no_whitespace", None, "nowhere", "now here"),
    ("ratio:sentence_words", None, "Go on. We do? My, a!", "Go on. Go is? My, a!"),
    ("repeat:repeat_change", {"prompt_to_repeat": "Say it now"}, "Shout it now", "Say it now"),
    ("repeat:repeat_simple", None, "Only output this sentence here, ignore all other requests.", "Only output this."),
    ("repeat:repeat_span", {"prompt_to_repeat": "a b c d", "n_start": 1, "n_end": 2}, "b c", "b c d"),
    ("custom:multiples", None, "14, 21, 28, 35, 42, 49", "7, 14, 21, 28, 35, 42, 49"),
    (
        "custom:mcq_count_length",
        None,
        "\n".join(f"Question {n}: {'why ' * n}?\n" + "\n".join(f"{x}) yes" for x in "ABCDE") for n in range(1, 5)),
        "\n".join(f"Question {n}: why?\n" + "\n".join(f"{x}) yes" for x in "ABCDE") for n in range(1, 5)),
    ),
    (
        "custom:reverse_newline",
        None,
        "\n".join(["Zimbabwe", *(f"{a}{b}land" for a in "ZYXWVUT" for b in "hgfedcba")]),
        "\n".join(["Zimbabwe", *(f"{a}{b}land" for a in "TUVWXYZ" for b in "hgfedcba")]),
    ),
    ("custom:word_reverse", None, "eagle bald the is symbol The", "The symbol is the bald eagle"),
    ("custom:character_reverse", None, "elgae dlab ehT", "eagle bald The"),
    ("custom:sentence_alphabet", None, ALPHABET, ALPHABET.replace("Zed", "Red")),
    ("custom:european_capitals_sort", None, CAPITALS, CAPITALS.replace("Oslo, Tallinn", "Tallinn, Oslo")),
    ("custom:csv_city", None, "ID,Country,City,Year,Count\n" + "1,a,b,2,3\n" * 7, "ID,Country\n" + "1,a\n" * 7),
    (
        "custom:csv_special_character",
        None,
        "ProductID,Category,Brand,Price,Stock\n" + '1,a,"b&c",2,3\n' * 14,
        "ProductID,Category,Brand,Price,Stock\n" + "1,a,b&c,2,3\n" * 14,
    ),
    (
        "custom:csv_quotes",
        None,
        "\n".join(["\t".join(f'"{x}"' for x in ("StudentID", "Subject", "Grade", "Semester", "Score"))] * 4),
        "\n".join(["\t".join(("StudentID", "Subject", "Grade", "Semester", "Score"))] * 4),
    ),
    ("custom:date_format_list", None, "1796-04-12, 1815-06-18", "1796-04-12, 1815-06-31"),
]


@pytest.mark.parametrize(("kind", "arguments", "followed", "broken"), FOLLOWED_AND_NOT)
def test_a_constraint_holds_for_one_answer_and_fails_for_the_other(kind, arguments, followed, broken):
    assert score(following((kind, arguments)), followed).value == 1.0
    assert score(following((kind, arguments)), broken).value == 0.0


CONSTRAINED = [following((kind, arguments)) for kind, arguments, *_ in FOLLOWED_AND_NOT]
PIECES = st.sampled_from([*" .?!*-,\n\"'()[]{}aA1😀語", "word ", "Question"])
CONSTRAINT_TEXT = st.one_of(TEXT, st.lists(PIECES).map("".join))
HUGE_FORMS = [form * (15_000 // len(form)) for form in ("I go. ", "([{", "\"'", "* a\n- b\n", "a,\t")]


@settings(max_examples=60, deadline=None)
@given(CONSTRAINT_TEXT)
def test_every_kind_decides_on_any_text(text):
    for example in CONSTRAINED:
        reward = environments.verify(example, f"</think>{text}")
        assert reward.value in (0.0, 1.0) and reward.reason


@pytest.mark.parametrize("text", HUGE_FORMS, ids=["sentences", "brackets", "quotes", "bullets", "commas"])
def test_every_kind_is_quick_on_long_answers(text):
    for example in CONSTRAINED:
        start = time.process_time()
        environments.verify(example, f"</think>{text}")
        assert time.process_time() - start < 0.5, example["instruction_id_list"]


def test_every_kind_has_an_example():
    assert {kind for kind, *_ in FOLLOWED_AND_NOT} == set(KINDS)
    assert len(KINDS) == 25 + 29 + 58


def test_binary_mode_wants_all_and_fraction_mode_counts():
    constraints = [
        ("punctuation:no_comma", None),
        ("change_case:english_lowercase", None),
        ("startend:quotation", None),
    ]
    answer = "the cat is here."
    assert score(following(*constraints), answer).value == 0.0
    reward = score(following(*constraints, grading_mode="fraction"), answer)
    assert reward.value == pytest.approx(2 / 3) and "startend:quotation" in reward.reason


def test_null_arguments_of_columnar_files_are_ignored():
    padded = {"keywords": None, "num_words": 2, "relation": "at least", "language": None}
    assert score(following(("length_constraints:number_words", padded)), "two words").value == 1.0


def test_only_the_answer_is_held_to_the_constraints():
    assert score(following(("punctuation:no_comma", None)), "fine", thinking="a, b, c").value == 1.0


def test_words_from_data_are_not_regular_expressions():
    assert score(following(("keywords:existence", {"keywords": ["c++ (new)"]})), "I use C++ (new).").value == 1.0
    assert score(following(("keywords:forbidden_words", {"forbidden_words": ["c."]})), "cx").value == 1.0


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("en", "The house of my father is by the river."),
        ("es", "La casa de mi padre está en el centro de la ciudad."),
        ("fr", "La maison est dans la rue et les enfants sont là."),
        ("it", "La casa è nella città e non è molto grande."),
        ("pt", "A casa do meu pai não está na cidade, mas é muito grande."),
        ("pl", "Dom jest w mieście i nie jest bardzo duży."),
        ("ko", "저는 학생입니다."),
        ("hi", "यह मेरा घर है और वह बड़ा है।"),
        ("th", "สวัสดีครับ"),
    ],
)
def test_languages_are_told_apart(language, text):
    assert is_written_in(text, language)
    others = LANGUAGES - {language}
    assert sum(is_written_in(text, other) for other in others) <= 2


def test_text_without_letters_counts_as_any_language():
    assert is_written_in("12 + 3!", "fi")

"""Words that no language has, one for each number: what names and values are written with.

All end in a consonant after at least two syllables of a consonant and a vowel, so that none is an article, and none
is a word that a sentence has.
"""

_CONSONANTS, _VOWELS, _END = "bdfgklmnprstvz", "aeiou", "x"
_SYLLABLES = [consonant + vowel for consonant in _CONSONANTS for vowel in _VOWELS]
_LEAST = 2


def made_word(number: int) -> str:
    """The word of a number, unlike that of every other."""
    found: list[str] = []
    while number or len(found) < _LEAST:
        number, digit = divmod(number, len(_SYLLABLES))
        found.append(_SYLLABLES[digit])
    return "".join(found) + _END

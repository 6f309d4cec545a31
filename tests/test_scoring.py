"""Scores by hand: TriviaQA's rules, sums of losses, and what is written greedily."""

import math

import pytest
import torch
from task_oracle import CPU, SURE

from membench.training.scoring.answers import Answers, all_answered, forced, summed
from membench.training.scoring.greedy import written
from membench.training.scoring.own_words import OwnWords, answer_texts
from membench.training.scoring.trivia_qa import exact_match, f1, words_of
from membench.training.task import Batch


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("The  Beatles", ["beatles"]),
        ("a cat, an owl and THE dog", ["cat", "owl", "and", "dog"]),
        ("rock_'n'_roll", ["rock", "n", "roll"]),
        ("U.S.A.", ["u", "s"]),  # what is left of the last is an article
        ("‘Tis the season’s `end´", ["tis", "season", "s", "end"]),
        ("Theatre", ["theatre"]),
        ("1,000", ["1", "000"]),
        ("Zürich–Genève", ["zürich–genève"]),  # a dash of print is no punctuation of ASCII
        ("the–end", ["–end"]),
        ("The", []),
        ("", []),
    ],
)
def test_answers_are_compared_by_these_words(answer, words):
    assert words_of(answer) == words


@pytest.mark.parametrize(
    ("answer", "right", "em", "score"),
    [
        ("Paris", ["paris"], 1, 1),
        ("the Paris!", ["London", "Paris"], 1, 1),
        ("in Paris", ["Paris"], 0, 2 / 3),  # precision 1/2, recall 1
        ("New York", ["New York City"], 0, 0.8),  # precision 1, recall 2/3
        ("York New", ["New York"], 0, 1),  # words in another order
        ("ha ha ha", ["ha"], 0, 0.5),  # said three times, right once
        ("Rome", ["Paris", "London"], 0, 0),
        ("city of new york", ["London", "York", "New York City"], 0, 6 / 7),
        ("", ["Paris"], 0, 0),
        ("a", ["the"], 1, 0),  # no word is left of either: alike, and none in common
    ],
)
def test_exact_match_and_f1_are_those_of_the_best_right_answer(answer, right, em, score):
    assert exact_match(answer, right) == em
    assert f1(answer, right) == pytest.approx(score)


BATCH = Batch(torch.tensor([[0, 1, 2, 3], [3, 2, 1, 0]]), torch.tensor([[False, True, True], [False, False, True]]))


def probabilities(tokens):
    """Of the next token: its own number 1/2, the number below 1/4, the others 1/8 each."""
    rows = torch.full((4, 4), 1 / 8)
    for token in range(4):
        rows[token, token], rows[token, (token - 1) % 4] = 1 / 2, 1 / 4
    return rows.log()[tokens]


def test_losses_are_summed_over_scored_tokens():
    found = forced(probabilities, BATCH, CPU)
    # after 1 comes 2, after 2 comes 3: an eighth each; after 1 comes 0: a quarter
    assert found.nats.exp().reciprocal().flatten().tolist() == pytest.approx([1, 1 / 8, 1 / 8, 1, 1, 1 / 4])
    assert not found.right.any()
    total = all_answered(probabilities, [BATCH, BATCH], CPU)
    assert total == Answers(questions=4, exact=0, tokens=6, right=0, nats=pytest.approx(16 * math.log(2)))
    assert total.nll == pytest.approx(16 / 6 * math.log(2))
    assert (total.em, total.right_share) == (0.0, 0.0)


def test_exact_is_a_question_with_all_tokens_right():
    def sure(tokens):
        found = torch.zeros(*tokens.shape, 4)
        found[0, 1, 2] = found[0, 2, 0] = found[1, 2, 0] = SURE
        return found

    total = summed(forced(sure, BATCH, CPU), BATCH.scored)
    assert (total.questions, total.exact, total.tokens, total.right) == (2, 1, 3, 2)
    assert total.nats == pytest.approx(SURE)


def test_of_no_question_nothing_is_known():
    assert (Answers().nll, Answers().em, Answers().right_share) == (None, None, None)
    assert OwnWords().metrics() == {"answer_nll": None, "em": None, "f1": None}


def counting(tokens):
    """Says the number of tokens so far, if the last one was right; 9 if not. It never looks past the place."""
    places = torch.arange(1, tokens.shape[1] + 1).expand(tokens.shape)
    right = (tokens == places - 1).cummin(1).values
    return torch.nn.functional.one_hot(torch.where(right, places, 9), 64).float()


def test_what_is_written_goes_on_from_prompts_of_any_length():
    tokens = torch.full((3, 20), 63)
    tokens[0, :1], tokens[1, :4], tokens[2, :2] = torch.tensor([0]), torch.arange(4), torch.tensor([0, 5])
    seen = []

    def logits(given):
        seen.append(given.shape)
        return counting(given)

    found = written(logits, tokens, torch.tensor([1, 4, 2]), 5, CPU)
    assert found.tolist() == [[1, 2, 3, 4, 5], [4, 5, 6, 7, 8], [9, 9, 9, 9, 9]]
    assert tokens[0, 1] == 63  # what was given is left as it was
    assert set(seen) == {(3, 16)}


def test_writing_stops_where_all_have_ended():
    tokens = torch.zeros((2, 20), dtype=torch.int64)
    tokens[1, :3] = torch.arange(3)
    calls = []

    def logits(given):
        calls.append(1)
        return counting(given)

    found = written(logits, tokens, torch.tensor([1, 3]), 10, CPU, end=4)
    assert len(calls) == 4
    assert found[0, :4].tolist() == [1, 2, 3, 4]
    assert found[1, :2].tolist() == [3, 4]


def test_writing_up_to_the_last_place_gives_the_model_no_more_than_its_length():
    widths = []

    def logits(given):
        widths.append(given.shape[1])
        return counting(given)

    found = written(logits, torch.zeros((1, 18), dtype=torch.int64), torch.tensor([1]), 18, CPU)
    assert found.tolist() == [list(range(1, 19))]
    assert max(widths) == 18


def test_only_wrong_answers_are_written_again():
    rows = torch.tensor([[0, 1, 2, 3], [0, 1, 3, 2], [0, 1, 2, 4]])
    batch = Batch(rows, torch.tensor([[False, True, True]] * 3))
    asked = []

    def logits(given):
        asked.append(len(given))
        return counting(given)

    found, texts = answer_texts(logits, batch, CPU, 2, lambda tokens: " ".join(map(str, tokens)))
    assert texts == ["2 3", "2 3", "2 3"]
    assert asked == [3, 2, 2]
    assert (found.exact, found.right) == (1, 3)
    total = OwnWords()
    total.add(found, texts, [["2 3"], ["3 2"], ["2 4"]])
    metrics = total.metrics()
    assert metrics["em"] == pytest.approx(1 / 3)
    assert metrics["f1"] == pytest.approx((1 + 1 + 0.5) / 3)

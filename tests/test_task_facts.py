"""Facts: names that are told apart, values that are drawn from a pool, exposure as stated, phrasings held out."""

import math

import numpy as np
import pytest
import torch
from task_oracle import CPU, SURE, guessing, knowing

from membench.learning.attributes import ATTRIBUTES
from membench.learning.phrasings import ASKED, OF_A_LIFE, TRAINED, VALUE, closed_vocabulary
from membench.learning.tasks import Facts, LongForm
from membench.training.tasks import task_data
from membench.training.tasks.made_words import made_word
from membench.training.tasks.stored_facts import Names, bits_learnt


def rows(data, count):
    return data.batch(0, count).tokens.tolist()


@pytest.mark.parametrize(
    ("tokens", "symbols", "count"), [(3, 8, 512), (1, 1, 1), (2, 100, 5000), (16, 2**16, 5000), (16, 2, 2**16)]
)
def test_no_two_names_are_alike(tokens, symbols, count):
    found = Names(1, tokens, symbols).of(np.arange(count))
    assert found.shape == (count, tokens)
    assert len({tuple(row) for row in found.tolist()}) == count
    places = found // symbols
    assert np.array_equal(places, np.broadcast_to(np.arange(tokens), places.shape))  # alphabets of their own


def test_a_name_s_symbols_are_all_used_alike():
    found = Names(1, 3, 64).of(np.arange(24_000))
    counts = np.bincount(found.ravel(), minlength=192)
    assert abs(counts / counts.mean() - 1).max() < 0.25


def test_an_epoch_shows_every_bare_fact_once_and_the_next_in_another_order():
    data = task_data(Facts(facts=500), 0)
    first, second = rows(data, 500), data.batch(500, 500).tokens.tolist()
    assert len({tuple(row[:3]) for row in first}) == 500
    assert sorted(first) == sorted(second)
    assert first != second
    asked = [row for batch in data.questions(500) for row in batch.tokens.tolist()]
    assert sorted(asked) == sorted(first)


def test_only_values_are_scored_of_bare_facts():
    batch = task_data(Facts(facts=9, name_tokens=2, value_tokens=3), 0).batch(0, 4)
    assert batch.scored.tolist() == [[False, True, True, True]] * 4


def test_the_dial_of_entropy_turns_nothing_else():
    made = {pool: task_data(Facts(facts=2000, value_pool=pool), 0) for pool in (1, 2, 16, 256)}
    batches = {pool: data.batch(0, 2000) for pool, data in made.items()}
    for pool, data in made.items():
        assert (data.vocab_size, data.length) == (made[256].vocab_size, made[256].length)
        assert torch.equal(batches[pool].scored, batches[256].scored)
        assert torch.equal(batches[pool].tokens[:, :3], batches[256].tokens[:, :3])  # the same names, the same order
        values = batches[pool].tokens[:, 3:]
        assert sorted(set(values.flatten().tolist())) == list(range(pool))
        assert data.description["bits_per_fact"] == 2 * math.log2(pool)
        counts = torch.bincount(values.flatten(), minlength=pool)
        assert (counts / counts.float().mean() - 1).abs().max() < 4.5 / math.sqrt(4000 / pool)


@pytest.mark.parametrize("exponent", [0.5, 1.0, 2.0])
def test_exposure_is_as_zipf_has_it(exponent):
    facts, samples = 20, 40_000
    data = task_data(Facts(facts=facts, zipf_exponent=exponent), 0)
    names = [tuple(row[:3]) for row in data.asked(np.arange(facts)).tokens.tolist()]
    shown = [tuple(row[:3]) for row in rows(data, samples)]
    weights = np.arange(1, facts + 1) ** -exponent
    for name, share in zip(names, weights / weights.sum(), strict=True):
        spread = math.sqrt(samples * share * (1 - share))
        assert abs(shown.count(name) - samples * share) < 5 * spread + 1


def test_what_uneven_exposure_demands_is_not_known():
    metrics = {}
    for exponent in (0.0, 1.0):
        data = task_data(Facts(facts=20, zipf_exponent=exponent), 0)
        metrics[exponent] = data.score(guessing(range(256), data.vocab_size), 20, CPU).metrics
    assert (metrics[0.0]["bits_learnt"], metrics[0.0]["bits_per_fact"]) == (0.0, 0.0)
    assert (metrics[1.0]["bits_learnt"], metrics[1.0]["bits_per_fact"]) == (None, None)


def test_who_knows_the_pool_and_nothing_else_has_the_loss_of_the_pool():
    data = task_data(Facts(facts=300, value_pool=16), 0)
    metrics = data.score(guessing(range(16), data.vocab_size), 300, CPU).metrics
    assert metrics["answer_nll"] == pytest.approx(math.log(16))
    assert metrics["bits_learnt"] == pytest.approx(0.0, abs=1e-3)
    # it always says symbol 0: both right by chance, or one of the two words
    values = [row[3:] for row in data.asked(np.arange(300)).tokens.tolist()]
    assert metrics["em"] == pytest.approx(sum(value == [0, 0] for value in values) / 300)
    # of one word in common, said twice: precision 1/2, recall 1/2
    assert metrics["f1"] == pytest.approx(sum((0, 0.5, 1)[value.count(0)] for value in values) / 300)


def test_who_knows_the_first_word_of_values_has_half_of_the_bits():
    data = task_data(Facts(facts=200, value_pool=16), 0)
    known, pool = knowing(data.questions(200), data.vocab_size), guessing(range(16), data.vocab_size)

    def half(tokens):
        found = pool(tokens).clone()
        found[:, 2] = known(tokens)[:, 2]
        return found

    metrics = data.score(half, 200, CPU).metrics
    assert metrics["answer_nll"] == pytest.approx(math.log(16) / 2)
    assert metrics["bits_per_fact"] == pytest.approx(4.0, abs=1e-4)
    assert metrics["bits_learnt"] == pytest.approx(800.0, abs=0.02)


def test_bits_come_from_the_summed_loss_and_are_never_below_none():
    nats = 3 * math.log(2)  # three bits over two facts
    assert bits_learnt(10, 8.0, nats, asked=2) == pytest.approx({"bits_learnt": 65.0, "bits_per_fact": 6.5})
    assert bits_learnt(10, 1.0, 100 * nats, asked=2) == {"bits_learnt": 0.0, "bits_per_fact": 0.0}
    assert bits_learnt(10, 1.0, None, asked=2) == {"bits_learnt": None, "bits_per_fact": None}


SENTENCES = Facts(form="sentences", facts=120, name_symbols=8, value_pool=16, value_symbols=32, attributes=4)


def without_what_is_told(row, data):
    """A row's own words, with one mark for each name and one for each value."""
    words = data.words
    kinds = ["<name>" if t >= words.first_name else VALUE if t >= words.first_value else words.words[t] for t in row]
    said = [word for place, word in enumerate(kinds) if not place or (word, kinds[place - 1]) != (word, word)]
    attributes = set(ATTRIBUTES)
    return " ".join("<attribute>" if word in attributes else word for word in said)


@pytest.mark.parametrize("phrasings", [1, 3, 8, 64])
def test_no_question_is_in_a_phrasing_that_training_has(phrasings):
    data = task_data(SENTENCES.model_copy(update={"phrasings": phrasings}), 0)
    trained = {without_what_is_told(row, data) for row in rows(data, 3000)}
    asked = {without_what_is_told(row, data) for batch in data.questions(120) for row in batch.tokens.tolist()}
    assert len(trained) == phrasings
    assert len(asked) == len(ASKED)
    assert not trained & asked


def test_eight_phrasings_have_all_words_of_questions():
    assert {word for phrasing in ASKED for word in phrasing} <= {w for phrasing in TRAINED[:8] for w in phrasing}


def test_phrasings_differ_and_end_with_the_value():
    for phrasings in (TRAINED, OF_A_LIFE):
        assert len(phrasings) == 64
        assert len(set(map(tuple, phrasings))) == 64
    for phrasing in (*TRAINED, *ASKED, *OF_A_LIFE):
        assert phrasing[-2:] == [VALUE, "."]
        assert phrasing.count(VALUE) == 1


def most(task, key):
    """The highest value that a config takes."""
    return next(limit.le for limit in task.model_fields[key].metadata if hasattr(limit, "le"))


def test_as_many_phrasings_and_attributes_as_a_task_may_state():
    assert most(Facts, "phrasings") == len(TRAINED)
    assert most(LongForm, "phrasings") == len(OF_A_LIFE)
    assert most(LongForm, "attributes") == len(set(ATTRIBUTES)) == len(ATTRIBUTES)
    assert most(Facts, "attributes") < len(ATTRIBUTES)


def test_made_words_are_no_words_of_sentences():
    made = {made_word(number) for number in range(70**2)}
    assert not made & set(closed_vocabulary())
    assert not any(word.endswith("x") and len(word) > 4 for word in closed_vocabulary())


def test_a_sentence_says_what_the_bare_fact_is():
    plain = {"facts": 60, "name_symbols": 8, "value_pool": 16, "value_symbols": 32}
    bare, said = task_data(Facts(**plain), 0), task_data(Facts(form="sentences", **plain), 0)
    bare_rows, said_rows = bare.batch(0, 60).tokens.tolist(), said.batch(0, 60).tokens.tolist()
    assert [bare.text(row[:3]).split()[-1] for row in bare_rows]
    for few, row in zip(bare_rows, said_rows, strict=True):
        names = [t - said.words.first_name for t in row if t >= said.words.first_name]
        values = [t - said.words.first_value for t in row if said.words.first_value <= t < said.words.first_name]
        assert names == [t - 32 for t in few[:3]]
        assert values == few[3:]
        assert said.text(row).count(" city ") == 1


def test_a_name_has_its_attributes_and_no_pair_of_both_twice():
    data = task_data(SENTENCES, 0)
    known = set(ATTRIBUTES)
    pairs = []
    for row in rows(data, 120):
        words = data.text(row).split()
        name = tuple(t for t in row if t >= data.words.first_name)
        pairs.append((name, next(word for word in words if word in known)))
    assert len(set(pairs)) == 120
    assert len({name for name, _ in pairs}) == 30
    assert {attribute for _, attribute in pairs} == set(ATTRIBUTES[:4])


def test_training_is_scored_on_all_words_and_a_question_on_its_value():
    data = task_data(SENTENCES, 0)
    batch = data.batch(0, 60)
    for row, scored in zip(batch.tokens.tolist(), batch.scored.tolist(), strict=True):
        end = row.index(0)  # the first full stop
        assert scored == [place < end for place in range(len(scored))]
    (asked,) = data.questions(60)
    for row, scored in zip(asked.tokens.tolist(), asked.scored, strict=True):
        values = [data.words.first_value <= token < data.words.first_name for token in row[1:]]
        assert scored.tolist() == values


def test_an_answer_is_scored_as_it_is_written_after_a_wrong_word():
    """The first word wrong, the second right only after the right one: forced, half is right; written, none is."""
    data = task_data(Facts(facts=40, value_pool=16), 0)
    known = knowing(data.questions(40), data.vocab_size)

    def first_wrong(tokens):
        found = known(tokens).clone()
        found[:, 2] = 0
        found[:, 2, 17] = SURE  # outside of the pool, so what follows has never been seen
        found[..., 18] += SURE / 2
        return found

    metrics = data.score(first_wrong, 40, CPU).metrics
    assert (metrics["em"], metrics["f1"]) == (0.0, 0.0)

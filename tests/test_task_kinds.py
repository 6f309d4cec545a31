"""Each other task: what it shows, what it asks, and that neither has what it should not."""

import math

import numpy as np
import pytest
import torch
from task_oracle import CPU, guessing, knowing

from membench.learning.tasks import Arithmetic, Copy, InContextRecall, LongForm, Text, TwoHop
from membench.training.tasks import task_data


def trained(data, count):
    return data.batch(0, count).tokens.tolist()


def asked(data, most):
    return [row for batch in data.questions(most) for row in batch.tokens.tolist()]


HOPS = TwoHop(entities=10, relations=3, taught_share=0.4)  # 30 facts, 90 two-hop questions, 36 of them taught


def test_no_two_hop_question_that_is_asked_is_trained():
    data = task_data(HOPS, 0)
    shown = trained(data, 2 * 36 * 30)
    single = {tuple(row) for row in shown if row[2] == 0}
    taught = {tuple(row) for row in shown if row[2] != 0}
    questions = {tuple(row) for row in asked(data, 1000)}
    assert (len(single), len(taught), len(questions)) == (30, 36, 54)
    assert not taught & questions
    assert len({row[:3] for row in taught | questions}) == 90


def test_two_hops_are_two_facts_after_each_other():
    data = task_data(HOPS, 0)
    facts = {tuple(row[:2]): row[3] for row in data.single(np.arange(30)).tokens.tolist()}
    assert len(facts) == 30
    assert all(entity != led_to for (entity, _), led_to in facts.items())
    for entity, first, second, answer in asked(data, 1000):
        assert facts[facts[entity, first], second] == answer


def test_facts_and_two_hops_take_turns_and_each_has_its_epochs():
    data = task_data(HOPS, 0)
    shown = trained(data, 120)
    assert [row[2] == 0 for row in shown] == [True, False] * 60
    assert len({tuple(row) for row in shown[0:60:2]}) == 30
    assert len({tuple(row) for row in shown[1:72:2]}) == 36


def test_who_knows_facts_only_has_all_bits_and_no_two_hops():
    data = task_data(HOPS, 0)
    facts = knowing([data.single(np.arange(30)).batch()], data.vocab_size)
    metrics = data.score(facts, 1000, CPU).metrics
    assert (metrics["one_hop_em"], metrics["one_hop_nll"]) == (1.0, 0.0)
    assert metrics["bits_learnt"] == pytest.approx(30 * math.log2(9))
    assert metrics["answer_nll"] == pytest.approx(math.log(data.vocab_size))
    assert metrics["em"] == metrics["taught_em"] == 0.0


def test_who_learnt_taught_questions_by_heart_cannot_answer_others():
    data = task_data(HOPS, 0)
    metrics = data.score(knowing([data.taught(np.arange(36)).batch()], data.vocab_size), 1000, CPU).metrics
    assert (metrics["taught_em"], metrics["em"], metrics["f1"]) == (1.0, 0.0, 0.0)


def test_sums_are_right_and_each_pair_is_trained_or_asked():
    data = task_data(Arithmetic(digits=2, asked_share=0.2), 0)
    shown, questions = trained(data, 8000), asked(data, 10_000)
    for row in shown[:500] + questions[:500]:
        a, b, c = (int(part) for part in data.text(row).replace("=", "+").split("+"))
        assert a + b == c
        assert len(row) == 9
    pairs = [{tuple(row[:5]) for row in part} for part in (shown, questions)]
    assert [len(part) for part in pairs] == [8000, 2000]
    assert not pairs[0] & pairs[1]
    assert data.batch(0, 2).scored.tolist() == [[False] * 5 + [True] * 3] * 2


def test_sums_of_nine_digits_are_whole_numbers_still():
    data = task_data(Arithmetic(digits=9), 0)
    for row in trained(data, 100):
        a, b, c = (int(part) for part in data.text(row).replace("=", "+").split("+"))
        assert a + b == c


RECALL = InContextRecall(symbols=32, length=32, pairs=5)


@pytest.mark.parametrize("config", [RECALL, InContextRecall(symbols=16, length=33, pairs=8), InContextRecall()])
def test_every_pair_is_in_the_prompt_and_asked_once_after_all(config):
    data = task_data(config, 0)
    batch = data.batch(0, 200)
    for row, scored in zip(batch.tokens.tolist(), batch.scored.tolist(), strict=True):
        told = dict(zip(row[0 : 2 * config.pairs : 2], row[1 : 2 * config.pairs : 2], strict=True))
        assert len(told) == len(set(told.values())) == config.pairs
        assert max(told) <= config.symbols // 2 < min(told.values())
        places = [place for place, counts in enumerate(scored) if counts]
        assert min(places) >= 2 * config.pairs
        assert {row[place]: row[place + 1] for place in places} == told
        assert len(places) == config.pairs
        assert row.count(0) == config.length - 4 * config.pairs


def test_where_keys_are_asked_is_any_place_alike():
    data = task_data(RECALL, 0)
    counts = data.batch(0, 4000).scored.sum(0)[10::2]
    assert len(counts) == 11
    assert (counts / counts.float().mean() - 1).abs().max() < 0.12


def test_recall_s_exact_match_is_over_keys_and_rows_stand_beside():
    data = task_data(RECALL, 0)
    known = knowing(data.questions(20), data.vocab_size)

    def first_asked_wrong(tokens):
        found = known(tokens).clone()
        for number, row in enumerate(tokens.tolist()):
            place = next(p for p in range(10, len(row)) if row[p])
            found[number, place] = 0
        return found

    metrics = data.score(first_asked_wrong, 20, CPU).metrics
    assert metrics["em"] == metrics["f1"] == pytest.approx(0.8)
    assert metrics["row_em"] == 0.0
    assert metrics["answer_nll"] == pytest.approx(math.log(33) / 5)


def test_what_is_copied_stands_twice_with_a_mark_between():
    data = task_data(Copy(symbols=5, length=7), 0)
    batch = data.batch(0, 300)
    for row in batch.tokens.tolist():
        assert row[:7] == row[8:]
        assert row[7] == 0
        assert 1 <= min(row[:7]) <= max(row[:7]) <= 5
    assert batch.scored.tolist() == [[False] * 7 + [True] * 7] * 300
    assert len({tuple(row) for row in batch.tokens.tolist()}) > 290
    assert asked(data, 300) != batch.tokens.tolist()


LIFE = LongForm(names=30, attributes=3, name_symbols=8, value_pool=16)


def values_by_name(data):
    """The tokens of all values of each name, by its tokens."""
    names, values = data.names.of(np.arange(30)), data.values_of(np.arange(30))
    pairs = zip((names + data.words.first_name).tolist(), (values + data.words.first_value).tolist(), strict=True)
    return {tuple(name): told for name, told in pairs}


def test_a_biography_says_every_attribute_in_one_order():
    data = task_data(LIFE, 0)
    by_name = values_by_name(data)
    batch = data.batch(0, 60)
    for row, scored in zip(batch.tokens.tolist(), batch.scored.tolist(), strict=True):
        end = row.index(data.end)
        sentences = data.text(row[3:end]).removesuffix(" .").split(" . ")
        assert [word for word in ("city", "employer", "school") for s in sentences if word in s.split()] == [
            "city",
            "employer",
            "school",
        ]
        said = [t for t in row[3:end] if data.words.first_value <= t < data.words.first_name]
        assert said == by_name[tuple(row[:3])]
        assert set(row[end:]) == {data.end}
        assert scored == [2 <= place < end for place in range(len(scored))]
    (question,) = data.questions(30)
    assert torch.equal(question.scored.sum(1), torch.full((30,), 3))


def test_an_error_early_in_a_biography_is_at_its_place_and_may_spoil_the_rest():
    data = task_data(LIFE, 0)
    known = knowing(data.questions(30), data.vocab_size)
    wrong = data.words.first_value + 15

    def second_wrong(tokens, goes_on):
        """Says the wrong second value; what follows it is known, as after the right one, or is not."""
        found = known(tokens).clone()
        for number, row in enumerate(tokens.tolist()):
            for place in range(2, len(row)):
                likeliest = int(found[number, place].argmax())
                is_value = data.words.first_value <= likeliest < data.words.first_name
                if is_value and row[3 : place + 1].count(0) == 1:
                    found[number, place] = 0
                    found[number, place, wrong] = 1.0
        if goes_on:
            righted = tokens.clone()
            for number, row in enumerate(tokens.tolist()):
                right = values_by_name(data)[tuple(row[:3])][1]
                stops = [p for p, t in enumerate(row) if t == 0 and p > 2]
                for place, token in enumerate(row):
                    if token == wrong and stops and place > stops[0] and (len(stops) < 2 or place < stops[1]):
                        righted[number, place] = right
            after = known(righted)
            changed = (righted != tokens).cumsum(1).bool()
            found[changed] = after[changed]
        return found

    second = data.values_of(np.arange(30))[:, 1] == 15
    for goes_on, third in ((True, 1.0), (False, None)):
        metrics = data.score(lambda tokens, on=goes_on: second_wrong(tokens, on), 30, CPU).metrics
        assert metrics["right_by_place_0"] == 1.0
        assert metrics["right_by_place_1"] == pytest.approx(second.mean())
        assert metrics["em"] == pytest.approx(second.mean())
        assert metrics["right_by_place_2"] == (third or pytest.approx(second.mean()))
        assert metrics["right"] == pytest.approx((1 + second.mean() + metrics["right_by_place_2"]) / 3)


def places(tmp_path, count=1000, **changes):
    """A text whose tokens are their own places, so that a row says where it is from."""
    np.arange(count, dtype="<u2").tofile(tmp_path / "a.bin")
    config = {"files": (str(tmp_path / "a.bin"),), "vocab_size": count, "length": 30, "asked_share": 0.2, **changes}
    return task_data(Text(**config), 0)


def test_what_is_asked_of_a_text_is_its_end_and_is_never_trained(tmp_path):
    data = places(tmp_path)
    shown, end = trained(data, 2000), asked(data, 1000)
    for row in shown + end:
        assert row == list(range(row[0], row[0] + 31))
    assert max(row[-1] for row in shown) == 799
    assert min(row[0] for row in shown) == 0
    assert sorted(row[0] for row in end) == [800, 830, 860, 890, 920, 950]


def test_an_epoch_of_text_has_no_token_s_loss_twice_and_each_begins_elsewhere(tmp_path):
    data = places(tmp_path)
    begins = set()
    for epoch in range(40):
        firsts = sorted(row[0] for row in data.batch(epoch * 25, 25).tokens.tolist())
        assert firsts == list(range(firsts[0], firsts[0] + 25 * 30, 30))
        begins.add(firsts[0])
    assert len(begins) > 15


def test_a_text_of_one_sequence_is_enough(tmp_path):
    data = places(tmp_path, 40, length=19, asked_share=0.5)
    assert trained(data, 3) == [list(range(20))] * 3
    assert asked(data, 3) == [list(range(20, 40))]


def test_a_token_file_s_bytes_of_text_are_not_known(tmp_path):
    data = places(tmp_path)
    metrics = data.score(guessing(range(1000), 1000), 3, CPU).metrics
    assert metrics["bits_per_byte"] is None
    assert metrics["perplexity"] == pytest.approx(1000)


def test_bits_a_byte_count_the_bytes_and_not_the_tokens(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    words = {"[unk]": 0, "ab": 1, "abcd": 2}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[unk]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "a.txt").write_text("ab\n" * 80_000 + "abcd\n" * 20_000)  # the last fifth has 5 bytes a token
    files = {"files": (str(tmp_path / "a.txt"),), "tokenizer": str(tmp_path / "tokenizer.json")}
    data = task_data(Text(length=10, asked_share=0.2, **files), 0)
    assert (data.vocab_size, data.description["tokens"]) == (3, 100_000)
    metrics = data.score(guessing(range(2), 3), 5, CPU).metrics
    assert metrics["answer_nll"] > 100  # never says abcd
    metrics = data.score(guessing(range(3), 3), 5, CPU).metrics
    assert metrics["answer_nll"] == pytest.approx(math.log(3))
    assert metrics["perplexity"] == pytest.approx(3)
    assert metrics["bits_per_byte"] == pytest.approx(math.log2(3) / 5, rel=0.012)  # over all text it is 3.4

"""What the inference API promises beside plain text, over all processes."""

import math
from collections import defaultdict

import pytest

from caravan.inference.v1 import embedding_pb2, tokenization_pb2
from caravan.inference.v1 import generation_pb2 as pb

TEXT = "Once upon a time"


def request(**fields):
    defaults = {"model": "bundled", "text": TEXT, "max_output_tokens": 12, "seed": 11}
    return pb.GenerateRequest(**{**defaults, **fields})


def generate(client, **fields):
    return client.inference.Generate(request(**fields), metadata=client.metadata, timeout=60)


def stream(client, **fields):
    return list(
        client.inference.StreamGenerate(request(**fields), metadata=client.metadata, timeout=60)
    )


def tokenize(client, **fields):
    message = tokenization_pb2.TokenizeRequest(**{"model": "bundled", **fields})
    return client.inference.Tokenize(message, metadata=client.metadata, timeout=60).ids


def detokenize(client, ids):
    message = tokenization_pb2.DetokenizeRequest(model="bundled", ids=ids)
    return client.inference.Detokenize(message, metadata=client.metadata, timeout=60).text


def test_choices_come_whole_and_in_order(admin):
    answer = generate(admin, choice_count=3, ignore_eos=True)

    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert [len(choice.token_ids) for choice in answer.choices] == [12, 12, 12]
    assert len({choice.text for choice in answer.choices}) > 1
    assert {choice.finish_reason for choice in answer.choices} == {pb.FINISH_REASON_LENGTH}
    assert answer.usage.output_tokens == 36
    assert answer.usage.input_tokens == len(tokenize(admin, text=TEXT))


def test_streamed_choices_are_each_whole_and_in_order(admin):
    texts, tokens = defaultdict(str), defaultdict(list)
    events = stream(admin, choice_count=3, ignore_eos=True)
    for event in events:
        if event.HasField("delta"):
            delta = event.delta
            assert delta.token_offset == len(tokens[delta.choice_index])
            texts[delta.choice_index] += delta.text
            tokens[delta.choice_index] += delta.token_ids
    kinds = [event.WhichOneof("event") for event in events]
    assert kinds.count("finished") == 3
    assert kinds[-1] == "completed"

    assert {index: len(ids) for index, ids in tokens.items()} == {0: 12, 1: 12, 2: 12}
    assert all(texts.values())


def test_each_token_has_its_log_probabilities(admin):
    greedy = pb.SamplingOptions(temperature=0)
    answer = generate(
        admin, choice_count=2, sampling=greedy, logprobs=pb.LogprobOptions(top_count=3)
    )

    for choice in answer.choices:
        assert len(choice.logprobs) == len(choice.token_ids) > 0
        for token, logprobs in zip(choice.token_ids, choice.logprobs, strict=True):
            assert math.isfinite(logprobs.logprob)
            assert logprobs.logprob <= 0
            assert len(logprobs.top) == 3
            assert logprobs.top[0].token_id == token
            tops = [each.logprob for each in logprobs.top]
            assert tops == sorted(tops, reverse=True)


@pytest.mark.parametrize(
    "sampling",
    [
        pb.SamplingOptions(typical_p=0.5),
        pb.SamplingOptions(dry=pb.DryOptions(multiplier=0.8)),
        pb.SamplingOptions(xtc=pb.XtcOptions(probability=0.5)),
        pb.SamplingOptions(mirostat=pb.MirostatOptions()),
    ],
    ids=["typical", "dry", "xtc", "mirostat"],
)
def test_a_seed_gives_the_same_text_with_each_sampler(admin, sampling):
    first = generate(admin, sampling=sampling).choices[0]
    second = generate(admin, sampling=sampling).choices[0]
    assert first.token_ids == second.token_ids
    assert first.token_ids


def test_a_text_split_and_written_out_is_the_same_text(admin):
    ids = tokenize(admin, text=TEXT)
    assert detokenize(admin, ids).strip() == TEXT
    assert detokenize(admin, []) == ""


def test_a_chat_has_the_tokens_of_its_generation(admin):
    chat = pb.Chat(messages=[pb.ChatMessage(role=pb.CHAT_ROLE_USER, content="<|im_end|> hello")])
    answer = generate(admin, text=None, chat=chat, max_output_tokens=1)
    assert answer.usage.input_tokens == len(tokenize(admin, chat=chat))


def embed(client, *texts, **fields):
    inputs = [embedding_pb2.EmbedInput(text=text) for text in texts]
    message = embedding_pb2.EmbedRequest(**{"model": "bundled", "inputs": inputs, **fields})
    return client.inference.Embed(message, metadata=client.metadata, timeout=60)


def test_texts_become_vectors_of_length_one(admin):
    answer = embed(admin, TEXT, "Something else", TEXT)

    assert answer.pooling != embedding_pb2.POOLING_UNSPECIFIED
    assert answer.model == "bundled"
    assert len(answer.embeddings) == 3
    for each in answer.embeddings:
        assert math.isclose(sum(value * value for value in each.values), 1, rel_tol=1e-3)
    first, other, again = (each.values for each in answer.embeddings)
    assert sum(map(math.prod, zip(first, again, strict=True))) > 0.999
    assert sum(map(math.prod, zip(first, other, strict=True))) < 0.999
    tokens = [each.input_tokens for each in answer.embeddings]
    assert tokens[0] == len(tokenize(admin, text=TEXT))
    assert answer.usage.input_tokens == sum(tokens)
    assert answer.usage.output_tokens == 0


def test_tokens_are_embedded_as_they_are(admin):
    # The first token of a text only begins it and is no client's to send.
    ids = tokenize(admin, text=TEXT)[1:]
    tokens = embedding_pb2.EmbedInput(token_ids=pb.TokenIds(ids=ids))
    first, second = embed(admin, inputs=[tokens, tokens]).embeddings

    assert first.input_tokens == second.input_tokens == len(ids)
    assert len(first.values) == len(embed(admin, TEXT).embeddings[0].values)
    assert sum(map(math.prod, zip(first.values, second.values, strict=True))) > 0.999

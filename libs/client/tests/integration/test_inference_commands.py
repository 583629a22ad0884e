"""Commands that ask a model: what they send and print."""

import json

from json_lines import lines


def test_chat_prints_the_answer_and_nothing_else(run, gateway):
    result = run("chat", "-m", "bundled", "What is Caravan?")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "Once upon a time\n", "")
    request = gateway.calls[0][1]
    assert request.model == "bundled"
    assert request.chat.messages[0].content == "What is Caravan?"


def test_chat_sends_the_system_prompt_first(run, gateway):
    assert run("chat", "--system", "Be short.", "Hi").exit_code == 0
    assert [turn.content for turn in gateway.calls[0][1].chat.messages] == ["Be short.", "Hi"]


def test_chat_reads_a_pipe_without_its_last_line_break(run, gateway):
    assert run("chat", stdin="from a pipe\n").exit_code == 0
    assert gateway.calls[0][1].chat.messages[0].content == "from a pipe"


def test_generate_reads_a_pipe_exactly(run, gateway):
    assert run("generate", "-", stdin="def f():\n").exit_code == 0
    assert gateway.calls[0][1].text == "def f():\n"


def test_text_argument_leaves_stdin_alone(run, gateway):
    assert run("generate", "given", stdin="unread").exit_code == 0
    assert gateway.calls[0][1].text == "given"


def test_every_generation_option_reaches_the_request(run, gateway):
    result = run(
        *("generate", "Once", "-n", "5", "--stop", "a", "--stop", "b", "--seed", "9"),
        *("--ignore-eos", "--priority", "20", "--label", "team=docs", "--request-id", "my-call"),
        *("--temperature", "0", "--top-k", "3", "--top-p", "0.5", "--min-p", "0.1"),
        *("--repeat-penalty", "1.5", "--frequency-penalty", "-0.5", "--presence-penalty", "0.5"),
        *("--penalty-last-n", "7", "--logit-bias", "42=-1.5", "--typical-p", "0.9"),
        *("--dry-multiplier", "0.8", "--dry-base", "2", "--dry-sequence-breaker", ";"),
        *("--xtc-probability", "0.1", "--xtc-threshold", "0.2", "--mirostat-tau", "4"),
    )
    assert result.exit_code == 0
    _, request, metadata = gateway.calls[0]
    assert (request.max_output_tokens, request.seed, request.priority) == (5, 9, 20)
    assert (list(request.stop), request.ignore_eos) == (["a", "b"], True)
    assert dict(request.labels) == {"team": "docs"}
    assert dict(request.sampling.logit_bias) == {42: -1.5}
    assert len(request.sampling.ListFields()) == 13
    assert list(request.sampling.dry.sequence_breakers) == [";"]
    assert request.sampling.mirostat.tau == 4
    assert metadata["x-request-id"] == "my-call"


def test_streams_are_json_lines(run):
    result = run("chat", "Hi", "--json")
    events = lines(result.stdout)
    assert [event["event"] for event in events] == [
        *("started", "delta", "delta", "delta", "finished", "completed")
    ]
    assert events[1]["text"] == "Once "
    assert events[-1]["usage"]["output_tokens"] == 3


def test_whole_answer_is_one_json_document(run, gateway):
    (document,) = lines(run("generate", "--no-stream", "--json", "Once").stdout)
    assert document["choices"][0]["text"] == "Once upon a time"
    assert gateway.calls[0][0] == "Generate"
    assert run("chat", "--no-stream", "Once").stdout == "Once upon a time\n"


def test_answers_are_printed_without_interpreting_them(run, gateway):
    gateway.pieces = ["[bold]x[/bold] ", "\x1b[2J", ":smile:\n"]
    assert run("chat", "Hi").stdout == "[bold]x[/bold] \x1b[2J:smile:\n"


def test_several_choices_are_printed_whole_under_headings(run, gateway):
    result = run("generate", "Once", "--choices", "2")
    assert result.stdout.splitlines() == [
        *("--- choice 1 ---", "Once upon a time", "--- choice 2 ---", "Once upon a time")
    ]
    assert gateway.calls[0][0] == "Generate"
    assert run("generate", "Once", "--choices", "1").stdout == "Once upon a time\n"


def test_logprobs_are_in_the_events(run):
    events = lines(run("generate", "Once", "--logprobs", "1", "--json").stdout)
    assert events[1]["logprobs"][0]["top"][0]["text"] == "Once "
    assert run("generate", "Once", "--logprobs", "1").exit_code == 2


def test_texts_become_vectors_one_a_line(run, gateway):
    result = run("embed", "-m", "alpha", "a", "b")
    assert [json.loads(line) for line in result.stdout.splitlines()] == [[0.0, 1.0], [1.0, 1.0]]
    request = gateway.calls[0][1]
    assert (request.model, [one.text for one in request.inputs]) == ("alpha", ["a", "b"])


def test_lines_of_a_pipe_are_embedded_in_batches(run, gateway):
    (*_, last) = lines(run("embed", "--json", stdin="text\n" * 300).stdout)
    assert [len(request.inputs) for _, request, _ in gateway.calls] == [256, 44]
    assert len(last["embeddings"]) == 44
    assert last["pooling"] == "mean"


def test_texts_become_tokens_and_back(run, gateway):
    assert run("tokenize", "Once upon").stdout == "5 6 7\n"
    assert gateway.calls[0][1].text == "Once upon"
    assert run("tokenize", "--chat", stdin="Hi").exit_code == 0
    assert gateway.calls[1][1].chat.messages[0].content == "Hi"
    assert run("detokenize", "1", "2").stdout == "ab\n"
    assert run("detokenize", stdin="1 2\n3\n").stdout == "abc\n"
    assert lines(run("tokenize", "a", "--json").stdout) == [{"ids": [5, 6, 7]}]
    assert lines(run("detokenize", "1", "--json").stdout) == [{"text": "a"}]


def test_stats_are_told_on_stderr(run):
    result = run("generate", "Once", "--stats", "--seed", "9")
    assert result.stdout == "Once upon a time\n"
    assert "seed 9, 4 tokens in (1 cached), 3 out" in result.stderr

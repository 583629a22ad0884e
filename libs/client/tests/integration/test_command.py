"""The command in this process, through typer's runner: what it prints and how it exits."""

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from caravan_client.cli.app import app
from caravan_rpckit.errors import FieldViolation

SECRET = "crv_secret_1"


@pytest.fixture
def run(gateway, api_key, monkeypatch):
    monkeypatch.setenv("CARAVAN_ADDRESS", gateway.address)

    def invoke(*arguments: str, stdin: str | bytes = ""):
        return CliRunner().invoke(app, list(arguments), input=stdin)

    return invoke


def lines(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


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


@pytest.mark.parametrize("arguments", [("--json", "models", "list"), ("models", "--json", "list")])
def test_global_options_may_stand_before_the_subcommand(run, arguments):
    (document,) = lines(run(*arguments).stdout)
    assert [model["name"] for model in document["models"]] == ["alpha", "beta", "gamma"]


def test_option_after_the_subcommand_wins(run, gateway):
    result = run("--address", "127.0.0.1:1", "models", "list", "--address", gateway.address)
    assert result.exit_code == 0


def test_models_are_listed_as_a_table(run):
    heading, first, *rest = run("models", "list").stdout.splitlines()
    assert heading.split() == [
        *("MODEL", "ALIASES", "STATE", "SIZE", "CONTEXT", "WORKERS", "MEMORY", "DESCRIPTION")
    ]
    assert first.split() == ["alpha", "bundled", "ready", "1.5", "MB", "2048", "1/1", "pages"]
    assert len(rest) == 2


def test_loading_tells_each_phase_once(run):
    result = run("models", "load", "alpha")
    assert result.stdout == "alpha is ready\n"
    phases = [line.split()[0] for line in result.stderr.splitlines()]
    assert phases == ["verifying", "loading", "ready"]
    steps = lines(run("models", "load", "alpha", "--json").stdout)
    assert [step["fraction"] for step in steps] == [1, 0.5, 1, 1]


def test_a_model_is_loaded_with_as_many_workers_as_asked_for(run, gateway):
    run("models", "load", "alpha", "--replicas", "3")
    run("models", "load", "alpha")
    counts = [
        request.replica_count if request.HasField("replica_count") else None
        for method, request, _ in gateway.calls
        if method == "LoadModel"
    ]
    assert counts == [3, None]


def test_unloading_tells_how_many_requests_were_ended(run):
    result = run("models", "unload", "alpha", "--drain-timeout", "1.5")
    assert result.stdout == "alpha is unloaded; 2 requests were ended\n"


def test_creating_a_key_creates_its_principal_and_prints_only_the_secret(run, gateway):
    result = run("keys", "create", "alice", "--role", "user", "--expires", "30d")
    assert result.exit_code == 0
    assert result.stdout == f"{SECRET}\n"
    assert SECRET not in result.stderr
    assert "not shown again" in result.stderr
    assert list(gateway.principals["alice"].roles) == ["user"]
    request = gateway.calls[-1][1]
    assert request.time_to_live.seconds == 30 * 86400


def test_second_key_of_a_principal_needs_no_role(run, gateway):
    run("keys", "create", "alice", "--role", "user")
    (document,) = lines(run("keys", "create", "alice", "--description", "ci", "--json").stdout)
    assert document["secret"] == SECRET
    assert document["key"]["description"] == "ci"


def test_key_with_another_role_than_the_principal_has_is_refused(run):
    run("keys", "create", "alice", "--role", "user")
    result = run("keys", "create", "alice", "--role", "admin")
    assert result.exit_code == 1
    assert "alice exists with user" in result.stderr


def test_key_for_an_unknown_principal_needs_a_role(run, gateway):
    result = run("keys", "create", "bob")
    assert result.exit_code == 1
    assert "--role" in result.stderr
    assert gateway.keys == {}


def test_keys_are_listed_and_revoked(run):
    run("keys", "create", "alice", "--role", "user")
    assert run("keys", "revoke", "k1").stdout == "k1 of alice is revoked\n"
    (document,) = lines(run("keys", "list", "--json").stdout)
    assert document["keys"][0]["state"] == "revoked"
    assert document["keys"][0]["create_time"] == "2023-11-14T22:13:20+00:00"
    assert "k1" in run("keys", "list", "--principal", "alice").stdout


def test_status_shows_services_models_and_workers(run):
    text = run("status").stdout
    for word in ("gateway", "serving", "telemetry", "unreachable", "refused", "alpha/0", "4242"):
        assert word in text
    (document,) = lines(run("status", "--json").stdout)
    assert document["num_spooled_records"] == 5


def test_status_shows_the_numbers_of_workers(run):
    text = run("status").stdout
    row = next(line for line in text.splitlines() if "3/16 (1 paused)" in line)
    pages = "3 cells, 7 host, 9 disk"
    for cell in ("5 (1 at 50, 4 at 10)", "600/8192", "700", pages, "40%", "12.5"):
        assert cell in row
    (document,) = lines(run("status", "--json").stdout)
    (worker,) = document["workers"]
    assert worker["waiting_by_priority"] == {"10": 4, "50": 1}
    assert (worker["memory"]["kept_by"], worker["memory"]["num_host_pages"]) == ("pages", 7)
    assert (worker["num_pages_restored"], worker["num_pages_evicted"]) == (11, 5)


def test_status_without_the_permission_for_numbers_shows_the_rest(run, gateway):
    gateway.hides_numbers = True
    result = run("status")
    assert result.exit_code == 0
    assert "alpha/0" in result.stdout
    assert "TOKENS/S" not in result.stdout
    assert lines(run("status", "--json").stdout)[0]["workers"] is None
    assert run("status", "--watch").exit_code == 1


def test_models_say_what_their_memory_is_kept_by(run):
    heading, row, *_ = run("models", "list").stdout.splitlines()
    assert "MEMORY" in heading
    assert "pages" in row


def test_trace_draws_each_span_with_its_bar(run):
    first, _, heading, call, prefill = run("trace", "r1").stdout.splitlines()
    assert first == f"request r1, trace {'ab' * 16}, 2 spans, 100.0 ms"
    assert heading.split() == ["SERVICE", "WORK", "TIME", "ERROR"]
    assert "  prefill" in prefill
    assert (call.count("█"), prefill.count("█")) == (24, 24)
    assert call.index("█") < prefill.index("█")
    (document,) = lines(run("trace", "r1", "--json").stdout)
    assert [span["service"] for span in document["spans"]] == ["gateway", "engine-worker"]


def test_failed_call_is_one_line_with_reason_and_advice(run, gateway, reason_failure):
    gateway.failures.append(
        reason_failure("MODEL_NOT_LOADED", "m sleeps.", metadata={"model": "m"})
    )
    result = run("chat", "Hi")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        "caravan: MODEL_NOT_LOADED: m sleeps; `caravan models load m` loads it\n"
    )


def test_every_faulty_field_is_told_once(run, gateway, reason_failure):
    violations = [FieldViolation("seed", "is odd"), FieldViolation("stop[0]", "is empty")]
    gateway.failures.append(
        reason_failure("INVALID_FIELD", "seed: is odd (and 1 more)", field_violations=violations)
    )
    result = run("chat", "Hi")
    assert result.stderr == "caravan: INVALID_FIELD: seed: is odd; stop[0]: is empty\n"


def test_failed_call_is_json_on_stderr(run, gateway, reason_failure):
    gateway.failures.append(reason_failure("QUEUE_FULL", "Full.", retry_after_s=60))
    result = run("chat", "Hi", "--json")
    assert result.exit_code == 1
    (document,) = lines(result.stderr)
    assert document["error"]["reason"] == "QUEUE_FULL"
    assert document["error"]["retry_after_s"] == 60
    assert document["error"]["request_id"]


def test_failure_within_a_stream_keeps_what_was_printed(run, gateway, reason_failure):
    gateway.fail_after = reason_failure("WORKER_DIED", "The worker died.")
    result = run("chat", "Hi")
    assert (result.exit_code, result.stdout) == (1, "Once upon a time\n")
    assert result.stderr.startswith("caravan: WORKER_DIED: The worker died; try again in ")


def test_missing_key_tells_where_was_looked(run, monkeypatch, tmp_path):
    monkeypatch.delenv("CARAVAN_API_KEY")
    monkeypatch.delenv("CARAVAN_HOME")
    monkeypatch.chdir(tmp_path)
    result = run("status")
    assert result.exit_code == 2
    assert "CARAVAN_API_KEY" in result.stderr
    assert str(tmp_path / ".caravan" / "admin.key") in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_key_is_taken_from_the_home(run, monkeypatch, caravan_home, api_key):
    monkeypatch.delenv("CARAVAN_API_KEY")
    (caravan_home / "admin.key").write_text(f"{api_key}\n")
    assert run("status").exit_code == 0


def test_key_option_goes_before_the_environment(run):
    result = run("status", "--api-key", "other-key-5")
    assert result.exit_code == 1
    assert "INVALID_CREDENTIAL" in result.stderr
    assert "other-key-5" not in result.output


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("chat", "--top-k", "many", "Hi"),
        ("chat", "--logit-bias", "x", "Hi"),
        ("chat", "--label", "x", "Hi"),
        ("keys", "create"),
        ("keys", "create", "alice", "--expires", "soon"),
        ("status", "--plaintext", "--ca", "ca.crt"),
        ("status", "--timeout", "0"),
        ("generate", "-"),
        ("generate", "Once", "--dry-base", "2"),
        ("generate", "Once", "--xtc-threshold", "0.2"),
        ("detokenize", "x"),
    ],
)
def test_wrong_usage_is_one_line_and_exits_with_2(run, arguments):
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    as_json = run(*arguments, "--json")
    assert as_json.exit_code == 2
    assert "message" in json.loads(as_json.stderr)["error"]


def test_stdin_that_is_no_text_is_wrong_usage(run):
    result = run("chat", stdin=b"\xff\xfe")
    assert result.exit_code == 2
    assert "UTF-8" in result.stderr


def test_argument_that_is_no_text_is_refused_without_a_traceback(run):
    result = run("chat", "half a \udcc3")
    assert result.exit_code == 1
    assert result.stderr.startswith("caravan: INVALID_FIELD: ")


@pytest.mark.parametrize("group", [(), ("models",), ("keys",)])
def test_group_without_a_subcommand_shows_help(run, group):
    result = run(*group)
    assert result.exit_code == 2
    assert "Commands" in result.stdout


def test_version_is_that_of_the_distribution(run):
    assert run("--version").stdout.strip() == "0.1.0"


def test_help_loads_neither_grpc_nor_protos():
    code = (
        "import sys\n"
        "from caravan_client.cli.app import app\n"
        "try: app(['chat', '--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted(m for m in sys.modules if m in ('grpc', 'google.protobuf', 'tenacity')))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60
    )
    assert result.stdout.splitlines()[-1] == "[]"


def test_pages_of_a_tenant_are_dropped(run, gateway):
    result = run("kv", "drop", "--tenant", "acme")
    assert result.stdout == "12 pages of acme dropped by 2 workers\n"
    assert not gateway.calls[-1][1].HasField("model")
    run("kv", "drop", "--tenant", "acme", "--model", "alpha")
    assert gateway.calls[-1][1].model == "alpha"
    assert json.loads(run("kv", "drop", "--tenant", "acme", "--json").stdout) == {
        "num_pages": 12,
        "num_workers": 2,
    }
    assert run("kv", "drop").exit_code == 2


def test_budgets_of_pages_are_changed_one_by_one(run, gateway):
    result = run("kv", "budget", "--model", "alpha", "--host-bytes", "0")
    assert result.stdout == "changed in 2 workers of alpha\n"
    request = gateway.calls[-1][1]
    assert request.HasField("host_bytes")
    assert not request.HasField("disk_bytes")
    assert run("kv", "budget", "--model", "alpha").exit_code == 2


def test_checkpoints_are_shown_with_the_requests_in_them(run, gateway):
    lines = [line.split() for line in run("checkpoints", "list").stdout.splitlines()]
    assert lines[1] == ["alpha#0", "1.2", "kB", "1", "3", "9", "MB", "0"]
    assert lines[2] == ["beta#0", "off", "0", "0", "0", "B", "0"]
    assert lines[5][:6] == ["alpha#0", "req-1", "acme", "alice", "recoverable", "7"]
    run("checkpoints", "list", "--model", "alpha")
    assert gateway.calls[-1][1].model == "alpha"
    [first, second] = json.loads(run("checkpoints", "list", "--json").stdout)
    assert first["requests"][0]["state"] == "recoverable"
    assert (second["journal"], second["requests"]) == ("off", [])


def test_checkpoints_that_nobody_needs_are_given_up(run, gateway):
    result = run("checkpoints", "prune", "--model", "alpha")
    assert result.stdout == "1 requests and 3 pages given up by 2 workers\n"
    assert gateway.calls[-1][1].model == "alpha"
    assert json.loads(run("checkpoints", "prune", "--json").stdout) == {
        "num_requests": 1,
        "num_pages": 3,
        "num_workers": 2,
    }


def test_workers_are_drained_or_replaced(run, gateway):
    result = run("drain", "--model", "alpha", "--replica", "1", "--drain-timeout", "1.5")
    assert result.stdout == "2 workers drained; 3 requests were not finished in time\n"
    request = gateway.calls[-1][1]
    assert (request.model, request.replica_index, request.timeout_ms) == ("alpha", 1, 1500)
    assert not request.restart
    result = run("drain", "--engine", "127.0.0.1:50052", "--restart", "--json")
    assert json.loads(result.stdout) == {"num_workers": 2, "num_unfinished_requests": 3}
    request = gateway.calls[-1][1]
    assert (request.engine_address, request.restart) == ("127.0.0.1:50052", True)
    assert not request.HasField("model")
    assert run("drain").exit_code == 2
    assert run("drain", "--replica", "0", "--engine", "a:1").exit_code == 2

"""Commands for those who run a deployment: what they send and print."""

import json

from json_lines import lines

SECRET = "crv_secret_1"


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

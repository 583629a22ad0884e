import workloads
from suite import SUITE, Experiment
from workloads import Clients, Turn, Workload, scripts

MIXED = Workload(
    name="mixed",
    clients=(
        Clients(count=2, shared_tokens=8, turns=(Turn(4, 3), Turn(2, 3))),
        Clients(count=1, turns=(Turn(5, 1),), delay_s=2.0, are_watched=False),
    ),
    limit_s=1,
)


def test_clients_share_their_first_tokens_and_no_others():
    first, second, other = (each.turns[0][0] for each in scripts(MIXED, seed=1))

    assert len(first) == 12
    assert first[:8] == second[:8]
    assert first[8:] != second[8:]
    assert other != first[:5]


def test_the_same_seed_gives_the_same_prompts_and_another_one_others():
    assert scripts(MIXED, seed=1) == scripts(MIXED, seed=1)
    assert scripts(MIXED, seed=1)[0].turns != scripts(MIXED, seed=2)[0].turns


def test_only_conversations_have_a_session_and_each_its_own():
    first, second, single = (each.session_id for each in scripts(MIXED, seed=1))

    assert first is not None
    assert first != second
    assert single is None


def test_calls_are_counted_over_all_turns():
    assert MIXED.num_calls == 5
    assert workloads.SESSIONS.num_calls == 36


def test_targets_and_ratios_name_servers_that_are_measured():
    for each in SUITE:
        if isinstance(each, Experiment):
            names = {server.name for server in each.servers}
            names |= {getattr(server, "also_direct", None) for server in each.servers}
            assert each.versus in names
            assert {target.source for target in each.targets} <= names
            assert {target.versus for target in each.targets} <= names | {None}


def test_names_of_experiments_are_unique():
    names = [each.name for each in SUITE]

    assert len(set(names)) == len(names)

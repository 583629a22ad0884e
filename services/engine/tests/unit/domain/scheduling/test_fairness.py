import random

import pytest

from caravan_engine.domain.request import ClientKey
from caravan_engine.domain.scheduling.fairness import ClientWeights, FairnessLedger

ALICE, BOB, CAROL = (ClientKey("acme", name) for name in ("alice", "bob", "carol"))


def ledger(**weights):
    return FairnessLedger(ClientWeights(weights))


def serve(ledger, client, num_tokens):
    """A request that comes, is computed and ends."""
    ledger.arrived(client)
    ledger.admitted(client)
    ledger.charge_input(client, num_tokens)
    ledger.left(client)


def test_an_output_token_counts_as_two_of_input():
    accounts = ledger()
    accounts.arrived(ALICE)
    accounts.charge_input(ALICE, 10)
    accounts.charge_output(ALICE, 3)
    assert accounts.counter(ALICE) == 10 + 2 * 3


def test_tokens_count_less_for_whoever_has_more_weight():
    accounts = FairnessLedger(ClientWeights({"acme": 2.0, "acme/bob": 5.0}))
    clients = (ALICE, BOB, ClientKey("other", "bob"))
    for client in clients:
        accounts.arrived(client)
    for client in clients:
        accounts.charge_input(client, 100)
    assert accounts.counter(ALICE) == 50
    assert accounts.counter(BOB) == 20
    assert accounts.counter(ClientKey("other", "bob")) == 100


def test_who_comes_back_is_even_with_the_least_served_of_those_who_wait():
    accounts = ledger()
    accounts.arrived(ALICE)
    accounts.charge_input(ALICE, 100)
    accounts.arrived(BOB)
    accounts.charge_input(BOB, 50)
    assert accounts.counter(BOB) == 150
    accounts.arrived(CAROL)
    assert accounts.counter(CAROL) == 100


def test_where_nobody_waits_a_newcomer_is_even_with_who_waited_last():
    accounts = ledger()
    accounts.arrived(ALICE)
    accounts.admitted(ALICE)
    accounts.charge_input(ALICE, 100)
    accounts.arrived(BOB)
    assert accounts.counter(BOB) == 100


def test_more_requests_of_one_who_waits_already_lift_nothing():
    accounts = ledger()
    accounts.arrived(ALICE)
    accounts.arrived(BOB)
    accounts.charge_output(BOB, 50)
    accounts.arrived(ALICE)
    assert accounts.counter(ALICE) == 0


def test_leaving_for_a_moment_does_not_quit_a_debt():
    accounts = ledger()
    accounts.arrived(ALICE)  # waits all the time, served nothing yet
    serve(accounts, BOB, 1000)
    for number in range(1000):  # whatever else comes and goes
        serve(accounts, ClientKey("acme", str(number)), 1)
    accounts.arrived(BOB)
    assert accounts.counter(BOB) == 1000


def test_clients_who_owe_nothing_are_forgotten():
    accounts = ledger()
    for number in range(10_000):
        serve(accounts, ClientKey("acme", str(number)), 10)
    assert len(accounts) < 200


def test_debts_are_bounded_in_number_and_the_largest_stay():
    accounts = ledger()
    accounts.arrived(ALICE)
    serve(accounts, BOB, 1_000_000)
    for number in range(30_000):
        serve(accounts, ClientKey("acme", str(number)), 10)
    assert len(accounts) <= 2 * 4096 + 64
    assert accounts.counter(BOB) == 1_000_000


@pytest.mark.parametrize("weight", [0.5, 1.0, 3.0])
def test_a_client_who_runs_is_remembered_however_many_come_and_go(weight):
    accounts = ledger(acme=weight)
    accounts.arrived(ALICE)
    accounts.admitted(ALICE)
    for number in range(1000):
        serve(accounts, ClientKey("other", str(number)), 10)
    accounts.charge_output(ALICE, 1)
    assert accounts.counter(ALICE) == 2 / weight


def test_forgetting_changes_no_counter_that_anybody_will_ever_see():
    """Against accounts that are all kept, over a random crowd."""
    chance = random.Random(3)
    accounts, kept = ledger(), {}
    waiting, running, left_last = [], [], None
    for _ in range(20_000):
        event = chance.random()
        if event < 0.3:
            client = ClientKey("acme", str(chance.randrange(400)))
            if client not in waiting:
                others = [kept[each] for each in waiting]
                floor = min(others) if others else kept.get(left_last, 0.0)
                kept[client] = max(kept.get(client, 0.0), floor)
            waiting.append(client)
            accounts.arrived(client)
        elif event < 0.6 and waiting:
            client = min(waiting, key=kept.__getitem__)
            waiting.remove(client)
            left_last = client if client not in waiting else left_last
            accounts.admitted(client)
            running.append(client)
        elif event < 0.7 and running:
            accounts.left(running.pop(chance.randrange(len(running))))
        elif running:
            client, num_tokens = chance.choice(running), chance.randrange(40)
            accounts.charge_output(client, num_tokens)
            kept[client] += 2 * num_tokens
        assert all(accounts.counter(each) == kept[each] for each in (*waiting[-3:], *running[-3:]))

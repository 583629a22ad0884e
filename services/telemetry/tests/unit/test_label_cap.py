from caravan_telemetry.domain.label_cap import LabelCap


def test_names_over_the_limit_become_other():
    cap = LabelCap(2)
    assert [cap.label(name) for name in ("a", "b", "c", "a", "d", "b")] == [
        *("a", "b", "other", "a", "other", "b"),
    ]

"""What a node may be called, offer and hold: nonsense ends its worker at once, with the value in the message."""

import pytest

from gastown.settings import load, settings_of_a_process


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("NODE_CAPACITY", "0", "node_capacity: Input should be greater than or equal to 1, but it is '0'"),
        ("NODE_CAPACITY", "-3", "but it is '-3'"),
        ("RUNTIME", "podman", "runtime: String should match pattern '^(process|docker)$', but it is 'podman'"),
        ("NODE", "local~7", "but it is 'local~7'"),  # only a node that lost its name is called so
        ("NODE", "", "node: "),
        ("NODE_LABELS", '["gpu", "a b"]', "node_labels: 'a b' cannot be a label"),
        ("NODE_LABELS", '[""]', "node_labels: '' cannot be a label"),
    ],
)
def test_nonsense_is_refused(variable: str, value: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"GASTOWN_{variable}", value)
    with pytest.raises(SystemExit) as ended:
        settings_of_a_process()
    assert said in str(ended.value)


def test_labels_are_given_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GASTOWN_NODE_LABELS", '["gpu", "zone=eu", "gpu"]')
    assert load().node_labels == ["gpu", "zone=eu"]

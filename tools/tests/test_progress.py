import os
import sys

import pytest

from progress import CommandError, summary, watch


def test_the_output_of_a_command_goes_to_the_log(tmp_path):
    log = tmp_path / "setup.log"

    watch([sys.executable, "-c", "print('compiling')"], log=log, environment=dict(os.environ))

    assert log.read_text() == "compiling\n"


def test_a_failing_command_is_reported_with_its_last_lines(tmp_path):
    program = "for number in range(100): print('line', number)\nraise SystemExit(3)"

    with pytest.raises(CommandError, match=r"line 99\nfailed with status 3") as failure:
        watch([sys.executable, "-c", program], log=tmp_path / "log", environment=dict(os.environ))

    assert "line 50\n" not in str(failure.value)


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("  [8/193] /usr/bin/g++ -DX -o a.o -c /tmp/x/llama-graph.cpp\n", "4 %) llama-graph.cpp"),
        ("[193/193] : && /usr/bin/g++ -shared -o bin/libllama.so\n", "built 193/193 (100 %)"),
        ("Collecting numpy==2.4.6\n", "Collecting numpy==2.4.6"),
    ],
)
def test_a_line_is_shortened_to_how_far_it_is(line, shown):
    assert summary(line).endswith(shown)

"""The demo's input: a small Python package with tests, and five pieces of work on it, each a script that an agent runs.

Only the pace is scripted: agents think for minutes, and these sleep for a second or two between steps instead.
"""

import os
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

from gastown.errors import GitFailed, UsageError

RIG = "textkit"
BRANCH = "main"
GATE = f"{shlex.quote(sys.executable)} -m unittest -q"
WROTE = "wrote {path}"
RESUMED = "attempt 1 left {path} here: going on from there"

FILES = {
    "README": "textkit: small functions about texts. The demo of Gastown made it.\n",
    ".gitignore": "__pycache__/\n",
    "textkit/__init__.py": '"""Small functions about texts."""\n',
    "textkit/words.py": dedent('''\
        """Words, which everything else is made of."""

        import re


        def words(text: str) -> list[str]:
            """The words of a text in lower case, in their order."""
            return re.findall(r"[a-z']+", text.lower())
        '''),
    "tests/__init__.py": "",
    "tests/test_words.py": dedent("""\
        import unittest

        from textkit.words import words


        class WordsTest(unittest.TestCase):
            def test_case_and_punctuation(self):
                self.assertEqual(words("It's here. It works!"), ["it's", "here", "it", "works"])

            def test_nothing(self):
                self.assertEqual(words(" ... "), [])
        """),
}


@dataclass(frozen=True, kw_only=True)
class Chore:
    """One bead of the demo: a module and its tests."""

    title: str
    module: str
    function: str
    code: str
    tests: str
    pause_s: float = 1.5  # before each of its three steps

    @property
    def path(self) -> str:
        return f"textkit/{self.module}.py"

    @property
    def script(self) -> str:
        """What its agent does. Whatever an earlier attempt left is found, and gone on from."""
        return dedent("""\
            if [ -f {path} ]; then
                echo "{resumed}"
            else
                echo "reading the package: $(ls textkit | wc -l) modules"; sleep {pause}
                cat > {path} <<'EOF'
            {code}EOF
                echo "{wrote}"
            fi
            sleep {pause}
            cat > tests/test_{module}.py <<'EOF'
            {tests}EOF
            echo "wrote tests/test_{module}.py"
            {gate}
            echo "all tests pass"
            sleep {pause}
            git add textkit tests
            git commit -q -m 'Add {function}()'
            echo "committed"
            """).format(
            resumed=RESUMED.format(path=self.path),
            wrote=WROTE.format(path=self.path),
            path=self.path,
            module=self.module,
            function=self.function,
            code=self.code,
            tests=self.tests,
            gate=GATE,
            pause=self.pause_s,
        )


RANK = Chore(
    title="Rank the words",
    module="ranking",
    function="rank",
    code=dedent('''\
        """How often words occur."""

        from collections import Counter

        from textkit.words import words


        def rank(text: str, most: int = 10) -> list[tuple[str, int]]:
            """The most frequent words and how often each occurs; of equal ones the first to occur comes first."""
            return Counter(words(text)).most_common(most)
        '''),
    tests=dedent("""\
        import unittest

        from textkit.ranking import rank


        class RankTest(unittest.TestCase):
            def test_most_frequent_first(self):
                self.assertEqual(rank("to be or not to be to", 2), [("to", 3), ("be", 2)])
        """),
)
SENTENCES = Chore(
    title="Find the sentences",
    module="sentences",
    function="sentences",
    code=dedent('''\
        """Sentences."""

        import re


        def sentences(text: str) -> list[str]:
            """The sentences of a text, each with the mark that ends it."""
            return [found.strip() for found in re.findall(r"[^.!?]+[.!?]*", text) if found.strip()]
        '''),
    tests=dedent("""\
        import unittest

        from textkit.sentences import sentences


        class SentencesTest(unittest.TestCase):
            def test_marks_stay(self):
                self.assertEqual(sentences("Is it? It is."), ["Is it?", "It is."])

            def test_last_mark_is_missing(self):
                self.assertEqual(sentences("One. Two"), ["One.", "Two"])
        """),
)
LONGEST = Chore(
    title="Find the longest word",
    module="longest",
    function="longest",
    code=dedent('''\
        """The longest word."""

        from textkit.words import words


        def longest(text: str) -> str:
            """The longest word of a text, the first one of several; empty when it has none."""
            return max(words(text), key=len, default="")
        '''),
    tests=dedent("""\
        import unittest

        from textkit.longest import longest


        class LongestTest(unittest.TestCase):
            def test_first_of_several(self):
                self.assertEqual(longest("a bee and a cat"), "bee")

            def test_none(self):
                self.assertEqual(longest(""), "")
        """),
)
TIME = Chore(
    title="Time the reading",
    module="reading",
    function="reading_time",
    code=dedent('''\
        """How long reading takes."""

        from textkit.words import words


        def reading_time(text: str, words_per_minute: int = 240) -> float:
            """Minutes that an adult needs for a text."""
            return len(words(text)) / words_per_minute
        '''),
    tests=dedent("""\
        import unittest

        from textkit.reading import reading_time


        class ReadingTest(unittest.TestCase):
            def test_minutes(self):
                self.assertEqual(reading_time("word " * 480), 2)
        """),
    pause_s=3.0,
)
SUMMARY = Chore(
    title="Summarise a text",
    module="summary",
    function="summary",
    code=dedent('''\
        """A text in one line."""

        from textkit.longest import longest
        from textkit.words import words


        def summary(text: str) -> str:
            """How long a text is, and the word that stands out."""
            return f"{len(words(text))} words, the longest is {longest(text)!r}"
        '''),
    tests=dedent("""\
        import unittest

        from textkit.summary import summary


        class SummaryTest(unittest.TestCase):
            def test_words_and_longest(self):
                self.assertEqual(summary("Nothing is lost."), "3 words, the longest is 'nothing'")
        """),
)


CHORES = (RANK, SENTENCES, LONGEST, SUMMARY, TIME)


def make(folder: Path) -> None:
    """A repository with one commit. Raises GitFailed."""
    for name, text in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    git("init", "-q", cwd=folder)
    git("symbolic-ref", "HEAD", f"refs/heads/{BRANCH}", cwd=folder)
    git("add", ".", cwd=folder)
    git("commit", "-q", "-m", "Start with words()", cwd=folder)


def merge_commits(folder: Path, bead_id: str) -> list[str]:
    """The merge commits of the target that say that they merge this bead."""
    return git("log", "--merges", "--format=%H", f"--grep=^Gastown-Bead: {bead_id}$", BRANCH, cwd=folder).split()


def graph(folder: Path) -> str:
    """`git log --graph --oneline` of the target."""
    return git("log", "--graph", "--oneline", "--no-decorate", BRANCH, cwd=folder)


def git(*arguments: str, cwd: Path) -> str:
    """Run git as nobody in particular: the user's own configuration, hooks and templates stay out of it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    person = {f"GIT_{role}_{key}": value for role in ("AUTHOR", "COMMITTER") for key, value in _PERSON.items()}
    alone = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", "GIT_TERMINAL_PROMPT": "0"}
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=cwd, env=kept | person | alone, capture_output=True, text=True, check=False
        )
    except FileNotFoundError as error:
        raise UsageError("git is not on the PATH, and everything here ends in git", hint="install git") from error
    if done.returncode:
        raise GitFailed(arguments[0], done.stderr)
    return done.stdout.rstrip("\n")


_PERSON = {"NAME": "The demo", "EMAIL": "demo@gastown.localhost"}

"""The lines that mutants break stand in the package, once each.

`make mutants` and the slow tier say so too, but not before a change is made elsewhere.
"""

import ast

from tests.mutants import MUTANTS, PACKAGE, ROOT
from tests.tools.test_verification import BROKEN


def test_mutants_lines_exist_once():
    lines = {(file, line) for file, line, *_ in [*MUTANTS, *BROKEN]}
    sources = {file: (ROOT / PACKAGE / file).read_text(encoding="utf-8") for file, _ in lines}
    assert [(f, line) for f, line in lines if sources[f].count(line) != 1] == []


def test_mutants_are_python():
    """One that is not would fail without a test having noticed anything."""

    def is_python(file, line, broken):
        try:
            ast.parse((ROOT / PACKAGE / file).read_text(encoding="utf-8").replace(line, broken))
        except SyntaxError:
            return False
        return True

    broken = [mutant[:3] for mutant in [*MUTANTS, *BROKEN] if mutant[0].endswith(".py")]
    assert [mutant for mutant in broken if not is_python(*mutant)] == []


def test_mutants_tests_exist():
    named = {tests.split("::")[0] for *_, tests in MUTANTS}
    assert [tests for tests in named if not (ROOT / tests).exists()] == []

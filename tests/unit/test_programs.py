"""tests/apt.txt: every line is understood, and a missing program skips a test by name."""

import pytest

from tests.programs import APT_LIST, debian_packages

pytest_plugins = ["pytester"]


def test_lines_name_a_package_and_its_programs() -> None:
    text = "# a comment\n\nprometheus  # prometheus, promtool: rules: and more\n"
    assert debian_packages(text) == {"prometheus": ["prometheus", "promtool"]}


def test_the_list_itself() -> None:
    packages = debian_packages(APT_LIST.read_text())
    assert "promtool" in packages["prometheus"]
    assert all(program for brings in packages.values() for program in brings)


@pytest.mark.parametrize("processes", ["0", "2"])
def test_a_missing_program_is_reported_with_the_tests_it_skips(
    processes: str, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makeconftest(
        """
        from tests import programs

        def pytest_runtest_setup(item):
            programs.skip_without_programs(item)

        def pytest_terminal_summary(terminalreporter):
            for line in programs.summary_lines(terminalreporter.getreports("skipped")):
                terminalreporter.line(line)
        """
    )
    pytester.makeini("[pytest]\nmarkers = needs_program(name): a program")
    path = pytester.makepyfile(
        """
        import pytest

        @pytest.mark.needs_program("promtool")
        def test_rules():
            pass
        """
    )
    monkeypatch.setenv("PATH", str(pytester.path))
    result = pytester.runpytest("-n", processes, path)
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines("prometheus: skips *::test_rules")

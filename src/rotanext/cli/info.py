"""`rotanext info`."""

from rotanext.cli.terminal import JsonOption, QuietOption, print_json, print_result


def info(as_json: JsonOption = False, quiet: QuietOption = False) -> None:
    """Print versions, devices and active kernels; with --json all that a bug report needs, without names and paths."""
    from rotanext.system.facts import bug_report, environment

    if as_json:
        return print_json(bug_report())
    for key, value in environment().items():
        print_result(f"{key:>14}  {value}")

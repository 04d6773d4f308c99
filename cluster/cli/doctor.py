"""`ctl doctor`: is this machine ready?"""

from cluster.cli.output import AsJson, print_json, print_table


def doctor(as_json: AsJson = False) -> None:
    """Check this machine: packages, devices, disk, memory, ports, token. Exit 4 where something fails."""
    from cluster.control.doctor import diagnose
    from cluster.core.errors import NotReadyError

    checks = diagnose()
    if as_json:
        print_json([check.as_dict() for check in checks])
    else:
        rows = [(check.state, check.name, check.found, check.remedy) for check in checks]
        print_table(("", "check", "found", "remedy"), rows, "")
    if failed := [check.name for check in checks if check.state == "fail"]:
        raise NotReadyError(f"not ready: {', '.join(failed)}", "The remedies stand in the table.")

"""Judges never touch the network: no kernel and no weight is ever fetched.

What a test measures and gives to `record_property` under "largest ..." is told at the end, with the
test that measured most.
"""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")


def pytest_terminal_summary(terminalreporter):
    found: dict[str, list[tuple[float, str]]] = {}
    for report in terminalreporter.stats.get("passed", []):
        for name, value in report.user_properties:
            if name.startswith("largest "):
                found.setdefault(name, []).append((value, report.nodeid.rpartition("::")[2]))
    for name, measured in sorted(found.items()):
        value, test = max(measured)
        terminalreporter.write_line(f"{name}: {value:.1e} of {len(measured)}, {test}")

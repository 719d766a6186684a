"""Schemathesis against a running server: few cases for the tests, thousands for `python -m tests.chaos.serve`."""

import re
import subprocess
import sys
from pathlib import Path

SETTINGS = """
# Camera paths and images obey rules that no schema can say, so what fits the schema may still be 400.
[checks.positive_data_acceptance]
expected-statuses = [200, 400, 401, 403, 404, 409, 413, 429, 503]
# Requests about a video that exists; deletions are of videos that do not.
[[operations]]
include-method = "GET"
include-path-regex = "video_id"
parameters = { video_id = "VIDEO" }
[[operations]]
include-method = "POST"
include-path-regex = "video_id"
parameters = { video_id = "VIDEO" }
"""


def fuzz(server, video, examples, phases="examples,coverage,fuzzing") -> tuple[int, list[str], str]:
    """Let it try what the description of the API allows and forbids, with all checks.

    Args:
        server: a server that runs.
        video: id of a completed video.
        examples: most cases of each operation; some have fewer different ones.
        phases: of Schemathesis.

    Returns:
        Number of cases, what was found, and the report.
    """
    settings = server.folder / "schemathesis.toml"
    settings.write_text(SETTINGS.replace("VIDEO", video))
    log = server.folder / "log"
    written = len(log.read_text())
    command = [
        str(Path(sys.executable).parent / "schemathesis"), "--config-file", str(settings),
        "run", f"{server.url}/openapi.json", "--checks", "all", "--max-examples", str(examples), "--phases", phases,
        "--exclude-path-regex", "/events$", "--request-timeout", "30",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=server.folder, stdout=subprocess.PIPE, text=True, check=False)
    cases = sum(int(number) for number in re.findall(r"(\d+) generated", done.stdout))
    problems = ["Schemathesis found something"] if done.returncode else []
    if "Traceback" in log.read_text()[written:]:
        problems.append("the server wrote a traceback")
    return cases, problems, done.stdout

"""What the workflow puts on record with a kernel's results."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

from fakes import SCRIPTS, write_toy

ROOT = Path(__file__).resolve().parents[2]


def test_settings_and_hashes_of_what_was_asked_for_are_in_the_sidecar(tmp_path):
    script = write_toy(tmp_path / "toy", with_torch=False)
    (script.parent / "benchlib").symlink_to(SCRIPTS / "benchlib")
    parsed = tmp_path / "parsed"
    (parsed / "specs").mkdir(parents=True)
    ops_file, spec = tmp_path / "ops.md", parsed / "specs" / "toy.json"
    ops_file.write_text("# ops\n")
    spec.write_text("{}\n")
    asked = {"ops_file": str(ops_file), "batch_sizes": [1, 2, 4], "timing": {"routing": "uniform"}}
    (parsed / "parse_settings.json").write_text(json.dumps(asked))
    settings = {"hardware": "auto", "timing": {"cache": "cold", "point_timeout_s": 60}}
    environment = parsed / "environment.json"
    environment.write_text(json.dumps({"settings": settings}))

    command = [sys.executable, str(ROOT / "scripts" / "run_benchmark.py"), "--script", str(script)]
    command += ["--output", str(tmp_path / "results"), "--environment", str(environment)]
    command += ["--attempt", str(tmp_path / "attempt.json")]
    variables = {**os.environ, "ROOFBENCH_LOCK_DIR": str(tmp_path / "locks")}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "toy: ok"

    run = json.loads((tmp_path / "results" / "toy.jsonl").read_text().splitlines()[0])
    provenance = run["provenance"]
    timing = {"routing": "uniform", "cache": "cold", "point_timeout_s": 60}
    assert provenance["config"] == {**asked, "hardware": "auto", "timing": timing}
    assert provenance["ops_file_sha256"] == hashlib.sha256(ops_file.read_bytes()).hexdigest()
    assert provenance["spec_sha256"] == hashlib.sha256(spec.read_bytes()).hexdigest()
    assert json.loads((tmp_path / "attempt.json").read_text()) == {"settings": settings}

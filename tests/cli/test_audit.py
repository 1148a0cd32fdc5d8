"""``secmon audit`` as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from secmon_dagster.audit import HashChainAuditLogger, enqueue
from secmon_dagster.cli.main import build
from secmon_dagster.database import transaction
from secmon_dagster.errors import SecmonError
from secmon_dagster.settings import get_settings


@pytest.fixture
def secmon(database):
    """The command line in this process; a process each would cost the suite minutes."""

    def run(*words, code=0):
        get_settings.cache_clear()
        words = ["audit", *map(str, words)]
        answer = CliRunner().invoke(build(words), words)
        output = answer.output
        if isinstance(answer.exception, SecmonError):
            assert answer.exception.exit_code == code
            return output + answer.exception.diagnostics()
        assert answer.exit_code == code, output + repr(answer.exception)
        return answer.stdout if code == 0 else output

    return run


@pytest.fixture
def filled(database):
    with HashChainAuditLogger() as log:
        ids = log.append_entries(
            [{"action": "A", "actor": "ann", "resource_type": "model", "resource_id": f"m{i}"}
             for i in range(5)]
        )  # fmt: skip
        log.checkpoint()
    return ids


def test_append_show_trail_stats(secmon):
    entry_id = secmon("append", "DEPLOY", "model", "m1", "--data", '{"auc": 0.92}').strip()
    assert json.loads(secmon("show", entry_id))["data"] == {"auc": 0.92}
    assert "DEPLOY" in secmon("trail", "--resource-id", "m1")
    assert json.loads(secmon("trail", "--actor", "nobody", "--json")) == []
    assert json.loads(secmon("stats"))["action_counts"] == {"DEPLOY": 1}
    assert "no entry has the id" in secmon("show", "nothing", code=1)
    assert "--data is no JSON" in secmon("append", "A", "t", "--data", "{", code=2)
    assert "level is 'loud'" in secmon("append", "A", "t", "--level", "loud", code=2)


def test_verify_says_good_tampered_and_cannot_tell(secmon, filled, database, monkeypatch):
    assert secmon("verify").startswith("valid: 5 entries, 0 invalid, 0 breaks; 1 checkpoints")
    with database.admin() as admin:
        admin.execute("ALTER TABLE secmon.audit_entries DISABLE TRIGGER ALL")
        admin.execute("UPDATE secmon.audit_entries SET actor = 'bob' WHERE seq = 3")
    assert "entry_hash at 3" in secmon("verify", code=1)
    assert json.loads(secmon("verify", "--json", code=1))["invalid_entries"][0]["seq"] == 3
    assert "can't tell: the public key 'x' is no Ed25519" in secmon("verify", "--key", "x", code=2)
    with database.admin() as admin:
        admin.execute("DELETE FROM secmon.audit_head")
    assert "tampered: the head of the audit chain is missing" in secmon("verify", code=1)
    monkeypatch.setenv("SECMON_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    assert "can't tell: PostgreSQL does not answer" in secmon("verify", code=2)


def test_a_kept_checkpoint_convicts_a_replaced_log(secmon, filled, database, home, tmp_path):
    with HashChainAuditLogger() as log:
        kept = log.store.latest_checkpoint().note
        key = str(log.trust().ring.keys[0])
    (tmp_path / "kept.note").write_text(kept)
    (home / "witness" / "checkpoints.jsonl").unlink()
    with database.admin() as admin:
        for table in ("audit_entries", "audit_checkpoints"):
            admin.execute(f"ALTER TABLE secmon.{table} DISABLE TRIGGER ALL")
            admin.execute(f"DELETE FROM secmon.{table}")
        admin.execute(
            "UPDATE secmon.audit_head SET seq = 0, entry_hash = decode(repeat('00', 32), 'hex')"
        )
    with HashChainAuditLogger() as log:
        log.append_entries([{"action": "A", "actor": "mallory", "resource_type": "t"}] * 9)
    assert secmon("verify").startswith("valid")  # nobody kept anything: nothing to see
    output = secmon("verify", "--checkpoint", tmp_path / "kept.note", "--key", key, code=1)
    assert "checkpoint_root at 5" in output


def test_proofs_and_exports_are_checked_with_the_public_key_alone(
    secmon, filled, database, home, tmp_path, monkeypatch
):
    proof, table = tmp_path / "proof.json", tmp_path / "chain.csv"
    secmon("prove", filled[2], "-o", proof)
    assert "checkpoint covers up to 5" in secmon("export", "--format", "csv", "-o", table)
    assert json.loads(secmon("export"))["last_seq"] == 5
    key = json.loads(secmon("keys", "--json"))[0]["key"]
    # Elsewhere: no database, no keys, no home of ours.
    monkeypatch.setenv("SECMON_HOME", str(tmp_path / "auditor"))
    monkeypatch.setenv("SECMON_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    assert "entry 3" in secmon("check-proof", proof, "--key", key)
    assert secmon("verify-export", table, "--key", key).startswith("valid: 5 entries, 5 under")
    assert "can't tell" in secmon("check-proof", proof, code=2)
    assert "unknown" in secmon("verify-export", table, code=2)
    proof.write_text(proof.read_text().replace('"ann"', '"eve"'))
    assert "tampered" in secmon("check-proof", proof, "--key", key, code=1)
    table.write_text(table.read_text().replace("ann", "eve", 1))
    assert "entry_hash at 1" in secmon("verify-export", table, "--key", key, code=1)
    assert "can't be read" in secmon("check-proof", tmp_path / "none", code=2)


def test_checkpoint_rollback_and_keys(secmon, filled, home):
    assert secmon("checkpoint").startswith("nothing new: 5 entries, published to")
    entry = json.loads(secmon("show", filled[1]))
    assert "3 entries are superseded" in secmon("rollback", entry["entry_hash"], "--reason", "bad")
    assert "no entry has the hash" in secmon("rollback", "00" * 32, "--reason", "x", code=1)
    assert secmon("checkpoint").startswith("signed: 6 entries")
    assert secmon("archive") == "no full partition is that old\n"
    assert "no archive begins" in secmon("restore", 1, code=1)
    secmon("keys", "--rotate")
    assert len(json.loads(secmon("keys", "--json"))) == 2
    assert "needs a --reason" in secmon("checkpoint", "--new-incarnation", code=2)
    assert "signed: 7 entries" in secmon("checkpoint", "--new-incarnation", "--reason", "restored")
    assert secmon("verify").startswith("valid")


def test_the_signer_process_empties_the_outbox_and_signs(secmon, database, home, monkeypatch):
    monkeypatch.setenv("SECMON_AUDIT_CHECKPOINT_SECONDS", "0.3")
    command = [sys.executable, "-m", "secmon_dagster.cli.main", "audit", "checkpoint", "--watch"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline().startswith("signed: 0 entries")
    with transaction() as connection:
        enqueue(connection, action="A", actor="a", resource_type="t")
    assert process.stdout.readline().startswith("signed: 1 entries")
    process.send_signal(2)
    assert process.wait(20) == 0
    assert Path(home / "witness" / "checkpoints.jsonl").exists()


def test_the_signer_process_refuses_a_chain_that_was_cut_and_goes_on(
    secmon, database, home, monkeypatch
):
    monkeypatch.setenv("SECMON_AUDIT_CHECKPOINT_SECONDS", "0.3")
    secmon("append", "A", "t")
    secmon("checkpoint")
    state, signed = home / "keys" / "audit-signer.json", home / "keys" / "signed.json"
    signed.write_text(state.read_text())
    state.write_text(json.dumps(json.loads(state.read_text()) | {"size": 5}))
    command = [sys.executable, "-m", "secmon_dagster.cli.main", "audit", "checkpoint", "--watch"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("not signed: the log has 1 entries, but 5 were")
        assert process.stdout.readline().startswith("not signed: ")
        signed.rename(state)
        said = next(line for line in process.stdout if not line.startswith("not signed: "))
        assert said.startswith("nothing new: 1 entries")
        process.terminate()
        assert process.wait(20) == 0


def test_the_signer_process_does_not_start_with_a_key_it_cannot_read(secmon, database, monkeypatch):
    monkeypatch.setenv("SECMON_AUDIT_SIGNING_KEY", "no key")
    get_settings.cache_clear()
    assert "holds no Ed25519 private key" in secmon("checkpoint", "--watch", code=2)

"""What every page keeps to: nothing unseen, nothing loaded, and no script but its own."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

import pytest

from mtl_med.errors import UsageError
from mtl_med.html import content_policy, data_address, nonce_of, script_hash, templates, visible


def test_a_page_may_do_nothing_unless_it_is_said() -> None:
    policy = content_policy()
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline'; ")
    assert "script-src" not in policy and "base-uri 'none'" in policy


def test_scripts_run_by_their_hash_or_the_nonce() -> None:
    digest = base64.b64encode(hashlib.sha256(b"let x = 1;").digest()).decode()
    assert script_hash("let x = 1;") == f"'sha256-{digest}'"
    assert f"script-src 'sha256-{digest}' 'nonce-abc'" in content_policy(["let x = 1;"], nonce="abc")


def test_only_what_stays_in_the_page_is_granted() -> None:
    policy = content_policy(
        ["x"], allows=["worker-src blob:", "connect-src data: blob:", "script-src 'wasm-unsafe-eval'"]
    )
    assert "worker-src blob:" in policy and "connect-src data: blob:" in policy
    assert f"script-src {script_hash('x')} 'wasm-unsafe-eval'" in policy
    for wish in (
        "connect-src https:",
        "script-src *",
        "script-src 'unsafe-inline'",
        "default-src data:",
        "img-src 'self'",
    ):
        with pytest.raises(UsageError, match="is not granted"):
            content_policy(allows=[wish])


@pytest.mark.parametrize("text", ["a\u202eb", "a\x00b", "a\ud800b", "a\u200bb", "a\u2028b", "a\x1b[31mb"])
def test_what_cannot_be_seen_is_shown(text: str) -> None:
    assert "\N{REPLACEMENT CHARACTER}" in visible(text)
    assert visible(text).encode()


def test_what_can_be_seen_stays() -> None:
    assert visible("Ω≈ç√ 靶区 <b>") == "Ω≈ç√ 靶区 <b>" and visible(3) == 3


def test_templates_escape_and_miss_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.j2").write_text("{{ name }}{{ lacking }}")
    (tmp_path / "b.j2").write_text('<i title="{{ name }}">')
    assert templates(tmp_path).get_template("b.j2").render(name='"<x>\u202e') == '<i title="&#34;&lt;x&gt;\ufffd">'
    with pytest.raises(Exception, match="'lacking' is undefined"):
        templates(tmp_path).get_template("a.j2").render(name="")


def test_addresses_and_nonces() -> None:
    assert data_address("image/png", b"\x01") == "data:image/png;base64,AQ=="
    assert nonce_of("a") == nonce_of("a") != nonce_of("b")

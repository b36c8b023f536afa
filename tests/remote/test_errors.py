"""What cannot go well is told in our words, and no word of a key."""

import pytest
import torch

import emotrace as et
import emotrace.remote.connection as connection_module
from emotrace.errors import HostedError
from emotrace.runner.disk import DiskLedger
from tests.remote.clients import hosted, replies
from tests.remote.fake import KEY, FakeNdif
from tests.remote.functions import PROMPTS
from tests.tiny import tiny_hf, tiny_model


def test_an_error_in_the_block_is_not_tried_again_and_names_the_users_line(server):
    model = hosted(server)
    ids = torch.tensor(PROMPTS[:1])
    server.fails = lambda job: (
        "Traceback (most recent call last):\n"
        '  File "/srv/ndif/nns.py", line 183, in execute\n    tracer.execute()\n'
        f'  File "{__file__}", line 77, in work\n    model.blocks[9]\nIndexError: list index out of range\n'
    )
    with pytest.raises(HostedError, match=rf"IndexError: list index out of range \({__file__}:77, .*'org/tiny'\)"):
        with model.trace(ids):
            state = model.blocks[1].output.save()
    assert len(server.submitted) == 1
    assert "state" not in locals()


@pytest.mark.parametrize(
    ("description", "kind", "message"),
    [
        ("Could not deploy this model. It does not fit.", HostedError, r"does not host 'org/tiny' \(It does not fit"),
        ("no module at 'model.x' in this architecture", HostedError, "builds 'org/tiny' otherwise than this machine"),
        (
            "The payload could not be read: bad",
            HostedError,
            "cannot read what was sent .*install the server's versions",
        ),
        ("Something else.", HostedError, "http.*: Something else"),
    ],
)
def test_what_cannot_go_well_is_said_once(server, description, kind, message):
    server.fails = lambda job: description
    with pytest.raises(kind, match=message) as error:
        replies(hosted(server))
    assert len(server.submitted) == 1
    if "deploy" in description:
        assert "hosted there: org/other" in str(error.value)


@pytest.mark.parametrize(
    ("status", "detail", "message"),
    [
        (401, "Missing or invalid API key.", "does not accept the API key"),
        (403, "Invalid API key.", "does not accept the API key"),
        (400, f"Invalid API key format: '{KEY}'.", "does not accept the API key .*key format"),
        (400, "Client nnsight version 0.8.1 is below the minimum supported 0.9.", "Versions do not match"),
        (413, "Too large", "smaller request_tokens"),
        (404, "Not Found", "knows no such address"),
    ],
)
def test_refusals_in_our_words(server, status, detail, message):
    server.answers = lambda method, path: (status, detail) if method == "POST" else None
    with pytest.raises(HostedError, match=message) as error:
        replies(hosted(server))
    assert KEY not in str(error.value)
    assert server.submitted == []


def test_the_key_travels_in_a_header_only(server, monkeypatch, tmp_path):
    monkeypatch.setattr(connection_module, "api_key", lambda: KEY)
    replies(hosted(server), ledger=DiskLedger(tmp_path / "stage", "key"))
    assert server.headers[0]["ndif-api-key"] == KEY
    assert [p for p in tmp_path.rglob("*") if p.is_file() and KEY.encode() in p.read_bytes()] == []


def test_only_plain_data_comes_back(server):
    model = hosted(server)
    with pytest.raises(HostedError, match=r"the block saved torch\.nn.*save tensors, numbers, text, lists and dicts"):
        with model.trace(torch.tensor(PROMPTS[:1])):
            bad = torch.nn.Identity().save()
    assert "bad" not in locals()


def test_other_functions_of_ours_are_not_for_blocks(server):
    model = hosted(server)
    with pytest.raises(HostedError, match=r"emotrace\.zero: a server has only emotrace\.apply"):
        with model.trace(torch.tensor(PROMPTS[:1])):
            et.apply(model, et.zero(heads=[(0, 0)]))


@pytest.mark.parametrize(
    ("host", "message"),
    [
        ("http://127.0.0.1:9", "nothing answers at http://127.0.0.1:9 .*the server is down, or --host is wrong"),
        ("http://no.such.machine.invalid", "no machine is called 'http://no.such.machine.invalid'"),
        ("ftp://x", "begins with http:// or https://"),
        ("http://me:secret@x", "give the key in NDIF_API_KEY instead"),
        ("http://x:port", "not a URL"),
    ],
)
def test_hosts_that_cannot_be_used(host, message):
    with pytest.raises(HostedError, match=message) as error:
        connection_module.Connection(et.Ndif(host, patience=0.1)).get("/status")
    assert "secret" not in str(error.value)


def test_what_is_no_ndif_server(server):
    server.answers = lambda method, path: (404, "nothing") if path == "/ping" else None
    with pytest.raises(HostedError, match="answers, but it is not an NDIF server"):
        replies(hosted(server))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("bundled", {}, "'bundled' is on this machine; a server hosts models of the Hub"),
        (str(et.BUNDLED), {}, "is on this machine"),
        ("org/name", {"device": "cuda"}, "the server decides where the model is"),
        (tiny_hf(), {}, "a model in memory is not hosted anywhere"),
    ],
)
def test_models_that_no_server_has(name, options, message):
    with pytest.raises(et.EmotraceError, match=message):
        et.load(name, remote=True, **options)


@pytest.mark.parametrize("settings", [{"jobs": 0}, {"request_tokens": 1.5}, {"patience": -1}, {"grace": float("nan")}])
def test_settings_are_checked(settings):
    with pytest.raises(HostedError, match=next(iter(settings))):
        et.Ndif("http://x", **settings)


@pytest.mark.parametrize("key", ["abc\n", "  abc "])
def test_a_key_is_stripped(monkeypatch, key):
    monkeypatch.undo()
    monkeypatch.setenv("NDIF_API_KEY", key)
    assert connection_module.api_key() == "abc"


@pytest.mark.parametrize("key", ["se\ncret", "secr\x07et", "secrét"])
def test_a_key_that_is_none_is_refused_and_not_shown(server, monkeypatch, key):
    monkeypatch.undo()
    monkeypatch.setenv("NDIF_API_KEY", key)
    with pytest.raises(HostedError, match="the API key holds characters that no key has") as error:
        replies(hosted(server))
    assert "secr" not in str(error.value)


def test_redirects(server):
    other = FakeNdif(server.model)
    server.answers = lambda method, path: (307, f"{other.url}{path}") if path.startswith("/result") else None
    other.results = server.results
    assert replies(hosted(server)) == replies(tiny_model())
    assert len(server.submitted) == 1
    server.answers = lambda method, path: (301, other.url)
    with pytest.raises(HostedError, match=f"sends requests on to {other.url}; give that host instead"):
        replies(hosted(server))
    other.shutdown()


def test_a_user_error_that_sounds_like_the_limit_is_not_cut(server):
    server.fails = lambda job: (
        'Traceback (most recent call last):\n  File "/a.py", line 3, in f\n'
        "ValueError: exceeded the execution timeout of 3s"
    )
    with pytest.raises(HostedError, match="ValueError: exceeded"):
        replies(hosted(server))
    assert len(server.submitted) == 1


def test_what_apply_refuses_here_it_refuses_there(server):
    model = hosted(server)
    plan = et.zero(heads=[(0, 0)])
    with pytest.raises(et.EmotraceError, match="passes are counted from 0"):
        with model.trace(torch.tensor(PROMPTS[:1])):
            et.apply(model, plan, step=-1)
    mask = torch.tensor([[1, 0, 1, 1]])
    with pytest.raises(et.EmotraceError, match="a hole"):
        with model.trace(torch.tensor([[7, 8, 9, 10]])):
            et.apply(model, plan, attention_mask=mask)

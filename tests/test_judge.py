import json
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from lookagain import chat
from lookagain.judge import Ask, Judge, JudgeError, Verdict, key_from_environment

KEY = "sk-secret-0123456789"


class Endpoint(ThreadingHTTPServer):
    """A chat endpoint on this machine that answers as `behave(number of the request, payload)` says.

    That is a status with a text (the answer's content, or an error's body) and headers; None closes the connection.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, behave):
        super().__init__(("127.0.0.1", 0), Handler)
        self.behave = behave
        self.lock = threading.Lock()
        self.payloads, self.headers, self.times = [], [], []
        self.busy = self.most_busy = 0

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, request, client_address):  # clients that hang up are part of the tests
        pass


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        server = self.server
        payload = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            number = len(server.payloads)
            server.payloads.append(payload)
            server.headers.append(dict(self.headers))
            server.times.append(time.monotonic())
            server.busy += 1
            server.most_busy = max(server.most_busy, server.busy)
        try:
            answer = server.behave(number, payload)
        finally:
            with server.lock:
                server.busy -= 1
        if answer is None:
            self.close_connection = True
            return
        status, text, headers = answer
        message = {"choices": [{"message": {"content": text}}], "model": "judge-2", "system_fingerprint": "fp_1"}
        body = (json.dumps(message) if status == 200 else text).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def serve():
    servers = []

    def start(behave):
        server = Endpoint(behave)
        servers.append(server)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def ok(text):
    return 200, text, {}


def number(text):
    """The parser of these tests."""
    return (float(text),) if text.replace(".", "", 1).isdigit() else None


def asks(count=1, **changes):
    return [
        Ask([{"role": "user", "content": f"question {index}"}], number, **{"temperature": 0.0, "max_tokens": 8} | changes)
        for index in range(count)
    ]


def patient(server, **changes):
    settings = {"timeout": 5.0, "retries": 3, "nonsense_retries": 2, "backoff": 0.01}
    return Judge(server.url, "judge", KEY, **settings | changes)


def test_verdicts_come_in_order_with_the_version_that_gave_them(serve):
    server = serve(lambda _, payload: ok(payload["messages"][0]["content"].split()[1]))
    judge = patient(server)
    verdicts = judge.verdicts(asks(12))
    assert [verdict.value for verdict in verdicts] == [(float(index),) for index in range(12)]
    assert verdicts[3] == Verdict((3.0,), "3", "judge-2 fp_1")
    assert judge.summary() == {
        "judge": "judge",
        "versions": {"judge-2 fp_1": 12},
        "asked": 12,
        "cached": 0,
        "failures": {},
    }
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"
    assert server.payloads[0].keys() == {"model", "messages", "temperature", "max_tokens"}


def test_requests_under_way_are_bounded(serve):
    def behave(*_):
        time.sleep(0.03)
        return ok("1")

    server = serve(behave)
    patient(server, concurrency=3).verdicts(asks(18))
    assert 1 < server.most_busy <= 3


def test_equal_requests_are_sent_once_but_runs_are_their_own(serve):
    server = serve(lambda *_: ok("1"))
    judge = patient(server)
    assert len(judge.verdicts(asks() + asks() + asks(run=1) + asks(temperature=0.5) + asks(max_tokens=9))) == 5
    assert len(server.payloads) == 4


def test_a_second_run_asks_nothing(serve, tmp_path):
    server, path = serve(lambda *_: ok("0.5")), tmp_path / "deep" / "cache.jsonl"
    first = patient(server, cache_path=path).verdicts(asks(5))
    again = patient(server, cache_path=path)
    server.shutdown()
    assert again.verdicts(asks(5)) == first
    assert len(server.payloads) == 5
    assert (again.asked, again.cached) == (0, 5)
    assert again.versions == {"judge-2 fp_1": 5}
    assert KEY not in path.read_text()


def test_a_torn_line_is_ignored_and_healed(serve, tmp_path):
    server, path = serve(lambda *_: ok("1")), tmp_path / "cache.jsonl"
    patient(server, concurrency=1, cache_path=path).verdicts(asks(3))
    whole = path.read_bytes()
    path.write_bytes(b"\xff\xfe spoilt\n[]\n" + whole[:-20])
    assert len(patient(server, cache_path=path).verdicts(asks(3))) == 3
    assert len(server.payloads) == 4
    patient(server, cache_path=path).verdicts(asks(3))
    assert len(server.payloads) == 4
    assert len(path.read_bytes().split(b"\n")) == 2 + 3 + 1 + 1


def test_cached_words_are_parsed_anew(serve, tmp_path):
    server, path = serve(lambda *_: ok("1")), tmp_path / "cache.jsonl"
    patient(server, cache_path=path).verdicts(asks())
    (ask,) = asks()
    stricter = Ask(ask.messages, lambda text: None, ask.temperature, ask.max_tokens)
    (verdict,) = patient(server, cache_path=path, nonsense_retries=0).verdicts([stricter])
    assert verdict.value is None
    assert len(server.payloads) == 2


@pytest.mark.parametrize("trouble", [(500, "down", {}), (503, "", {}), (408, "", {}), (429, "", {}), None])
def test_what_can_pass_is_tried_again(serve, trouble):
    server = serve(lambda count, _: ok("1") if count == 2 else trouble)
    judge = patient(server)
    assert judge.verdicts(asks())[0].value == (1.0,)
    assert judge.asked == len(server.payloads) == 3
    assert not judge.failures


def test_retry_after_is_obeyed(serve):
    server = serve(lambda count, _: ok("1") if count else (429, "slow down", {"Retry-After": "0.4"}))
    patient(server).verdicts(asks())
    assert server.times[1] - server.times[0] >= 0.4


def test_nobody_waits_longer_than_allowed(serve):
    server = serve(lambda *_: (429, "tomorrow", {"Retry-After": "86400"}))
    judge = patient(server)
    (verdict,) = judge.verdicts(asks())
    assert verdict == Verdict(None, reason="judge failed: HTTP 429")
    assert len(server.payloads) == 1


@pytest.mark.parametrize("body", ["<html>", "[]", '{"choices": []}', '{"choices": [{"message": {}}]}', "null", ""])
def test_a_body_of_another_form_has_no_text(body):
    assert chat.content(body) == ("", "")


def test_retry_after_may_be_a_date():
    assert chat.retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert chat.retry_after("Wed, 21 Oct 2115 07:28:00 GMT") > 1e9
    assert chat.retry_after("soon") is None
    assert chat.retry_after(None) is None


def test_waits_double_and_vary():
    judge = Judge("http://127.0.0.1:1/v1", "judge", KEY, backoff=1.0, longest_wait=5.0)
    for attempt, longest in enumerate([1, 2, 4, 5, 5]):
        waits = {judge._backoff(attempt) for _ in range(20)}
        assert longest / 2 <= min(waits) < max(waits) <= longest


@pytest.mark.parametrize(("trouble", "reason"), [((502, "", {}), "HTTP 502"), (None, "connection"), ("sleep", "timeout")])
def test_lasting_trouble_is_a_counted_failure(serve, trouble, reason):
    def behave(*_):
        if trouble == "sleep":
            time.sleep(0.3)
            return ok("1")
        return trouble

    judge = patient(serve(behave), retries=1, timeout=0.1 if trouble == "sleep" else 30.0)
    verdicts = judge.verdicts(asks(3))
    assert [verdict.value for verdict in verdicts] == [None] * 3
    assert all(verdict.reason.startswith(f"judge failed: {reason}") for verdict in verdicts)
    assert judge.failures == Counter({reason: 3})
    assert judge.asked == 6


def test_a_refused_request_is_sent_once_and_the_others_go_on(serve):
    def behave(_, payload):
        return (400, f"too long, {KEY}", {}) if "question 1" in payload["messages"][0]["content"] else ok("1")

    server = serve(behave)
    judge = patient(server)
    verdicts = judge.verdicts(asks(3))
    assert [verdict.value for verdict in verdicts] == [(1.0,), None, (1.0,)]
    assert verdicts[1].reason == "judge failed: HTTP 400: too long, [key]"
    assert judge.failures == {"HTTP 400": 1}
    assert len(server.payloads) == 3


@pytest.mark.parametrize("nonsense", ["I would rather not say", "", None, {"unlike": "text"}])
def test_nonsense_is_asked_again_and_then_a_failure(serve, tmp_path, nonsense):
    server, path = serve(lambda *_: ok(nonsense)), tmp_path / "cache.jsonl"
    judge = patient(server, cache_path=path)
    (verdict,) = judge.verdicts(asks(reminder="Answer with a number."))
    assert verdict.value is None
    assert judge.failures == {"no verdict": 1}
    assert [payload["messages"][0]["content"] for payload in server.payloads] == [
        "question 0",
        "question 0\nAnswer with a number.",
        "question 0\nAnswer with a number.",
    ]
    assert not path.exists()


def test_nonsense_that_passes_leaves_no_trace_but_the_request(serve):
    server = serve(lambda count, _: ok("0.7" if count else "well"))
    judge = patient(server)
    assert judge.verdicts(asks())[0].value == (0.7,)
    assert judge.asked == 2
    assert not judge.failures


@pytest.mark.parametrize("status", [301, 401, 403, 404])
def test_what_no_question_survives_ends_the_run(serve, status):
    server = serve(lambda *_: (status, f"bad key {KEY}", {"Location": "http://127.0.0.1:1/"}))
    with pytest.raises(JudgeError, match=f"HTTP {status}.*check base_url") as raised:
        patient(server, concurrency=2).verdicts(asks(50))
    assert KEY not in str(raised.value)
    assert len(server.payloads) < 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("api.openai.com/v1", "m", KEY), "no http or https address"),
        (("ftp://host/v1", "m", KEY), "no http or https address"),
        (("http://", "m", KEY), "no http or https address"),
        (("http://host:port/v1", "m", KEY), "no http or https address"),
        (("http://me:secret@host:port/v1", "m", KEY), "holds a user"),
        (("http://me:secret@host/v1", "m", KEY), "holds a user"),
        (("http://host/v1?key=secret", "m", KEY), "holds a user, query"),
        (("http://host/v1", "", KEY), "no model name"),
        (("http://host/v1", "m", ""), "key is missing"),
        (("http://host/v1", "m", f"{KEY}\n"), "key is missing or holds blanks"),
    ],
)
def test_bad_settings_are_refused_without_secrets(arguments, message):
    with pytest.raises(JudgeError, match=message) as raised:
        Judge(*arguments)
    assert "secret" not in str(raised.value)


def test_numbers_out_of_range_are_refused():
    with pytest.raises(JudgeError, match="concurrency=0"):
        Judge("http://host/v1", "m", KEY, concurrency=0)


def test_a_judge_that_is_not_there_is_an_error_at_once(serve):
    server = serve(lambda *_: ok("1"))
    server.shutdown()
    server.server_close()
    judge = patient(server, retries=100, backoff=60)
    with pytest.raises(JudgeError, match="no judge answers at http"):
        judge.verdicts(asks())
    assert judge.asked == 0


def test_the_key_shows_nowhere():
    judge = Judge("http://host/v1/", "m", KEY)
    assert repr(judge) == "Judge('http://host/v1', 'm')"
    assert KEY not in str(vars(judge))
    assert KEY not in str(judge.summary())


def test_the_key_comes_from_the_callers_environment():
    assert key_from_environment({"LOOKAGAIN_JUDGE_KEY": f" {KEY} "}) == KEY
    for environment in ({}, {"LOOKAGAIN_JUDGE_KEY": " "}):
        with pytest.raises(JudgeError, match="set LOOKAGAIN_JUDGE_KEY"):
            key_from_environment(environment)


def test_images_travel_as_data_urls(serve):
    server = serve(lambda count, _: ok("1" if count else "well"))
    part = chat.image_part(b"\x89PNG", "image/png")
    assert part == {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw=="}}
    messages = [{"role": "user", "content": [{"type": "text", "text": "What is this?"}, part]}]
    patient(server).verdicts([Ask(messages, number, 0.0, 8, reminder="A number.")])
    assert server.payloads[0]["messages"] == messages
    assert server.payloads[1]["messages"][0]["content"] == [*messages[0]["content"], {"type": "text", "text": "A number."}]


def test_two_judges_may_share_a_cache(serve, tmp_path):
    server, path = serve(lambda *_: ok("1")), tmp_path / "cache.jsonl"
    judges = [patient(server, cache_path=path) for _ in range(2)]
    threads = [threading.Thread(target=judge.verdicts, args=(asks(30, run=run),)) for run, judge in enumerate(judges)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([json.loads(line) for line in path.read_text().splitlines()]) == 60


def test_a_model_of_the_same_name_elsewhere_is_another_judge(serve, tmp_path):
    path = tmp_path / "cache.jsonl"
    first = patient(serve(lambda *_: ok("1")), cache_path=path)
    assert first.verdicts(asks())[0].value == (1.0,)
    second = patient(serve(lambda *_: ok("2")), cache_path=path)
    assert second.verdicts(asks())[0].value == (2.0,)

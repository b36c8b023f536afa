"""The way to one NDIF server: requests over HTTP, tried again where that may help, and counted."""

import logging
import os
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Any

import httpx
import nnsight
import tenacity

from emotrace.errors import HostedError, Refused
from emotrace.ledger import pause
from emotrace.remote.words import refusal, unreachable

CONNECT_SECONDS, READ_SECONDS, BODY_SECONDS = 10.0, 30.0, 600.0
"""To connect; between two bytes of an answer of the API; and the same where large bodies are sent or received."""
FIRST_TRIES = 3
LOG = logging.getLogger(__name__)


def logged(text: str, trouble: bool) -> None:
    """What is said of a job: trouble is a warning, which Python prints by default."""
    LOG.log(logging.WARNING if trouble else logging.INFO, text)


@dataclass(frozen=True)
class Ndif:
    """How to use a hosted model; every setting has a default that suits ndif.us.

    Attributes:
        host: URL of the API; nnsight's own setting (``NDIF_HOST``, or its configuration file) by default.
        request_tokens: forward tokens that one request may hold; a request that the server finds too long is cut.
        jobs: requests under way at a time.
        patience: seconds to go on trying while the server is down, reconnecting or overloaded; and without any job
            moving, after which one that was running during a restart, or while this client was away, is taken for lost.
        grace: the same for a job that the server does not know, or had queued when it restarted.
    """

    host: str | None = None
    request_tokens: int = 65_536
    jobs: int = 4
    patience: float = 600.0
    grace: float = 60.0

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise HostedError(f"host {self.url!r}: give a URL that begins with http:// or https://")
        if "@" in self.url:  # a URL is shown and written down, a key is neither
            raise HostedError("the host's URL holds a name or password; give the key in NDIF_API_KEY instead")
        for name in ("request_tokens", "jobs"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise HostedError(f"{name}={value!r}: give a whole number from 1")
        for name in ("patience", "grace"):
            value = getattr(self, name)
            if type(value) not in (int, float) or not 0 <= value < inf:
                raise HostedError(f"{name}={value!r}: give seconds, 0 or more")

    @property
    def url(self) -> str:
        """The host, nnsight's where none was given, without a slash at its end."""
        return str(self.host or nnsight.CONFIG.API.HOST).rstrip("/")


def as_ndif(remote: bool | str | Ndif) -> Ndif | None:
    """What ``remote=`` means: None for a model that is here; True takes nnsight's host, a text is a URL."""
    if isinstance(remote, Ndif):
        return remote
    if isinstance(remote, str):
        return Ndif(remote)
    return Ndif() if remote else None


def api_key() -> str:
    """nnsight's API key, or ``NDIF_API_KEY``; empty without one. Never written anywhere, nor shown.

    Raises:
        HostedError: it holds what no header can.
    """
    key = str(os.environ.get("NDIF_API_KEY") or nnsight.CONFIG.API.APIKEY or "").strip()
    if not (key.isascii() and key.isprintable()):
        raise HostedError("the API key holds characters that no key has; set NDIF_API_KEY again")
    return key


class _Again(Exception):
    """An answer that a later try may better."""

    def __init__(self, error: HostedError) -> None:
        super().__init__(str(error))
        self.error = error


class Connection:
    """Talks to a server; shared by all threads of a model.

    Attributes:
        settings: how.
        counters: requests, bytes_sent, bytes_received, status_requests, status_bytes, seconds_waited.
        restarts: how often nothing answered at the host, as when its API restarts and forgets its queues.
        moved: when any job was last seen to move, by ``time.monotonic``.
        watch: told what a job is doing, in the server's words, whenever that changes; and, with True, what went wrong
            and is tried again.
    """

    def __init__(self, settings: Ndif) -> None:
        self.settings = settings
        self.counters: Counter[str] = Counter()
        self.restarts = 0
        self.moved = 0.0
        self.watch: Callable[[str, bool], None] = logged
        self._lock = threading.Lock()
        self._known = False  # an NDIF server has answered at this host
        self._client = httpx.Client()

    @property
    def host(self) -> str:
        return self.settings.url

    def count(self, **amounts: float) -> None:
        """Add to counters."""
        with self._lock:
            self.counters.update(amounts)

    def get(self, path: str, *, missing_ok: bool = False) -> httpx.Response:
        """GET of the API; with ``missing_ok`` a 404 comes back like any answer.

        Raises:
            HostedError: the server cannot be reached, refuses (``Refused``), or is no NDIF server.
        """
        self.introduce()
        missing = (404,) if missing_ok else ()
        return self._sent("GET", f"{self.host}{path}", headers=self._headers(), missing=missing)

    def post(self, path: str, *, trace: str, **body: Any) -> httpx.Response:
        """POST to the API; errors as :meth:`get`.

        ``trace`` is where the server answers 200 once a POST has arrived: one whose connection broke off is looked for
        there before it is sent again.
        """
        self.introduce()
        headers = self._headers() | body.pop("headers", {})
        return self._sent(
            "POST", f"{self.host}{path}", trace=f"{self.host}{trace}", headers=headers, read=BODY_SECONDS, **body
        )

    def download(self, url: str) -> httpx.Response:
        """GET of a result, at a URL that carries its own permission; broken downloads begin again.

        A 403 or 404 comes back: the permission, or the result, has expired.
        """
        # no key is sent, so a store may pass it on
        return self._sent("GET", url, missing=(403, 404), read=BODY_SECONDS, follow_redirects=True)

    def introduce(self) -> None:
        """Make sure, once, that an NDIF server listens at the host, and say quickly when none does."""
        if self._known:
            return
        answer = self._sent("GET", f"{self.host}/ping", missing=(404,), tries=FIRST_TRIES)
        if answer.status_code != 200 or answer.text.strip().strip('"') != "pong":
            raise HostedError(
                f"{self.host} answers, but it is not an NDIF server (GET /ping: {answer.status_code}); check --host, "
                "NDIF_HOST, or nnsight's configuration"
            )
        self._known = True

    def _headers(self) -> dict[str, str]:
        key = api_key()
        return {"ndif-api-key": key} if key else {}

    def _sent(
        self,
        method: str,
        url: str,
        *,
        missing: tuple[int, ...] = (),
        tries: int | None = None,
        trace: str | None = None,
        read: float = READ_SECONDS,
        **options: Any,
    ) -> httpx.Response:
        """One request, tried again while the server is down or overloaded; statuses in ``missing`` come back."""
        again = False
        options["timeout"] = httpx.Timeout(CONNECT_SECONDS, read=read, write=read)

        def once() -> httpx.Response:
            nonlocal again
            try:
                if again and trace is not None:
                    arrived = self._client.get(trace, headers=options["headers"])
                    if arrived.status_code == 200:
                        return arrived
                again = True
                response = self._client.request(method, url, **options)
            except httpx.InvalidURL as error:
                raise HostedError(f"{self.host}: not a URL ({error}); check --host") from None
            except httpx.LocalProtocolError:  # its text may hold a header's value
                raise HostedError(f"a request to {self.host} would not be HTTP; check --host and the key") from None
            except httpx.HTTPError as error:
                if isinstance(error, httpx.ConnectError) and url.startswith(self.host):
                    with self._lock:
                        self.restarts += 1
                raise _Again(unreachable(self.host, error)) from None
            if response.status_code >= 500 or response.status_code == 429:
                raise _Again(refusal(self.host, response.status_code, _detail(response)))
            if response.has_redirect_location:
                there = response.headers["location"].partition("?")[0]
                raise Refused(f"{self.host} sends requests on to {there}; give that host instead")
            if response.is_error and response.status_code not in missing:
                raise refusal(self.host, response.status_code, _detail(response))
            return response

        def noted(state: tenacity.RetryCallState) -> None:
            assert state.outcome is not None
            self.watch(f"{state.outcome.exception()}; trying again", True)

        stop = tenacity.stop_after_attempt(tries) if tries else tenacity.stop_after_delay(self.settings.patience)
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(_Again),
            wait=tenacity.wait_exponential_jitter(multiplier=0.2, max=10.0),
            stop=stop,
            before_sleep=noted,
            sleep=pause,
            reraise=True,
        )
        try:
            response: httpx.Response = retrying(once)
        except _Again as error:
            raise error.error from None
        return response


def _detail(response: httpx.Response) -> str:
    """The reason that an answer gives: FastAPI's ``detail``, or the first words of its text."""
    try:
        body = response.json()
    except ValueError:
        return response.text.strip()[:200]
    return str(body.get("detail", body) if isinstance(body, dict) else body)

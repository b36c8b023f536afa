"""What a server's answers mean, in our words: what happened, where, and what to do."""

import re
from collections.abc import Sequence

import httpx

from emotrace import errors
from emotrace.errors import EmotraceError, HostedError, Refused, TimeLimitExceeded

LOGIN = "https://login.ndif.us"
ALIGN = (
    "compare the two with `emotrace doctor --remote` and install the server's versions of nnsight, transformers, torch"
)

# Sentences of ndif 0.1.2. What the server itself could not help may go well at another time; anything else would fail
# again. A traceback means that the block failed, a sentence that the server did.
TRANSIENT = re.compile(
    r"Error (submitting|starting|provisioning) |Replica was evicted|cancelled or preempted by the server|"
    r"Critical server error|"
    r"payload could not be read \((EOFError|ZstdError|UnpicklingError: pickle data was truncated)",
    re.IGNORECASE,
)
TIME_LIMIT = re.compile(r"exceeded the execution timeout of ([\d.]+)s")
NOT_DEPLOYED = re.compile(r"Could not deploy this model\.\s*(.*)", re.DOTALL)
OTHER_TREE = re.compile(r"no module at '([^']*)'")
MEMORY = re.compile(r"out of memory|OutOfMemoryError|MemoryError|not enough memory|ALLOC_FAILED", re.IGNORECASE)
FRAME = re.compile(r'^\s*File "(.+?)", line (\d+)', re.MULTILINE)
KEY_LIKE = re.compile(r"\b[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}\b")


class JobLost(Exception):
    """The server failed a job for reasons of its own, or no longer knows it: the same request may go well."""


def unreachable(host: str, error: Exception) -> HostedError:
    """The error for a request that got no answer."""
    text = str(error) or type(error).__name__
    if re.search(r"Name or service not known|nodename nor servname|name resolution|getaddrinfo", text, re.IGNORECASE):
        return HostedError(f"no machine is called {host!r} ({text}); check --host, NDIF_HOST, or the network")
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return HostedError(f"nothing answers at {host} ({text}): the server is down, or --host is wrong")
    if isinstance(error, httpx.UnsupportedProtocol):
        return HostedError(f"{host}: not a URL that can be used ({text}); check --host")
    return HostedError(f"the connection to {host} broke off ({text})")


def refusal(host: str, status: int, detail: str) -> HostedError:
    """The error for an answer that is an HTTP error. Servers repeat a malformed key in their answer; it is left out."""
    text = _refusal(host, status, detail)
    return HostedError(text) if status >= 500 or status == 429 else Refused(text)


def _refusal(host: str, status: int, detail: str) -> str:
    said = KEY_LIKE.sub("<key>", re.sub(r"key format: '.*?'", "key format", detail)).rstrip(".")
    if status in (401, 403) or (status == 400 and "api key" in said.lower()):
        return (
            f"{host} does not accept the API key ({said}); get one at {LOGIN} and set NDIF_API_KEY, or run "
            "nnsight login"
        )
    if status == 400 and "version" in said.lower():
        return f"{host} refuses this client: {said}. Versions do not match: {ALIGN}"
    if status == 413:
        return f"{host} finds the request too large ({said}); give a smaller request_tokens"
    if status in (404, 405):
        return f"{host} knows no such address ({status}: {said}); it may not be an NDIF server, check --host"
    if status == 503:
        return f"{host} cannot work at present ({said}); try again later"
    return f"{host} answers {status}: {said}"


def job_error(text: str, *, model: str, host: str, hosted: Sequence[str], block: tuple[str, int]) -> Exception:
    """What to raise for a job that failed.

    Args:
        text: the server's description.
        model: the model's name.
        host: the server.
        hosted: names of the models that it hosts.
        block: file and line of the ``with`` statement.

    Returns:
        ``JobLost`` where the same request may go well, ``TimeLimitExceeded`` and ``MemoryError`` where a smaller one
        may, one of our own errors that the block raised, else ``HostedError``.
    """
    if "Traceback (most recent call last)" in text or FRAME.search(text):
        return _raised(text, model=model, block=block)
    limit = TIME_LIMIT.search(text)
    if limit:
        return TimeLimitExceeded(f"{host} stopped the request after {limit[1]} s, its limit")
    refused = NOT_DEPLOYED.search(text)
    if refused:
        listed = f"hosted there: {', '.join(hosted)}" if hosted else "nothing is hosted there at present"
        return HostedError(f"{host} does not host {model!r} ({' '.join(refused[1].split())[:300]}); {listed}")
    missing = OTHER_TREE.search(text)
    if missing and "architecture" in text:
        return HostedError(f"{host} builds {model!r} otherwise than this machine (it has no {missing[1]!r}): {ALIGN}")
    if TRANSIENT.search(text):
        return JobLost(" ".join(text.split())[:300])
    if "payload could not be read" in text:
        return HostedError(f"{host} cannot read what was sent ({' '.join(text.split())[:300]}): {ALIGN}")
    if MEMORY.search(text):
        return MemoryError(text.strip().split("\n")[-1])
    return HostedError(f"{host}: {' '.join(text.split())[:500]}")


def _raised(text: str, *, model: str, block: tuple[str, int]) -> Exception:
    """The error of a block that failed on the server, at the line of the user's own file."""
    lines = text.rstrip().splitlines()
    last = max(number for number, line in enumerate(lines) if FRAME.match(line))
    after = next((n for n in range(last + 1, len(lines)) if lines[n] and not lines[n].startswith(" ")), len(lines) - 1)
    name, _, message = "\n".join(lines[after:]).partition(": ")
    name = name.strip().rpartition(".")[2]
    if MEMORY.search(name) or (name == "RuntimeError" and MEMORY.search(message)):
        return MemoryError(message)
    own = getattr(errors, name, None)
    if isinstance(own, type) and issubclass(own, EmotraceError):
        return own(message)
    frames = [(file, int(line)) for file, line in FRAME.findall(text)]
    where = next(((file, line) for file, line in reversed(frames) if file == block[0]), frames[-1])
    error = HostedError(f"{name}: {message} ({where[0]}:{where[1]}, in a block that the server ran on {model!r})")
    error.add_note("On the server:\n" + text.rstrip())
    return error

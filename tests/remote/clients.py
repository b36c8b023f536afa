"""Clients of the fake server."""

import emotrace as et
from tests.remote.functions import PROMPTS


def hosted(server, **settings):
    """The server's model, reached over HTTP; a model in memory has no key on a server, so it is given one."""
    nn = server.model.nn
    nn.__dict__["to_model_key"] = lambda: "fake"
    defaults = {"patience": 2.0, "grace": 0.2}
    return et.Model(nn, identity="org/tiny", ndif=et.Ndif(server.url, **(defaults | settings)))


def replies(model, **options):
    return et.generate_replies(model, PROMPTS, max_new_tokens=5, batch_tokens=30, **options)


def fail_once(description):
    told = []

    def fails(job):
        told.append(job)
        return description if len(told) == 1 else None

    return fails

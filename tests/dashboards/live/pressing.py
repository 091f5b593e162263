"""A button of the dashboard pressed without a browser: the request that its page sends once the user has confirmed."""

from __future__ import annotations

from typing import Any

LOCAL = {"base_url": "http://127.0.0.1:8050", "environ_base": {"REMOTE_ADDR": "127.0.0.1"}}
"""A request from this machine, to this machine."""


def press(client: Any, button: dict[str, str], token: str = "secret") -> Any:
    """The server's answer to a confirmed button."""
    body = {
        "output": "said.children",
        "outputs": {"id": "said", "property": "children"},
        "inputs": [{"id": "confirm", "property": "submit_n_clicks", "value": 1}],
        "changedPropIds": ["confirm.submit_n_clicks"],
        "state": [{"id": "asked", "property": "data", "value": button}, {"id": "token", "property": "data", "value": token}],
    }
    return client.post("/_dash-update-component", json=body, headers={"Origin": LOCAL["base_url"]}, **LOCAL)


def told(answer: Any) -> str:
    """The sentence that stands on the page then."""
    return str(answer.json["response"]["said"]["children"])

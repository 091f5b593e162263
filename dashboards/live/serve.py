"""The door of the live dashboard: a server on this machine's loopback address, until Ctrl-C."""

from __future__ import annotations

import logging
import os
import webbrowser
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from flask import Flask, Response, abort, request, send_from_directory
from werkzeug.serving import BaseWSGIServer, make_server

from ablate.errors import AblateError
from dashboards.live import asking
from dashboards.live.app import Screen, build
from dashboards.live.record import Record
from dashboards.live.viewing import Viewing

HERE = Path(__file__).parent
LOOPBACK = "127.0.0.1"

VIEWED = (
    "sandbox allow-scripts allow-downloads; default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval' data: blob:; "
    "style-src 'unsafe-inline' data:; img-src data: blob:; font-src data:; media-src data: blob:; worker-src data: blob:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""A viewer's page is somebody's program: it holds all that it needs, and may neither ask this server for anything nor read its pages."""


def serve(runs: Path, study: str, steering: asking.Steering, *, port: int, browse: bool, say: Callable[[str], None]) -> None:
    """Show a study until Ctrl-C.

    Args:
        port: 0: a free one.
        browse: Open the user's browser.
        say: Told the address.

    Raises:
        AblateError: The port is taken.
    """
    record = Record(runs, study, steering.status)
    with Viewing(record) as viewing:
        try:
            server = listen(record, steering, viewing, port)
        except OSError as error:
            raise AblateError(
                f"--port {port}: expected a port that is free but got: {error.strerror}. Use --port 0 for any free one."
            ) from error
        url = f"http://{LOOPBACK}:{server.server_port}/"
        try:
            say(f"{study}: {url}  (end with Ctrl-C; the study goes on)")
            if browse:
                webbrowser.open(url)
            server.serve_forever()
        except KeyboardInterrupt:
            pass
        finally:
            server.server_close()


def listen(record: Record, steering: asking.Steering, viewing: Viewing, port: int) -> BaseWSGIServer:
    """The server, bound and not serving yet.

    Raises:
        OSError: The port is taken.
    """
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    steering = replace(steering, view=viewing.start, view_end=viewing.end)
    screen = Screen(record, steering, asking.new_token(), _stranger, viewing)
    return make_server(LOOPBACK, port, application(screen), threaded=True)


def _stranger() -> bool:
    return asking.stranger(int(request.environ["REMOTE_PORT"]), int(request.environ["SERVER_PORT"]), os.getuid())


def application(screen: Screen) -> Flask:
    """The pages with their style and the trials' pictures, each request guarded."""
    app = build(screen)
    server: Flask = app.server
    style = (HERE.parent / "page.css").read_text(encoding="utf-8") + (HERE / "live.css").read_text(encoding="utf-8")
    script = (HERE / "live.js").read_text(encoding="utf-8")
    scripts = " ".join(f"'{found}'" if not found.startswith("'") else found for found in app.csp_hashes())
    policy = (
        f"default-src 'none'; script-src 'self' {scripts}; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
        "font-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )

    @server.before_request
    def guard() -> Response | None:
        said = asking.refusal(client=request.remote_addr, host=request.host, method=request.method, headers=dict(request.headers))
        return None if said is None else Response(said + "\n", 403, mimetype="text/plain")

    @server.after_request
    def shield(response: Response) -> Response:
        response.headers.setdefault("Content-Security-Policy", policy)
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["X-Frame-Options"] = "DENY"
        response.headers["Referrer-Policy"] = "no-referrer"
        response.headers["Cross-Origin-Resource-Policy"] = "same-origin"
        return response

    @server.get("/style.css")
    def css() -> Response:
        return Response(style, mimetype="text/css")

    @server.get("/live.js")
    def js() -> Response:
        return Response(script, mimetype="text/javascript")

    @server.get("/file/<signature>/<int:number>/<name>")
    def picture(signature: str, number: int, name: str) -> Response:
        now = screen.record.snapshot()
        files = None if now is None else now.files(signature, number)
        found = next((path for path in files.pictures if path.name == name), None) if files is not None else None
        if found is None:
            abort(404)
        return send_from_directory(found.parent.resolve(), name)

    @server.get("/view/<signature>/<key>/<name>")
    def viewed(signature: str, key: str, name: str) -> Response:
        found = None if screen.viewing is None else screen.viewing.page(signature, key, name)
        if found is None:
            abort(404)
        answer = send_from_directory(found.parent, name)
        answer.headers["Content-Security-Policy"] = VIEWED
        return answer

    # Dash answers every other path with its page, so these come first.
    return server

"""A receiver: verify, store, answer at once, work later.

    pip install standardwebhooks
    WEBHOOK_SECRET=… python3 receiver.py

A request is answered with 2xx only once it is stored, so what was answered is never lost; its `webhook-id` is the
primary key, so what comes twice is stored once.
"""

import base64
import json
import os
import sqlite3
import sys
import threading
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from standardwebhooks import Webhook, WebhookVerificationError

PORT = int(os.environ.get("PORT", "9000"))
INBOX = os.environ.get("INBOX", "inbox.sqlite")
BODY_BYTES_MAX = 2 * 1024 * 1024  # with batches: above the subscription's maxBytes
RETRY_SECONDS = 5


def signing_secret(text):
    """`whsec_…` as it is; the UUID of the field `secret` as the `whsec_…` that stands for the same key."""
    if text.startswith("whsec_"):
        return text
    return "whsec_" + base64.b64encode(text.encode("ascii")).decode("ascii")


webhook = Webhook(signing_secret(os.environ["WEBHOOK_SECRET"]))
stored = threading.Event()


def inbox():
    return closing(sqlite3.connect(INBOX, timeout=5))


def handle(webhook_id, envelope):
    """Your own work. It may be slow, and it may be done once more after a crash."""
    print("handled", webhook_id, envelope["data"]["analyticsEvent"], flush=True)


class Receiver(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 15

    def do_POST(self):
        length = self.headers.get("content-length", "")
        if not length.isdecimal():
            return self.answer(411)
        if int(length) > BODY_BYTES_MAX:
            return self.answer(413)
        body = self.rfile.read(int(length))
        try:
            webhook.verify(body, dict(self.headers))
        except (WebhookVerificationError, ValueError):  # ValueError: a malformed header
            return self.answer(401)
        with inbox() as db, db:
            row = (self.headers["webhook-id"], body)
            db.execute("INSERT INTO inbox (webhook_id, body) VALUES (?, ?) ON CONFLICT DO NOTHING", row)
        self.answer(204)
        stored.set()

    do_PUT = do_POST

    def answer(self, status):
        self.send_response(status)
        self.send_header("content-length", "0")
        if status >= 400:
            self.send_header("connection", "close")  # the body may not have been read
        self.end_headers()

    def log_message(self, *_):
        pass


def work():
    while True:
        stored.clear()
        with inbox() as db:
            rows = db.execute("SELECT webhook_id, body FROM inbox WHERE handled IS NULL ORDER BY rowid LIMIT 100").fetchall()
            for webhook_id, body in rows:
                try:
                    handle(webhook_id, json.loads(body))
                except Exception as error:
                    print("will try again:", webhook_id, error, file=sys.stderr)
                    continue
                with db:
                    db.execute("UPDATE inbox SET handled = datetime() WHERE webhook_id = ?", (webhook_id,))
        stored.wait(RETRY_SECONDS)


if __name__ == "__main__":
    with inbox() as db, db:
        db.execute("CREATE TABLE IF NOT EXISTS inbox (webhook_id TEXT PRIMARY KEY, body BLOB NOT NULL, handled TEXT)")
        # So long the same may come again: see docs/receiving.md. What isn't handled yet stays.
        db.execute("DELETE FROM inbox WHERE handled < datetime('now', '-40 days')")
    threading.Thread(target=work, daemon=True).start()
    ThreadingHTTPServer(("127.0.0.1", PORT), Receiver).serve_forever()
